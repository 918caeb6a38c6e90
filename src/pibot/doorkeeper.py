"""What stands between the sockets and amqtt: whole, bounded packets in, nothing unwanted out.

amqtt takes connections from elsewhere through two adapters, a reader and a writer. Ours mend by
these what it leaves open: a client that is silent beyond its keepalive stays; two clients with one
id leave one of them deaf; a new client is shown retained messages that it has not asked for; no
packet is too large; whoever publishes faster than the broker works, or does not read, fills its
memory. Sessions are always clean here, and QoS 2 is granted as 1: PiBot needs neither.

In a fleet with credentials the door is also where people are let in or not. What they may not
publish is acknowledged and dropped, what they may not read is granted and never comes: as with
Mosquitto.
"""

from __future__ import annotations

import asyncio
import itertools
import secrets
import struct
from collections import OrderedDict
from contextlib import suppress
from typing import Any, Dict, Iterator, List, Optional, Set, Tuple

from amqtt.adapters import ReaderAdapter, WriterAdapter

from pibot.admission import Admission, Admitted
from pibot.bus import matches

PACKET_BYTES = 300_000  # larger ones end their connection
CONNECTIONS = 250
CONNECT_S = 10.0  # from a socket to its CONNECT
WINDOW = 100  # publishes of one client that the broker may have before it
WINDOW_BYTES = 512 * 1024
PROBE_S = 5.0  # then it is given up: its connection shall not wait for ever
UNREAD_BYTES = 4 * 1024 * 1024  # a client that leaves more unread is cut off
UNREAD = 10_000  # the same, for messages that it has not acknowledged
RETAINED = 10_000
RETAINED_BYTES = 16 * 1024 * 1024
_CONNECT, _PUBLISH, _PUBACK, _SUBSCRIBE = 1, 3, 4, 8
_CLEAN, _WILL, _WILL_QOS_1, _WILL_QOS_2, _WILL_RETAIN = 0x02, 0x04, 0x08, 0x10, 0x20
_PASSWORD, _USER = 0x40, 0x80
_QOS_1 = 0x02  # of a PUBLISH
_REFUSED = b"\x20\x02\x00\x05"  # CONNACK: not authorized
_ACKNOWLEDGED = b"\x40\x02"  # PUBACK, before its number


class Malformed(Exception):
    """Bytes that are no MQTT, or more than anybody here may send."""


def whole(data: bytearray) -> int:
    """The size of the first packet in `data`, 0 if it is not complete; raise Malformed."""
    size = 0
    for i, byte in enumerate(data[1:5]):
        size |= (byte & 0x7F) << (7 * i)
        if byte < 0x80:
            if size > PACKET_BYTES:
                raise Malformed(f"a packet of {size} bytes")
            return size + i + 2 if len(data) >= size + i + 2 else 0
    if len(data) >= 5:
        raise Malformed("a length without an end")
    return 0


def after_header(packet: bytes) -> int:
    """Where the variable header of a whole packet begins."""
    return next(i for i in range(1, 5) if packet[i] < 0x80) + 1


def text(packet: bytes, at: int) -> Tuple[bytes, int]:
    """A string or bytes with a length before it, and where it ends."""
    (size,) = struct.unpack_from("!H", packet, at)
    end = at + 2 + size
    if end > len(packet):
        raise Malformed("a string without an end")
    return packet[at + 2 : end], end


def made(first: int, body: bytes) -> bytes:
    """A whole packet: its first byte, its length, its body."""
    size, length = len(body), bytearray()
    while size > 0x7F:
        length.append(0x80 | size & 0x7F)
        size >>= 7
    return bytes([first, *length, size]) + body


