"""Simulated disks with the interfaces of both journals: what is not committed is gone.

A commit may fail, as on a full disk; a process may be killed just before it, or just after it.
"""

from __future__ import annotations

from typing import Callable, Dict, Iterable, List, Optional, Tuple

from pibot.agent.effects import Dropped, Held
from pibot.agent.effects import Fact as WorkerFact
from pibot.errors import StoreError
from pibot.fleet.records import Attempt, Fact, Goal, Known, Standing, Task


class Killed(BaseException):
    """SIGKILL, at this very point."""


class Disk:
    """What both disks share. `doom` names the point at which the process is to be killed next."""

    def __init__(self) -> None:
        self.full_until = 0.0
        self.doom = ""
        self.refused = 0
        self.now: Callable[[], float] = lambda: 0.0

    def point(self, name: str) -> None:
        """The process is at a point where it may be killed."""
        if self.doom == name:
            self.doom = ""
            raise Killed(name)

    def check(self) -> None:
        if self.now() < self.full_until:
            self.refused += 1
            raise StoreError("the disk is full: free some space there")


class MasterDisk(Disk):
    """pibot.fleet.journal.Journal, in memory."""

    def __init__(self) -> None:
        super().__init__()
        self.epoch = 0
        self.goals: Dict[str, Goal] = {}
        self.all_tasks: Dict[str, Task] = {}
        self.all_attempts: Dict[Tuple[str, int], Attempt] = {}
        self._of_goal: Dict[str, List[str]] = {}
        self._known: Dict[str, Known] = {}
        self._standings: Dict[str, Standing] = {}
        self._ended: Dict[str, None] = {}
        self.witness: Callable[[List[Fact]], None] = lambda facts: None

    def commit(self, facts: Iterable[Fact]) -> None:
        new = list(facts)
        self.point("before commit")
        self.check()
        for fact in new:
            self._keep(fact)
        self.witness(new)
        self.point("after commit")

    def _keep(self, fact: Fact) -> None:
        if isinstance(fact, Task):
            if fact.id not in self.all_tasks:
                self._of_goal.setdefault(fact.goal, []).append(fact.id)
            self.all_tasks[fact.id] = fact
            if fact.ended:
                self._ended[fact.id] = None
        elif isinstance(fact, Goal):
            self.goals[fact.id] = fact
        elif isinstance(fact, Attempt):
            self.all_attempts[fact.task, fact.attempt] = fact
        elif isinstance(fact, Known):
            self._known[fact.worker] = fact
        else:
            self._standings[fact.worker] = fact

    def open_facts(self) -> List[Fact]:
        self.check()
        wanted = {g.id for g in self.goals.values() if not g.ended}
        wanted |= {t.goal for t in self.all_tasks.values() if not t.ended}
        goals = [g for g in self.goals.values() if g.id in wanted]
        facts: List[Fact] = [t for g in goals for t in self.tasks(g.id)]
        return [*facts, *goals, *self._known.values(), *self._standings.values()]

    def goal(self, key: str) -> Optional[Goal]:
        task = self.all_tasks.get(key)
        return self.goals.get(task.goal if task else key)

    def tasks(self, goal_id: str) -> List[Task]:
        return [self.all_tasks[t] for t in self._of_goal.get(goal_id, ())]

    def attempts(self, task_id: str) -> List[Attempt]:
        return [a for (t, _), a in sorted(self.all_attempts.items()) if t == task_id]

    def recent(self, limit: int) -> List[Goal]:
        return list(self.goals.values())[: -limit - 1 : -1]

    def chat(self, chat: str, limit: int) -> List[Goal]:
        return [g for g in self.goals.values() if chat and g.chat == chat and g.ended][-limit:]

    def lately_ended(self, limit: int) -> List[str]:
        return list(self._ended)[: -limit - 1 : -1]


class WorkerDisk(Disk):
    """pibot.agent.journal.Journal, in memory."""

    def __init__(self) -> None:
        super().__init__()
        self.inc = 0
        self.held: Dict[str, Held] = {}
        self.witness: Callable[[List[WorkerFact]], None] = lambda facts: None

    def open(self) -> "Tuple[int, List[Held]]":
        self.inc += 1
        self.held = {t: h for t, h in self.held.items() if h.result is not None}
        return self.inc, list(self.held.values())

    def commit(self, facts: Iterable[WorkerFact]) -> None:
        new = list(facts)
        self.point("before commit")
        self.check()
        for fact in new:
            if isinstance(fact, Dropped):
                self.held.pop(fact.task, None)
            else:
                self.held[fact.task] = fact
        self.witness(new)
        self.point("after commit")

    def copy(self) -> "WorkerDisk":
        """A copied SD card."""
        twin = WorkerDisk()
        twin.inc, twin.held, twin.now = self.inc, dict(self.held), self.now
        return twin
