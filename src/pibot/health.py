"""GET /health: one thread, one selector, no framework; it answers even when a client stalls."""

from __future__ import annotations

import errno
import json
import logging
import selectors
import socket
import threading
import time
from typing import Any, Callable, Dict, Optional, Tuple

from pibot.errors import ConfigError

Answer = Callable[[], Tuple[int, Dict[str, Any]]]

MAX_CONNECTIONS = 16
MAX_REQUEST_BYTES = 4096
TIME_LIMIT_S = 5.0  # for a whole connection, from accept to the last byte
_REASONS = {
    200: "OK",
    400: "Bad Request",
    404: "Not Found",
    405: "Method Not Allowed",
    431: "Request Header Fields Too Large",
    500: "Internal Server Error",
    503: "Service Unavailable",
}
_log = logging.getLogger(__name__)


class _Connection:
    """One client: first its request comes in, then the answer goes out, then it may hang up."""

    def __init__(self, sock: socket.socket, deadline: float) -> None:
        self.sock = sock
        self.deadline = deadline
        self.request = b""
        self.reply = b""
        self.answered = False


class HealthServer:
    """Serves `answer()`, a status and a JSON object, on http://host:port/health.

    `answer` runs on the server's thread and must return at once.
    """

    def __init__(self, host: str, port: int, answer: Answer) -> None:
        self.host = host
        self.port = port  # after start() the real one, where 0 was asked for
        self._answer = answer
        self._waker: Optional[socket.socket] = None
        self._thread: Optional[threading.Thread] = None

    def start(self) -> None:
        """Bind and serve in a thread; raise ConfigError when the address cannot be had."""
        listener = _listen(self.host, self.port)
        self.port = listener.getsockname()[1]
        self._waker, wakes = socket.socketpair()
        loop = _Loop(listener, wakes, self._answer)
        self._thread = threading.Thread(target=loop.run, name="health", daemon=True)
        self._thread.start()

    def close(self) -> None:
        if self._thread is not None and self._waker is not None:
            self._waker.close()  # makes the other end readable
            self._thread.join()
            self._thread = None


