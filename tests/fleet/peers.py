"""Workers and clients in front of the master's end of the wire, and what it says to them."""

from __future__ import annotations

from typing import Any, List, Optional, Tuple, Type, TypeVar

from fleet.world import hello
from pibot import messages as msg
from pibot.fleet.gateway import Incoming
from pibot.line import Line
from pibot.messages import Header, Message
from pibot.session import Channel
from pibot.signing import Forged, GuestKeys, Keyring, Unsigned
from pibot.topics import Topics
from pibot.wire import Packet, Reader, Writer

TOPICS = Topics("home")
M = TypeVar("M", bound=Message)


class Wire:
    """What was sent to anybody, until somebody looks."""

    def __init__(self) -> None:
        self.packets: List[Packet] = []

    def receive(self, topic: str, payload: bytes) -> Optional[Incoming]:
        raise NotImplementedError

    def told(self, peer: Peer, kind: Type[M]) -> List[M]:
        """Take what was said to a peer since the last look."""
        topic = TOPICS.worker(peer.name, "cmd") if peer.kind == "w" else peer.topic()[:-3] + "rep"
        found, rest = [], []
        for packet in self.packets:
            said = _heard(peer, packet) if packet.topic == topic else None
            if isinstance(said, kind):
                found.append(said)
            else:
                rest.append(packet)
        self.packets = rest
        return found


def _heard(peer: Peer, packet: Packet) -> Optional[Message]:
    """What a packet says to a peer; nothing, if another key has signed it."""
    try:
        return Reader(peer.keyring).read(packet.topic, packet.payload)[2]
    except Forged:
        return None


class Peer:
    """A worker or client in front of a gateway."""

    def __init__(
        self, gate: Wire, kind: str = "w", name: str = "w1", start: str = "a" * 16, key: str = ""
    ) -> None:
        self.gate, self.kind, self.name, self.start = gate, kind, name, start
        self.keyring: Keyring = GuestKeys(key) if key else Unsigned()
        writer = Writer(f"{kind}:{name}", name, self.keyring)
        self.line = Line(writer, lambda channel: self.topic(), lambda: 0.5)
        self.channel: Optional[Channel] = None
        self.got: List[Tuple[Header, Message]] = []  # what came in chunks
        self.facts: Any = None
        self.inc = 1

    def topic(self, channel: str = "evt") -> str:
        if self.kind == "c":
            return TOPICS.client(self.name, "req")
        return TOPICS.worker(self.name, channel)

    def packets(self, message: Message, joining: bool = False, id: str = "") -> List[bytes]:
        channel = None if joining else self.channel
        return [p.payload for p in self.line.send(self.topic(), message, channel, id=id)]

    def send(self, message: Message, joining: bool = False, id: str = "") -> List[Incoming]:
        return [
            found
            for packet in self.packets(message, joining, id)
            if (found := self.gate.receive(self.topic(), packet)) is not None
        ]

    def hello(self, nonce: str = "1" * 16) -> msg.Hello:
        known = hello(self.start, self.inc)
        return msg.Hello(nonce, self.start, self.inc, facts=self.facts or known.facts)

    def greet(self, nonce: str = "1" * 16) -> Optional[msg.Welcome]:
        """Say hello; use the session of the welcome, if one comes."""
        assert self.send(self.hello(nonce), joining=True) == []
        welcomes = self.gate.told(self, msg.Welcome)
        if not welcomes:
            return None
        ses = f"{nonce}.{welcomes[0].nonce_m}"
        self.channel = Channel("master", ses, self.hello(nonce))
        return welcomes[0]

    def join(self, nonce: str = "1" * 16) -> List[Incoming]:
        assert self.greet(nonce) is not None
        return self.send(msg.Inventory([], []))
