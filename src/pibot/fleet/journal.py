"""The master's journal: every goal, task and attempt, as the last committed fact has it."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any, Dict, Iterable, List, Optional, Sequence, Tuple, Type, TypeVar

from pibot.errors import StoreError
from pibot.fleet.records import (
    TERMINAL,
    Attempt,
    Fact,
    Goal,
    Known,
    Standing,
    Task,
    from_json,
    to_json,
)
from pibot.store import Statement, Store

T = TypeVar("T")
VERSION = 2
OPEN = "state NOT IN ({})".format(",".join(f"'{s}'" for s in sorted(TERMINAL)))
# IF NOT EXISTS: an older store gets what is new and keeps what it has.
SCHEMA = (
    "CREATE TABLE IF NOT EXISTS meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID",
    """CREATE TABLE IF NOT EXISTS goals (id TEXT PRIMARY KEY, state TEXT NOT NULL,
       chat TEXT NOT NULL, created_at REAL NOT NULL, record TEXT NOT NULL)""",
    """CREATE TABLE IF NOT EXISTS tasks (id TEXT PRIMARY KEY, goal TEXT NOT NULL,
       state TEXT NOT NULL, changed_at REAL NOT NULL, record TEXT NOT NULL)""",
    """CREATE TABLE IF NOT EXISTS attempts (task TEXT NOT NULL, attempt INTEGER NOT NULL,
       record TEXT NOT NULL, PRIMARY KEY (task, attempt)) WITHOUT ROWID""",
    "CREATE TABLE IF NOT EXISTS workers (name TEXT PRIMARY KEY, facts TEXT NOT NULL) WITHOUT ROWID",
    """CREATE TABLE IF NOT EXISTS standings (name TEXT PRIMARY KEY, state TEXT NOT NULL)
       WITHOUT ROWID""",
    "CREATE INDEX IF NOT EXISTS tasks_of_goal ON tasks (goal)",
    # Partial indexes: what is over costs nothing, and a commit writes fewer pages.
    f"CREATE INDEX IF NOT EXISTS open_tasks ON tasks (goal) WHERE {OPEN}",
    f"CREATE INDEX IF NOT EXISTS open_goals ON goals (id) WHERE {OPEN}",
    "CREATE INDEX IF NOT EXISTS chats ON goals (chat) WHERE chat != ''",
)


class Journal:
    """`open()` first. Raises StoreError when the disk does not take or give the data."""

    def __init__(self, path: Path) -> None:
        self._store = Store(path, SCHEMA, VERSION)

    def open(self, new_id: str) -> "tuple[int, str]":
        """Count this start of the master; return (epoch, store id). `new_id` names a new store."""
        self._store.open()
        self._store.commit(
            [
                ("INSERT OR IGNORE INTO meta VALUES ('store_id', ?)", (new_id,)),
                ("INSERT OR IGNORE INTO meta VALUES ('epoch', '0')", ()),
                ("UPDATE meta SET value = CAST(value AS INTEGER) + 1 WHERE key = 'epoch'", ()),
            ]
        )
        meta = dict(self._store.rows("SELECT key, value FROM meta"))
        return int(meta["epoch"]), str(meta["store_id"])

    def close(self) -> None:
        self._store.close()

    def commit(self, facts: Iterable[Fact]) -> None:
        """Store facts in one transaction; of several on one record the last counts."""
        last = {_key(fact): fact for fact in facts}
        now = time.time()
        self._store.commit([_statement(fact, now) for fact in last.values()])

    def open_facts(self) -> List[Fact]:
        """What is not over: the scheduler's start. Tasks come before their goals."""
        goals = self._goals(
            f"SELECT record FROM goals WHERE {OPEN}"
            f" OR id IN (SELECT goal FROM tasks WHERE {OPEN}) ORDER BY rowid"
        )
        facts: List[Fact] = []
        for goal in goals:
            facts += self.tasks(goal.id)
        workers = self._store.rows("SELECT name, facts FROM workers")
        facts += [*goals, *(_known(name, facts) for name, facts in workers)]
        standings = self._store.rows("SELECT name, state FROM standings")
        return [*facts, *(Standing(name, state) for name, state in standings)]

    # --- reading, for show and tasks ----------------------------------------------------------

    def goal(self, key: str) -> Optional[Goal]:
        """The goal with this id, or the one that a task with this id belongs to."""
        found = self._goals(
            "SELECT record FROM goals WHERE id = ?"
            " UNION ALL SELECT g.record FROM goals g JOIN tasks t ON t.goal = g.id WHERE t.id = ?",
            (key, key),
        )
        return found[0] if found else None

    def tasks(self, goal_id: str) -> List[Task]:
        sql = "SELECT record FROM tasks WHERE goal = ? ORDER BY rowid"
        return [_record(Task, r[0]) for r in self._store.rows(sql, (goal_id,))]

    def attempts(self, task_id: str) -> List[Attempt]:
        sql = "SELECT record FROM attempts WHERE task = ? ORDER BY attempt"
        return [_record(Attempt, r[0]) for r in self._store.rows(sql, (task_id,))]

    def recent(self, limit: int) -> List[Goal]:
        """The newest goals, the newest first."""
        return self._goals("SELECT record FROM goals ORDER BY rowid DESC LIMIT ?", (limit,))

    def chat(self, chat: str, limit: int) -> List[Goal]:
        """The last finished goals of a conversation, the oldest first."""
        sql = (
            f"SELECT record FROM goals WHERE chat = ? AND chat != '' AND NOT ({OPEN})"
            " ORDER BY rowid DESC LIMIT ?"
        )
        return self._goals(sql, (chat, limit))[::-1]

    def lately_ended(self, limit: int) -> List[str]:
        """Ids of the tasks that ended last: their retained views may still stand."""
        sql = f"SELECT id FROM tasks WHERE NOT ({OPEN}) ORDER BY changed_at DESC LIMIT ?"
        return [r[0] for r in self._store.rows(sql, (limit,))]

    def _goals(self, sql: str, values: Sequence[Any] = ()) -> List[Goal]:
        return [_record(Goal, r[0]) for r in self._store.rows(sql, values)]


