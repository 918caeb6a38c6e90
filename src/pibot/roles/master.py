"""The master: wires journal, desk, model, health and broker together; one loop does the effects.

handle → commit → only then publish.
"""

from __future__ import annotations

import functools
import logging
import random
import secrets
import time
from contextlib import ExitStack
from datetime import datetime
from typing import Any, Callable, Dict, Iterable, List, Optional, Tuple

from pibot import broker
from pibot.config import Settings, require_credentials
from pibot.errors import DamagedStore, StoreError
from pibot.fleet import events as ev
from pibot.fleet import status, views
from pibot.fleet.artifacts import Artifacts
from pibot.fleet.audit import Audit
from pibot.fleet.desk import Desk, Surroundings
from pibot.fleet.jobs import Jobs
from pibot.fleet.journal import Journal
from pibot.fleet.planner import Planner
from pibot.fleet.programs import Programs
from pibot.fleet.pruning import Limits
from pibot.fleet.records import Fact
from pibot.fleet.roster import Own, Roster
from pibot.mailbox import Mailbox
from pibot.notify import Notify
from pibot.roles.common import BrokerNews, Stop, link, new_goal_id, new_nonce, serve_health
from pibot.secrets import Redactor
from pibot.session import Doubt
from pibot.signing import MasterKeys
from pibot.topics import RESERVED, Topics
from pibot.transport import LastWill, PahoTransport, Transport
from pibot.wire import Packet

log = logging.getLogger("pibot.master")

IDLE_S = 1.0
QUIET_S = 20.0  # without a packet: our own announce must come back
DEGRADED_S = 45.0
MEND_PAUSE_S = 1.0
PRUNE_S = 60.0
PRUNE_MORE_S = 0.05  # when there was something to forget, there may be more of it


