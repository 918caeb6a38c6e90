"""A broker that misbehaves as it is told: real sockets, raw MQTT, nothing is passed on.

with OddBroker() as broker:
    broker.suback = b"\\x80"      # it denies every subscription
"""

from __future__ import annotations

import socket
import struct
import threading
from typing import List, Optional, Tuple

CONNACK, SUBACK, PINGRESP = b"\x20\x02\x00%c", b"\x90", b"\xd0\x00"


class OddBroker:
    """It answers as a deaf one does (a subscription, pings), unless something is set."""

    def __init__(self) -> None:
        self.connack = 0
        self.suback: Optional[bytes] = b"\x01"  # of each filter; None: no answer
        self.then = b""  # said after the subscription
        self.reads = True
        self.connects: List[Tuple[int, bytes]] = []  # protocol level and client id
        self.packets: List[Tuple[int, bytes]] = []  # kind and body of everything that came
        self._server = socket.create_server(("127.0.0.1", 0))
        self._open: List[socket.socket] = []
        self.port: int = self._server.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def __enter__(self) -> "OddBroker":
        return self

    def __exit__(self, *_: object) -> None:
        for sock in [self._server, *self._open]:
            sock.close()

    def of_kind(self, kind: int) -> List[bytes]:
        return [body for found, body in list(self.packets) if found == kind]

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._server.accept()
            except OSError:
                return
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8192)
            self._open.append(sock)
            threading.Thread(target=self._serve, args=(sock,), daemon=True).start()

    def _serve(self, sock: socket.socket) -> None:
        try:
            with sock.makefile("rb") as stream:
                while True:
                    kind, body = _packet(stream.read)
                    self.packets.append((kind, body))
                    self._answer(sock, kind, body)
                    if kind == 8 and not self.reads:
                        return  # the socket stays open
        except (OSError, IndexError, ValueError):
            sock.close()

    def _answer(self, sock: socket.socket, kind: int, body: bytes) -> None:
        if kind == 1:
            size = struct.unpack_from("!H", body, 10)[0]
            self.connects.append((body[6], body[12 : 12 + size]))
            sock.sendall(CONNACK % self.connack)
        elif kind == 8 and self.suback is not None:
            codes = self.suback * _filters(body)
            sock.sendall(SUBACK + bytes([2 + len(codes)]) + body[:2] + codes + self.then)
        elif kind == 12:
            sock.sendall(PINGRESP)


def _packet(read: "object") -> Tuple[int, bytes]:
    assert callable(read)
    first = read(1)[0]
    size = shift = 0
    while True:
        byte = read(1)[0]
        size |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            return first >> 4, read(size)


def _filters(body: bytes) -> int:
    at, count = 2, 0
    while at < len(body):
        at += struct.unpack_from("!H", body, at)[0] + 3
        count += 1
    return count
