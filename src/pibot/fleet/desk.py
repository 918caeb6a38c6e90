"""The master's desk: what comes in is handled, stored, and only then answered. No socket here.

    take …  →  settle: one commit  →  packets and jobs for the driver

A commit that fails is as if its messages had never come: `refuse` says so to those who wait for
a promise, `begin` starts over from the journal, and everyone says again what was not
acknowledged.
"""

from __future__ import annotations

import functools
import logging
from dataclasses import dataclass, field
from typing import Any, Callable, Dict, List, NamedTuple, Tuple

from pibot import messages as msg
from pibot.errors import BadMessage, PibotError, StoreError
from pibot.fleet import asks, document, recovery, status, views
from pibot.fleet import events as ev
from pibot.fleet.artifacts import Artifacts
from pibot.fleet.audit import Audit
from pibot.fleet.clients import CHAT_TURNS, Answer, Clients
from pibot.fleet.fetching import Fetching
from pibot.fleet.gateway import Gateway, Pulled, Request, Sliced, Step
from pibot.fleet.journal import Journal
from pibot.fleet.manage import Manager
from pibot.fleet.programs import Programs
from pibot.fleet.records import REMOVED, Fact, Goal, Task, changed
from pibot.fleet.roster import Roster
from pibot.fleet.scheduler import Scheduler
from pibot.fleet.updates import Updates
from pibot.signing import MasterKeys
from pibot.topics import CLIENT, WORKER, Topics
from pibot.wire import Packet

log = logging.getLogger("pibot.master")

LAZY_S = 0.25
OLD_VIEWS = 2_000


@dataclass(frozen=True)
class Surroundings:
    """What a desk needs from outside: names, and sources of what it may not make up itself."""

    fleet: str
    epoch: int
    store_id: str
    model: bool  # whether the master can ask a model
    asks: bool  # whether goals from the `ask` topic are taken
    keyring: MasterKeys
    nonce: Callable[[], str]
    goal_id: Callable[[], str]
    jitter: Callable[[], float]
    local_time: Callable[[], str]


@dataclass
class Turn:
    """What one round brings; nothing of it is seen outside before it is committed."""

    facts: List[Fact] = field(default_factory=list)
    sends: List[ev.Send] = field(default_factory=list)
    jobs: List[ev.Job] = field(default_factory=list)
    notes: List[Any] = field(default_factory=list)
    answers: List[Answer] = field(default_factory=list)
    promises: List[Answer] = field(default_factory=list)  # answers that rely on the journal
    orders: List[Answer] = field(default_factory=list)  # answers that rely on the roster, too
    kept: List[Answer] = field(default_factory=list)  # promises that the journal has
    asked: List[Goal] = field(default_factory=list)
    audits: List[ev.Audited] = field(default_factory=list)
    packets: List[Packet] = field(default_factory=list)

    def add(self, out: ev.Out) -> None:
        self.facts += out.facts
        self.sends += out.sends
        self.jobs += out.jobs
        self.notes += out.notes
        self.audits += out.audits


class Planning(NamedTuple):
    """A job for a model, with the fleet as it is now and what was said before."""

    job: ev.Job
    fleet: Dict[str, Any]
    chat: List[Tuple[str, str]]


class Told(NamedTuple):
    """What the driver does after a commit: publish, stop the jobs of what is over, begin jobs."""

    packets: List[Packet]
    over: List[str]
    jobs: List[Planning]


