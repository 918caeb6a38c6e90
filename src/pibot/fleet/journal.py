"""The master's journal: every goal, task and attempt, as the last committed fact has it."""

from __future__ import annotations

import json
import time
from contextlib import suppress
from pathlib import Path
from typing import (
    Any,
    Callable,
    Dict,
    Iterable,
    Iterator,
    List,
    Optional,
    Sequence,
    Tuple,
    Type,
    TypeVar,
)

from pibot.errors import DamagedStore, StoreError
from pibot.fleet import pruning
from pibot.fleet.pruning import OPEN, Limits, Pruned
from pibot.fleet.records import (
    RECOVERED,
    Attempt,
    Fact,
    Goal,
    Known,
    Standing,
    Task,
    from_json,
    to_json,
)
from pibot.store import Schema, Statement, Store

T = TypeVar("T")
RECOVERING_S = 3_600.0  # of running after damage: so long what workers name is believed
NOTED_EVERY_S = 600.0
PRUNE_S = 0.005  # of one commit that forgets: the loop must go on
STEPS = (
    (
        "CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID",
        """CREATE TABLE goals (id TEXT PRIMARY KEY, state TEXT NOT NULL, chat TEXT NOT NULL,
           created_at REAL NOT NULL, record TEXT NOT NULL)""",
        """CREATE TABLE tasks (id TEXT PRIMARY KEY, goal TEXT NOT NULL, state TEXT NOT NULL,
           changed_at REAL NOT NULL, record TEXT NOT NULL)""",
        """CREATE TABLE attempts (task TEXT NOT NULL, attempt INTEGER NOT NULL,
           record TEXT NOT NULL, PRIMARY KEY (task, attempt)) WITHOUT ROWID""",
        "CREATE TABLE workers (name TEXT PRIMARY KEY, facts TEXT NOT NULL) WITHOUT ROWID",
        "CREATE INDEX tasks_of_goal ON tasks (goal)",
        # Partial indexes: what is over costs nothing, and a commit writes fewer pages.
        f"CREATE INDEX open_tasks ON tasks (goal) WHERE {OPEN}",
        f"CREATE INDEX open_goals ON goals (id) WHERE {OPEN}",
        "CREATE INDEX chats ON goals (chat) WHERE chat != ''",
    ),
    ("CREATE TABLE standings (name TEXT PRIMARY KEY, state TEXT NOT NULL) WITHOUT ROWID",),
    (
        # When it ended, in seconds that the master had run: no clock tells how old it is.
        "ALTER TABLE goals ADD COLUMN over_at REAL",
        f"UPDATE goals SET over_at = 0 WHERE NOT ({OPEN})",
        *(
            f"CREATE INDEX {index} ON goals (over_at) WHERE over_at IS NOT NULL AND {kind}"
            for index, kind in pruning.KINDS.items()
        ),
    ),
)
AFTER_LOSS = ("INSERT OR REPLACE INTO meta VALUES ('damaged', '1')",)
# Done at each start, and after damage; the running time may be among what was lost.
SETTLE: Sequence[Statement] = (
    ("INSERT OR IGNORE INTO meta SELECT 'ran_s', coalesce(max(over_at), 0) FROM goals", ()),
    (
        """INSERT OR REPLACE INTO meta SELECT 'recovering_until', ran.value + ?
           FROM meta damaged, meta ran WHERE damaged.key = 'damaged' AND ran.key = 'ran_s'""",
        (RECOVERING_S,),
    ),
    ("DELETE FROM meta WHERE key = 'damaged'", ()),
)


