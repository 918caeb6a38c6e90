"""Every open goal and task in memory, and `apply(fact)`: the one way in which they change.

What ended is dropped once the whole goal has: the journal keeps it.
"""

from __future__ import annotations

import itertools
from collections import OrderedDict, deque
from typing import Deque, Dict, Iterable, Iterator, List, NamedTuple, Optional, Tuple

from pibot.fleet.records import Attempt, Fact, Goal, Known, Standing, Task

MAX_OPEN_TASKS = 10_000
REMEMBERED = 20_000  # states of ended tasks, for late messages of slow workers


class Wish(NamedTuple):
    """What a queued task asks of a worker; tasks with the same wish share one queue."""

    worker: str
    skills: Tuple[str, ...]
    tags: Tuple[str, ...]
    model: bool
    avoid: Tuple[str, ...]


def crowded(wanted: int, room: int) -> str:
    """Why a goal, or what it would need, is not taken."""
    return (
        f"{MAX_OPEN_TASKS - room:,} of {MAX_OPEN_TASKS:,} tasks are open already and this needs "
        f"{wanted:,}: wait until some are done, or cancel some"
    )


class Over(NamedTuple):
    """A goal that has ended, with its tasks."""

    goal: Goal
    tasks: List[Task]


def wish(task: Task) -> Wish:
    skills = (task.skill,) if task.skill else task.skills
    return Wish(task.worker, skills, task.tags, not task.skill, task.failed_on)


class Board:
    def __init__(self) -> None:
        self.goals: Dict[str, Goal] = {}
        self.tasks: Dict[str, Task] = {}
        self.over: Dict[str, Over] = {}  # goals that have just been dropped: not yet in the journal
        self.known: Dict[str, Dict[str, object]] = {}
        self.standings: Dict[str, str] = {}
        self._of_goal: Dict[str, List[str]] = {}
        self._queues: Dict[Wish, Deque[Tuple[int, str]]] = {}
        self._order = itertools.count()
        self._ended: "OrderedDict[str, str]" = OrderedDict()

    def apply(self, fact: Fact) -> None:
        """Take a fact over; the same when it is new and when it is read from the journal."""
        if isinstance(fact, Task):
            self._apply_task(fact)
        elif isinstance(fact, Goal):
            self.goals[fact.id] = fact
            self.over.pop(fact.id, None)
            self._of_goal.setdefault(fact.id, [])
            self._drop_if_over(fact.id)
        elif isinstance(fact, Known):
            self.known[fact.worker] = fact.facts
        elif isinstance(fact, Standing):
            self.standings[fact.worker] = fact.state
        else:
            assert isinstance(fact, Attempt)

    def _apply_task(self, task: Task) -> None:
        old = self.tasks.get(task.id)
        if old is None:
            self._of_goal.setdefault(task.goal, []).append(task.id)
        self.tasks[task.id] = task
        if task.state == "queued" and (old is None or old.state != "queued"):
            self._queues.setdefault(wish(task), deque()).append((next(self._order), task.id))
        if task.ended:
            self._drop_if_over(task.goal)

    def _drop_if_over(self, goal_id: str) -> None:
        goal = self.goals.get(goal_id)
        if goal is None or not goal.ended or any(not t.ended for t in self.of(goal_id)):
            return
        over = self.over[goal_id] = Over(goal, self.of(goal_id))
        for task in over.tasks:
            self._ended[task.id] = task.state
            del self.tasks[task.id]
        while len(self._ended) > REMEMBERED:
            self._ended.popitem(last=False)
        del self.goals[goal_id], self._of_goal[goal_id]

    def facts(self) -> List[Fact]:
        """All that is known now, tasks before their goals: as the journal would give it."""
        workers = [Known(name, dict(facts)) for name, facts in self.known.items()]
        standings = [Standing(name, state) for name, state in self.standings.items()]
        return [*self.tasks.values(), *self.goals.values(), *workers, *standings]

    def of(self, goal_id: str) -> List[Task]:
        """The goal's tasks, in the order in which they were made."""
        return [self.tasks[t] for t in self._of_goal.get(goal_id, ())]

    def room(self) -> int:
        """How many more tasks there may be."""
        return MAX_OPEN_TASKS - len(self.tasks)

    def state_of(self, task_id: str) -> str:
        """A task's true state, `unknown` if it ended too long ago to say."""
        task = self.tasks.get(task_id)
        return task.state if task else self._ended.get(task_id, "unknown")

    def queues(self) -> Iterable[Wish]:
        """The wishes that tasks wait with, the longest waiting first."""
        heads = [(head, w) for w in list(self._queues) if (head := self._head(w)) is not None]
        return [w for _, w in sorted(heads, key=lambda pair: pair[0])]

    def first(self, w: Wish) -> Optional[Task]:
        """The task that has waited longest with this wish."""
        return None if self._head(w) is None else self.tasks[self._queues[w][0][1]]

    def queued(self) -> Iterator[Task]:
        return (t for t in self.tasks.values() if t.state == "queued")

    def _head(self, w: Wish) -> Optional[int]:
        queue = self._queues[w]
        while queue:
            order, task_id = queue[0]
            task = self.tasks.get(task_id)
            if task is not None and task.state == "queued" and wish(task) == w:
                return order
            queue.popleft()
        del self._queues[w]
        return None
