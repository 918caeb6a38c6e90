"""What the witness knows of the master: why it takes an attempt from a worker, and its timers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Dict, Set, Tuple

from pibot import messages as msg
from pibot.fleet import events as ev
from pibot.fleet.desk import Desk
from pibot.fleet.pool import AFTER_WILL_S, CLOSED_S
from pibot.fleet.records import GONE, HELD, Task
from pibot.fleet.scheduler import GRACE_S, RESEND_MAX_S
from pibot.messages import LEASE_S

if TYPE_CHECKING:
    from sim.witness import Witness

SLACK_S = 1.0  # of clocks that run apart for a lease
AGAIN_S = RESEND_MAX_S * 1.5 + 0.5


class MasterWatch:
    """What the master may do with an attempt, told from what it was told since."""

    def __init__(self, witness: Witness) -> None:
        self._w, self._must = witness, witness._must
        self._named: Dict[Tuple[str, int], float] = {}  # when an attempt was last heard of
        self._since: Dict[Tuple[str, int], float] = {}  # when it was assigned
        self._heard: Dict[str, Tuple[float, float]] = {}  # a worker: when, silence allowed
        self._live: Dict[str, msg.Hello] = {}
        self._dismissed: Dict[str, float] = {}  # when a worker was removed
        self._freed: Set[Tuple[str, int]] = set()  # attempts that somebody has given up
        self._said: Dict[str, float] = {}  # when a task's assign or cancel was last said
        self._held: Dict[str, Tuple[int, str]] = {}  # as stored: task → attempt, worker
        self.fresh: Set[Tuple[str, int]] = set()  # assigned in this very commit
        self._closed: Set[str] = set()  # workers whose socket was closed while they were heard
        self.as_dead: Set[Tuple[str, str]] = set()  # tasks that were taken from such workers
        self._now = 0.0

    def begins(self, desk: Desk, now: float) -> None:
        """The master starts anew: full leases for everything that it finds."""
        self._now = now
        self._heard.clear()
        self._live.clear()
        self._closed.clear()
        self._said.clear()
        for task in self._w.world.master.disk.all_tasks.values():
            if task.state in HELD:
                self._named[task.id, task.attempt] = now
                self._since[task.id, task.attempt] = now
                self._said[task.id] = now
        handle = desk.scheduler.handle

        def watched(event: ev.FleetEvent, at: float) -> ev.Out:
            self._now = at
            self._before(event)
            out = handle(event, at)
            for send in out.sends:
                if isinstance(send.message, (msg.Assign, msg.Cancel)):
                    self._said[send.message.task] = at
                elif isinstance(send.message, msg.HbAck):
                    self._said.update((t, at) for t, _ in send.message.cancels)
            if isinstance(event, ev.Joined):
                self._mended(desk, event)
            return out

        desk.scheduler.handle = watched  # type: ignore[method-assign]

    def _before(self, event: ev.FleetEvent) -> None:
        if isinstance(event, ev.Beat):
            self._hear(event.worker, event.heartbeat.running)
        elif isinstance(event, ev.Joined):
            self._joined(event)
        elif isinstance(event, ev.Left):
            self._heard.pop(event.worker, None)
            self._free_all(event.worker, ())
        elif isinstance(event, ev.StandingWanted):
            if event.state in GONE:
                self._live.pop(event.worker, None)
                self._heard.pop(event.worker, None)
                self._dismissed[event.worker] = self._now
                self._w.removed.add(event.worker)
        elif isinstance(event, ev.WillSeen):
            live, heard = self._live.get(event.worker), self._heard.get(event.worker)
            if live and heard and live.start == event.start:
                self._heard[event.worker] = (heard[0], AFTER_WILL_S)
                if self._now - heard[0] < CLOSED_S:
                    self._closed.add(event.worker)
        elif isinstance(event, ev.AttemptAccepted):
            self._w.workers_hold(event.worker, event.task, event.att, False)
            self._name(event.worker, event.task, event.att)
        elif isinstance(event, ev.AttemptDeclined):
            self._free(event.worker, event.task, event.att)
        elif isinstance(event, ev.AttemptEnded):
            r = event.result
            if r.state == "succeeded":
                self._w.workers_hold(event.worker, r.task, r.att, True)
            self._free(event.worker, r.task, r.att)

    def _hear(self, worker: str, running: Any) -> None:
        self._heard[worker] = (self._now, LEASE_S)
        self._closed.discard(worker)
        for task, att in running:
            self._name(worker, task, att)

    def _name(self, worker: str, task: str, att: int) -> None:
        if (task, att) in self._named and self._mine(worker, task, att):
            self._named[task, att] = self._now

    def _mine(self, worker: str, task: str, att: int) -> bool:
        """Whether it is this worker's; an assignment may be about to be stored."""
        held = self._held.get(task)
        return held is None or held == (att, worker)

    def _free(self, worker: str, task: str, att: int) -> None:
        if self._held.get(task, (att, worker)) == (att, worker):
            self._freed.add((task, att))

    def _free_all(self, worker: str, but: Any) -> None:
        for task, (att, holder) in self._held.items():
            if holder == worker and (task, att) not in but:
                self._freed.add((task, att))

    def _joined(self, event: ev.Joined) -> None:
        old, heard = self._live.get(event.worker), self._heard.get(event.worker)
        if old and heard and old.start != event.hello.start and event.hello.inc <= old.inc:
            silent = self._now >= heard[0] + heard[1]
            self._must(silent, "lease", "", f"{event.worker}: a twin takes over while one lives")
        self._live[event.worker] = event.hello
        has = {(t, a) for t, a in event.inventory.running + event.inventory.results}
        self._free_all(event.worker, has)
        self._hear(event.worker, event.inventory.running)

    def _mended(self, desk: Desk, event: ev.Joined) -> None:
        """After an inventory the master believes no attempt there that it does not have."""
        has = {t for t, _ in event.inventory.running + event.inventory.results}
        has |= {t for t, _ in event.coming}
        for task, (att, holder) in self._held.items():
            now_it_is = desk.scheduler.board.tasks.get(task)
            if holder != event.worker or task in has or now_it_is is None:
                continue
            same = now_it_is.attempt == att and now_it_is.state in HELD
            self._must(not same, "lease", task, f"{holder} does not have it and is believed to")

    # --- what is stored ---------------------------------------------------------------------------

    def stored(self, task: Task) -> None:
        held, key = self._held.get(task.id), (task.id, task.attempt)
        if held is not None and (task.state not in HELD or task.attempt != held[0]):
            self._check_taken(task, *held)
            if held[1] in self._closed:
                self.as_dead.add((task.id, held[1]))
            del self._held[task.id]
        if task.state in HELD and task.id not in self._held:
            self._held[task.id] = (task.attempt, task.assignee)
            self.fresh.add(key)
            self._named.setdefault(key, self._now)
            self._since.setdefault(key, self._now)

    def _check_taken(self, task: Task, att: int, worker: str) -> None:
        key = (task.id, att)
        silent_at = sum(self._heard.get(worker, (self._named[key], LEASE_S)))
        lease_at = self._named[key] + LEASE_S
        deadline = self._since[key] + task.timeout_s + GRACE_S
        may = key in self._freed or self._now >= min(silent_at, lease_at, deadline)
        may = may or self._since[key] <= self._dismissed.get(worker, float("-inf"))
        may = may or key in self.fresh  # nobody has heard of it yet
        self._must(may, "lease", task.id, f"attempt {att} was taken from {worker} within its lease")

    def turn(self, desk: Desk, now: float) -> None:
        """After each turn of the master."""
        board, watches = desk.scheduler.board, desk.scheduler._watches
        held = {t.id for t in board.tasks.values() if t.state in HELD}
        self._must(held == set(watches), "progress", "", f"timers of {watches}, held are {held}")
        believed = {t for w in desk.pool.workers.values() for t in w.tasks}
        self._must(held == believed, "progress", "", f"held {held}, believed {believed}")
        for task_id in held:
            task = board.tasks[task_id]
            if task.state == "assigned" or task.cancel:
                said = self._said.get(task_id, float("-inf"))
                late = now - said > AGAIN_S + SLACK_S
                quiet = task.cancel and not desk.pool.get(task.assignee).online
                self._must(not late or quiet, "said again", task_id, "is not said again")
        for goal in board.goals.values():
            if not goal.ended and goal.state == "running" and goal.route == "direct":
                tasks = [t for t in board.of(goal.id) if t.needed]
                self._must(
                    any(not t.ended for t in tasks), "progress", goal.id, "waits for nothing"
                )