class Retained:
    """Which topics have a retained message: a flood of them would stay for ever."""

    def __init__(self) -> None:
        self._sizes: Dict[bytes, int] = {}
        self._bytes = 0

    def takes(self, topic: bytes, size: int) -> bool:
        """Note a message that is to be retained; False if there is no room for it."""
        before = self._sizes.get(topic, 0)
        is_full = not before and len(self._sizes) >= RETAINED
        if size and (is_full or self._bytes - before + size > RETAINED_BYTES):
            return False  # and what was retained before stays, here as there
        self._sizes.pop(topic, None)
        self._bytes += size - before
        if size:
            self._sizes[topic] = size
        return True


class Doorkeeper:
    """Every connection of one broker. `serve` is the callback of asyncio.start_server."""

    def __init__(self, broker: Any, listener: str, admission: Optional[Admission] = None) -> None:
        """Without an `admission` everybody may come in and do all: everybody is on this machine."""
        self._broker, self._listener = broker, listener
        self.admission = admission
        self.retained = Retained()
        self.by_id: Dict[bytes, Connection] = {}
        self._open: Set[Connection] = set()
        self._numbers = itertools.count()
        self.mark = secrets.token_hex(8)  # begins the topics of probes; nobody is shown them
        self._probes: "OrderedDict[bytes, asyncio.Event]" = OrderedDict()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if len(self._open) >= CONNECTIONS:
            writer.transport.abort()
            return
        connection = Connection(self, reader, writer)
        self._open.add(connection)
        try:
            await self._broker.external_connected(connection, connection.out, self._listener)
        finally:
            self._open.discard(connection)
            connection.leave()

    def close(self) -> None:
        for connection in list(self._open):
            connection.leave()

    def review(self) -> None:
        """Other people may come in now: read who, and send the others away."""
        if self.admission is None:
            return
        self.admission.read()
        for connection in list(self._open):
            if connection.who is not None and not self.admission.still(connection.who):
                connection.leave()

    async def watch(self) -> None:
        """Take the probes: a client of our own, that reads what has passed through the broker."""
        watcher = _Watcher(self)
        await self._broker.external_connected(watcher, watcher.out, self._listener)

    def probe(self) -> Tuple[bytes, asyncio.Event]:
        """A packet to send through the broker, and the event of its arrival."""
        topic = f"{self.mark}/{next(self._numbers)}".encode()
        arrived = self._probes[topic] = asyncio.Event()
        if len(self._probes) > CONNECTIONS:  # one is under way for each connection at most
            self._probes.popitem(last=False)
        body = struct.pack("!H", len(topic)) + topic
        return bytes([_PUBLISH << 4, len(body)]) + body, arrived

    def arrived(self, topic: bytes) -> None:
        probe = self._probes.pop(topic, None)
        if probe is not None:
            probe.set()


