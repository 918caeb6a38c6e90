"""Web servers on this machine, friendly and hostile ones, and names that lead to them."""

from __future__ import annotations

import socket
import ssl
import threading
import time
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Callable, Iterator

from pibot.agent.tools import Context
from pibot.skills._hosts import WebPolicy

Answer = Callable[[socket.socket], None]
CLOSED = WebPolicy()


class Server:
    """Answers each path with the bytes, or by the function, that `routes` has for it."""

    def __init__(self, tls: ssl.SSLContext | None = None, host: str = "127.0.0.1") -> None:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._listener = socket.create_server((host, 0), family=family)
        self._tls = tls
        self.port = self._listener.getsockname()[1]
        self.url = f"http{'s' if tls else ''}://{f'[{host}]' if ':' in host else host}:{self.port}"
        self.routes: dict[str, bytes | Answer] = {}
        self.requests: list[str] = []  # heads, as they came
        self.policy = WebPolicy(frozenset({self.url.split("//")[1]}))
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)  # wakes accept(), which else keeps it open
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        try:
            if self._tls:
                connection = self._tls.wrap_socket(connection, server_side=True)
            head = b""
            while b"\r\n\r\n" not in head:
                received = connection.recv(65536)
                if not received:
                    return
                head += received
            self.requests.append(head.decode("latin-1"))
            answer = self.routes[head.split()[1].decode("latin-1")]
            if callable(answer):
                answer(connection)
            else:
                connection.sendall(answer)
        except OSError:
            pass  # the client went away, which many of these tests are about
        finally:
            connection.close()


@contextmanager
def serving(**options: Any) -> Iterator[Server]:
    started = Server(**options)
    try:
        yield started
    finally:
        started.close()


def context(workspace: Path = Path("/"), seconds: float = 10.0) -> Context:
    return Context(workspace, threading.Event(), time.monotonic() + seconds, "t:1")


def answer(body: bytes | str = b"", *headers: str, status: str = "200 OK") -> bytes:
    data = body.encode() if isinstance(body, str) else body
    lines = [f"HTTP/1.1 {status}", *headers]
    if not any(line.lower().startswith(("content-length", "transfer-")) for line in lines):
        lines.append(f"Content-Length: {len(data)}")
    return "\r\n".join([*lines, "", ""]).encode() + data


def html(body: bytes | str, *headers: str) -> bytes:
    return answer(body, "Content-Type: text/html; charset=utf-8", *headers)


def moved(to: str) -> bytes:
    return answer(b"", f"Location: {to}", status="302 Found")


class Names:
    """A resolver that answers each question with the next of its addresses, and counts."""

    def __init__(self, port: int, *answers: list[str]) -> None:
        self.port = port
        self.answers = list(answers)
        self.asked: list[str] = []

    def __call__(self, host: str, port: int, **_: Any) -> list[Any]:
        self.asked.append(host)
        addresses = self.answers.pop(0)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (a, self.port)) for a in addresses]
