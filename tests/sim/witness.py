"""The invariants. The witness sees every disk, message and attempt, and says what is wrong.

acknowledged    a goal whose submit was answered is in the journal, then and for ever, and ends
one result      a task's first terminal record never changes; only its current attempt made it
stored first    nothing is said that is not on the speaker's disk
lease           an attempt is taken from a worker only for a reason that the rules know
approved        what waits for a person goes on once a person has allowed that very attempt to
once            what a worker has given up never begins there; nothing unsafe runs twice at once
said again      what waits for an answer is repeated
progress        when nothing fails any more, everything ends; nothing spins, no timer is missing
bounded         when everything is over, nothing is left in memory
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any, Dict, List, Set, Tuple

from pibot import messages as msg
from pibot.agent import effects
from pibot.fleet.desk import Desk
from pibot.fleet.records import HELD, Fact, Goal, Task
from pibot.line import Received
from sim.of_master import MasterWatch
from sim.of_worker import WorkerWatch

if TYPE_CHECKING:
    from sim.party import Party
    from sim.worker import Run, Worker
    from sim.world import World

SLACK_S = 1.0  # of clocks that run apart for a lease, and of a tool that takes a moment to stop
SPINNING = 200  # turns of one party at one moment


class Violation(AssertionError):
    def __init__(self, rule: str, key: str, what: str) -> None:
        super().__init__(what)
        self.rule, self.key = rule, key


class Witness:
    def __init__(self, world: "World") -> None:
        self.world = world
        self.wanted: Dict[str, Set[str]] = {}  # how a goal may end
        self.acknowledged: Set[str] = set()
        self.twins: Set[str] = set()
        self.removed: Set[str] = set()  # by people: their work is given to others at once
        self._ended: Set[str] = set()  # goals
        self._final: Dict[str, Tuple[Any, ...]] = {}
        self._master = MasterWatch(self)
        self._workers: Dict[str, WorkerWatch] = {}
        self._runs: Dict[str, List["Run"]] = {}
        self._results: Dict[int, Tuple[str, str]] = {}
        self._stored: Dict[Tuple[str, str, bool], int] = {}
        self._turns: Counter[str] = Counter()
        self._moment = -1.0

    # --- the master -------------------------------------------------------------------------------

    def master_begins(self, desk: Desk, now: float) -> None:
        self.world.bugs.begun(desk, now)
        self._master.begins(desk, now)
        for goal_id in self.acknowledged:
            self._must(
                goal_id in self.world.master.disk.goals, "acknowledged", goal_id, "forgotten"
            )

    def committed(self, facts: List[Fact]) -> None:
        self._master.fresh.clear()
        for fact in facts:
            if isinstance(fact, Task):
                self.world.master.note(
                    "stores", f"{fact.id}/{fact.attempt}", fact.state, fact.assignee
                )
                self._task_committed(fact)
            elif isinstance(fact, Goal):
                self.world.master.note("stores", fact.id, fact.state, fact.error or "")
                if fact.ended:
                    self._ended.add(fact.id)

    def _task_committed(self, task: Task) -> None:
        final = (task.state, task.attempt, task.assignee, task.result, task.error)
        if task.id in self._final:
            self._must(self._final[task.id] == final, "one result", task.id, "a second end")
        elif task.ended:
            self._final[task.id] = final
            if task.state == "succeeded":
                self._check_result(task)
        self._master.stored(task)

    def _check_result(self, task: Task) -> None:
        data = (task.result or {}).get("data", {})
        made = self._results.get(data.get("run", -1))
        self._must(made == (task.id, task.assignee), "one result", task.id, "not of its worker")

    def master_turn(self, desk: Desk, now: float) -> None:
        self._master.turn(desk, now)

    # --- workers ----------------------------------------------------------------------------------

    def worker_begins(self, worker: "Worker") -> None:
        self._workers[worker.label] = WorkerWatch(self, worker)

    def worker_committed(self, worker: "Worker", facts: List[effects.Fact]) -> None:
        self._workers[worker.label].committed(facts)

    def worker_heard(self, worker: "Worker", found: Received, out: effects.Out) -> None:
        message = found.message
        self._workers[worker.label].heard(found, out)
        disk = self.world.master.disk
        if isinstance(message, msg.Assign):
            task = disk.all_tasks.get(message.task)
            stored = task is not None and task.attempt >= message.att
            self._must(stored, "stored first", message.task, "an assign of what is not stored")
        if isinstance(message, msg.ResultAck) and out.facts:
            self._must(
                self._over(worker, message),
                "stored first",
                message.task,
                "an ack of nothing stored",
            )

    def _over(self, worker: "Worker", ack: msg.ResultAck) -> bool:
        task = self.world.master.disk.all_tasks.get(ack.task)
        if task is None or task.ended or task.attempt > ack.att:
            return task is not None
        return not (task.state in HELD and task.assignee == worker.name)

    def workers_hold(self, name: str, task: str, att: int, result: bool) -> None:
        """A worker says that it holds an attempt, or its result: it has stored that."""
        if result and any(w.disk.refused for w in self.world.workers if w.name == name):
            return  # a result that cannot be stored is said all the same
        stored = self._stored.get((name, task, result), 0) >= att
        self._must(stored, "stored first", task, f"{name} speaks of what it has not stored")

    def worker_stored(self, name: str, held: effects.Held) -> None:
        for result in (False, True) if held.result is not None else (False,):
            key = (name, held.task, result)
            self._stored[key] = max(held.att, self._stored.get(key, 0))

    def says_goodbye(self, worker: "Worker") -> None:
        """After it, others begin at once what ran here, also what is unsafe to repeat."""
        for run in worker.runs.values():
            frozen = self.world.loop.now < worker.frozen_until + SLACK_S  # it could do nothing
            over = frozen or not run.active
            self._must(over, "once", run.assign.task, "it runs on after the goodbye")

    def worker_turn(self, worker: "Worker", now: float) -> None:
        self._workers[worker.label].turn(now)
        for run in worker.runs.values():
            if run.stopped is None:
                self._alone(run)

    def run_begins(self, run: "Run") -> None:
        task = run.assign.task
        self._results[run.number] = (task, run.worker.name)
        self._workers[run.worker.label].run_begins(run)
        earlier = self._runs.setdefault(task, [])
        earlier.append(run)
        self._alone(run)

    def _alone(self, run: "Run") -> None:
        """Unsafe work runs once at a time.

        Unless machines share a name, people removed one, or the socket of one was closed while it
        was heard and nothing of it came for 8 s: to its master it is dead.
        """
        special, task = self.twins | self.removed, run.assign.task
        special |= {name for of, name in self._master.as_dead if of == task}
        if not run.assign.unsafe or run.worker.name in special:
            return
        for other in self._runs[task]:
            if other is not run and other.active and other.worker.name not in special:
                self._must(self._stops(other), "once", task, "unsafe work on two workers at once")

    def _stops(self, run: "Run") -> bool:
        """Whether it is about to stop, or cannot do anything now and will stop when it can."""
        now = self.world.loop.now
        return run.stopped is not None or now < run.worker.frozen_until + SLACK_S

    def decided(self, run: "Run", decision: msg.Decision) -> None:
        task, yes = run.assign.task, self.world.person.yes
        seen = not decision.allow or (task, decision.att) in yes
        self._must(seen, "approved", task, f"attempt {decision.att} goes on, and nobody allowed it")
        self._must(not run.decided, "approved", task, "it is decided twice")

    # --- clients ----------------------------------------------------------------------------------

    def replied(self, request: msg.Message, reply: msg.Reply) -> None:
        if isinstance(request, msg.Submit) and reply.error is None:
            goal_id = request.goal_id
            self.acknowledged.add(goal_id)
            stored = goal_id in self.world.master.disk.goals
            self._must(stored, "acknowledged", goal_id, "acknowledged and not stored")

    def told_done(self, event: msg.Event) -> None:
        self._must(event.goal_id in self._ended, "stored first", event.goal_id, "told as done")

    # --- progress ---------------------------------------------------------------------------------

    def wakes(self, party: "Party") -> None:
        """After a turn: the next timer is in the future, or the loop spins."""
        if self.world.loop.now != self._moment:
            self._turns.clear()
            self._moment = self.world.loop.now
        self._turns[party.label] += 1
        spins = self._turns[party.label] > SPINNING
        self._must(not spins, "progress", "", f"{party.label} has a timer that is over")

    def look(self) -> None:
        """Now and then: a master that can do something has done what is due."""
        master = self.world.master
        if not master.alive or master._mending or master._busy:
            return
        now = master.clock.read() - SLACK_S
        if self.world.loop.now > master.frozen_until + SLACK_S and master.desk.scheduler._now < now:
            for task, watch in master.desk.scheduler._watches.items():
                due = min(watch.lease_until, watch.deadline, watch.resend_at)
                self._must(due > now, "progress", task, "a timer is over and nobody looks")

    def is_quiet(self) -> bool:
        w = self.world
        if not w.master.alive or w.master._mending:
            return False
        board = w.master.desk.scheduler.board
        busy = board.tasks or board.goals or any(c.waiting for c in w.clients)
        online = {x.name for x in w.master.desk.pool.online()}
        here = {x.name for x in w.workers}
        return not busy and here <= online and all(not x.core.held for x in w.workers)

    def at_the_end(self) -> None:
        w = self.world
        desk = w.master.desk
        for goal_id in sorted(self.acknowledged):
            goal = w.master.disk.goals[goal_id]
            self._must(goal.ended, "progress", goal_id, f"{goal_id} is still {goal.state}")
            self._must(self._may_end(goal), "progress", goal_id, f"{goal.state}: {goal.error}")
        for worker in w.workers:
            key = next(iter(worker.core.held), "")
            self._must(not worker.core.held, "bounded", key, f"{worker.label} still holds {key}")
            kept = [t for t in worker.disk.held if not worker.drops(t)]
            self._must(not kept, "bounded", "", f"{worker.label} keeps {kept} on its disk")
            self._must(not worker.core._results, "bounded", "", f"{worker.label} repeats something")
        online = {x.name for x in desk.pool.online()}
        for worker in w.workers:
            self._must(worker.name in online, "progress", "", f"{worker.label} is not in the fleet")
        for client in w.clients:
            wait = [r.message for r in client.waiting]
            self._must(not wait, "progress", "", f"{client.label} has no answer to {wait}")
        board = desk.scheduler.board
        left = (board.tasks, board.goals, board._of_goal, board.over, desk.scheduler._watches)
        self._must(not any(left), "bounded", "", f"left on the board: {left}")
        self._must(not desk._turn.facts and not desk._unstored, "bounded", "", "facts not stored")
        self._must(not desk._clients._followers, "bounded", "", "followers of what is over")
        for name in (s.name for s in w.strangers):
            state = desk.pool.workers[name].state
            self._must(state == "incompatible", "progress", "", f"{name} is {state}")

    def _may_end(self, goal: Goal) -> bool:
        many = "losses" in (goal.error or "")
        people = self.world.fate.people and "removed" in (goal.error or "")
        return goal.state in self.wanted[goal.id] or many or people

    def _must(self, true: object, rule: str, key: str, what: str) -> None:
        if not true:
            raise Violation(rule, key, f"{key}: {what}" if key else what)
