"""Two hundred slow clients at /health of a master and a worker: others are answered at once."""

from __future__ import annotations

import http.client
import json
import socket
import threading
import time
import urllib.request
from contextlib import suppress
from pathlib import Path
from typing import Callable, Dict, Iterator, List, Tuple

import pytest

from fleet_processes import FleetProcesses

SLOW = 200
SECONDS = 2.5  # of each siege
PATIENCE_S = 3.0  # of whoever asks in the meantime
PAUSE_S = 0.1
GROWTH_MB = 32
SERVED = ("master", "worker-1")
# How each begins; afterwards it sends single bytes, never reads, and comes back when it is cut off.
BEGINNINGS = (
    b"",
    b"G",
    b"GET /health HTTP/1.1\r\nHost: localhost\r\nX: ",
    b"POST /health HTTP/1.1\r\nHost: localhost\r\nContent-Length: 999999999\r\n\r\n{",
    b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n",
)
SOURCES: Dict[str, Callable[[int], str]] = {
    "one address": lambda n: "127.0.0.2",
    "many addresses": lambda n: f"127.0.{1 + n % 90}.3",
    "the address of who asks": lambda n: "127.0.0.1",
}


class Siege(threading.Thread):
    """Keeps so many slow connections open to a port."""

    def __init__(self, port: int, source: Callable[[int], str]) -> None:
        super().__init__(daemon=True)
        self._port, self._source = port, source
        self._over = threading.Event()
        self.opened = 0

    def run(self) -> None:
        slow = [socket.socket() for _ in range(SLOW)]
        while not self._over.wait(0.02):
            for n, sock in enumerate(slow):
                if not _goes_on(sock):
                    sock.close()
                    with suppress(OSError):  # no port is left: in the next round perhaps
                        slow[n] = self._open()
        for sock in slow:
            sock.close()

    def _open(self) -> socket.socket:
        source = (self._source(self.opened), 0)
        sock = socket.create_connection(("127.0.0.1", self._port), 10, source)
        sock.setblocking(False)
        sock.send(BEGINNINGS[self.opened % len(BEGINNINGS)])
        self.opened += 1
        return sock

    def end(self) -> int:
        """How many connections it took."""
        self._over.set()
        self.join()
        return self.opened


def _goes_on(sock: socket.socket) -> bool:
    """Send one more byte; the answer stays unread. False once the server has hung up."""
    try:
        if sock.recv(1, socket.MSG_PEEK) == b"":
            return False
    except BlockingIOError:
        pass
    except OSError:
        return False
    try:
        return sock.send(b"x") == 1
    except BlockingIOError:
        return True
    except OSError:
        return False


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FleetProcesses]:
    with FleetProcesses(tmp_path_factory.mktemp("slow")) as processes:
        processes.start_master()
        processes.start_worker("worker-1")
        processes.wait_idle(1)
        yield processes


def memory_mb(fleet: FleetProcesses, name: str) -> float:
    statm = Path(f"/proc/{fleet.processes[name].popen.pid}/statm").read_text()
    return int(statm.split()[1]) * 4096 / 1e6


def ask(fleet: FleetProcesses, name: str) -> Tuple[str, float]:
    """What a process says of itself, and after how long.

    Who shares an address with the slow ones may be taken for one of them, and asks again.
    """
    begun = time.monotonic()
    url = f"http://127.0.0.1:{fleet.processes[name].health_port}/health"
    while True:
        try:
            with urllib.request.urlopen(url, timeout=10) as answer:
                return json.load(answer)["status"], time.monotonic() - begun
        except (OSError, http.client.HTTPException):
            if time.monotonic() - begun > PATIENCE_S:
                raise


@pytest.mark.parametrize("source", SOURCES.values(), ids=SOURCES)
def test_two_hundred_slow_clients(fleet: FleetProcesses, source: Callable[[int], str]) -> None:
    before = {name: memory_mb(fleet, name) for name in SERVED}
    sieges = [Siege(fleet.processes[name].health_port, source) for name in SERVED]
    for siege in sieges:
        siege.start()
    waited: List[float] = []
    pause = threading.Event()
    until = time.monotonic() + SECONDS
    while time.monotonic() < until:
        for name in SERVED:
            status, seconds = ask(fleet, name)
            assert status == "healthy"
            waited.append(seconds)
        pause.wait(PAUSE_S)
    opened = [siege.end() for siege in sieges]
    grown = {name: memory_mb(fleet, name) - before[name] for name in SERVED}
    print(f"{opened} connections, {len(waited)} answers, the slowest after {max(waited):.3f} s")
    assert min(opened) > SLOW and max(waited) < PATIENCE_S
    assert max(grown.values()) < GROWTH_MB, grown
    fleet.run("run", "--skill", "echo", "--args", '{"text": "still here"}')
