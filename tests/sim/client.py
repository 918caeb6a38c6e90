"""A client of the simulation: a real session; each request is repeated until it is answered."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, List

from pibot import messages as msg
from pibot.errors import BadMessage
from pibot.line import GuestLine
from pibot.roles.client import RESEND_MAX_S, RESEND_S
from pibot.session import Guest
from pibot.signing import GuestKeys
from pibot.wire import Packet, Writer
from sim.disk import Disk
from sim.master import TOPICS, key_of
from sim.party import Party

if TYPE_CHECKING:
    from sim.world import World


class Request:
    def __init__(self, message: msg.Message, id: str) -> None:
        self.message, self.id = message, id
        self.again_at = float("-inf")
        self.pause_s = RESEND_S
        self.sends = 0


class Client(Party):
    def __init__(self, world: "World", name: str) -> None:
        super().__init__(world, name, Disk())
        self.name = name
        self.filters = (TOPICS.client(name, "rep"), TOPICS.announce)

    def boot(self) -> None:
        self._guest = Guest(self.world.nonce, self.chance.random)
        keys = GuestKeys(key_of(self.name))
        writer = Writer(f"c:{self.name}", self.name, keys)
        topic = TOPICS.client(self.name, "req")
        self._line = GuestLine(writer, keys, topic, self.filters, self._guest, self.chance.random)
        self._start_id = self.world.nonce()
        self.waiting: List[Request] = []

    def ask(self, message: msg.Message) -> None:
        """Ask the master, if this client runs; nobody else remembers what it wanted."""
        if self.alive:
            self.put(message)

    def wake_at(self) -> float:
        times = [r.again_at for r in self.waiting] if self._guest.channel is not None else []
        times.append(self._line.wake_at())
        hello_at = self._guest.wake_at()
        return min(times if hello_at is None else [*times, hello_at], default=float("inf"))

    # --- a turn -----------------------------------------------------------------------------------

    def take(self, items: List[Any], now: float) -> None:
        for item in items:
            if isinstance(item, msg.Message):
                self.waiting.append(Request(item, self._line.new_id()))
            elif isinstance(item[0], bool):
                if item[0]:
                    self._guest.channel = None
                    self._guest.again(now)
            else:
                self._receive(item[0], item[1], now)

    def _receive(self, topic: str, payload: bytes, now: float) -> None:
        try:
            found = self._line.receive(topic, payload, now)
            if found is None:
                return
            header, message = found.header, found.message
            if isinstance(message, msg.Welcome):
                if self._guest.welcomed(header, message, msg.Hello(message.nonce, self._start_id)):
                    for request in self.waiting:
                        request.again_at = now
            elif isinstance(message, (msg.Announce, msg.Refusal)):
                self._guest.again(now, 0.2)
            elif found.whole or self._guest.accepts(header):
                self._answered(message)
        except BadMessage as error:
            raise AssertionError(f"{self.label} was sent what it cannot read: {error}") from None

    def _answered(self, message: msg.Message) -> None:
        if isinstance(message, msg.Reply):
            for request in [r for r in self.waiting if r.id == message.re]:
                self.waiting.remove(request)
                self.note("←", message)
                self.world.witness.replied(request.message, message)
        elif isinstance(message, msg.Event) and message.kind == "done":
            self.world.witness.told_done(message)

    def finish(self, now: float) -> None:
        if self._guest.due(now):
            self._say(msg.Hello(self._guest.hello_nonce(now), self._start_id), joining=True)
        for request in self.waiting if self._guest.channel is not None else ():
            if now >= request.again_at:
                request.again_at = now + request.pause_s
                request.pause_s = min(2 * request.pause_s, RESEND_MAX_S)
                request.sends += 1
                if request.sends > 4:  # the session may be gone on the other side
                    self._guest.again(now, 0.5)
                self._say(request.message, id=request.id)
        self._hand_over(self._line.due(now))

    def _say(self, message: msg.Message, joining: bool = False, id: str = "") -> None:
        self.note("→", message)
        topic = TOPICS.client(self.name, "req")
        self._hand_over(self._line.send(topic, message, joining=joining, id=id))

    def _hand_over(self, packets: List[Packet]) -> None:
        for packet in packets:
            self.publish(packet.topic, packet.payload, packet.qos)