class Desk:
    def __init__(
        self,
        topics: Topics,
        journal: Journal,
        roster: Roster,
        around: Surroundings,
        artifacts: Artifacts,
        programs: Programs,
        audit: Audit,
    ) -> None:
        self.audit = audit
        self._topics, self._journal, self._roster, self._around = topics, journal, roster, around
        self._artifacts, self._programs = artifacts, programs
        self._asks = asks.Asks()

    def begin(self, now: float, recovering_s: float = 0.0) -> None:
        """Take the journal's word for everything; leases are full, sessions begin anew.

        For `recovering_s` seconds the journal may lack what workers and clients know.
        """
        a = self._around
        self._recovery = recovery.Recovery(now, recovering_s)
        self._turn = Turn()
        self._unstored: List[Fact] = []
        self._store_by = now
        self.scheduler = Scheduler(a.jitter, a.model, recovers=recovering_s > 0)
        self._turn.add(self.scheduler.load(self._journal.open_facts(), now))
        self.pool = self.scheduler.pool
        self._roster.begin(n for n, standing in self.pool.gone.items() if standing == REMOVED)
        self._gateway = Gateway(
            self._topics, a.keyring, self.pool, a.nonce, a.epoch, a.store_id, a.jitter
        )
        manager = Manager(
            self.scheduler,
            self._roster,
            self._gateway,
            a.local_time,
            functools.partial(a.keyring.last, CLIENT),
        )
        self._artifacts.leave_all()
        self._fetching = Fetching(self.scheduler.board, self._artifacts, a.jitter)
        self._updates = Updates(self.pool, self._roster, self._programs)
        self._clients = Clients(
            self.scheduler,
            self._journal,
            self._gateway,
            manager,
            a.fleet,
            a.epoch,
            a.local_time,
            self._artifacts,
            self._recovery,
            self._updates,
            self.audit,
        )
        self._views = views.Views(self._topics, a.fleet, a.epoch)
        self._views.ended_before(self._journal.lately_ended(OLD_VIEWS), now)

    def wake_at(self) -> float:
        """When `tick` and `settle` are next needed, if nothing else happens."""
        at = self.scheduler.wake_at()
        times = [self._views.wake_at(), self._clients.wake_at(), self._fetching.wake_at()]
        times.append(self._gateway.wake_at())
        return min(times) if at is None else min(*times, at)

    # --- taking in ------------------------------------------------------------------------------

    def take_packet(self, topic: str, payload: bytes, now: float) -> None:
        if topic == self._topics.ask and self._around.asks:
            self._take_ask(payload, now)
            return
        incoming = self._gateway.receive(topic, payload, now)
        if isinstance(incoming, Request):
            event, answer = self._clients.handle(incoming, now)
            self._answers_like(incoming.message, event is not None).append(answer)
            if event:
                self.take_event(event, now)
            self._turn.sends += self._updates.take_sends()
        elif isinstance(incoming, Pulled):
            self._updates.fetch(incoming.worker, incoming.wanted, now)
            self._turn.sends += self._updates.take_sends()
        elif isinstance(incoming, Step):
            self._turn.notes.append(incoming)
        elif isinstance(incoming, Sliced):
            self._fetching.came(incoming.worker, incoming.part, now)
            self._fetched(now)
        elif isinstance(incoming, ev.AttemptEnded):
            self._believe(incoming, now)
            self._fetching.ended(incoming, now)
            self._fetched(now)
        elif incoming is not None:
            self.take_event(incoming, now)

    def _answers_like(self, request: msg.Message, stores: bool) -> List[Answer]:
        if isinstance(request, msg.Manage):
            return self._turn.orders
        return self._turn.promises if stores else self._turn.answers

    def take_event(self, event: ev.FleetEvent, now: float) -> None:
        self._believe(event, now)
        self._turn.add(self.scheduler.handle(event, now))
        if isinstance(event, ev.Joined):
            self._fetching.joined(event.worker, now)
            self._roster.came(event.worker, self._around.keyring.last(WORKER, event.worker))
        if isinstance(event, (ev.Joined, ev.Tick)):
            self._fetching.tick(now)
            self._fetched(now)

    def _fetched(self, now: float) -> None:
        """What follows from files: more is asked for; results whose files are there are taken."""
        self._turn.sends += self._fetching.take_sends()
        for event in self._fetching.take_events():
            self._turn.add(self.scheduler.handle(event, now))

    def _believe(self, event: ev.FleetEvent, now: float) -> None:
        """Take over attempts that only their worker knows of, while the journal recovers."""
        if not self._recovery.is_on(now):
            return
        for found in recovery.named(event, self._around.local_time()):
            lost = self._clients.goal(found.task) is None
            goal = self._clients.goal(found.task.rpartition("-")[0]) if lost else None
            if lost and (goal is None or not goal.ended):
                self._turn.add(self.scheduler.handle(found, now))

    def remembered(self) -> List[Fact]:
        """What is open and known, without this round: for a journal that turned out damaged."""
        doubtful = {_name(fact) for fact in (*self._turn.facts, *self._unstored)}
        return [fact for fact in self.scheduler.board.facts() if _name(fact) not in doubtful]

    def connected(self) -> List[Packet]:
        """The broker took us (again), and may have forgotten everything."""
        self._views.reconnected()
        return self.announce()

    def announce(self) -> List[Packet]:
        """A hint to say hello; it also comes back to us."""
        return self._gateway.announce()

    def _take_ask(self, payload: bytes, now: float) -> None:
        try:
            goal = self._asks.read(payload, self._around.goal_id(), now)
        except BadMessage as error:
            self._gateway.drop(self._topics.ask, str(error))
            return
        if goal is None:
            return
        try:
            checked = self._clients.check(goal)
        except PibotError as error:
            self._turn.packets.append(self._refused_ask(goal, str(error)))
        else:
            self._turn.asked.append(goal)
            self.take_event(ev.Submitted(checked), now)

    # --- storing, then telling ------------------------------------------------------------------

    def store(self, now: float) -> None:
        """Commit this round; raise StoreError if the disk does not take it.

        That a task runs changes nothing that a restart needs: such facts may wait a bit. The
        roster comes after the journal, so that `begin` can tell what a crash has cut short.
        """
        for entry in self._turn.audits:
            self.audit.note(entry.what, by=entry.by, **entry.about)
        facts = self._turn.facts
        self._unstored += facts
        urgent = any(not isinstance(f, Task) or f.state != "running" or f.asks for f in facts)
        if urgent or (self._unstored and now >= self._store_by):
            self._journal.commit(self._unstored)
            self._unstored = []
        if not self._unstored:
            self._store_by = now + LAZY_S
        turn = self._turn  # what the journal has will be done, whatever becomes of the roster
        turn.kept, turn.promises, turn.asked = turn.promises, [], []
        self._roster.store()

    def tell(self, now: float) -> Told:
        """What follows from a round that is stored."""
        turn, self._turn = self._turn, Turn()
        packets = turn.packets + self._gateway.take_packets()
        for answer in turn.answers + turn.kept + turn.orders:
            packets += self._gateway.to_client(answer.channel, answer.message)
        for send in turn.sends:
            packets += self._gateway.to_worker(send.worker, send.message, send.qos)
        facts = _newest(turn.facts)
        packets += [p for fact in facts for p in self._told(fact)]
        packets += [p for note in turn.notes for p in self._clients.note(note)]
        packets += self._clients.news(now) + self._views.packets(self.pool, now)
        packets += self._gateway.due(now)
        self.scheduler.board.over.clear()
        over = [f.id for f in facts if isinstance(f, Goal) and f.ended]
        jobs = [self._planning(job) for job in turn.jobs if job.goal.id not in over]
        return Told(packets, over, jobs)

    def _told(self, fact: Fact) -> List[Packet]:
        packets = self._clients.tell(fact)
        if isinstance(fact, Task):
            self._views.changed(fact)
        elif isinstance(fact, Goal) and fact.ended and fact.asked:
            packets.append(self._answer(fact, self._journal.tasks(fact.id)))
        return packets

    def refuse(self, error: StoreError) -> List[Packet]:
        """Take back the promises of a round that could not be stored."""
        turn, self._turn = self._turn, Turn()
        why = f"the master cannot store this: {error}"
        packets = turn.packets + self._gateway.take_packets()
        for answer in turn.kept:
            packets += self._gateway.to_client(answer.channel, answer.message)
        for answer in turn.promises + turn.orders:
            reply = answer.message
            if isinstance(reply, msg.Reply):
                reply = msg.Reply(reply.re, error={"code": error.code, "message": why})
            packets += self._gateway.to_client(answer.channel, reply)
        return packets + [self._refused_ask(goal, why) for goal in turn.asked]

    # --- asks -----------------------------------------------------------------------------------

    def _refused_ask(self, goal: Goal, why: str) -> Packet:
        self._asks.forget(goal)
        return self._answer(changed(goal, state="failed", answer=f"Not done: {why}"), [])

    def _answer(self, goal: Goal, tasks: List[Task]) -> Packet:
        payload = asks.answer(document.goal_document(goal, tasks), goal.ask_id)
        return Packet(self._topics.answer(goal.id), payload)

    # --- for the planner ------------------------------------------------------------------------

    def _planning(self, job: ev.Job) -> Planning:
        rows = [status.worker_row(w, 0.0) for _, w in sorted(self.pool.workers.items())]
        fleet = {"workers": rows, **status.skills_document(self.pool, "")}
        return Planning(job, fleet, self._chat(job.goal))

    def _chat(self, goal: Goal) -> List[Tuple[str, str]]:
        if not goal.chat:
            return []
        turns = self._journal.chat(goal.chat, CHAT_TURNS)
        known = [g for g in turns if g.text and (goal.tainted or not g.tainted)]
        return [(g.text, g.answer or f"({g.state})") for g in known]


def _newest(facts: List[Fact]) -> List[Fact]:
    """Of several facts about one goal or task only the last: nobody needs what is over."""
    return list({_name(f): f for f in facts}.values())


def _name(fact: Fact) -> Tuple[type, Any]:
    return type(fact), getattr(fact, "id", None) or getattr(fact, "worker", None)