def _known(name: str, facts: str) -> Known:
    return _record(Known, f'{{"worker":{json.dumps(name)},"facts":{facts}}}')


def _record(cls: Type[T], text: str) -> T:
    try:
        return from_json(cls, text)
    except (ValueError, TypeError, AttributeError) as error:
        raise StoreError(f"a stored {cls.__name__.lower()} is damaged: {error}") from None


def _key(fact: Fact) -> Tuple[Any, ...]:
    if isinstance(fact, Attempt):
        return "attempt", fact.task, fact.attempt
    if isinstance(fact, Known):
        return "worker", fact.worker
    if isinstance(fact, Standing):
        return "standing", fact.worker
    return type(fact).__name__, fact.id


def _statement(fact: Fact, now: float) -> Statement:
    if isinstance(fact, Goal):
        return (
            """INSERT INTO goals VALUES (?, ?, ?, ?, ?) ON CONFLICT (id) DO UPDATE
               SET state = excluded.state, record = excluded.record""",
            (fact.id, fact.state, fact.chat, now, to_json(fact)),
        )
    if isinstance(fact, Task):
        return (
            """INSERT INTO tasks VALUES (?, ?, ?, ?, ?) ON CONFLICT (id) DO UPDATE
               SET state = excluded.state, changed_at = excluded.changed_at,
               record = excluded.record""",
            (fact.id, fact.goal, fact.state, now, to_json(fact)),
        )
    if isinstance(fact, Attempt):
        return (
            "INSERT OR REPLACE INTO attempts VALUES (?, ?, ?)",
            (fact.task, fact.attempt, to_json(fact)),
        )
    if isinstance(fact, Standing):
        return "INSERT OR REPLACE INTO standings VALUES (?, ?)", (fact.worker, fact.state)
    return "INSERT OR REPLACE INTO workers VALUES (?, ?)", (fact.worker, _json(fact.facts))


def _json(value: Dict[str, Any]) -> str:
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return text.encode("utf-8", "replace").decode("utf-8")
