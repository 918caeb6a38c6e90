"""A TCP proxy before a broker that does to its connections what networks do.

    with MqttProxy(broker_port) as proxy:
        … MQTT_PORT=proxy.port …
        proxy.blackhole()
        proxy.heal()

It passes whole MQTT packets, so that it can repeat, delay and reorder messages.
"""

from __future__ import annotations

import asyncio
import random
import socket
import threading
from collections import Counter
from typing import Any, Callable, Iterator, List, Optional, Set

PUBLISH = 3
SHUFFLED_S = 0.5  # how much later a message may come
READ_BYTES = 65536
UP, DOWN = "up", "down"  # to the broker, from the broker


class Connection:
    """One client's connection and the one to the broker that belongs to it."""

    def __init__(self, client: asyncio.StreamWriter, broker: asyncio.StreamWriter) -> None:
        self.client, self.broker = client, broker
        self.broken: Set[str] = set()  # directions in which bytes were lost: it can only end
        self.held = False  # the client is gone, and the broker does not know

    def cut(self) -> None:
        for side in (self.client, self.broker):
            side.transport.abort()

    def hold(self) -> None:
        self.held = True
        self.client.transport.abort()


class MqttProxy:
    """Faults hold for all its connections, from the call until `heal()`. Safe from any thread."""

    def __init__(self, broker_port: int, seed: int = 0) -> None:
        self._broker_port, self._random = broker_port, random.Random(seed)
        self.port = 0
        self.did: "Counter[str]" = Counter()  # packets passed, repeated, delayed, lost
        self._connections: Set[Connection] = set()
        self._lost: Set[str] = set()  # the directions in which everything vanishes
        self._shuffled = 0.0
        self._bytes_s = float("inf")
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxy", daemon=True)

    def __enter__(self) -> "MqttProxy":
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._listen(), self._loop).result()
        return self

    def __exit__(self, *_: object) -> None:
        asyncio.run_coroutine_threadsafe(self._end(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    # --- faults -----------------------------------------------------------------------------------

    def cut(self) -> None:
        """End every connection now, with a reset on both sides."""
        self._do(lambda: self._each(Connection.cut))

    def stall(self) -> None:
        """Nothing passes; all of it comes later."""
        self._do(self._going.clear)

    def blackhole(self, *directions: str) -> None:
        """What is sent vanishes, in one direction or in both; nobody is told."""
        self._do(lambda: self._lost.update(directions or (UP, DOWN)))

    def slow(self, bytes_s: float) -> None:
        self._do(lambda: setattr(self, "_bytes_s", bytes_s))

    def shuffle(self, share: float) -> None:
        """That share of the messages comes twice, and as many come later than what follows."""
        self._do(lambda: setattr(self, "_shuffled", share))

    def hold(self) -> None:
        """Cut the clients off without telling the broker, until `release()`."""
        self._do(lambda: self._each(Connection.hold))

    def release(self) -> None:
        """Tell the broker that the clients of before `hold()` are gone."""
        self._do(lambda: self._each(lambda c: c.cut() if c.held else None))

    def heal(self) -> None:
        """All is well again; a connection that has lost bytes ends."""
        self._do(self._heal)

    def _heal(self) -> None:
        self._lost.clear()
        self._shuffled, self._bytes_s = 0.0, float("inf")
        self._going.set()
        for connection in self._connections:
            if connection.broken and not connection.held:
                connection.cut()

    def _each(self, act: Callable[[Connection], None]) -> None:
        for connection in list(self._connections):
            act(connection)

    def _do(self, act: Callable[[], object]) -> None:
        async def call() -> None:
            act()

        asyncio.run_coroutine_threadsafe(call(), self._loop).result()

    # --- passing on -------------------------------------------------------------------------------

    async def _listen(self) -> None:
        self._going = asyncio.Event()
        self._going.set()
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]

    async def _end(self) -> None:
        self._server.close()
        tasks = [t for t in asyncio.all_tasks() if t is not asyncio.current_task()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await self._going.wait()
            answers, broker = await asyncio.open_connection("127.0.0.1", self._broker_port)
        except OSError:
            writer.transport.abort()
            return
        for side in (writer, broker):
            _no_delay(side)
        connection = Connection(writer, broker)
        self._connections.add(connection)
        try:
            await asyncio.gather(
                self._pump(connection, UP, reader, broker),
                self._pump(connection, DOWN, answers, writer),
            )
        finally:
            connection.cut()
            self._connections.discard(connection)

    async def _pump(
        self, c: Connection, way: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        packets = Packets()
        while data := await _read(reader):
            for packet in packets.split(data):
                await self._pass(c, way, packet, writer)
        await self._going.wait()  # nobody hears of an end while nothing passes
        while way in self._lost and not c.held:
            c.broken.add(way)
            await asyncio.sleep(0.05)
        if not (c.held and way == UP):
            c.cut()

    async def _pass(
        self, c: Connection, way: str, packet: bytes, writer: asyncio.StreamWriter
    ) -> None:
        await self._going.wait()
        if way in self._lost or way in c.broken or c.held:
            c.broken.add(way)
            self.did["lost"] += 1
            return
        if self._bytes_s != float("inf"):
            await asyncio.sleep(len(packet) / self._bytes_s)
        self.did["passed"] += 1
        is_message = packet[0] >> 4 == PUBLISH
        if is_message and self._random.random() < self._shuffled:
            self.did["repeated"] += 1
            self._later(c, way, writer, _unacknowledged(packet))
        if is_message and self._random.random() < self._shuffled:
            self.did["delayed"] += 1
            self._later(c, way, writer, packet)
            return
        if writer.transport.is_closing():
            return  # its reader ends the connection
        writer.write(packet)
        try:
            await writer.drain()
        except OSError:
            pass

    def _later(self, c: Connection, way: str, writer: asyncio.StreamWriter, packet: bytes) -> None:
        def write() -> None:
            if not (way in self._lost | c.broken or c.held or writer.transport.is_closing()):
                writer.write(packet)

        self._loop.call_later(self._random.random() * SHUFFLED_S, write)


async def _read(reader: asyncio.StreamReader) -> bytes:
    try:
        return await reader.read(READ_BYTES)
    except OSError:
        return b""


def _no_delay(writer: asyncio.StreamWriter) -> None:
    sock: Any = writer.get_extra_info("socket")
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


class Packets:
    """Cuts a stream into whole MQTT packets."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def split(self, data: bytes) -> Iterator[bytes]:
        self._buffer += data
        while (size := _size(self._buffer)) is not None and size <= len(self._buffer):
            packet = bytes(self._buffer[:size])
            del self._buffer[:size]
            yield packet


def _size(buffer: bytearray) -> Optional[int]:
    """How long the first packet is; None if its length has not come yet."""
    remaining = 0
    for i in range(1, min(len(buffer), 5)):
        remaining |= (buffer[i] & 0x7F) << (7 * (i - 1))
        if not buffer[i] & 0x80:
            return 1 + i + remaining
    return None


def _header_bytes(packet: bytes) -> int:
    return next(i for i in range(1, 5) if not packet[i] & 0x80) + 1


def _unacknowledged(packet: bytes) -> bytes:
    """The same message once more, at QoS 0: the other side counts no acknowledgement for it."""
    start = _header_bytes(packet)
    topic_end = start + 2 + int.from_bytes(packet[start : start + 2], "big")
    payload = packet[topic_end + (2 if packet[0] & 0b0110 else 0) :]
    body = packet[start:topic_end] + payload
    return bytes([packet[0] & 0b1111_0001]) + _length(len(body)) + body


def _length(size: int) -> bytes:
    digits: List[int] = []
    while size >= 128:
        digits.append(size % 128 | 0x80)
        size //= 128
    return bytes([*digits, size])
