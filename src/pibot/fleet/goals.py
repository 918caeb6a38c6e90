"""Goals: how they are routed, planned, revised, ended and answered. Pure, like the scheduler.

submitted → routed:  answered on the spot | its tasks are known | a model plans it
a task ended       → what waits for it is released, or cannot be done
all tasks ended    → answered; or, after a failure, the plan is revised (at most three times)
deadline, cancel   → the goal ends now, its tasks are stopped
found at a worker  → awaited; answered after a while, when all of it was named
"""

from __future__ import annotations

from typing import Any, Callable, Dict, List, Optional, Sequence, Set, Tuple

from pibot.fleet import document, routing
from pibot.fleet.approvals import refused
from pibot.fleet.board import Board, crowded
from pibot.fleet.clocks import Clocks
from pibot.fleet.events import Answered, AnswerJob, Found, Note, PlanJob, Planned
from pibot.fleet.pool import Pool
from pibot.fleet.records import RECOVERED, TASK_TIMEOUT_S, WAITING, Goal, Task, add_usage, changed

MAX_REVISIONS = 3
PLAN_TRIES = 2  # attempts of a planned task before the plan is revised
CONTEXT_CHARS = 24_000
GATHER_S = 10.0  # after damage: in this time every living worker has named what it has
FOUND_TIMEOUT_S = 86_400.0  # of what a worker was found with: it knows its own deadline
LOST_NUMBERS = 1_000  # of a goal's tasks: may be taken by tasks that a damaged journal has lost

Emit = Callable[[Any], None]
StopTasks = Callable[[List[Task], str, str], None]


