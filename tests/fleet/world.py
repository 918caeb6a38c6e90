"""A fleet in virtual time for the tests of the scheduler; the invariants hold throughout."""

from __future__ import annotations

from typing import Any, Dict, List, Tuple

from pibot import messages as msg
from pibot.fleet import events as ev
from pibot.fleet.records import HELD, Fact, Goal, Known, Standing, Task
from pibot.fleet.scheduler import Scheduler

SKILLS = ["echo", "system_status", "shell"]


def hello(start: str = "a" * 16, inc: int = 1, host: str = "pi", **facts: Any) -> msg.Hello:
    skills = [{"name": s, "phrases": [], "repeatable": s != "shell"} for s in SKILLS]
    known = {"slots": 1, "tags": [], "model": True, "skills": skills, "host": host, "machine": host}
    return msg.Hello("f" * 16, start, inc, facts={**known, **facts})


class World:
    """Feeds a scheduler; keeps what it sent and stored; every step checks the invariants."""

    def __init__(self, model: bool = True) -> None:
        self.now = 100.0
        self.scheduler = Scheduler(lambda: 0.5, model)
        self.stored: Dict[Tuple[str, str], Fact] = {}
        self.sends: List[ev.Send] = []
        self.jobs: List[ev.Job] = []
        self._results: Dict[str, Any] = {}

    def feed(self, event: ev.FleetEvent) -> ev.Out:
        out = self.scheduler.handle(event, self.now)
        late = self.scheduler.handle(ev.Tick(), self.now)  # as the master's loop does
        for name in ("facts", "sends", "jobs", "notes"):
            getattr(out, name).extend(getattr(late, name))
        self._keep(out)
        return out

    def _keep(self, out: ev.Out) -> None:
        for fact in out.facts:
            if isinstance(fact, (Goal, Task)):
                self._check_once(fact)
                self.stored[type(fact).__name__, fact.id] = fact
            elif isinstance(fact, (Known, Standing)):
                self.stored[type(fact).__name__, fact.worker] = fact
        self.sends += out.sends
        self.jobs += out.jobs
        self._check()

    def _check_once(self, fact: Fact) -> None:
        """One result a task, for ever."""
        if isinstance(fact, Task) and fact.ended:
            before = self._results.setdefault(fact.id, (fact.state, fact.result))
            assert before == (fact.state, fact.result), f"a second result of {fact.id}"

    def _check(self) -> None:
        board, pool = self.scheduler.board, self.scheduler.pool
        assert not set(pool.gone).intersection(pool.workers)
        for task in board.tasks.values():
            assert task.ended or task.worker not in pool.gone, f"{task.id} waits for ever"
        for worker in pool.workers.values():
            for task_id in worker.tasks:
                task = board.tasks[task_id]
                assert task.state in HELD and task.assignee == worker.name
        held = {t.id for t in board.tasks.values() if t.state in HELD}
        assert held == {t for w in pool.workers.values() for t in w.tasks}
        for goal in board.goals.values():
            if not goal.ended and goal.state == "running" and goal.route != "answer":
                tasks = [t for t in board.of(goal.id) if t.needed]
                waiting = goal.route == "plan" and all(t.state == "succeeded" for t in tasks)
                waiting = waiting or goal.id in self.scheduler.goals._gathering
                assert waiting or any(not t.ended for t in tasks), f"{goal.id} is stuck"

    # --- what happens -------------------------------------------------------------------------

    def join(self, name: str, running: Any = (), results: Any = (), **facts: Any) -> ev.Out:
        start = facts.pop("start", (name * 16)[:16])
        inc = facts.pop("inc", 1)
        inventory = msg.Inventory([list(p) for p in running], [list(p) for p in results])
        return self.feed(ev.Joined(name, hello(start, inc, **facts), inventory))

    def submit(self, goal_id: str = "g1", **fields: Any) -> ev.Out:
        return self.feed(ev.Submitted(Goal(goal_id, **fields)))

    def result(
        self, worker: str, task: str, att: int = 1, state: str = "succeeded", output: str = "done"
    ) -> ev.Out:
        ok = state == "succeeded"
        result = {"success": ok, "data": {}, "output": output if ok else ""}
        error = None if ok else output
        message = msg.Result(task, att, state, result, error)
        return self.feed(ev.AttemptEnded(worker, message))

    def beat(self, worker: str, *running: Any) -> ev.Out:
        return self.feed(ev.Beat(worker, msg.Heartbeat([list(p) for p in running])))

    def tick(self, seconds: float) -> ev.Out:
        self.now += seconds
        return self.feed(ev.Tick())

    def stand(self, name: str, state: str) -> ev.Out:
        """A person decides: draining, removed, forgotten, or nothing."""
        return self.feed(ev.StandingWanted(name, state))

    def plan(self, goal_id: str, *tasks: Dict[str, Any], revision: int = 0) -> ev.Out:
        return self.feed(ev.Planned(goal_id, revision, tuple(tasks)))

    def restart(self) -> ev.Out:
        """The master dies and comes back with what it has stored."""
        facts = list(self.stored.values())
        goals = [f for f in facts if isinstance(f, Goal) and not f.ended]
        wanted = {goal.id for goal in goals}
        kept: List[Fact] = [f for f in facts if isinstance(f, Task) and f.goal in wanted]
        kept += [*goals, *(f for f in facts if isinstance(f, Known))]
        kept += [f for f in facts if isinstance(f, Standing)]
        model = self.scheduler.goals._model
        self.scheduler = Scheduler(lambda: 0.5, model)
        out = self.scheduler.load(kept, self.now)
        self._keep(out)
        return out

    # --- what is true now -----------------------------------------------------------------------

    def task(self, task_id: str) -> Task:
        found = self.stored["Task", task_id]
        assert isinstance(found, Task)
        return found

    def goal(self, goal_id: str = "g1") -> Goal:
        found = self.stored["Goal", goal_id]
        assert isinstance(found, Goal)
        return found


def sent(out: ev.Out, kind: type) -> List[Any]:
    """The (worker, message) pairs of one type."""
    return [(s.worker, s.message) for s in out.sends if isinstance(s.message, kind)]


def assigned(out: ev.Out) -> List[Tuple[str, str, int]]:
    return [(w, m.task, m.att) for w, m in sent(out, msg.Assign)]
