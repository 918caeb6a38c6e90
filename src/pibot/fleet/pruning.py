"""Which goals the master forgets: those that ended long ago, and the oldest of very many.

How long ago is counted in seconds that the master has run, which the journal adds up: a Pi without
a clock battery is wrong about the date, and a jump of ten years must not cost the history.

    open, or a task of it is open                  →  stays
    ended within the last 15 minutes of running    →  stays: a request about it may come again
    ended more than KEEP_DAYS of running ago       →  goes
    more than KEEP_GOALS of its kind ended later   →  goes

Turns of conversations are a kind of their own: a flood of other goals does not end their memory.
"""

from __future__ import annotations

from typing import Any, Callable, List, NamedTuple, Sequence, Tuple

from pibot.fleet.records import TERMINAL

Rows = Callable[[str, Sequence[Any]], List[Tuple[Any, ...]]]
Statement = Tuple[str, Sequence[Any]]

OPEN = "state NOT IN ({})".format(",".join(f"'{s}'" for s in sorted(TERMINAL)))
KEEP_DAYS = 30
KEEP_GOALS = 10_000
YOUNG_S = 900.0
AT_ONCE = 20  # goals a commit, at most
DAY_S = 86_400.0

KINDS = {"over_goals": "chat = ''", "over_turns": "chat != ''"}  # by the index of each
TASKS = "SELECT id FROM tasks WHERE goal = ?"
_MARK = """SELECT over_at, rowid FROM goals WHERE over_at IS NOT NULL AND {kind}
           ORDER BY over_at DESC, rowid DESC LIMIT 1 OFFSET ?"""
_OLD = f"""SELECT id FROM goals WHERE over_at IS NOT NULL AND {{kind}}
           AND (over_at, rowid) <= (?, ?) AND over_at <= ?
           AND NOT EXISTS (SELECT 1 FROM tasks WHERE goal = goals.id AND {OPEN})
           ORDER BY over_at, rowid LIMIT {AT_ONCE}"""


class Limits(NamedTuple):
    keep_days: float = KEEP_DAYS
    keep_goals: int = KEEP_GOALS


DEFAULT = Limits()


class Pruned(NamedTuple):
    """What was forgotten: the ids of goals, and of their tasks."""

    goals: List[str]
    tasks: List[str]


def candidates(rows: Rows, limits: Limits, ran_s: float) -> List[str]:
    """Ids of the goals that may go now, the oldest first, a few at a time."""
    found: List[str] = []
    for kind in KINDS.values():
        mark = (ran_s - limits.keep_days * DAY_S, 2**62)
        for over_at, rowid in rows(_MARK.format(kind=kind), (limits.keep_goals,)):
            mark = max(mark, (over_at, rowid))
        old = rows(_OLD.format(kind=kind), (*mark, ran_s - YOUNG_S))
        found += [goal for (goal,) in old]
    return found[:AT_ONCE]


def statements(goal: str, tasks: Sequence[str]) -> List[Statement]:
    """What forgets a goal, with its tasks and attempts."""
    return [
        *(("DELETE FROM attempts WHERE task = ?", (task,)) for task in tasks),
        ("DELETE FROM tasks WHERE goal = ?", (goal,)),
        ("DELETE FROM goals WHERE id = ?", (goal,)),
    ]