class Goals:
    def __init__(
        self,
        board: Board,
        pool: Pool,
        emit: Emit,
        stop_tasks: StopTasks,
        model: bool,
        recovers: bool = False,
    ) -> None:
        self._board, self._pool, self._emit, self._model = board, pool, emit, model
        self._stop_tasks = stop_tasks
        self._clocks = Clocks()
        self._composing: Set[str] = set()
        self._recovers = recovers
        self._gathering: Dict[str, float] = {}  # goals of which workers may yet name tasks

    # --- beginning ----------------------------------------------------------------------------

    def submitted(self, goal: Goal, now: float) -> None:
        """A new goal; one that is here already is left alone."""
        if goal.id in self._board.goals:
            return
        self._clocks.start(goal.id, goal.timeout_s, now)
        self._route(goal, now)

    def _route(self, goal: Goal, now: float) -> None:
        route = routing.route(goal, self._pool, self._model)
        if route.error is not None:
            self._finish(goal, "failed", now, error=route.error)
        elif route.answer is not None:
            self._finish(goal, "succeeded", now, answer=route.answer)
        elif route.kind == "plan":
            goal = self._set(goal, route="plan", state="planning")
            self._emit(PlanJob(goal))
        elif route.kind == "answer":
            goal = self._set(goal, route="answer", state="running")
            self._emit(AnswerJob(goal))
        else:
            everyone = goal.all or route.everyone
            goal = self._set(goal, route="direct", state="running", all=everyone)
            self._add(goal, list(route.tasks), now)

    def resume(self, now: float) -> None:
        """After a restart: every open goal gets its full time again and goes on where it was."""
        for goal in list(self._board.goals.values()):
            if goal.ended:
                continue
            self._clocks.start(goal.id, goal.timeout_s, now)
            if goal.state == WAITING:
                self._clocks.stop(goal.id, now)
            if goal.state == "planning":
                self._emit(PlanJob(goal, self._history(goal)))
            elif goal.route == "answer":
                self._emit(AnswerJob(goal))
            elif self._recovers:
                self._gathering[goal.id] = now + GATHER_S
            else:
                self._settle(goal, now)

    # --- planning -----------------------------------------------------------------------------

    def planned(self, event: Planned, now: float) -> None:
        goal = self._open(event.goal)
        if goal is None or goal.state != "planning" or goal.revision != event.revision:
            return
        goal = changed(goal, usage=add_usage(goal.usage, event.usage))
        if event.error is not None:
            self._finish(goal, "failed", now, error=event.error)
        elif event.answer is not None:
            self._finish(goal, "succeeded", now, answer=event.answer)
        else:
            goal = self._set(goal, state="running")
            self._add(goal, self._from_plan(goal, event.tasks), now)

    def _from_plan(self, goal: Goal, planned: Sequence[Dict[str, Any]]) -> List[Task]:
        """Make tasks of a validated plan; `needs` may name succeeded tasks of earlier plans."""
        known: Dict[str, Tuple[str, ...]] = {}
        for old in self._board.of(goal.id):
            if old.state == "succeeded":
                known[old.name] = (*known.get(old.name, ()), old.id)
        tasks: List[Task] = []
        made: Dict[str, List[Task]] = {}
        for item in planned:
            workers = self._everyone(item) if item.get("all") else [item.get("worker") or ""]
            made[item["id"]] = [_planned_task(goal, item, worker) for worker in workers]
            tasks += made[item["id"]]
        tasks = self._numbered(goal, tasks)
        for task in tasks:
            if task.name in made:
                known[task.name] = tuple(t.id for t in tasks if t.name == task.name)
        return [
            changed(t, needs=tuple(i for name in t.needs for i in known.get(name, ())))
            for t in tasks
        ]

    def _everyone(self, item: Dict[str, Any]) -> List[str]:
        return [w.name for w in self._pool.online() if not w.draining] or [""]

    def _numbered(self, goal: Goal, tasks: List[Task]) -> List[Task]:
        last = max((_number(t) for t in self._board.of(goal.id)), default=0)
        first = max(last, LOST_NUMBERS if self._recovers else 0) + 1
        return [changed(t, id=f"{goal.id}-{first + i}") for i, t in enumerate(tasks)]

    def _add(self, goal: Goal, tasks: List[Task], now: float) -> None:
        """Write the goal's new tasks down; those that wait for nothing are queued."""
        room = self._board.room()
        if len(tasks) > room:
            self._finish(goal, "failed", now, error=crowded(len(tasks), room))
            return
        tasks = tasks if tasks and tasks[0].id else self._numbered(goal, tasks)
        for task in tasks:
            self._emit(task if task.ended else self._begun(task))
        for task in [t for t in self._board.of(goal.id) if t.ended]:
            self.task_ended(task, now)  # what needs one that cannot even begin
        self._settle(goal, now)

    def _begun(self, task: Task) -> Task:
        if task.worker and task.worker not in self._pool.workers:  # since the plan was made
            return changed(task, state="failed", error=f"{task.worker} is not in the fleet")
        ready = all(self._succeeded(n) for n in task.needs)
        return changed(task, state="queued" if ready else "blocked")

    def _succeeded(self, task_id: str) -> bool:
        task = self._board.tasks.get(task_id)
        return task is not None and task.state == "succeeded"

    def task_changed(self, task: Task, now: float) -> None:
        """A goal waits for a person while one of its tasks does; that time is not its own."""
        goal = self._board.goals.get(task.goal)
        if goal is None or goal.ended or WAITING not in (task.state, goal.state):
            return
        waits = any(t.state == WAITING for t in self._board.of(goal.id))
        if waits and goal.state == "running":
            self._clocks.stop(goal.id, now)
            self._set(goal, state=WAITING)
        elif not waits and goal.state == WAITING:
            self._clocks.go_on(goal.id, now)
            self._set(goal, state="running")

    # --- going on -----------------------------------------------------------------------------

    def task_ended(self, task: Task, now: float) -> None:
        goal = self._open(task.goal)
        if goal is None:
            return
        for other in self._board.of(goal.id):
            now_it_is = self._board.tasks.get(other.id)  # one that ended may have ended others
            if now_it_is is None or now_it_is.state != "blocked" or task.id not in other.needs:
                continue
            if task.state != "succeeded":
                why = f"it needs {task.name or task.id}, which {_ended_how(task)}"
                self._emit(changed(other, state="cancelled", error=why))
                self.task_ended(self._board.tasks[other.id], now)
            elif all(self._succeeded(n) for n in other.needs):
                self._emit(changed(other, state="queued"))
        self._settle(goal, now)

    def _settle(self, goal: Goal, now: float) -> None:
        """When no task is left to do: answer, revise the plan, or fail."""
        now_it_is = self._open(goal.id)
        if now_it_is is None or now_it_is.state != "running":
            return
        if goal.id in self._composing or goal.id in self._gathering:
            return
        goal, tasks = now_it_is, [t for t in self._board.of(goal.id) if t.needed]
        if not tasks or any(not t.ended for t in tasks):
            return
        if all(t.state == "succeeded" for t in tasks):
            self._compose(goal, tasks, now)
        elif (
            goal.route == "plan"
            and goal.revision - goal.retried_at < MAX_REVISIONS
            and not _stopped(tasks)
            and not any(refused(t) for t in tasks)
        ):
            self._revise(goal, tasks)
        else:
            self._finish(goal, _failed_state(tasks), now, answer=document.not_done(tasks))

    def _compose(self, goal: Goal, tasks: List[Task], now: float) -> None:
        if goal.route in ("direct", "recovered"):
            self._finish(goal, "succeeded", now, answer=document.rows(goal, tasks))
            return
        self._composing.add(goal.id)
        self._emit(AnswerJob(goal, document.results(tasks)))

    def _revise(self, goal: Goal, tasks: List[Task]) -> None:
        history = self._history(goal)
        for task in tasks:
            if task.state != "succeeded":
                self._emit(changed(task, needed=False))
        tainted = self._has_taint(goal)  # what was found has a part in the new plan
        goal = self._set(goal, state="planning", revision=goal.revision + 1, tainted=tainted)
        self._emit(Note(goal.id, "a task failed for good: the plan is being revised"))
        self._emit(PlanJob(goal, history))

    def _history(self, goal: Goal) -> Tuple[Dict[str, Any], ...]:
        return document.results(self._board.of(goal.id))

    def answered(self, event: Answered, now: float) -> None:
        goal = self._open(event.goal)
        if goal is None or goal.state != "running" or goal.revision != event.revision:
            return
        self._composing.discard(goal.id)
        goal = changed(goal, usage=add_usage(goal.usage, event.usage))
        tasks = [t for t in self._board.of(goal.id) if t.needed]
        if event.answer:
            self._finish(goal, "succeeded", now, answer=event.answer)
        elif tasks:
            # The work is done: without the model's words the results still are the answer.
            self._finish(goal, "succeeded", now, answer=document.rows(goal, tasks))
        else:
            self._finish(goal, "failed", now, error=event.error or "the model gave no answer")

    # --- ending -------------------------------------------------------------------------------

    def end_early(self, goal_id: str, state: str, why: str, now: float) -> None:
        """Cancel or time out: the goal ends now, its tasks as soon as their workers say so."""
        goal = self._open(goal_id)
        if goal is None:
            return
        tasks = self._board.of(goal_id)
        self._finish(goal, state, now, error=why)
        self._stop_tasks(tasks, "cancelled", why)

    def _finish(
        self,
        goal: Goal,
        state: str,
        now: float,
        answer: Optional[str] = None,
        error: Optional[str] = None,
    ) -> None:
        self._composing.discard(goal.id)
        self._gathering.pop(goal.id, None)
        seconds = round(self._clocks.end(goal.id, now), 3)
        if state != "succeeded" and error is None:
            failed = [t.error for t in self._board.of(goal.id) if t.needed and t.error]
            error = failed[0] if failed else state
        if state == "failed" and answer is None:
            answer = f"Not done: {error}"  # a program that asked has nothing else to read
        tainted = self._has_taint(goal)
        self._set(goal, state=state, answer=answer, error=error, seconds=seconds, tainted=tainted)

    def next_deadline(self) -> Optional[float]:
        at = self._clocks.wake_at()
        times = [] if at is None else [at]
        return min((*times, *self._gathering.values()), default=None)

    def deadlines(self, now: float) -> None:
        for goal_id in [g for g, at in self._gathering.items() if now >= at]:
            del self._gathering[goal_id]
            self._gathered(self._board.goals[goal_id], now)
        for goal_id in self._clocks.over(now):
            goal = self._board.goals[goal_id]
            if goal_id in self._composing:  # the work is done, only the model's words are late
                needed = [t for t in self._board.of(goal_id) if t.needed]
                self._finish(goal, "succeeded", now, answer=document.rows(goal, needed))
                continue
            limit = goal.timeout_s
            why = f"not finished within {limit:g} s{self._nobody(goal_id)}"
            self.end_early(goal_id, "timed_out", why, now)

    def _nobody(self, goal_id: str) -> str:
        """Whom the goal waited for in vain, if it did."""
        waiting = [t for t in self._board.of(goal_id) if t.state == "queued" and not t.attempt]
        if not waiting:
            return ""
        name = waiting[0].worker
        if name in self._pool.workers:
            return f": {name} is {self._pool.workers[name].state}"
        return ": no worker that could do it was free"

    # --- again --------------------------------------------------------------------------------

    def retry(self, goal: Goal, tasks: Sequence[Task], key: str, now: float) -> None:
        """Do what did not succeed again, as new tasks: a task has one result, for ever.

        `goal` has ended; `key` is its id or that of one of its tasks.
        """
        again = goal.revision + 1
        goal = changed(goal, state="running", answer=None, error=None, seconds=0.0)
        goal = changed(goal, revision=again, retried_at=again)
        self._clocks.start(goal.id, goal.timeout_s, now)
        if not tasks:
            self._route(changed(goal, state="planning"), now)
            return
        self._emit(goal)
        for task in tasks:
            self._board.apply(task)
        chosen = _to_redo(tasks, key)
        if not chosen:  # it was stopped when all was done: only the answer is missing
            self._settle(goal, now)
            return
        fresh = self._numbered(goal, [_again(t) for t in chosen])
        ids = {old.id: new.id for old, new in zip(chosen, fresh)}
        for old in chosen:
            self._emit(changed(old, needed=False))
        moved = [changed(t, needs=tuple(ids.get(n, n) for n in t.needs)) for t in fresh]
        self._add(goal, moved, now)

    # --- after damage ---------------------------------------------------------------------------

    def found(self, event: Found, now: float) -> Optional[Task]:
        """The task that a worker was found with; None if its goal does not want it any more."""
        goal_id = event.task.rpartition("-")[0]
        goal = self._board.goals.get(goal_id)
        if goal is None:
            goal = Goal(goal_id, text=RECOVERED, timeout_s=FOUND_TIMEOUT_S, created=event.created)
            self._clocks.start(goal.id, goal.timeout_s, now)
            self._gathering[goal.id] = now + GATHER_S
            self._set(goal, state="running", route="recovered")
        elif goal.state not in ("running", WAITING) or self._was_begun_again(goal):
            return None
        task = Task(
            id=event.task,
            goal=goal_id,
            text=RECOVERED,
            timeout_s=FOUND_TIMEOUT_S,
            on_lost="fail",
            orphan=True,
            state="running",
            attempt=event.att,
            assignee=event.worker,
        )
        self._emit(task)
        return task

    def _gathered(self, goal: Goal, now: float) -> None:
        """Every living worker has named what it has: for nothing else it is worth to wait."""
        tasks = self._board.of(goal.id)
        if not any(t.needed for t in tasks):
            why = "its tasks were lost when the master's journal was damaged: retry it"
            self._finish(goal, "failed", now, error=why)
        for task in tasks:
            lost = [n for n in task.needs if n not in self._board.tasks]
            now_it_is = self._board.tasks.get(task.id)  # one that ended may have ended others
            if lost and now_it_is is not None and now_it_is.state == "blocked":
                why = f"it needs {lost[0]}, which was lost when the master's journal was damaged"
                self._emit(changed(task, state="cancelled", error=why))
                self.task_ended(self._board.tasks[task.id], now)
        self._settle(goal, now)

    def _was_begun_again(self, goal: Goal) -> bool:
        return any(_number(t) > LOST_NUMBERS for t in self._board.of(goal.id))

    # --- for the scheduler ----------------------------------------------------------------------

    def spec(self, task: Task) -> Dict[str, Any]:
        """What the worker is told to do."""
        tainted = {"tainted": True} if self.is_tainted(task) else {}
        if task.skill:
            return {"skill": task.skill, "args": task.args, **tainted}
        goal = self._board.goals.get(task.goal)
        needed = [self._board.tasks[n] for n in task.needs if n in self._board.tasks]
        return {
            "goal": task.text,
            "context": document.context(goal.text if goal else "", needed, CONTEXT_CHARS),
            "skills": list(task.skills),
            "acceptance": task.acceptance,
            **tainted,
        }

    def is_tainted(self, task: Task) -> bool:
        """Whether text from outside has a part in what the task is about."""
        goal = self._board.goals.get(task.goal)
        if task.tainted or (goal is not None and (goal.asked or goal.tainted)):
            return True
        needed = (self._board.tasks.get(n) for n in task.needs)
        return any(other is not None and other.tainted for other in needed)

    def _has_taint(self, goal: Goal) -> bool:
        return goal.asked or goal.tainted or any(t.tainted for t in self._board.of(goal.id))

    def _open(self, goal_id: str) -> Optional[Goal]:
        goal = self._board.goals.get(goal_id)
        return None if goal is None or goal.ended else goal

    def _set(self, goal: Goal, **changes: Any) -> Goal:
        goal = changed(goal, **changes)
        self._emit(goal)
        return goal