class Master:
    def __init__(
        self,
        settings: Settings,
        connect: Callable[..., Transport] = PahoTransport,
        systemd: Optional[Notify] = None,
    ) -> None:
        """`connect` makes the transport: of a link, a name, topic filters and a last will."""
        self._settings, self._make_transport = settings, connect
        self._systemd = systemd or Notify()
        self._news = BrokerNews(log, self._systemd)
        self._mailbox = Mailbox()
        self._topics = Topics(settings.fleet)
        self._asks = settings.ask if settings.ask is not None else not settings.mqtt_password
        self._counts: Dict[str, int] = {}
        self._doubt = Doubt(random.random)
        self._heard_at = self._probed_at = 0.0
        self._prune_at = 0.0
        self._stopping = False

    def stop(self) -> None:
        """Ask the loop to end; safe from signal handlers and threads."""
        self._stopping = True
        self._mailbox.put(Stop())

    def run(self) -> None:
        """Serve until stop(); raises PibotError when it cannot begin."""
        require_credentials(self._settings)
        with ExitStack() as opened:
            self._open(opened)
            self._systemd.ready()
            while not self._stopping:
                self._systemd.alive(time.monotonic())
                self._turn(self._mailbox.collect(self._wait_s(), self._transport.poll))
                self._listen(time.monotonic())
            self._systemd.stopping()
            self._publish([self._farewell()])

    # --- beginning ------------------------------------------------------------------------------

    def _open(self, opened: ExitStack) -> None:
        settings = self._settings
        self._mailbox.open()
        opened.callback(self._mailbox.close)
        limits = Limits(settings.keep_days, settings.keep_goals)
        self._journal = Journal(settings.state_dir / "master" / "journal.db", limits)
        epoch, store_id = self._journal.open(secrets.token_hex(8))
        opened.callback(self._journal.close)
        if settings.mqtt_password and not settings.key:
            log.warning(
                "PIBOT_KEY is not set: messages without a signature are taken from everyone whom "
                "the broker lets in"
            )
        self._jobs = Jobs(_planner(settings), self._mailbox.put)
        opened.callback(self._jobs.close)
        own = Own(settings.mqtt_username, settings.mqtt_password, settings.key)
        roster = Roster(settings.state_dir, settings.fleet, own)
        self._artifacts = Artifacts(settings.state_dir / "master" / "artifacts")
        around = self._surroundings(epoch, store_id, roster)
        programs = Programs(settings.state_dir / "master" / "programs")
        audit = Audit(settings.state_dir / "master" / "audit.log", _local_time)
        audit.open()
        self._desk = Desk(
            self._topics, self._journal, roster, around, self._artifacts, programs, audit
        )
        self._begin()
        handle = broker.find_or_start(settings)  # now: a private one reads whom it lets in
        opened.callback(handle.close)
        roster.tell_broker = handle.reload
        self._heard_at = time.monotonic()
        log.info("fleet %s, epoch %d: %s", settings.fleet, epoch, handle.describe())
        opened.callback(serve_health(settings, self._health).close)
        self._connect(handle.host, handle.port)
        opened.callback(self._transport.close)

    def _surroundings(self, epoch: int, store_id: str, roster: Roster) -> Surroundings:
        return Surroundings(
            fleet=self._settings.fleet,
            epoch=epoch,
            store_id=store_id,
            model=self._settings.model is not None,
            asks=self._asks,
            keyring=MasterKeys(self._settings.key, self._topics.parse, roster.keys_of),
            nonce=new_nonce,
            goal_id=new_goal_id,
            jitter=random.random,
            local_time=_local_time,
        )

    def _connect(self, host: str, port: int) -> None:
        settings, t = self._settings, self._topics
        filters = [t.worker("+", c) for c in ("evt", "hb", "prog", "will")]
        filters += [t.client("+", "req"), t.announce]
        if self._asks:
            filters.append(t.ask)
        will = LastWill(t.view("fleet"), views.offline(settings.fleet), qos=1, retain=True)
        there = link(settings, host, port)
        self._transport = self._make_transport(there, RESERVED, filters, will)
        self._transport.start(
            self._mailbox.offer,
            lambda up, why: self._mailbox.put((up, why)),
            self._mailbox.wake,
        )

    def _health(self) -> Tuple[int, Dict[str, Any]]:
        """Healthy is who hears through the broker, not who believes to be connected."""
        deaf = time.monotonic() - self._heard_at > DEGRADED_S
        status = "degraded" if deaf else "healthy"
        return 503 if deaf else 200, {"status": status, "role": "master", "workers": self._counts}

    # --- the loop -------------------------------------------------------------------------------

    def _wait_s(self) -> float:
        wake_at = min(self._desk.wake_at(), self._prune_at)
        return max(0.0, min(wake_at - time.monotonic(), IDLE_S))

    def _turn(self, items: List[Any]) -> None:
        """One round; whatever goes wrong in it, the loop goes on from what is stored."""
        now = time.monotonic()
        try:
            for item in items:
                self._take(item, now)
            self._desk.take_event(ev.Tick(), now)
            self._desk.store(now)
        except StoreError as error:
            log.error("%s; what came is refused until it can be stored", error)
            damage = str(error) if isinstance(error, DamagedStore) else ""
            known = self._desk.remembered()
            self._mend(self._desk.refuse(error), damage, known)
            return
        except Exception:
            log.exception("a message could not be handled")
            self._mend([])
            return
        try:
            self._tell(now)
            self._prune(now)
        except Exception:
            log.exception("what is stored could not be told")
            self._mend([])

    def _take(self, item: Any, now: float) -> None:
        if isinstance(item, Stop):
            return
        if not isinstance(item, tuple):
            self._desk.take_event(item, now)
        elif isinstance(item[0], str):
            self._heard_at = now
            self._doubt.heard(now)
            self._desk.take_packet(item[0], item[1], now)
        else:
            self._take_state(item[0], item[1], now)

    def _take_state(self, connected: bool, why: str, now: float) -> None:
        self._news.tell(connected, why)
        if connected:
            self._doubt.connected(now)
            self._probed_at = now
            self._publish(self._desk.connected())
        else:
            self._doubt.lost()

    def _listen(self, now: float) -> None:
        """When all is quiet, ask for an echo of our own; without one the connection is deaf."""
        if now - max(self._heard_at, self._probed_at) >= QUIET_S:
            self._probed_at = now
            self._publish(self._desk.announce())
        if self._doubt.due(now):
            self._transport.renew()

    def _tell(self, now: float) -> None:
        told = self._desk.tell(now)
        self._counts = status.counts(self._desk.pool)
        self._publish(told.packets)
        for goal_id in told.over:
            self._jobs.stop(goal_id)
        for planning in told.jobs:
            self._jobs.start(*planning)

    def _prune(self, now: float) -> None:
        """Forget what ended long ago, a little at a time."""
        if now < self._prune_at:
            return
        self._prune_at = now + PRUNE_S
        try:
            pruned = self._journal.prune()
        except DamagedStore as error:
            log.error("%s", error)
            self._mend([], str(error), self._desk.remembered())
            return
        except StoreError as error:
            log.error("%s", error)  # nothing depends on it: it comes again
            return
        self._artifacts.remove(pruned.tasks)
        if pruned.goals:
            self._prune_at = now + PRUNE_MORE_S

    def _begin(self, known: Iterable[Fact] = ()) -> None:
        """Start over from the journal; if it is damaged, from what is left of it and `known`."""
        try:
            self._desk.begin(time.monotonic(), self._journal.recovering_s())
        except DamagedStore as error:
            self._journal.mend(str(error), known)
            self._desk.begin(time.monotonic(), self._journal.recovering_s())

    def _mend(self, packets: List[Packet], damage: str = "", known: Iterable[Fact] = ()) -> None:
        """Say what was not stored, then start over from the journal, as often as it takes."""
        self._publish(packets)
        while not self._stopping:
            time.sleep(MEND_PAUSE_S)
            self._systemd.alive(time.monotonic())
            try:
                if damage:
                    self._journal.mend(damage, known)
                damage = ""
                self._begin(known)
            except StoreError as error:
                log.error("%s", error)
            else:
                self._publish(self._desk.connected())
                return

    def _publish(self, packets: List[Packet]) -> None:
        for packet in packets:
            self._transport.publish(*packet)

    def _farewell(self) -> Packet:
        return Packet(self._topics.view("fleet"), views.offline(self._settings.fleet), 1, True)


def _local_time() -> str:
    return _iso(int(time.time()))


@functools.lru_cache(maxsize=1)
def _iso(second: int) -> str:
    return datetime.fromtimestamp(second).astimezone().isoformat()


def _planner(settings: Settings) -> Optional[Planner]:
    if settings.model is None:
        log.info("no model is configured: only skills and sentence templates work")
        return None
    from pibot.agent import souls
    from pibot.agent.model import OpenAIModel

    soul = souls.load("master", settings.soul)
    return Planner(OpenAIModel(settings.model), soul, Redactor(settings.secrets))
