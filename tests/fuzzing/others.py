"""A client that waits for replies, and the server of GET /health."""

from __future__ import annotations

import contextlib
import socket
import time
from pathlib import Path
from typing import Any, Dict, Optional

from fuzzing.decoder import Target
from fuzzing.peers import TOPICS, Nowhere, Peer, heard, settings
from pibot import messages as msg
from pibot.errors import PibotError
from pibot.health import HealthServer
from pibot.roles.client import Fleet, Pending

STEP_S = 0.05


class ClientTarget(Target):
    """A client's connection with a request that waits for its reply. Its time is virtual."""

    def __init__(self, folder: Path) -> None:
        self._air = Nowhere()
        self._fleet = Fleet(settings("client", folder), lambda *_: self._air)
        self._fleet._transport = self._air
        self._fleet._mailbox.open()
        self._req, self._rep = (TOPICS.client(self._fleet.name, c) for c in ("req", "rep"))
        self._master, self._now, self._count = Peer("m", "master"), time.monotonic(), 0
        self._pending: Optional[Pending] = None

    def close(self) -> None:
        self._fleet._mailbox.close()

    def take(self, payload: bytes) -> bool:
        self._count += 1
        self._now += STEP_S
        if self._fleet._guest.channel is None or self._count % 1000 == 0:
            self._introduce()
        if self._pending is None or self._pending.done.is_set():
            self._ask()
        for body in self._master.spoken(payload, self._mended):
            self._hear(body)
        self._fleet._timers(self._now)
        self._fleet._hand_over(self._fleet._line.due(self._now))
        return self._is_answered()

    def _hear(self, body: bytes) -> None:
        self._fleet._take((self._rep, self._master.sealed(self._rep, body)), self._now)

    def _mended(self, body: Dict[str, Any]) -> None:
        """A reply answers the request that waits."""
        if isinstance(body.get("re"), str) and self._pending is not None:
            body["re"] = self._pending.id

    def _introduce(self) -> None:
        self._master.welcomed("")
        self._fleet._take((True, ""), self._now)
        self._now += 60.0
        self._fleet._timers(self._now)
        hello = heard(self._air.sent, self._req, msg.Hello)[-1]
        self._hear(self._master.body(msg.Welcome(hello.nonce, "b" * 16, "store", 5000, 30000)))
        self._master.welcomed(f"{hello.nonce}.{'b' * 16}")

    def _ask(self) -> None:
        self._pending = self._fleet.send(msg.Follow("g1"))
        for item in self._fleet._mailbox.collect(0.0, self._air.poll):
            self._fleet._take(item, self._now)

    def _is_answered(self) -> bool:
        assert self._pending is not None
        if not self._pending.done.is_set():
            return False
        with contextlib.suppress(PibotError):
            self._pending.wait(0.0)
        return True

    def still_works(self) -> None:
        self._introduce()
        self._ask()
        assert self._pending is not None
        reply = msg.Reply(self._pending.id, {"document": {"state": "succeeded"}})
        self._hear(self._master.body(reply))
        assert self._pending.wait(0.0) == reply.data, "a reply does not come through"


class HealthTarget(Target):
    """GET /health over real sockets."""

    def __init__(self, folder: Path) -> None:
        answer: Dict[str, Any] = {"status": "healthy"}
        self._server = HealthServer("127.0.0.1", 0, lambda: (200, answer))
        self._server.start()

    def close(self) -> None:
        self._server.close()

    def take(self, payload: bytes) -> bool:
        reply = self._ask(payload)
        assert not reply or reply.startswith(b"HTTP/1.1 "), reply
        assert b" 500 " not in reply[:20], reply
        return reply.startswith(b"HTTP/1.1 200 ")

    def _ask(self, payload: bytes) -> bytes:
        reply, there = b"", ("127.0.0.1", self._server.port)
        hangs_up = contextlib.suppress(ConnectionError)  # as it may, in the middle
        with socket.create_connection(there, 10) as sock, hangs_up:
            sock.sendall(payload)
            sock.shutdown(socket.SHUT_WR)
            while data := sock.recv(65536):
                reply += data
        return reply

    def still_works(self) -> None:
        reply = self._ask(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert reply.endswith(b'{"status":"healthy"}'), reply


REQUESTS = [
    b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n",
    b"HEAD /health?x=1 HTTP/1.0\r\nA: b\r\n\r\n",
    b"POST /health HTTP/1.1\r\nHost: [::1]:5000\r\nContent-Length: 3\r\n\r\nabc",
    b"GET /else HTTP/1.1\r\nHost: 10.0.0.1\r\n" + b"X: y\r\n" * 300 + b"\r\n",
]