class Connection(ReaderAdapter):  # type: ignore[misc, unused-ignore]
    """One client: what it sends, as amqtt may read it."""

    def __init__(
        self, door: Doorkeeper, stream: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self.door, self._stream = door, stream
        self.out = Out(self, writer)
        self.filters: List[str] = []
        self.who: Optional[Admitted] = None  # None: not yet, or nobody is asked
        self._id: Optional[bytes] = None
        self._received = bytearray()
        self._ready = b""
        self._patience_s: Optional[float] = CONNECT_S
        self._count = self._bytes = 0  # published since the last probe
        self._probe: Optional[asyncio.Event] = None

    async def read(self, n: int = -1) -> bytes:
        """Called by amqtt for each field; it may be cancelled and called again."""
        if not self._ready:
            self._ready = await self._packet()
        data, self._ready = self._ready[:n], self._ready[n:]
        return data

    def feed_eof(self) -> None:
        self._stream.feed_eof()

    def leave(self) -> None:
        if self._id is not None and self.door.by_id.get(self._id) is self:
            del self.door.by_id[self._id]
        self.out.abort()

    async def _packet(self) -> bytes:
        """The next packet, b"" at the end of the connection."""
        if self._probe is not None:
            with suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._probe.wait(), PROBE_S)
            self._probe = None
        if self._count >= WINDOW or self._bytes >= WINDOW_BYTES:
            self._count = self._bytes = 0
            probe, self._probe = self.door.probe()
            return probe
        try:
            while (packet := self._let_in(await self._next())) is None:
                await asyncio.sleep(0)  # others' turn: this one was dropped
            return packet
        except (Malformed, struct.error, ValueError, IndexError, OSError, asyncio.TimeoutError):
            self.out.abort()
            return b""

    async def _next(self) -> bytes:
        while not (size := whole(self._received)):
            data = await asyncio.wait_for(self._stream.read(65_536), self._patience_s)
            if not data:
                return b""
            self._received += data
        packet = bytes(self._received[:size])
        del self._received[:size]
        return packet

    def _let_in(self, packet: bytes) -> Optional[bytes]:
        """The packet as amqtt gets it; None if it does not."""
        kind = packet[0] >> 4 if packet else 0
        if self._id is None and packet and kind != _CONNECT:
            raise Malformed("something before CONNECT")
        if kind == _PUBLISH:
            return self._published(packet)
        if kind == _PUBACK:
            self.out.acknowledged(packet)
        elif kind == _CONNECT:
            return self._connecting(packet)
        elif kind == _SUBSCRIBE:
            return self._subscribing(packet)
        return packet

    def _connecting(self, packet: bytes) -> bytes:
        """Make the session clean and the will's QoS 1 at most; the id belongs to the newest."""
        if self._id is not None:
            raise Malformed("CONNECT twice")
        name, at = text(packet, after_header(packet))
        flags, flags_at = packet[at + 1], at + 1
        (keepalive,) = struct.unpack_from("!H", packet, at + 2)
        self._id, at = text(packet, at + 4)
        will, message = None, b""
        if flags & _WILL:
            will, at = text(packet, at)
            message, at = text(packet, at)
        self._introduce(packet, flags, at, will)
        retains = will if flags & _WILL_RETAIN else None
        if retains is not None and not self.door.retained.takes(retains, len(message)):
            flags &= ~_WILL_RETAIN
        if flags & _WILL_QOS_2:
            flags = flags & ~_WILL_QOS_2 | _WILL_QOS_1
        self._patience_s = 1.5 * keepalive if keepalive else None
        if self._id:
            before = self.door.by_id.get(self._id)
            if before is not None:
                before.leave()
            self.door.by_id[self._id] = self
        return packet[:flags_at] + bytes([flags | _CLEAN]) + packet[flags_at + 1 :]

    def _introduce(self, packet: bytes, flags: int, at: int, will: Optional[bytes]) -> None:
        """Learn who this is; raise Malformed for one who may not come in, or may not will this."""
        if self.door.admission is None:
            return
        user, at = text(packet, at) if flags & _USER else (b"", at)
        password, at = text(packet, at) if flags & _PASSWORD else (b"", at)
        who = self.door.admission.admit(user.decode(), password.decode())
        if who is None or (will is not None and not who.rights.may_publish(will.decode())):
            self.out.write(_REFUSED)
            raise Malformed("credentials that are not good for this")
        self.who = who

    def _published(self, packet: bytes) -> Optional[bytes]:
        if self.who is not None:
            topic, at = text(packet, after_header(packet))
            if not self.who.rights.may_publish(topic.decode()):
                self._drop(packet, at)
                return None
        self._count += 1
        self._bytes += len(packet)
        if packet[0] & 1:
            topic, at = text(packet, after_header(packet))
            size = len(packet) - at - (2 if packet[0] & 6 else 0)
            if not self.door.retained.takes(topic, size):
                return bytes([packet[0] & ~1]) + packet[1:]
        return packet

    def _drop(self, packet: bytes, at: int) -> None:
        """Acknowledge what is not published; its number stands at `at`."""
        if packet[0] & 6 == _QOS_1:
            self.out.write(_ACKNOWLEDGED + packet[at : at + 2])
        elif packet[0] & 6:
            raise Malformed("QoS 2 where nothing may be published")

    def _subscribing(self, packet: bytes) -> bytes:
        """Note what it wants to see; QoS 2 is granted as 1, what it may not see as nothing."""
        at = after_header(packet) + 2
        body = bytearray(packet[at - 2 : at])
        while at < len(packet):
            wanted, at = text(packet, at)
            if self.who is not None and not self.who.rights.may_subscribe(wanted.decode()):
                wanted = self.door.mark.encode()  # on which nobody publishes
            self.filters.append(wanted.decode())
            body += struct.pack("!H", len(wanted)) + wanted + bytes([min(packet[at], 1)])
            at += 1
        self.filters = list(dict.fromkeys(self.filters))[-1000:]
        return made(packet[0], bytes(body))


