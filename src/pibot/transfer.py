"""Large bodies in acknowledged chunks. Pure: no clock, no randomness, no I/O.

    sender                                 receiver
    chunk 0, 1, … a window ahead     →     keeps what is new
                                     ←     chunk_ack(whole, have): the first `have` are here
    the next; after silence, again   →     … until it has all of them

A transfer is between two processes and outlives their sessions: in a new one the sender goes on
where the receiver's acknowledgements say. The newest acknowledgement counts, also when it has less
than one before: then the receiver has begun anew. To one process goes one transfer after the other.

A completed transfer only says that the whole has arrived. Whether it counts is the application's
answer; what is sent once more, later, is a transfer of its own.
"""

from __future__ import annotations

import base64
import hashlib
from collections import OrderedDict
from typing import Callable, Dict, Iterable, Iterator, List, NamedTuple, Optional, Tuple, TypeVar

from pibot.errors import BadMessage
from pibot.messages import Chunk, ChunkAck
from pibot.session import Channel

WHOLE_BYTES = 32 * 1024 * 1024
SLICE_BYTES = 40_000  # becomes 53 340 characters of base64
SLICE_CHARS = -(-SLICE_BYTES // 3) * 4
TOTAL_BYTES = 2 * WHOLE_BYTES  # of unfinished bodies, each way, with everyone together
PEER_BYTES = WHOLE_BYTES  # with one name
PEER_OPEN = 16  # that come from one name; a process sends one after the other
WINDOW = 16  # chunks in flight
FIRST_WINDOW = 2
SLOW_S = 2.0  # an acknowledgement that takes longer: others wait behind these chunks, send fewer
PAUSE_S = 1.0
MAX_PAUSE_S = 10.0
GIVE_UP_S = 60.0  # without progress
KEEP_S = 120.0  # what has come of a body whose sender is silent
IDLE_S = 5.0  # what does not move for so long makes room for others,
SLOW_CHUNKS_S = 1.0  # and what moves more slowly than that
FAIR_S = 30.0  # after so much time
LINGER_S = 10.0  # after the last acknowledgement, for the application's answer
RESTARTS = 8
REMEMBERED = 1_000  # bodies that have come, so that none is delivered twice

Peer = Tuple[str, str]  # a process: its name and its start


class Subject(NamedTuple):
    """What a transfer carries; a higher version takes the place of a lower one."""

    name: Tuple[str, ...]
    version: int = 0


class _Open:
    """A transfer that holds memory."""

    def __init__(self, channel: Channel, size: int, now: float) -> None:
        self.peer, self.size = _peer(channel), size
        self.begun_at = self.moved_at = now
        self.moves = 0  # chunks that have come

    def gives_way(self, now: float) -> bool:
        """Whether it may be dropped when others need its room: they would wait for ever."""
        slow = self.moves < (now - self.begun_at - FAIR_S) * SLOW_CHUNKS_S
        return slow or now - self.moved_at >= IDLE_S


class _Outgoing(_Open):
    def __init__(
        self, channel: Channel, subject: Subject, whole: str, body: bytes, now: float
    ) -> None:
        super().__init__(channel, len(body), now)
        self.channel, self.subject, self.whole, self.body = channel, subject, whole, body
        self.sha256 = hashlib.sha256(body).hexdigest()
        self.of = -(-len(body) // SLICE_BYTES)
        self.have = 0  # as the newest acknowledgement says
        self.next = 0  # the chunk to send next
        self.window = FIRST_WINDOW
        self.done_at: Optional[float] = None
        self._began = False
        self._acked_n = 0  # the number of the newest acknowledgement in this session
        self._reached = 0  # chunks from here on were never sent
        self._sent_at: Dict[int, float] = {}  # of chunks that were sent once
        self._pause_s = PAUSE_S
        self._restarts = 0
        self._again_at = 0.0

    def wake_at(self) -> float:
        return 0.0 if self._sendable() else self._again_at

    def over(self, now: float) -> bool:
        if self.done_at is not None:
            return now >= self.done_at + LINGER_S
        return self._restarts > RESTARTS or (self._began and now - self.moved_at >= GIVE_UP_S)

    def move(self, channel: Channel) -> None:
        """Go on in another session."""
        self.channel, self._acked_n = channel, 0
        self._began = False  # perhaps there was no session for long
        self._begin_anew(FIRST_WINDOW)

    def due(self, now: float, jitter: Callable[[], float]) -> List[Chunk]:
        if not self._began:
            self._began, self.moved_at = True, now
        if self.next > self.have and now >= self._again_at:
            self.next, self.window = self.have, 1
            self._sent_at.clear()
            self._pause_s = min(2 * self._pause_s, MAX_PAUSE_S)
        sendable = self._sendable()
        for i in sendable:
            if i >= self._reached:
                self._sent_at[i] = now
        if sendable:
            self.next = sendable.stop
            self._reached = max(self._reached, self.next)
            self._wait(now, jitter)
        return [self._chunk(i) for i in sendable]

    def acked(self, n: int, have: int, now: float, jitter: Callable[[], float]) -> bool:
        """Take an acknowledgement; whether it says that something has come."""
        if n <= self._acked_n or not 0 <= have <= self.of or self.done_at is not None:
            return False
        self._acked_n = n
        before, self.have = self.have, have
        if have < before:
            self._restarts += 1
            self._begin_anew(1)
        elif have > before:
            self._progress(now, jitter)
        return have > before

    def _progress(self, now: float, jitter: Callable[[], float]) -> None:
        sent_at = self._sent_at.get(self.have - 1)
        self._sent_at = {i: at for i, at in self._sent_at.items() if i >= self.have}
        if sent_at is None:  # which of several sendings has come?
            self._pause_s = max(PAUSE_S, self._pause_s / 2)
        else:
            took_s = now - sent_at
            slow = took_s > SLOW_S
            self.window = max(1, self.window // 2) if slow else min(WINDOW, 2 * self.window)
            self._pause_s = min(max(PAUSE_S, 2 * took_s), MAX_PAUSE_S)
        self.next = max(self.next, self.have)
        self.moved_at, self.moves = now, self.have
        self._wait(now, jitter)
        if self.have == self.of:
            self.done_at, self.body, self.size = now, b"", 0

    def _begin_anew(self, window: int) -> None:
        """Nothing after what the receiver has is on its way."""
        self.next = self._reached = self.have
        self.window, self._pause_s = window, PAUSE_S
        self._sent_at.clear()

    def _wait(self, now: float, jitter: Callable[[], float]) -> None:
        self._again_at = now + self._pause_s * (1 + 0.5 * jitter())

    def _sendable(self) -> range:
        return range(self.next, min(self.have + self.window, self.of))

    def _chunk(self, i: int) -> Chunk:
        data = self.body[i * SLICE_BYTES : (i + 1) * SLICE_BYTES]
        encoded = base64.b64encode(data).decode("ascii")
        return Chunk(self.whole, i, self.of, len(self.body), self.sha256, encoded)


class Sender:
    """What goes out: for each process a queue of transfers, of which the first one moves."""

    def __init__(self, jitter: Callable[[], float]) -> None:
        self._jitter = jitter
        self._queues: Dict[Peer, Dict[Tuple[str, ...], _Outgoing]] = {}
        self._now = 0.0
        self.moved_at = float("-inf")

    def has(self, channel: Channel, subject: Subject) -> bool:
        """Whether this is on its way, or has just arrived: then it need not be sent."""
        one = self._queues.get(_peer(channel), {}).get(subject.name)
        return one is not None and one.subject.version >= subject.version

    def begin(self, channel: Channel, subject: Subject, whole: str, body: bytes) -> bool:
        """Queue a transfer; False if there is no room: whoever needs it sends it again."""
        self.withdraw(channel, subject.name)
        if not self._make_room(_peer(channel), len(body)):
            return False
        queue = self._queues.setdefault(_peer(channel), {})
        queue[subject.name] = _Outgoing(channel, subject, whole, body, self._now)
        return True

    def _make_room(self, peer: Peer, size: int) -> bool:
        idle = _room(self._all(), peer, size, self._now)
        for one in idle or ():
            self.withdraw(one.channel, one.subject.name)
        return idle is not None

    def _all(self) -> Iterator[_Outgoing]:
        return (one for queue in self._queues.values() for one in queue.values())

    def withdraw(
        self, channel: Channel, name: Tuple[str, ...], up_to: float = float("inf")
    ) -> None:
        """Nobody needs this any more, in versions up to `up_to`."""
        queue = self._queues.get(_peer(channel), {})
        if name in queue and queue[name].subject.version <= up_to:
            del queue[name]

    def forget(self, name: str, start: str = "") -> None:
        """Drop what goes to processes of this name, but not to the one with this start."""
        for peer in [p for p in self._queues if p[0] == name and p[1] != start]:
            del self._queues[peer]

    def under_way(self, channel: Channel) -> List[Subject]:
        """What this process has not received yet."""
        queue = self._queues.get(_peer(channel), {})
        return [one.subject for one in queue.values() if one.done_at is None]

    def moved(self, channel: Channel) -> None:
        """Its process speaks in this session now; what was said in another may be lost."""
        queue = self._queues.get(_peer(channel), {})
        for name, one in list(queue.items()):
            if one.channel is channel:
                continue
            if one.done_at is not None:
                del queue[name]
            else:
                one.move(channel)

    def acked(self, channel: Channel, n: int, ack: ChunkAck, now: float) -> Optional[Subject]:
        """Take the acknowledgement number `n` of a session; the subject that it moves."""
        for one in self._queues.get(_peer(channel), {}).values():
            mine = one.whole == ack.whole and one.channel is channel
            if mine and one.acked(n, ack.have, now, self._jitter):
                self.moved_at = now
                return one.subject
        return None

    def due(self, now: float) -> List[Tuple[Channel, Chunk]]:
        """The chunks to send now; what is over is forgotten."""
        self._now = now
        found = []
        for peer, queue in list(self._queues.items()):
            for name in [name for name, one in queue.items() if one.over(now)]:
                del queue[name]
            head = _head(queue)
            if head is not None:
                found += [(head.channel, chunk) for chunk in head.due(now, self._jitter)]
            if not queue:
                del self._queues[peer]
        return found

    def wake_at(self) -> float:
        heads = (_head(queue) for queue in self._queues.values())
        times = [head.wake_at() for head in heads if head is not None]
        times += [one.done_at + LINGER_S for one in self._all() if one.done_at is not None]
        return min(times, default=float("inf"))


def _head(queue: Dict[Tuple[str, ...], _Outgoing]) -> Optional[_Outgoing]:
    return next((one for one in queue.values() if one.done_at is None), None)


class _Incoming(_Open):
    def __init__(self, channel: Channel, chunk: Chunk, now: float) -> None:
        super().__init__(channel, chunk.size, now)
        self.body = bytearray(chunk.size)
        self.have = 0
        self._ahead: "set[int]" = set()

    def add(self, i: int, data: bytes) -> bool:
        """Whether the chunk is new."""
        if i < self.have or i in self._ahead:
            return False
        self.body[i * SLICE_BYTES : i * SLICE_BYTES + len(data)] = data
        self._ahead.add(i)
        while self.have in self._ahead:
            self._ahead.remove(self.have)
            self.have += 1
        return True


_Key = Tuple[Peer, str, int, str]


class Receiver:
    """What comes in: bodies that are not complete yet, in bounded memory.

    `room` tells how many bytes a name may have open here.
    """

    def __init__(self, room: Callable[[str], int] = lambda name: PEER_BYTES) -> None:
        self._room = room
        self._open: Dict[_Key, _Incoming] = {}
        self._come: "OrderedDict[_Key, None]" = OrderedDict()
        self._acks: Dict[Tuple[str, str], Tuple[Channel, ChunkAck]] = {}
        self.moved_at = float("-inf")

    def take(self, channel: Channel, chunk: Chunk, now: float) -> Optional[bytes]:
        """Add a chunk; return the body once all of it is there; raise BadMessage."""
        data = _data(chunk)
        key = (_peer(channel), chunk.whole, chunk.size, chunk.sha256)
        if key in self._come:
            self._answer(channel, chunk.whole, chunk.of)
            return None
        one = self._open.get(key) or self._admit(key, channel, chunk, now)
        if one is None:
            return None
        if one.add(chunk.i, data):
            self.moved_at = one.moved_at = now
            one.moves += 1
        self._answer(channel, chunk.whole, one.have)
        return self._finish(channel, key, chunk) if one.have == chunk.of else None

    def _admit(self, key: _Key, channel: Channel, chunk: Chunk, now: float) -> Optional[_Incoming]:
        name = key[0][0]
        held = (one for one in self._open.values() if one.peer[0] == name)
        if sum(not one.gives_way(now) for one in held) >= PEER_OPEN:
            return None
        idle = _room(self._open.values(), key[0], chunk.size, now, self._room(name))
        if idle is None:
            return None
        self._open = {k: one for k, one in self._open.items() if one not in idle}
        one = self._open[key] = _Incoming(channel, chunk, now)
        return one

    def _finish(self, channel: Channel, key: _Key, chunk: Chunk) -> bytes:
        body = bytes(self._open.pop(key).body)
        if hashlib.sha256(body).hexdigest() != chunk.sha256:
            self._answer(channel, chunk.whole, 0)
            raise BadMessage(f"the chunks of {chunk.whole} do not fit together")
        self._come[key] = None
        if len(self._come) > REMEMBERED:
            self._come.popitem(last=False)
        return body

    def _answer(self, channel: Channel, whole: str, have: int) -> None:
        self._acks[channel.ses, whole] = (channel, ChunkAck(whole, have))

    def due(self, now: float) -> List[Tuple[Channel, ChunkAck]]:
        """The acknowledgements to send now; what nobody completes is forgotten."""
        for key in [k for k, one in self._open.items() if now - one.moved_at >= KEEP_S]:
            del self._open[key]
        acks, self._acks = list(self._acks.values()), {}
        return acks


_T = TypeVar("_T", bound=_Open)


def _room(
    held: Iterable[_T], peer: Peer, size: int, now: float, limit: int = PEER_BYTES
) -> Optional[List[_T]]:
    """Which transfers must give way so that `size` more bytes fit; None if there is no room.

    `limit` is for all processes of the peer's name: whoever has its key can start many.
    """
    everyone = list(held)
    total, own = size, size
    for one in everyone:
        total += one.size
        own += one.size if one.peer[0] == peer[0] else 0
    gone = []
    for one in sorted(everyone, key=lambda t: t.moved_at):
        if total <= TOTAL_BYTES and own <= limit:
            break
        if one.gives_way(now) and (total > TOTAL_BYTES or one.peer[0] == peer[0]):
            gone.append(one)
            total -= one.size
            own -= one.size if one.peer[0] == peer[0] else 0
    return gone if total <= TOTAL_BYTES and own <= limit else None


def _peer(channel: Channel) -> Peer:
    return channel.peer, channel.hello.start


def _data(chunk: Chunk) -> bytes:
    """Return the chunk's bytes; raise BadMessage if its numbers or its base64 are wrong."""
    whole = 0 < chunk.size <= WHOLE_BYTES and chunk.of == -(-chunk.size // SLICE_BYTES)
    names = len(chunk.whole) <= 64 and len(chunk.sha256) == 64
    if not (whole and names and 0 <= chunk.i < chunk.of and len(chunk.data) <= SLICE_CHARS):
        raise BadMessage("chunk: its numbers do not fit")
    try:
        data = base64.b64decode(chunk.data, validate=True)
    except ValueError:
        raise BadMessage("chunk: its data is not base64") from None
    if len(data) != min(SLICE_BYTES, chunk.size - chunk.i * SLICE_BYTES):
        raise BadMessage("chunk: its numbers do not fit")
    return data
