"""GET /health: one thread, one selector, no framework; it answers even when a client stalls."""

from __future__ import annotations

import errno
import json
import logging
import selectors
import socket
import threading
import time
from collections import Counter
from typing import Any, Callable, Collection, Dict, Optional, Tuple, Union

from pibot import httpguard
from pibot.errors import ConfigError
from pibot.httpguard import Guard, Refusal, Request

Answer = Callable[[], Tuple[int, Dict[str, Any]]]

PATH = "/health"
MAX_CONNECTIONS = 64
MAX_OF_ONE_ADDRESS = 16
TIME_LIMIT_S = 5.0  # for a whole connection, from accept to the last byte
_READ_BYTES = 4096
_BACKLOG = 128  # more than are served at once: a flood must not fill it before we have looked
_log = logging.getLogger(__name__)


class _Connection:
    """One client: first its request comes in, then the answer goes out, then it may hang up."""

    def __init__(self, sock: socket.socket, address: str, deadline: float) -> None:
        self.sock = sock
        self.address = address
        self.deadline = deadline
        self.request = b""
        self.reply = b""
        self.answered = False

    @property
    def is_done(self) -> bool:
        """Whether it has its answer and only has to hang up."""
        return self.answered and not self.reply


class HealthServer:
    """Serves `answer()`, a status and a JSON object, on http://host:port/health.

    `answer` runs on the server's thread and must return at once. `names` are what the machine is
    called: it may be asked by them, by its addresses and as localhost.
    """

    def __init__(self, host: str, port: int, answer: Answer, names: Collection[str] = ()) -> None:
        self.host = host
        self.port = port  # after start() the real one, where 0 was asked for
        self._page = _Page(answer, Guard(httpguard.own_names(*names), public=frozenset([PATH])))
        self._waker: Optional[socket.socket] = None
        self._thread: Optional[threading.Thread] = None

    def start(self) -> None:
        """Bind and serve in a thread; raise ConfigError when the address cannot be had."""
        listener = _listen(self.host, self.port)
        self.port = listener.getsockname()[1]
        self._waker, wakes = socket.socketpair()
        loop = _Loop(listener, wakes, self._page)
        self._thread = threading.Thread(target=loop.run, name="health", daemon=True)
        self._thread.start()

    def close(self) -> None:
        if self._thread is not None and self._waker is not None:
            self._waker.close()  # makes the other end readable
            self._thread.join()
            self._thread = None


class _Page:
    """What is answered to a request; there is one path."""

    def __init__(self, answer: Answer, guard: Guard) -> None:
        self._answer = answer
        self._guard = guard

    def reply(self, found: Union[Request, Refusal]) -> bytes:
        if isinstance(found, Refusal):
            return self._guard.answer(found)
        head = found.method == "HEAD"
        why = self._guard.check(found)
        if why is None and found.path != PATH:
            why = Refusal(404, f"only {PATH} can be asked here")
        return self._guard.answer(why, head) if why else self._state(head)

    def _state(self, head: bool) -> bytes:
        try:
            status, body = self._answer()
        except Exception as error:  # a probe must see a failure, not a dead port
            _log.error("The health answer failed: %s: %s", type(error).__name__, error)
            status, body = 500, {"status": "error"}
        data = json.dumps(body, separators=(",", ":"), ensure_ascii=False).encode()
        return httpguard.response(status, data, head=head)


class _Loop:
    """The server's thread: its sockets, and what each connection has come to."""

    def __init__(self, listener: socket.socket, wakes: socket.socket, page: _Page) -> None:
        self._listener = listener
        self._wakes = wakes
        self._page = page
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
        try:
            sock, (address, *_) = self._listener.accept()
        except OSError as error:
            if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS):
                time.sleep(0.1)  # the listener stays readable: do not spin
            return
        sock.setblocking(False)
        self._make_room(address)
        connection = _Connection(sock, address, time.monotonic() + TIME_LIMIT_S)
        self._connections[sock.fileno()] = connection
        self._selector.register(sock, selectors.EVENT_READ)

    def _make_room(self, address: str) -> None:
        """Drop a connection of the newcomer's own address, or of the one that has the most.

        One that has its answer goes first, then whichever has stalled longest.
        """
        held = Counter(connection.address for connection in self._connections.values())
        if held[address] < MAX_OF_ONE_ADDRESS:
            if len(self._connections) < MAX_CONNECTIONS:
                return
            address = held.most_common(1)[0][0]
        its = [one for one in self._connections.values() if one.address == address]
        self._drop(next((one for one in its if one.is_done), its[0]))

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
            elif not connection.sock.recv(_READ_BYTES):
                self._drop(connection)
        except (BlockingIOError, InterruptedError):
            pass
        except OSError:
            self._drop(connection)

    def _read(self, connection: _Connection) -> None:
        data = connection.sock.recv(_READ_BYTES)
        connection.request += data
        found = httpguard.read(connection.request)
        if found is not None:
            connection.request = b""
            connection.reply = self._page.reply(found)
            connection.answered = True
            self._write(connection)
        elif not data:
            self._drop(connection)

    def _write(self, connection: _Connection) -> None:
        sent = connection.sock.send(connection.reply)
        connection.reply = connection.reply[sent:]
        events = selectors.EVENT_WRITE if connection.reply else selectors.EVENT_READ
        self._selector.modify(connection.sock, events)
        if not connection.reply:
            connection.sock.shutdown(socket.SHUT_WR)


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
        sock.listen(_BACKLOG)
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
