"""The master's end of the wire: packets in, events out; messages in, packets out. No socket here.

It keeps the sessions: who has been welcomed, which session of a worker is live, which message is
new. What is malformed, forged, replayed or not for us is counted and dropped.
"""

from __future__ import annotations

import logging
from collections import Counter
from dataclasses import replace
from typing import Callable, Dict, FrozenSet, List, NamedTuple, Optional, Set, Tuple, Union

from pibot import messages as msg
from pibot.errors import BadMessage
from pibot.fleet import events as ev
from pibot.fleet.document import slim
from pibot.fleet.pool import Pool
from pibot.line import Line
from pibot.session import Channel, Host
from pibot.signing import Forged, Keyring, Unsigned
from pibot.topics import RESERVED, Address, Topics
from pibot.transfer import PEER_BYTES, Subject
from pibot.wire import Packet, Reader, TooLarge, Writer

log = logging.getLogger(__name__)

REFUSAL_PAUSE_S = 1.0
REFUSALS = 200  # within that, to everyone together
OF_WORKER = msg.RESULT_BYTES + 1024 * 1024  # unfinished: a result, its trace and its header
TOPIC_CHARS = 200


class Request(NamedTuple):
    """A client's message, to be answered on its session."""

    channel: Channel
    id: str
    message: msg.Message


class Step(NamedTuple):
    """Progress of an attempt."""

    worker: str
    progress: msg.Progress


class Sliced(NamedTuple):
    """A part of a file that a task shared."""

    worker: str
    part: msg.Slice


class Pulled(NamedTuple):
    """A worker asks for a slice of its new program."""

    worker: str
    wanted: msg.FetchProgram


Incoming = Union[ev.FleetEvent, Request, Step, Sliced, Pulled]


