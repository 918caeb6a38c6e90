"""The worker's journal: the attempts it holds, and results until the master has them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Iterable, List

from pibot.agent.worker_core import Dropped, Fact, Held
from pibot.errors import BadMessage, StoreError
from pibot.messages import Result, read
from pibot.store import Statement, Store

VERSION = 1
SCHEMA = (
    "CREATE TABLE meta (key TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID",
    "CREATE TABLE held (task TEXT PRIMARY KEY, att INTEGER NOT NULL, result TEXT) WITHOUT ROWID",
)


class Journal:
    """`open()` first. Raises StoreError when the disk does not take or give the data."""

    def __init__(self, path: Path) -> None:
        self._store = Store(path, SCHEMA, VERSION)

    def open(self) -> "tuple[int, List[Held]]":
        """Count this start; return (incarnation, results that the master has not acknowledged).

        What was running died with the process: it is dropped, and the master learns so from the
        inventory.
        """
        self._store.open()
        self._store.commit(
            [
                ("INSERT OR IGNORE INTO meta VALUES ('inc', 0)", ()),
                ("UPDATE meta SET value = value + 1 WHERE key = 'inc'", ()),
                ("DELETE FROM held WHERE result IS NULL", ()),
            ]
        )
        inc = self._store.rows("SELECT value FROM meta WHERE key = 'inc'")[0][0]
        rows = self._store.rows("SELECT task, att, result FROM held")
        try:
            return inc, [Held(t, a, result=read(Result, json.loads(r))) for t, a, r in rows]
        except (ValueError, TypeError, BadMessage) as error:
            self.close()
            raise StoreError(f"a stored result is damaged ({error}): move the file away") from None

    def close(self) -> None:
        self._store.close()

    def commit(self, facts: Iterable[Fact]) -> None:
        """Store facts in one transaction; of several on one task the last counts."""
        last = {fact.task: fact for fact in facts}
        self._store.commit([_statement(fact) for fact in last.values()])


def _statement(fact: Fact) -> Statement:
    if isinstance(fact, Dropped):
        return "DELETE FROM held WHERE task = ?", (fact.task,)
    result = None
    if fact.result is not None:
        text = json.dumps(fact.result.__dict__, ensure_ascii=False)
        result = text.encode("utf-8", "replace").decode("utf-8")
    return "INSERT OR REPLACE INTO held VALUES (?, ?, ?)", (fact.task, fact.att, result)