class Journal:
    """`open()` first. Raises StoreError when the disk does not take or give the data."""

    def __init__(
        self,
        path: Path,
        limits: Limits = pruning.DEFAULT,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = Store(path, Schema(STEPS, _is_sound, AFTER_LOSS))
        self._limits, self._clock = limits, clock
        self._zero = 0.0  # what the clock showed when this master had run for 0 s, all starts added
        self._noted_at = 0.0
        self._epoch, self._store_id = 0, ""

    def open(self, new_id: str) -> "tuple[int, str]":
        """Count this start of the master; return (epoch, store id). `new_id` names a new store."""
        self._store.open()
        try:
            return self._begin(new_id)
        except DamagedStore as error:
            self._store.mend(str(error))
            return self._begin(new_id)

    def _begin(self, new_id: str) -> "tuple[int, str]":
        self._store.commit(
            [
                *self._goals_of_tasks(),
                ("INSERT OR IGNORE INTO meta VALUES ('store_id', ?)", (new_id,)),
                ("INSERT OR IGNORE INTO meta VALUES ('epoch', '0')", ()),
                ("UPDATE meta SET value = CAST(value AS INTEGER) + 1 WHERE key = 'epoch'", ()),
                *SETTLE,
            ]
        )
        meta = dict(self._store.rows("SELECT key, value FROM meta"))
        try:
            self._zero = self._clock() - float(meta["ran_s"])
            self._epoch, self._store_id = int(meta["epoch"]), str(meta["store_id"])
        except ValueError as error:
            raise DamagedStore(f"a count of the store is damaged: {error}") from None
        self._noted_at = self._ran_s()
        return self._epoch, self._store_id

    def close(self) -> None:
        """Safe to call at any time, also when the disk is full."""
        if self._store.is_open:
            with suppress(StoreError):
                self._store.commit([self._note()])
        self._store.close()

    def commit(self, facts: Iterable[Fact]) -> None:
        """Store facts in one transaction; of several on one record the last counts."""
        last = {_key(fact): fact for fact in facts}
        now, ran_s = time.time(), self._ran_s()
        self._store.commit([_statement(fact, now, ran_s) for fact in last.values()])

    # --- time that the master has run, all its starts added -------------------------------------

    def _ran_s(self) -> float:
        return self._clock() - self._zero

    def _note(self) -> Statement:
        self._noted_at = self._ran_s()
        return "INSERT OR REPLACE INTO meta VALUES ('ran_s', ?)", (repr(self._noted_at),)

    # --- damage ---------------------------------------------------------------------------------

    def mend(self, why: str, known: Iterable[Fact]) -> None:
        """The file is damaged: begin a new one with what can be read of it, and then with `known`.

        What was read counts: it was committed. To the outside it is the same start as before.
        """
        self._store.mend(why)
        self._store.commit(
            [
                ("INSERT OR REPLACE INTO meta VALUES ('store_id', ?)", (self._store_id,)),
                ("INSERT OR REPLACE INTO meta VALUES ('epoch', ?)", (str(self._epoch),)),
                self._note(),
            ]
        )
        self.commit([fact for fact in known if not self._has(fact)])
        self._store.commit([*self._goals_of_tasks(), *SETTLE])

    def _goals_of_tasks(self) -> List[Statement]:
        """After damage: goals for tasks whose own could not be read, so that they go on."""
        lost = self._store.rows(
            """SELECT DISTINCT goal FROM tasks WHERE goal NOT IN (SELECT id FROM goals)
               AND EXISTS (SELECT 1 FROM meta WHERE key = 'damaged')"""
        )
        goals = [Goal(g, text=RECOVERED, state="running", route="recovered") for (g,) in lost]
        return [_statement(goal, time.time(), 0.0) for goal in goals]

    def _has(self, fact: Fact) -> bool:
        table, column, key = _place(fact)
        return bool(self._store.rows(f"SELECT 1 FROM {table} WHERE {column} = ?", (key,)))

    def recovering_s(self) -> float:
        """For how long what only workers know of is believed yet; 0 in a sound store."""
        found = self._store.rows("SELECT value FROM meta WHERE key = 'recovering_until'")
        return max(0.0, float(found[0][0]) - self._ran_s()) if found else 0.0

    # --- pruning --------------------------------------------------------------------------------

    def prune(self) -> Pruned:
        """Forget a few goals that ended long ago, as many as a short time allows."""
        ran_s = self._ran_s()
        pruned = Pruned([], [])
        begun = time.perf_counter()

        def forget(goals: List[str]) -> Iterator[Statement]:
            for goal in goals:
                if pruned.goals and time.perf_counter() - begun > PRUNE_S:
                    break
                tasks = [t for (t,) in self._store.rows(pruning.TASKS, (goal,))]
                yield from pruning.statements(goal, tasks)
                pruned.goals.append(goal)
                pruned.tasks.extend(tasks)
            yield self._note()

        goals = pruning.candidates(self._store.rows, self._limits, ran_s)
        if goals or ran_s - self._noted_at >= NOTED_EVERY_S:
            self._store.commit(forget(goals))
        return pruned

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
        """Ids of the newest tasks that are over: their retained views may still stand."""
        sql = f"SELECT id FROM tasks WHERE NOT ({OPEN}) ORDER BY rowid DESC LIMIT ?"
        return [r[0] for r in self._store.rows(sql, (limit,))]

    def _goals(self, sql: str, values: Sequence[Any] = ()) -> List[Goal]:
        return [_record(Goal, r[0]) for r in self._store.rows(sql, values)]


def _known(name: str, facts: str) -> Known:
    return _record(Known, f'{{"worker":{json.dumps(name)},"facts":{facts}}}')


def _record(cls: Type[T], text: str) -> T:
    try:
        return from_json(cls, text)
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise DamagedStore(f"a stored {cls.__name__.lower()} is damaged: {error}") from None


def _is_sound(table: str, row: Sequence[Any]) -> bool:
    """Whether a row that was read of a damaged file is what it was."""
    key = row[0]
    try:
        if table == "goals":
            return bool(_record(Goal, row[4]).id == key)
        if table == "tasks":
            return bool(_record(Task, row[4]).id == key)
        if table == "attempts":
            return bool(_record(Attempt, row[2]).task == key)
        if table == "workers":
            return bool(_known(key, row[1]).worker == key)
        if table == "meta":
            return isinstance(row[1], str) and (key == "store_id" or float(row[1]) >= 0)
        return all(isinstance(value, str) for value in row)
    except (DamagedStore, TypeError, ValueError):
        return False


def _key(fact: Fact) -> Tuple[Any, ...]:
    if isinstance(fact, Attempt):
        return "attempt", fact.task, fact.attempt
    if isinstance(fact, Known):
        return "worker", fact.worker
    if isinstance(fact, Standing):
        return "standing", fact.worker
    return type(fact).__name__, fact.id


def _place(fact: Fact) -> Tuple[str, str, str]:
    """Table, column and value by which a record of the present is found."""
    if isinstance(fact, Goal):
        return "goals", "id", fact.id
    if isinstance(fact, Task):
        return "tasks", "id", fact.id
    assert not isinstance(fact, Attempt), "attempts are history"
    return "standings" if isinstance(fact, Standing) else "workers", "name", fact.worker


def _statement(fact: Fact, now: float, ran_s: float) -> Statement:
    if isinstance(fact, Goal):
        over_at = ran_s if fact.ended else None
        return (
            """INSERT INTO goals VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT (id) DO UPDATE
               SET state = excluded.state, record = excluded.record, over_at = excluded.over_at""",
            (fact.id, fact.state, fact.chat, now, to_json(fact), over_at),
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