class Gateway:
    def __init__(
        self,
        topics: Topics,
        keyring: Keyring,
        pool: Pool,
        nonce: Callable[[], str],
        epoch: int,
        store_id: str,
        jitter: Callable[[], float],
    ) -> None:
        self._topics, self._pool, self._nonce = topics, pool, nonce
        self._epoch, self._store_id = epoch, store_id
        self._reader, writer = Reader(keyring), Writer("m:" + RESERVED, RESERVED, keyring)
        self._bare = Writer("m:" + RESERVED, RESERVED, Unsigned())
        self._lines = {
            "w": Line(writer, lambda c: topics.worker(c.peer, "cmd"), jitter, lambda n: OF_WORKER),
            "c": Line(writer, lambda c: topics.client(c.peer, "rep"), jitter, self._of_client),
        }
        self._workers, self._clients = Host(nonce), Host(nonce)
        self._live: Dict[str, Channel] = {}
        self._refusing_at = float("-inf")
        self._refused: Set[Tuple[str, str]] = set()
        self._packets: List[Packet] = []
        self._alarms: Dict[str, str] = {}  # as the operator has read them
        self.dropped: Counter[str] = Counter()  # by topic; a flood of topics is not kept
        self.lost = 0

    def take_packets(self) -> List[Packet]:
        """What is to be sent at once: answers of the handshake."""
        packets, self._packets = self._packets, []
        return packets

    # --- out ----------------------------------------------------------------------------------

    def announce(self) -> List[Packet]:
        message = msg.Announce(self._store_id)
        return self._lines["w"].send(self._topics.announce, message, None, self._epoch)

    def to_worker(self, worker: str, message: msg.Message, qos: int = 1) -> List[Packet]:
        """A packet on the worker's live session; none if it has no session now.

        What is large comes out of `due`, for workers and clients alike.
        """
        to, channel = Address("w", worker, "cmd"), self._live.get(worker)
        if isinstance(message, msg.Refusal):  # outside of the session: it is over
            return self._make(to, message, None, qos)
        if channel is None:
            return []
        if isinstance(message, msg.Cancel):
            sender = self._lines["w"].sender
            sender.withdraw(channel, ("assign", message.task), message.att)
        return self._make(to, message, channel, qos)

    def to_client(self, channel: Channel, message: msg.Message, qos: int = 1) -> List[Packet]:
        return self._make(Address("c", channel.peer, "rep"), message, channel, qos)

    def due(self, now: float) -> List[Packet]:
        """Chunks to send now, and acknowledgements of those that came."""
        return [p for line in self._lines.values() for p in line.due(now, self._epoch)]

    def wake_at(self) -> float:
        """When `due` is next needed, if nothing else happens."""
        return min(line.wake_at() for line in self._lines.values())

    def _make(
        self, to: Address, message: msg.Message, channel: Optional[Channel], qos: int = 1
    ) -> List[Packet]:
        topic = self._answers_on(to)
        try:
            return self._lines[to.kind].send(topic, message, channel, self._epoch, qos)
        except TooLarge as error:
            smaller = _slim(message)
            if smaller is not None:
                return self._make(to, smaller, channel, qos)
            log.error("not sent on %s: %s", topic, error)
            if channel is None or not isinstance(message, msg.Reply):
                return []
            refused = {"code": error.code, "message": str(error)}
            return self._make(to, msg.Reply(message.re, error=refused), channel, qos)

    def _answers_on(self, to: Address) -> str:
        t = self._topics
        return t.worker(to.name, "cmd") if to.kind == "w" else t.client(to.name, "rep")

    # --- in -----------------------------------------------------------------------------------

    def receive(self, topic: str, payload: bytes, now: float) -> Optional[Incoming]:
        """Return what a packet means, or None if it means nothing (yet)."""
        address = self._topics.parse(topic) if len(topic) <= TOPIC_CHARS else None
        try:
            if address is None:
                raise BadMessage("a topic that the master does not read")
            kid, header, message = self._reader.read(topic, payload)
            if kid != f"{address.kind}:{address.name}" or header.src != address.name:
                raise BadMessage(f"{kid} speaks on the topic of {address.name}")
            if address.kind == "m":
                self._hear_master(message)
                return None
            if isinstance(message, msg.Hello):
                self._greet(address, message, len(payload), now)
                return None
            return self._sort(address, header, message, now)
        except BadMessage as error:
            if isinstance(error, Forged) and address is not None:
                self._hear_stranger(address, now)
            self.drop(topic[:TOPIC_CHARS], str(error))
            return None

    def _hear_master(self, message: msg.Message) -> None:
        """Our own announce comes back to us; another's means two masters for one fleet."""
        if isinstance(message, msg.Announce) and message.store_id != self._store_id:
            self._two_masters()

    def _two_masters(self) -> None:
        if not self._pool.alarm:
            self._pool.alarm = (
                "another master announces itself to this fleet: stop one of the two, or give it "
                "another PIBOT_FLEET"
            )
            log.error("%s", self._pool.alarm)
            self._packets += self.announce()  # so that the other one learns it, too

    def _hear_stranger(self, address: Address, now: float) -> None:
        """Somebody whose key we do not know: tell him, so that its operator finds the cause."""
        if address.kind == "m":
            self._two_masters()
        elif address.channel in ("evt", "req") and self._may_refuse(address.name, msg.KEY, now):
            back = self._answers_on(address)
            self._packets.append(Packet(back, self._bare.packet(back, msg.Refusal(msg.KEY))))

    def drop(self, topic: str, why: str) -> None:
        """Count what is dropped. The log has each topic's first one, and then how many it were."""
        self.lost += 1
        if self.lost >= 1_000 and str(self.lost).strip("0") == "1":
            log.warning("dropped %d messages since the start, the last on %s", self.lost, topic)
        if topic not in self.dropped and len(self.dropped) >= 1_000:
            return
        self.dropped[topic] += 1
        if self.dropped[topic] == 1 and len(self.dropped) < 100:
            log.warning("dropped a message on %s: %s", topic, why)

    def _sort(
        self, address: Address, header: msg.Header, message: msg.Message, now: float
    ) -> Optional[Incoming]:
        if isinstance(message, msg.Will):
            return ev.WillSeen(address.name, message.start) if address.kind == "w" else None
        host = self._workers if address.kind == "w" else self._clients
        channel = host.find(address.name, header)
        if channel is None:
            self._refuse(address, msg.Refusal("session"), now)
            return None
        if not channel.fresh(header.n):
            return None
        line = self._lines[address.kind]
        if address.kind == "c" or self._live.get(address.name) is channel:
            line.sender.moved(channel)
        if isinstance(message, msg.ChunkAck):
            return self._acked(address, line.sender.acked(channel, header.n, message, now))
        if isinstance(message, msg.Chunk):
            whole = line.take(channel, header, message, now)
            if whole is None:
                return None
            header, message = whole
        if isinstance(message, msg.Unknown):
            if header.t != message.t:  # an answer to an answer would never end
                self._packets += self._make(address, message, channel)
            return None
        if address.kind == "w":
            return self._of_worker(address, channel, message, now)
        if line.sender.has(channel, Subject(("reply", header.id))):
            return None  # asked again while the answer is on its way
        return Request(channel, header.id, message)

    def _of_client(self, name: str) -> int:
        """What may be under way of a client; the credentials of a worker only look."""
        return 0 if name in self._pool.workers else PEER_BYTES

    def _acked(self, address: Address, moved: Optional[Subject]) -> Optional[Incoming]:
        if address.kind == "c" or moved is None or moved.name[0] != "assign":
            return None
        return ev.AssignMoves(address.name, moved.name[1], moved.version)

    def _of_worker(
        self, address: Address, channel: Channel, message: msg.Message, now: float
    ) -> Optional[Incoming]:
        name = address.name
        if isinstance(message, msg.Inventory):
            return self._join(address, channel, message, now)
        if self._live.get(name) is not channel:
            raise BadMessage("a message before the inventory")
        if isinstance(message, msg.Heartbeat):
            return ev.Beat(name, message)
        if isinstance(message, msg.Result):
            return ev.AttemptEnded(name, message)
        if isinstance(message, msg.Accepted):
            return ev.AttemptAccepted(name, message.task, message.att)
        if isinstance(message, msg.Approval):
            return ev.ApprovalAsked(name, message)
        if isinstance(message, msg.Declined):
            return ev.AttemptDeclined(name, message.task, message.att, message.reason)
        if isinstance(message, msg.Bye):
            del self._live[name]  # a heartbeat that it has overtaken must not bring it back
            self._lines["w"].sender.forget(name)
            return ev.Left(name)
        if isinstance(message, msg.Progress):
            return Step(name, message)
        if isinstance(message, msg.Slice):
            return Sliced(name, message)
        if isinstance(message, msg.FetchProgram):
            return Pulled(name, message)
        raise BadMessage(f"a worker does not send {message.t}")

    # --- sessions -----------------------------------------------------------------------------

    def _greet(self, address: Address, hello: msg.Hello, size: int, now: float) -> None:
        if address.kind == "w" and self._turned_away(address, hello, now):
            return
        if address.kind == "w":
            channel = self._workers.open(address.name, hello, size)
        else:  # nobody asks for the facts of a client
            channel = self._clients.open(address.name, replace(hello, facts={}))
        nonce_m = channel.ses.partition(".")[2]
        beat_ms, lease_ms = round(msg.HEARTBEAT_S * 1000), round(msg.LEASE_S * 1000)
        welcome = msg.Welcome(hello.nonce, nonce_m, self._store_id, beat_ms, lease_ms)
        self._packets += self._make(address, welcome, None)

    def _turned_away(self, address: Address, hello: msg.Hello, now: float) -> bool:
        refused = self._pool.refuse(address.name, hello, now)
        if refused is None:
            return False
        self._refuse(address, msg.Refusal(refused[0], refused[1], hello.nonce), now)
        worker = self._pool.workers.get(address.name)
        alarm = worker.alarm if worker else ""
        if alarm != self._alarms.get(address.name, ""):
            self._alarms[address.name] = alarm
            log.error("%s", alarm)
        return True

    def _join(
        self, address: Address, channel: Channel, inventory: msg.Inventory, now: float
    ) -> Optional[Incoming]:
        if self._turned_away(address, channel.hello, now):
            return None
        old = self._live.get(address.name)
        if old is not None and old.hello.start != channel.hello.start:
            log.warning("worker %s: another start of it took over", address.name)
        self._live[address.name] = channel
        self._workers.close_others(channel)
        return ev.Joined(address.name, channel.hello, inventory, self._coming(channel))

    def _coming(self, channel: Channel) -> FrozenSet[Tuple[str, int]]:
        """The attempts whose assignments this process has not received yet."""
        sender = self._lines["w"].sender
        sender.forget(channel.peer, channel.hello.start)
        sender.moved(channel)
        under_way = sender.under_way(channel)
        return frozenset((s.name[1], s.version) for s in under_way if s.name[0] == "assign")

    def dismiss(self, worker: str) -> None:
        """End a worker's sessions: whatever it still says needs a new hello, and a valid key."""
        self._live.pop(worker, None)
        self._workers.close(worker)
        self._lines["w"].sender.forget(worker)

    def dismiss_client(self, client: str) -> None:
        """End a client's sessions, for it may not come any more."""
        self._clients.close(client)
        self._lines["c"].sender.forget(client)

    def _refuse(self, address: Address, refusal: msg.Refusal, now: float) -> None:
        if self._may_refuse(address.name, refusal.reason, now):
            self._packets += self._make(address, refusal, None)

    def _may_refuse(self, name: str, reason: str, now: float) -> bool:
        """Once a second at most: refusals answer what nobody has authenticated yet."""
        if now - self._refusing_at >= REFUSAL_PAUSE_S:
            self._refusing_at, self._refused = now, set()
        key = (name, reason)
        if key in self._refused or len(self._refused) >= REFUSALS:
            return False
        self._refused.add(key)
        return True


def _slim(message: msg.Message) -> Optional[msg.Message]:
    """A document's message without the bulk of its results; None if that is what it is."""
    if not isinstance(message, (msg.Reply, msg.Event)) or "document" not in message.data:
        return None
    if message.data.get("slim"):
        return None
    data = {**message.data, "slim": True, "document": slim(message.data["document"])}
    if "attempts" in data:
        data["attempts"] = []
    return replace(message, data=data)
