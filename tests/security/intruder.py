"""A client of a broker that does what no MQTT library would: raw packets, any bytes.

with Intruder(port, "worker-1", "stolen") as intruder:
    assert intruder.code == 0
    intruder.publish("pibot/1/home/w/worker-2/cmd", b"…")
    intruder.sync()                      # the broker has taken all of it
    intruder.heard                       # what it got itself
"""

from __future__ import annotations

import socket
import ssl
import struct
import threading
from typing import Callable, List, Optional, Tuple, Union

WAIT_S = 10.0
KEEPALIVE_S = 600
CLEAN, WILL, WILL_QOS_1, PASSWORD, USER = 0x02, 0x04, 0x08, 0x40, 0x80
CONNACK, PUBLISH, PUBACK, SUBACK, PINGRESP = 2, 3, 4, 9, 13
DENIED = 0x80

Text = Union[str, bytes]
Message = Tuple[str, bytes]


def text(value: Text) -> bytes:
    data = value.encode() if isinstance(value, str) else value
    return struct.pack("!H", len(data)) + data


def packet(first: int, body: bytes) -> bytes:
    """A packet of which `first` is the first byte."""
    size, length = len(body), b""
    while True:
        size, digit = size >> 7, size & 0x7F
        length += bytes([digit | (0x80 if size else 0)])
        if not size:
            return bytes([first]) + length + body


def publishing(topic: Text, payload: bytes, qos: int = 0, retain: bool = False) -> bytes:
    """The packet that publishes; at QoS 1 its number is always the same: nobody counts here."""
    number = b"\0\1" if qos else b""
    return packet(PUBLISH << 4 | qos << 1 | retain, text(topic) + number + payload)


def connecting(client: str, user: Text, password: Text, will: Optional[Message] = None) -> bytes:
    flags = CLEAN | (USER if user else 0) | (PASSWORD if password else 0)
    rest = text(client)
    if will:
        flags |= WILL | WILL_QOS_1
        rest += text(will[0]) + text(will[1])
    rest += (text(user) if user else b"") + (text(password) if password else b"")
    return packet(0x10, text("MQTT") + bytes([4, flags]) + struct.pack("!H", KEEPALIVE_S) + rest)


def published(first: int, body: bytes) -> Message:
    """The topic and the payload of a PUBLISH."""
    size = struct.unpack_from("!H", body)[0]
    topic = body[2 : 2 + size].decode("utf-8", "replace")
    return topic, body[2 + size + (2 if first & 0b0110 else 0) :]


class Intruder:
    """One connection. `code` is what the broker said to it; None: it hung up at once."""

    _count = 0

    def __init__(
        self,
        port: int,
        user: Text = "",
        password: Text = "",
        will: Optional[Message] = None,
        tls: Optional[ssl.SSLContext] = None,
    ) -> None:
        Intruder._count += 1
        self.heard: List[Message] = []
        self._answers: "dict[int, List[bytes]]" = {}
        self._news = threading.Condition()
        self._over = False
        sock = socket.create_connection(("127.0.0.1", port), WAIT_S)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._sock = tls.wrap_socket(sock) if tls else sock
        self.send(connecting(f"intruder-{Intruder._count}", user, password, will))
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        answer = self._answer(CONNACK)
        self.code = answer[1] if answer else None

    def __enter__(self) -> "Intruder":
        return self

    def __exit__(self, *_: object) -> None:
        self.die()

    def send(self, data: bytes) -> bool:
        """Whether the broker takes any bytes from us."""
        try:
            self._sock.sendall(data)
        except OSError:
            return False
        return True

    def publish(
        self, topic: Text, payload: bytes, qos: int = 0, retain: bool = False
    ) -> "Intruder":
        self.send(publishing(topic, payload, qos, retain))
        return self

    def subscribe(self, *filters: Text) -> List[int]:
        """What the broker grants for each; nothing if it hangs up."""
        body = b"\0\2" + b"".join(text(f) + b"\0" for f in filters)
        self.send(packet(0x82, body))
        return list(self._answer(SUBACK)[2:])

    def sync(self) -> bool:
        """Wait until the broker has handled all that was sent; False if it has hung up."""
        self.send(b"\xc0\x00")
        return self._answer(PINGRESP, b"?") == b""

    def hung_up(self) -> bool:
        """Wait for the broker to end the connection."""
        self._reader.join(WAIT_S)
        return self._over

    def die(self) -> None:
        """End without a word: the broker publishes our will."""
        try:
            self._sock.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass
        self._sock.close()

    # --- what comes -----------------------------------------------------------------------------

    def _answer(self, kind: int, none: bytes = b"") -> bytes:
        with self._news:
            self._news.wait_for(lambda: self._answers.get(kind) or self._over, WAIT_S)
            found = self._answers.get(kind)
            return found.pop(0) if found else none

    def _read(self) -> None:
        try:
            with self._sock.makefile("rb") as stream:
                while True:
                    first = stream.read(1)[0]
                    self._take(first, stream.read(_size(stream.read)))
        except (OSError, IndexError, ValueError):
            pass
        with self._news:
            self._over = True
            self._news.notify_all()

    def _take(self, first: int, body: bytes) -> None:
        if first >> 4 == PUBLISH:
            if first & 0b0110:
                size = struct.unpack_from("!H", body)[0]
                self.send(packet(PUBACK << 4, body[2 + size : 4 + size]))
            self.heard.append(published(first, body))
            return
        with self._news:
            self._answers.setdefault(first >> 4, []).append(body)
            self._news.notify_all()


def _size(read: Callable[[int], bytes]) -> int:
    size = shift = 0
    while True:
        byte = read(1)[0]
        size |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            return size