def _number(task: Task) -> int:
    digits = task.id.rpartition("-")[2]
    return int(digits) if digits.isdecimal() else 0


def _planned_task(goal: Goal, item: Dict[str, Any], worker: str) -> Task:
    return Task(
        id="",
        goal=goal.id,
        name=item["id"],
        text=item["goal"],
        needs=tuple(item.get("needs") or ()),
        skills=tuple(item.get("skills") or ()),
        worker=worker,
        tags=tuple(item.get("tags") or ()),
        acceptance=item.get("acceptance") or "",
        timeout_s=float(item.get("timeout_s") or TASK_TIMEOUT_S),
        on_lost=item.get("on_lost") or "rerun",
        tries=PLAN_TRIES,
    )


def _ended_how(task: Task) -> str:
    return "was cancelled" if task.state == "cancelled" else task.state.replace("_", " ")


def _stopped(tasks: List[Task]) -> bool:
    """Whether a person stopped one of them: then nobody wants another plan."""
    return any(t.cancel and t.state == "cancelled" for t in tasks)


def _failed_state(tasks: List[Task]) -> str:
    if _stopped(tasks):
        return "cancelled"
    states = {t.state for t in tasks}
    return "timed_out" if "timed_out" in states and "failed" not in states else "failed"


def _to_redo(tasks: Sequence[Task], key: str) -> List[Task]:
    """What did not succeed: all of it, or one task with what it needs and what needs it."""
    left = {t.id: t for t in tasks if t.needed and t.state != "succeeded"}
    if all(t.id != key for t in tasks):
        return list(left.values())
    wanted, size = {key}, 0
    while len(wanted) != size:
        size = len(wanted)
        for task in left.values():
            if wanted.intersection(task.needs):
                wanted.add(task.id)
            if task.id in wanted:
                wanted.update(task.needs)
    return [t for t in left.values() if t.id in wanted]


def _again(task: Task) -> Task:
    tries = PLAN_TRIES if task.name else 1
    return changed(
        task,
        state="blocked",
        attempt=0,
        assignee="",
        failed_on=(),
        losses=0,
        cancel=False,
        asks=[],
        result=None,
        error=None,
        usage={},
        tries=tries,
    )