class _Loop:
    """The server's thread: its sockets, and what each connection has come to."""

    def __init__(self, listener: socket.socket, wakes: socket.socket, answer: Answer) -> None:
        self._listener = listener
        self._wakes = wakes
        self._answer = answer
        self._connections: Dict[int, _Connection] = {}  # by descriptor, oldest first
        self._selector = selectors.DefaultSelector()
        self._selector.register(listener, selectors.EVENT_READ)
        self._selector.register(wakes, selectors.EVENT_READ)

    def run(self) -> None:
        while True:
            for key, _ in self._selector.select(self._patience()):
                if key.fileobj is self._wakes:
                    self._shut()
                    return
                if key.fileobj is self._listener:
                    self._accept()
                elif key.fd in self._connections:
                    self._advance(self._connections[key.fd])
            now = time.monotonic()
            for connection in list(self._connections.values()):
                if connection.deadline <= now:
                    self._drop(connection)

    def _patience(self) -> Optional[float]:
        """Seconds until the first deadline; None = sleep until somebody comes."""
        if not self._connections:
            return None
        first = min(connection.deadline for connection in self._connections.values())
        return max(0.0, first - time.monotonic())

    def _shut(self) -> None:
        for connection in list(self._connections.values()):
            self._drop(connection)
        self._selector.close()
        self._listener.close()
        self._wakes.close()

    def _accept(self) -> None:
        if len(self._connections) >= MAX_CONNECTIONS:  # whoever stalled longest makes room
            self._drop(next(iter(self._connections.values())))
        try:
            sock, _ = self._listener.accept()
        except OSError as error:
            if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS):
                time.sleep(0.1)  # the listener stays readable: do not spin
            return
        sock.setblocking(False)
        self._connections[sock.fileno()] = _Connection(sock, time.monotonic() + TIME_LIMIT_S)
        self._selector.register(sock, selectors.EVENT_READ)

    def _drop(self, connection: _Connection) -> None:
        self._connections.pop(connection.sock.fileno(), None)
        self._selector.unregister(connection.sock)
        connection.sock.close()

    def _advance(self, connection: _Connection) -> None:
        try:
            if not connection.answered:
                self._read(connection)
            elif connection.reply:
                self._write(connection)
            # The answer is out: read on, so that closing does not reset the connection.
            elif not connection.sock.recv(MAX_REQUEST_BYTES):
                self._drop(connection)
        except (BlockingIOError, InterruptedError):
            pass
        except OSError:
            self._drop(connection)

    def _read(self, connection: _Connection) -> None:
        data = connection.sock.recv(MAX_REQUEST_BYTES)
        connection.request += data
        if b"\r\n\r\n" in connection.request or b"\n\n" in connection.request:
            connection.reply = self._respond(connection.request)
        elif len(connection.request) > MAX_REQUEST_BYTES:
            connection.reply = _response(431, {"error": "request too large"})
        elif not data:
            self._drop(connection)
            return
        else:
            return
        connection.answered = True
        self._write(connection)

    def _write(self, connection: _Connection) -> None:
        sent = connection.sock.send(connection.reply)
        connection.reply = connection.reply[sent:]
        events = selectors.EVENT_WRITE if connection.reply else selectors.EVENT_READ
        self._selector.modify(connection.sock, events)
        if not connection.reply:
            connection.sock.shutdown(socket.SHUT_WR)

    def _respond(self, request: bytes) -> bytes:
        words = request.split(b"\n", 1)[0].rstrip(b"\r").split(b" ")
        if len(words) != 3 or words[2] not in (b"HTTP/1.0", b"HTTP/1.1"):
            return _response(400, {"error": "bad request"})
        method, path = words[0], words[1].split(b"?", 1)[0]
        head = method == b"HEAD"
        if path != b"/health":
            return _response(404, {"error": "not found"}, head)
        if method not in (b"GET", b"HEAD"):
            return _response(405, {"error": "method not allowed"})
        try:
            status, body = self._answer()
        except Exception as error:  # a probe must see a failure, not a dead port
            _log.error("The health answer failed: %s: %s", type(error).__name__, error)
            status, body = 500, {"status": "error"}
        return _response(status, body, head)


def _response(status: int, body: Dict[str, Any], head: bool = False) -> bytes:
    data = json.dumps(body, separators=(",", ":"), ensure_ascii=False).encode()
    lines = [
        f"HTTP/1.1 {status} {_REASONS.get(status, 'Status')}",
        "Content-Type: application/json",
        f"Content-Length: {len(data)}",
        "Cache-Control: no-store",
        "Connection: close",
    ]
    if status == 405:
        lines.append("Allow: GET, HEAD")
    return "\r\n".join([*lines, "", ""]).encode() + (b"" if head else data)


def _listen(host: str, port: int) -> socket.socket:
    try:
        family, _, _, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        sock = socket.socket(family, socket.SOCK_STREAM)
    except OSError:
        raise ConfigError(
            f"{host} is no address of this machine: set PIBOT_HEALTH_HOST to one of its own."
        ) from None
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(address)
        sock.listen(MAX_CONNECTIONS)
        sock.setblocking(False)
    except OSError as error:
        sock.close()
        raise ConfigError(_bind_problem(host, port, error)) from None
    return sock


def _bind_problem(host: str, port: int, error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        said = f"Port {port} is in use on {host}"
    elif error.errno == errno.EADDRNOTAVAIL:
        return f"{host} is no address of this machine: set PIBOT_HEALTH_HOST to one of its own."
    else:
        said = f"Port {port} cannot be opened on {host} ({error.strerror})"
    return f"{said}: choose another with --port or PIBOT_HEALTH_PORT."
