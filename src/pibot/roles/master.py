"""The master: wires journal, scheduler, gateway and broker together; one loop does the effects.

handle → commit → only then publish. A commit that fails is as if its messages had never come:
the master starts over from its journal, and everyone says again what was not acknowledged.
"""

from __future__ import annotations

import functools
import logging
import random
import secrets
import time
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, Dict, List, Optional, Tuple

from pibot import broker, messages
from pibot.config import Settings, require_credentials
from pibot.errors import BadMessage, PibotError, StoreError
from pibot.fleet import asks, document, status, views
from pibot.fleet import events as ev
from pibot.fleet.clients import Answer, Clients
from pibot.fleet.gateway import Gateway, Packet, Request, Step
from pibot.fleet.jobs import Jobs
from pibot.fleet.journal import Journal
from pibot.fleet.planner import Planner
from pibot.fleet.records import Fact, Goal, Task
from pibot.fleet.scheduler import Scheduler
from pibot.mailbox import Mailbox
from pibot.roles.common import Stop, link, new_nonce, serve_health
from pibot.signing import Unsigned
from pibot.topics import RESERVED, Topics
from pibot.transport import LastWill, PahoTransport

log = logging.getLogger("pibot.master")

IDLE_S = 1.0
LAZY_S = 0.25
STORE_PAUSE_S = 1.0
CHAT_TURNS = 10
OLD_VIEWS = 2_000


@dataclass
class Turn:
    """What one round of the loop brings; nothing of it is seen outside before it is committed."""

    facts: List[Fact] = field(default_factory=list)
    sends: List[ev.Send] = field(default_factory=list)
    jobs: List[ev.Job] = field(default_factory=list)
    notes: List[Any] = field(default_factory=list)
    answers: List[Answer] = field(default_factory=list)
    changing: List[Answer] = field(default_factory=list)  # answers that promise something stored

    def add(self, out: ev.Out) -> None:
        self.facts += out.facts
        self.sends += out.sends
        self.jobs += out.jobs
        self.notes += out.notes