class Out(WriterAdapter):  # type: ignore[misc, unused-ignore]
    """One client: what it is sent. It never makes amqtt wait."""

    def __init__(self, connection: Connection, writer: asyncio.StreamWriter) -> None:
        self._connection, self._writer = connection, writer
        self._unread: Set[bytes] = set()

    def write(self, data: bytes) -> None:
        if self._writer.transport.is_closing():
            return
        if data[0] >> 4 == _PUBLISH and not self._wanted(data):
            return
        self._writer.write(data)
        behind = self._writer.transport.get_write_buffer_size()
        if behind > UNREAD_BYTES or len(self._unread) > UNREAD:
            self.abort()

    def _wanted(self, data: bytes) -> bool:
        topic, at = text(data, after_header(data))
        name = topic.decode("utf-8", "replace")
        if name.startswith(self._connection.door.mark):
            return False
        if data[0] & 1 and not any(matches(f, name) for f in self._connection.filters):
            return False  # retained, for others
        if data[0] & 6:
            self._unread.add(data[at : at + 2])
        return True

    def acknowledged(self, packet: bytes) -> None:
        self._unread.discard(packet[2:4])

    async def drain(self) -> None:
        """How much may wait is decided in `write`."""

    def get_peer_info(self) -> Tuple[str, int]:
        host, port = self._writer.get_extra_info("peername") or ("?", 0)
        return host, port

    def get_ssl_info(self) -> None:
        return None

    async def close(self) -> None:
        self._writer.close()

    def abort(self) -> None:
        """Let go at once, whatever is still to be sent."""
        self._writer.transport.abort()


class _Watcher(ReaderAdapter):  # type: ignore[misc, unused-ignore]
    """A client without a socket, which has subscribed to the probes."""

    def __init__(self, door: Doorkeeper) -> None:
        self.out = _Seen(door)
        self._said: Iterator[int] = iter(_watch_packets(door.mark.encode()))

    async def read(self, n: int = -1) -> bytes:
        data = bytes(itertools.islice(self._said, n))
        if not data:
            await asyncio.Event().wait()  # it says nothing more, and ends with the broker
        return data

    def feed_eof(self) -> None:
        pass


def _watch_packets(mark: bytes) -> bytes:
    name = struct.pack("!H", len(mark)) + mark
    connect = b"\x00\x04MQTT\x04\x02\x00\x00" + name
    filters = struct.pack("!H", len(mark) + 2) + mark + b"/+\x00"
    subscribe = b"\x00\x01" + filters
    return b"\x10%c%s\x82%c%s" % (len(connect), connect, len(subscribe), subscribe)


class _Seen(WriterAdapter):  # type: ignore[misc, unused-ignore]
    """Where probes arrive."""

    def __init__(self, door: Doorkeeper) -> None:
        self._door = door

    def write(self, data: bytes) -> None:
        if data[0] >> 4 == _PUBLISH:
            self._door.arrived(text(data, after_header(data))[0])

    async def drain(self) -> None:
        pass

    def get_peer_info(self) -> Tuple[str, int]:
        return "pibot", 0

    def get_ssl_info(self) -> None:
        return None

    async def close(self) -> None:
        pass
