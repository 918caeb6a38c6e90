"""The worker's journal: the attempts it holds, and results until the master has them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Iterable, List, Sequence

from pibot.agent.effects import Dropped, Fact, Held
from pibot.errors import BadMessage, DamagedStore
from pibot.fields import read
from pibot.messages import Result
from pibot.store import Schema, Statement, Store
from pibot.strictjson import MAX_DEPTH, parse

STEPS = (
    (
        "CREATE TABLE meta (key TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID",
        """CREATE TABLE held (task TEXT PRIMARY KEY, att INTEGER NOT NULL, result TEXT)
           WITHOUT ROWID""",
    ),
)


class Journal:
    """`open()` first. Raises StoreError when the disk does not take or give the data."""

    def __init__(self, path: Path) -> None:
        self._store = Store(path, Schema(STEPS, _is_sound))
        self._inc = 0

    def open(self) -> "tuple[int, List[Held]]":
        """Count this start; return (incarnation, results that the master has not acknowledged).

        What was running died with the process: it is dropped, and the master learns so from the
        inventory.
        """
        self._store.open()
        try:
            return self._begin()
        except DamagedStore as error:
            self._store.mend(str(error))
            return self._begin()

    def _begin(self) -> "tuple[int, List[Held]]":
        self._store.commit(
            [
                ("INSERT OR IGNORE INTO meta VALUES ('inc', 0)", ()),
                ("UPDATE meta SET value = value + 1 WHERE key = 'inc'", ()),
                ("DELETE FROM held WHERE result IS NULL", ()),
            ]
        )
        self._inc = self._store.rows("SELECT value FROM meta WHERE key = 'inc'")[0][0]
        rows = self._store.rows("SELECT task, att, result FROM held")
        try:
            return self._inc, [_held(*row) for row in rows]
        except (TypeError, AttributeError, BadMessage) as error:
            raise DamagedStore(f"a stored result cannot be read: {error}") from None

    def close(self) -> None:
        self._store.close()

    def commit(self, facts: Iterable[Fact]) -> None:
        """Store facts in one transaction; of several on one task the last counts."""
        last = {fact.task: fact for fact in facts}
        self._store.commit([_statement(fact) for fact in last.values()])

    def mend(self, why: str, held: Iterable[Held]) -> None:
        """The file is damaged: begin a new one with what this process holds."""
        self._store.mend(why)
        self._store.commit(
            [
                ("INSERT OR REPLACE INTO meta VALUES ('inc', ?)", (self._inc,)),
                ("DELETE FROM held", ()),
                *map(_statement, held),
            ]
        )


def _held(task: str, att: int, result: str) -> Held:
    # As strictly as the master: what no message can carry would end this worker at each start.
    found = parse(result.encode("utf-8", "replace"), MAX_DEPTH)
    return Held(task, att, result=read(Result, found))


def _is_sound(table: str, row: Sequence[Any]) -> bool:
    """Whether a row that was read of a damaged file is what it was."""
    if table == "meta":
        return isinstance(row[1], int)
    try:
        return row[2] is None or isinstance(row[1], int) and bool(_held(*row))
    except (TypeError, AttributeError, BadMessage):
        return False


def _statement(fact: Fact) -> Statement:
    if isinstance(fact, Dropped):
        return "DELETE FROM held WHERE task = ?", (fact.task,)
    result = None
    if fact.result is not None:
        text = json.dumps(fact.result.__dict__, ensure_ascii=False)
        result = text.encode("utf-8", "replace").decode("utf-8")
    return "INSERT OR REPLACE INTO held VALUES (?, ?, ?)", (fact.task, fact.att, result)