class Master:
    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._mailbox = Mailbox()
        self._topics = Topics(settings.fleet)
        self._asks = asks.Asks()
        self._ask_on = settings.ask if settings.ask is not None else not settings.mqtt_password
        self._counts: Dict[str, int] = {}
        self._stopping = False
        self._transport: Optional[PahoTransport] = None

    def stop(self) -> None:
        """Ask the loop to end; safe from signal handlers and threads."""
        self._mailbox.put(Stop())

    def run(self) -> None:
        """Serve until stop(); raises PibotError when it cannot begin."""
        require_credentials(self._settings)
        with ExitStack() as opened:
            self._mailbox.open()
            opened.callback(self._mailbox.close)
            self._open(opened)
            assert self._transport is not None
            while not self._stopping:
                self._turn(self._mailbox.collect(self._wait_s(), self._transport.poll))
            self._publish([self._farewell()])

    # --- beginning ------------------------------------------------------------------------------

    def _open(self, opened: ExitStack) -> None:
        settings = self._settings
        self._journal = Journal(settings.state_dir / "master" / "journal.db")
        self._epoch, self._store_id = self._journal.open(secrets.token_hex(8))
        opened.callback(self._journal.close)
        handle = broker.find_or_start(settings)
        opened.callback(handle.close)
        log.info("fleet %s, epoch %d: %s", settings.fleet, self._epoch, handle.describe())
        self._jobs = Jobs(_planner(settings), self._mailbox.put)
        opened.callback(self._jobs.close)
        self._start_over()
        self._serve_health(opened)
        self._connect(opened, handle.host, handle.port)

    def _connect(self, opened: ExitStack, host: str, port: int) -> None:
        fleet, t = self._settings.fleet, self._topics
        filters = [t.worker("+", c) for c in ("evt", "hb", "prog", "will")]
        filters += [t.client("+", "req"), *([t.ask] if self._ask_on else [])]
        will = LastWill(t.view("fleet"), views.offline(fleet), qos=1, retain=True)
        self._transport = PahoTransport(link(self._settings, host, port), RESERVED, filters, will)
        self._transport.start(
            lambda topic, payload: self._mailbox.offer((topic, payload)),
            lambda up, why: self._mailbox.put((up, why)),
            self._mailbox.wake,
        )
        opened.callback(self._transport.close)

    def _serve_health(self, opened: ExitStack) -> None:
        opened.callback(serve_health(self._settings, self._health).close)

    def _health(self) -> Tuple[int, Dict[str, Any]]:
        return 200, {"status": "healthy", "role": "master", "workers": self._counts}

    def _start_over(self) -> None:
        """Take the journal's word for everything; leases are full, sessions begin anew."""
        now = time.monotonic()
        self._scheduler = Scheduler(random.random, model=self._settings.model is not None)
        out = self._scheduler.load(self._journal.open_facts(), now)
        pool = self._scheduler.pool
        self._gateway = Gateway(
            self._topics, Unsigned(), pool, new_nonce, self._epoch, self._store_id
        )
        self._views = views.Views(self._topics, self._settings.fleet, self._epoch)
        self._views.ended_before(self._journal.lately_ended(OLD_VIEWS), now)
        self._clients = Clients(
            self._scheduler,
            self._journal,
            self._gateway,
            self._settings.fleet,
            self._epoch,
            _local_time,
        )
        self._counts = status.counts(pool)
        self._unstored: List[Fact] = []
        self._store_by = now
        turn = Turn()
        turn.add(out)
        self._settle(turn, now)

    # --- the loop -------------------------------------------------------------------------------

    def _wait_s(self) -> float:
        times = [self._views.wake_at(), self._clients.wake_at()]
        wake_at = self._scheduler.wake_at()
        if wake_at is not None:
            times.append(wake_at)
        return max(0.0, min(min(times) - time.monotonic(), IDLE_S))

    def _turn(self, items: List[Any]) -> None:
        now = time.monotonic()
        turn = Turn()
        for item in items:
            self._take(item, turn, now)
        turn.add(self._scheduler.handle(ev.Tick(), now))
        try:
            self._settle(turn, now)
        except StoreError as error:
            self._not_stored(turn, error)

    def _take(self, item: Any, turn: Turn, now: float) -> None:
        if isinstance(item, Stop):
            self._stopping = True
        elif isinstance(item, tuple) and isinstance(item[0], str):
            self._take_packet(item[0], item[1], turn, now)
        elif isinstance(item, tuple):
            self._take_state(*item)
        else:
            turn.add(self._scheduler.handle(item, now))

    def _take_packet(self, topic: str, payload: bytes, turn: Turn, now: float) -> None:
        if topic == self._topics.ask:
            self._take_ask(payload, turn, now)
            return
        incoming = self._gateway.receive(topic, payload, now)
        if isinstance(incoming, Request):
            event, answer = self._clients.handle(incoming, now)
            (turn.changing if event else turn.answers).append(answer)
            if event:
                turn.add(self._scheduler.handle(event, now))
        elif isinstance(incoming, Step):
            turn.notes.append(incoming)
        elif incoming is not None:
            turn.add(self._scheduler.handle(incoming, now))

    def _take_ask(self, payload: bytes, turn: Turn, now: float) -> None:
        try:
            goal = self._asks.read(payload, new_goal_id())
        except BadMessage as error:
            log.warning("an ask was dropped: %s", error)
            return
        if goal is None:
            return
        try:
            turn.add(self._scheduler.handle(ev.Submitted(self._clients.check(goal)), now))
        except PibotError as error:
            refused = replace(goal, state="failed", answer=f"Not done: {error}")
            self._publish([self._asked(refused, [])])

    def _take_state(self, up: bool, why: str) -> None:
        if up:
            log.info("connected to the broker")
            self._views.reconnected()
            self._publish(self._gateway.announce())
        else:
            log.warning("%s", why)

    # --- effects --------------------------------------------------------------------------------

    def _settle(self, turn: Turn, now: float) -> None:
        """Store, then tell."""
        self._store(turn.facts, now)
        packets = self._gateway.take_packets()
        for answer in turn.answers + turn.changing:
            packets += self._gateway.to_client(answer.channel, answer.message)
        for send in turn.sends:
            packets += self._gateway.to_worker(send.worker, send.message, send.qos)
        for fact in _newest(turn.facts):
            packets += self._told(fact)
        for note in turn.notes:
            packets += self._clients.note(note)
        packets += self._clients.news(now)
        packets += self._views.packets(self._scheduler.pool, now)
        self._counts = status.counts(self._scheduler.pool)
        self._publish(packets)
        self._scheduler.board.over.clear()
        for job in turn.jobs:
            self._jobs.start(job, self._fleet_view(), self._chat(job.goal))

    def _store(self, facts: List[Fact], now: float) -> None:
        """Commit; that a task runs changes nothing that a restart needs, so it may wait a bit."""
        self._unstored += facts
        urgent = any(not isinstance(f, Task) or f.state != "running" for f in facts)
        if urgent or (self._unstored and now >= self._store_by):
            self._journal.commit(self._unstored)
            self._unstored = []
        if not self._unstored:
            self._store_by = now + LAZY_S

    def _told(self, fact: Fact) -> List[Packet]:
        packets = self._clients.tell(fact)
        if isinstance(fact, Task):
            self._views.changed(fact)
        elif isinstance(fact, Goal) and fact.ended:
            self._jobs.stop(fact.id)
            if fact.asked:
                packets.append(self._asked(fact, self._journal.tasks(fact.id)))
        return packets

    def _asked(self, goal: Goal, tasks: List[Task]) -> Packet:
        payload = asks.answer(document.goal_document(goal, tasks), goal.ask_id)
        return Packet(self._topics.answer(goal.id), payload)

    def _not_stored(self, turn: Turn, error: StoreError) -> None:
        log.error("%s; what came is refused until it can be stored", error)
        refused = {"code": error.code, "message": f"the master cannot store this: {error}"}
        packets = self._gateway.take_packets()
        for answer in turn.changing:
            reply = answer.message
            if isinstance(reply, messages.Reply):
                reply = messages.Reply(reply.re, error=refused)
            packets += self._gateway.to_client(answer.channel, reply)
        self._publish(packets)
        time.sleep(STORE_PAUSE_S)
        self._start_over()
        self._publish(self._gateway.announce())

    def _publish(self, packets: List[Packet]) -> None:
        if self._transport is not None:
            for packet in packets:
                self._transport.publish(*packet)

    def _fleet_view(self) -> Dict[str, Any]:
        pool = self._scheduler.pool
        rows = [status.worker_row(w, 0.0) for _, w in sorted(pool.workers.items())]
        return {"workers": rows, **status.skills_document(pool, "")}

    def _chat(self, goal: Goal) -> List[Tuple[str, str]]:
        if not goal.chat:
            return []
        turns = self._journal.chat(goal.chat, CHAT_TURNS)
        return [(g.text, g.answer or f"({g.state})") for g in turns if g.text]

    def _farewell(self) -> Packet:
        return Packet(self._topics.view("fleet"), views.offline(self._settings.fleet), 1, True)


def _newest(facts: List[Fact]) -> List[Fact]:
    """Of several facts about one record only the last: nobody needs to hear what is over."""
    return list({(type(f), getattr(f, "id", None)): f for f in facts}.values())


def new_goal_id() -> str:
    return "g" + secrets.token_hex(6)


def _local_time() -> str:
    return _iso(int(time.time()))


@functools.lru_cache(maxsize=1)
def _iso(second: int) -> str:
    return datetime.fromtimestamp(second).astimezone().isoformat()


def _planner(settings: Settings) -> "Any":
    if settings.model is None:
        log.info("no model is configured: only skills and sentence templates work")
        return None
    from pibot.agent import souls
    from pibot.agent.model import ModelSettings, OpenAIModel

    m = settings.model
    model = OpenAIModel(ModelSettings(m.api_key, m.base_url, m.model))
    return Planner(model, souls.load("master", settings.soul))
