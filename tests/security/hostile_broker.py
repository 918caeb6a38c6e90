"""A small real broker that is the attacker: it speaks MQTT 3.1.1, and lies when it is told to.

with HostileBroker(port, seed) as broker:
    …                                  # it is honest
    broker.hostile = True
    …
    broker.malice.did                  # what it has done, by kind
"""

from __future__ import annotations

import asyncio
import random
import socket
import struct
import threading
from typing import Callable, List, Optional, Set

from pibot.bus import matches
from security.intruder import PUBACK, PUBLISH, SUBACK, Message, packet, published, publishing
from security.malice import Act, Malice

CONNECT, SUBSCRIBE, PINGREQ, DISCONNECT = 1, 8, 12, 14
HAS_WILL = 0x04
TO_ALL = 0.5  # the share of what reaches those who have not subscribed to it
EVERY_S = 0.02  # something is invented or said again
CUT_S = 1.5  # a connection ends, or hears nonsense


class Guest(asyncio.Protocol):
    """A connection of one of the fleet's processes."""

    def __init__(self, broker: "HostileBroker") -> None:
        self._broker = broker
        self._buffer = bytearray()
        self._will: Optional[Message] = None
        self.filters: List[str] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        sock: socket.socket = transport.get_extra_info("socket")
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._broker.guests.add(self)

    def connection_lost(self, _: Optional[Exception]) -> None:
        self._broker.guests.discard(self)
        if self._will:
            self._broker.hear(*self._will)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        while (whole := _size(self._buffer)) and whole[0] + whole[1] <= len(self._buffer):
            start, size = whole
            first, body = self._buffer[0], bytes(self._buffer[start : start + size])
            del self._buffer[: start + size]
            self._take(first, body)

    def _take(self, first: int, body: bytes) -> None:
        kind = first >> 4
        if kind == CONNECT:
            self._will = _will(body)
            self.transport.write(b"\x20\x02\x00\x00")
        elif kind == SUBSCRIBE:
            self.filters = _filters(body)
            self.transport.write(packet(SUBACK << 4, body[:2] + b"\x01" * len(self.filters)))
        elif kind == PINGREQ:
            self.transport.write(b"\xd0\x00")
        elif kind == DISCONNECT:
            self._will = None
        elif kind == PUBLISH:
            if first & 0b0110:
                size = struct.unpack_from("!H", body)[0]
                self.transport.write(packet(PUBACK << 4, body[2 + size : 4 + size]))
            self._broker.hear(*published(first, body))

    def tell(self, data: bytes) -> None:
        if not self.transport.is_closing():
            self.transport.write(data)


class HostileBroker:
    def __init__(self, port: int, seed: int) -> None:
        self.malice, self.hostile = Malice(seed), False
        self.guests: Set[Guest] = set()
        self._port, self._random = port, random.Random(seed)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)

    def __enter__(self) -> "HostileBroker":
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._open(), self._loop).result()
        return self

    def __exit__(self, *_: object) -> None:
        asyncio.run_coroutine_threadsafe(self._close(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _open(self) -> None:
        self._server = await self._loop.create_server(lambda: Guest(self), "127.0.0.1", self._port)
        self._acts = [self._loop.create_task(self._invent()), self._loop.create_task(self._cut())]

    async def _close(self) -> None:
        self._server.close()
        for task in self._acts:
            task.cancel()
        for guest in list(self.guests):
            guest.transport.abort()

    def hear(self, topic: str, payload: bytes) -> None:
        signed = self.malice.hear(topic, payload)
        twisted = self.hostile and signed
        self._do(self.malice.twist(topic, payload) if twisted else [Act(0.0, topic, payload)])

    def _do(self, acts: List[Act]) -> None:
        for act in acts:
            if act.after_s:
                self._loop.call_later(act.after_s, self._deliver, act)
            else:
                self._deliver(act)

    def _deliver(self, act: Act) -> None:
        """To whoever wants it; when it lies, to everybody now and then."""
        data = publishing(act.topic, act.payload)
        to_all = self.hostile and self._random.random() < TO_ALL
        for guest in list(self.guests):
            if to_all or any(matches(f, act.topic) for f in guest.filters):
                guest.tell(data)

    async def _invent(self) -> None:
        while True:
            await asyncio.sleep(EVERY_S)
            if self.hostile:
                self._do(self.malice.replay() + self.malice.invent())

    async def _cut(self) -> None:
        while True:
            await asyncio.sleep(CUT_S)
            if self.hostile:
                self._do(self.malice.ask())
                self._any(lambda guest: guest.tell(self.malice.nonsense()))
                self._any(lambda guest: guest.transport.abort())
                self.malice.did["cut"] += 1

    def _any(self, act: Callable[[Guest], None]) -> None:
        guests = sorted(self.guests, key=lambda guest: guest.filters)
        if guests:
            act(self._random.choice(guests))


def _size(buffer: bytearray) -> "Optional[tuple[int, int]]":
    """Where the first packet's body begins and how long it is; None if it has not come."""
    size = 0
    for i in range(1, min(len(buffer), 5)):
        size |= (buffer[i] & 0x7F) << (7 * (i - 1))
        if not buffer[i] & 0x80:
            return i + 1, size
    return None


def _strings(data: bytes, at: int, gap: int = 0) -> List[bytes]:
    """The strings from `at` on, with `gap` bytes after each."""
    found = []
    while at + 2 <= len(data):
        size = struct.unpack_from("!H", data, at)[0]
        found.append(data[at + 2 : at + 2 + size])
        at += 2 + size + gap
    return found


def _filters(body: bytes) -> List[str]:
    return [one.decode() for one in _strings(body, 2, 1)]


def _will(body: bytes) -> Optional[Message]:
    """The last will in a CONNECT."""
    if not body[7] & HAS_WILL:
        return None
    _, topic, payload, *_ = _strings(body, 10)
    return topic.decode(), payload
