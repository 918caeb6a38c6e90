"""One end of the wire: messages of any size out and in. Pure, as what it is made of.

What fits into a packet is sent at once. What does not becomes a transfer, and `due` brings its
chunks, and the acknowledgements of what came; whoever drives a line asks it after each round.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Callable, List, NamedTuple, Optional, Sequence, Tuple

from pibot.errors import BadMessage
from pibot.messages import (
    KEY,
    Announce,
    Assign,
    Chunk,
    ChunkAck,
    Event,
    Header,
    Message,
    Push,
    Refusal,
    Reply,
    Result,
    SkillFile,
    Submit,
    decode,
)
from pibot.session import Channel, Guest
from pibot.signing import Forged, Keyring
from pibot.transfer import PEER_BYTES, WHOLE_BYTES, Receiver, Sender, Subject
from pibot.wire import PACKET_BYTES, Packet, Reader, TooLarge, Writer, hint


class Line:
    """One end, with as many sessions as its owner has.

    `topic` is where a session's chunks go, `room` how many bytes of a name may be under way here.
    """

    def __init__(
        self,
        writer: Writer,
        topic: Callable[[Channel], str],
        jitter: Callable[[], float],
        room: Callable[[str], int] = lambda name: PEER_BYTES,
    ) -> None:
        self._writer, self._topic = writer, topic
        self.sender, self._receiver = Sender(jitter), Receiver(room)

    @property
    def moved_at(self) -> float:
        """When a large message has last moved, in or out."""
        return max(self.sender.moved_at, self._receiver.moved_at)

    def send(
        self,
        topic: str,
        message: Message,
        channel: Optional[Channel],
        epoch: int = 0,
        qos: int = 1,
        id: str = "",
    ) -> List[Packet]:
        """The packet that carries `message`, or nothing: it is, or was already, on its way.

        Raise TooLarge for what may not be sent.
        """
        about = subject(message)
        if channel is not None and about is not None and self.sender.has(channel, about):
            return []
        body = self._writer.body(message, channel, epoch, id)
        if len(body) <= PACKET_BYTES:
            return [Packet(topic, self._writer.seal(topic, body), qos)]
        if channel is None or about is None:
            raise TooLarge(message, len(body), PACKET_BYTES)
        if len(body) > WHOLE_BYTES:
            raise TooLarge(message, len(body), WHOLE_BYTES)
        self.sender.begin(channel, about, self._writer.new_id(), body)
        return []

    def take(
        self, channel: Channel, header: Header, chunk: Chunk, now: float
    ) -> Optional[Tuple[Header, Message]]:
        """Add a chunk; return the whole message, as one of this session, once it is there."""
        body = self._receiver.take(channel, chunk, now)
        if body is None:
            return None
        inner, message = decode(body)
        if inner.src != header.src or subject(message) is None:
            raise BadMessage(f"{inner.t} of {inner.src} in chunks of {header.src}")
        return replace(inner, ses=header.ses, n=header.n), message

    def due(self, now: float, epoch: int = 0) -> List[Packet]:
        """Acknowledgements and chunks to send now."""
        said: List[Tuple[Channel, Message]] = [*self._receiver.due(now), *self.sender.due(now)]
        return [self._packet(channel, message, epoch) for channel, message in said]

    def _packet(self, channel: Channel, message: Message, epoch: int) -> Packet:
        topic = self._topic(channel)
        return Packet(topic, self._writer.packet(topic, message, channel, epoch))

    def wake_at(self) -> float:
        """When `due` is next needed, if nothing else happens."""
        return self.sender.wake_at()


class Received(NamedTuple):
    header: Header
    message: Message
    whole: bool  # it came in chunks, which the session has accepted


class GuestLine:
    """A worker's or client's end: one session at a time, with the master."""

    def __init__(
        self,
        writer: Writer,
        keyring: Keyring,
        topic: str,
        hears: Sequence[str],
        guest: Guest,
        jitter: Callable[[], float],
    ) -> None:
        """`topic` is where chunks go, and answers to them; `hears` are the topics that count.

        A broker may deliver what nobody has subscribed to.
        """
        self._guest, self._reader, self._hears = guest, Reader(keyring), frozenset(hears)
        self._line = Line(writer, lambda channel: topic, jitter)
        self.new_id = writer.new_id

    @property
    def moved_at(self) -> float:
        """When a large message has last moved, in or out."""
        return self._line.moved_at

    def send(
        self, topic: str, message: Message, qos: int = 1, joining: bool = False, id: str = ""
    ) -> List[Packet]:
        """The packet that carries `message`, if it is small; raise TooLarge.

        `joining` marks what is said outside a session.
        """
        channel = None if joining else self._moved()
        return self._line.send(topic, message, channel, self._guest.epoch, qos, id)

    def withdraw(self, name: Tuple[str, ...]) -> None:
        """Nobody needs this any more: see `subject`."""
        if self._guest.channel is not None:
            self._line.sender.withdraw(self._guest.channel, name)

    def receive(self, topic: str, payload: bytes, now: float) -> Optional[Received]:
        """What a packet brings, if anything; raise BadMessage. Chunks are joined here.

        Whether a message that came in one packet belongs to the session is not checked yet.
        """
        if topic not in self._hears:
            raise BadMessage("a topic of others")
        try:
            kid, header, message = self._reader.read(topic, payload)
        except Forged:
            return _hinted(payload)
        if kid != "m:master":
            raise BadMessage(f"{kid} is not the master")
        if not isinstance(message, (Chunk, ChunkAck)):
            return Received(header, message, False)
        channel = self._moved()
        if channel is None or not self._guest.accepts(header):
            return None
        if isinstance(message, ChunkAck):
            self._line.sender.acked(channel, header.n, message, now)
            return None
        whole = self._line.take(channel, header, message, now)
        return whole and Received(*whole, True)

    def due(self, now: float) -> List[Packet]:
        """Acknowledgements and chunks to send now; nothing without a session."""
        return [] if self._moved() is None else self._line.due(now, self._guest.epoch)

    def wake_at(self) -> float:
        return float("inf") if self._guest.channel is None else self._line.wake_at()

    def _moved(self) -> Optional[Channel]:
        channel = self._guest.channel
        if channel is not None:
            self._line.sender.moved(channel)
        return channel


def _hinted(payload: bytes) -> Received:
    """Two things are heard of anybody: that a master is there, and that it refuses our key."""
    header, message = hint(payload)
    if isinstance(message, Announce) or message == Refusal(KEY):
        return Received(header, message, False)
    raise BadMessage("a signature that does not fit")


def subject(message: Message) -> Optional[Subject]:
    """What a message is about, if it may be large: sent again, it is the same transfer."""
    if isinstance(message, (Assign, Result)):
        return Subject((message.t, message.task), message.att)
    if isinstance(message, Submit):
        return Subject((message.t, message.goal_id))
    if isinstance(message, Push):
        return Subject((message.t, message.worker, message.name, message.version))
    if isinstance(message, SkillFile):
        return Subject((message.t, message.name, message.version))
    if isinstance(message, Reply):
        return Subject((message.t, message.re))
    if isinstance(message, Event):
        return Subject((message.t, message.goal_id, message.kind))
    return None
