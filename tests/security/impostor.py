"""Whoever has stolen the credentials of a name: he speaks the protocol as its owner does."""

from __future__ import annotations

import itertools
import secrets
from contextlib import suppress
from typing import Any, Dict, List, Optional, Sequence, Type, TypeVar

from fleet_processes import wait_for
from pibot import messages as msg
from pibot.errors import BadMessage
from pibot.messages import Message
from pibot.session import Channel
from pibot.signing import GuestKeys, Unsigned, envelope
from pibot.topics import Topics
from pibot.wire import Reader, Writer, hint
from security.intruder import Intruder
from security.intruder import Message as Heard

TOPICS = Topics("home")
M = TypeVar("M", bound=Message)
_STARTS = itertools.count(1)


def will_topic(name: str) -> str:
    return TOPICS.worker(name, "will")


class Impostor:
    """A worker's (or with kind "c" a client's) name, password and key in the wrong hands."""

    def __init__(
        self,
        port: int,
        name: str,
        password: str,
        key: str,
        kind: str = "w",
        user: str = "",
        will: Optional[Heard] = None,
    ) -> None:
        self.name, self.kind, self.kid = name, kind, f"{kind}:{name}"
        self.keys = GuestKeys(key)
        self.start, self.inc = secrets.token_hex(8), next(_STARTS)  # it takes over from the last
        self.channel: Optional[Channel] = None
        self._beats = self._read = 0
        self._found: List[Message] = []
        self._writer = Writer(self.kid, name, self.keys)
        self._reader = Reader(self.keys)
        self.line = Intruder(port, user or name, password, will)
        self.reads = TOPICS.worker(name, "cmd") if kind == "w" else TOPICS.client(name, "rep")
        self.line.subscribe(self.reads, TOPICS.announce)

    def __enter__(self) -> "Impostor":
        return self

    def __exit__(self, *_: object) -> None:
        self.line.die()

    def topic(self, channel: str = "evt") -> str:
        if self.kind == "c":
            return TOPICS.client(self.name, "req")
        return TOPICS.worker(self.name, channel)

    # --- saying ---------------------------------------------------------------------------------

    def body(
        self, message: Message, joining: bool = False, among: Optional[Channel] = None
    ) -> bytes:
        """`among`: as one of the messages of another's session."""
        return self._writer.body(message, None if joining else among or self.channel, 0)

    def signed(self, topic: str, body: bytes, kid: str = "") -> bytes:
        """An envelope that fits the stolen key, whatever it says."""
        kid = kid or self.kid
        return envelope(self.keys.sign(kid, topic, body), kid, body)

    def unsigned(self, body: bytes, kid: str = "") -> bytes:
        return envelope(Unsigned().sign("", "", b""), kid or self.kid, body)

    def say(self, message: Message, channel: str = "evt", joining: bool = False) -> bytes:
        """Say it as the owner would; the envelope that went out."""
        topic = self.topic(channel)
        payload = self.signed(topic, self.body(message, joining))
        self.line.publish(topic, payload)
        return payload

    def heard_out(self) -> None:
        """Wait until the master has handled all that was said in the session."""
        self._beats += 1
        beat = self._beats
        self.say(msg.Heartbeat([], at_ms=beat), "hb")
        wait_for(lambda: beat in [a.at_ms for a in self.told(msg.HbAck)], what="an answer")

    # --- a session ------------------------------------------------------------------------------

    def join(
        self,
        running: Sequence[Sequence[Any]] = (),
        results: Sequence[Sequence[Any]] = (),
        facts: Optional[Dict[str, Any]] = None,
    ) -> None:
        """Begin a session, as a worker without any skill: it shall get no tasks of others."""
        nonce = secrets.token_hex(8)
        known = {"version": "9.9.9", "skills": [], "slots": 1, **(facts or {})}
        hello = msg.Hello(nonce, self.start, self.inc, facts=known)
        self.say(hello, joining=True)
        (welcome,) = wait_for(
            lambda: [w for w in self.told(msg.Welcome) if w.nonce == nonce],
            what="the impostor is welcome",
        )
        self.channel = Channel("master", f"{nonce}.{welcome.nonce_m}", hello)
        if self.kind == "w":
            self.say(msg.Inventory([list(r) for r in running], [list(r) for r in results]))

    def told(self, kind: Type[M]) -> List[M]:
        """What the master has said so far."""
        return [m for m in self._opened() if isinstance(m, kind)]

    def _opened(self) -> List[Message]:
        while self._read < len(self.line.heard):
            topic, payload = self.line.heard[self._read]
            self._read += 1
            with suppress(BadMessage):
                self._found.append(self._reader.read(topic, payload)[2])
        return self._found


def overheard(tap: Intruder, topic: str) -> Channel:
    """The session in which somebody speaks on a topic, as its broker knows it."""
    said = wait_for(
        lambda: [p for t, p in list(tap.heard) if t == topic and b'"ses":""' not in p],
        what=f"somebody speaks on {topic}",
    )[-1]
    header, _ = hint(said)
    channel = Channel(header.src, header.ses, msg.Hello("", ""))
    channel.sent = header.n + 10  # what its owner says next will not be these
    return channel
