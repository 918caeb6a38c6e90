"""GET /health over real sockets, with clients that stall, flood and talk nonsense."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from pathlib import Path
from typing import Any, Dict, Iterator, List, Tuple

import pytest

from pibot import health
from pibot.errors import ConfigError
from pibot.health import MAX_CONNECTIONS, MAX_OF_ONE_ADDRESS, HealthServer

GET = b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n"
HEALTHY = {"status": "healthy", "worker_id": "worker-1", "current_task": None}


class Served:
    """A running server whose answer the test can change."""

    def __init__(self) -> None:
        self.reply: Tuple[int, Dict[str, Any]] = (200, HEALTHY)
        self.server = HealthServer("127.0.0.1", 0, lambda: self.reply)
        self.server.start()

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.server.port), 10)

    def ask(self, request: bytes) -> Tuple[int, Dict[str, str], bytes]:
        with self.connect() as sock:
            sock.sendall(request)
            return read(sock)


def read(sock: socket.socket) -> Tuple[int, Dict[str, str], bytes]:
    data = b""
    while True:
        part = sock.recv(65536)
        if not part:
            break
        data += part
    head, _, body = data.partition(b"\r\n\r\n")
    first, *lines = head.decode().split("\r\n")
    return int(first.split()[1]), dict(line.split(": ", 1) for line in lines), body


@pytest.fixture
def served() -> Iterator[Served]:
    served = Served()
    yield served
    served.server.close()


def test_the_contract_byte_for_byte(served: Served) -> None:
    status, headers, body = served.ask(GET)
    assert status == 200
    assert body == b'{"status":"healthy","worker_id":"worker-1","current_task":null}'
    assert headers == {
        "Content-Type": "application/json",
        "Content-Length": str(len(body)),
        "Cache-Control": "no-store",
        "X-Content-Type-Options": "nosniff",
        "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
        "Referrer-Policy": "no-referrer",
        "Cross-Origin-Resource-Policy": "same-origin",
        "Connection": "close",
    }


def test_an_ordinary_client_and_a_degraded_worker(served: Served) -> None:
    url = f"http://127.0.0.1:{served.server.port}/health?probe=1"
    assert json.load(urllib.request.urlopen(url, timeout=10)) == HEALTHY
    served.reply = (503, {"status": "degraded", "reason": "主"})
    status, _, body = served.ask(b"GET /health HTTP/1.0\r\n\r\n")
    assert (status, json.loads(body)["reason"]) == (503, "主")


@pytest.mark.parametrize(
    ("request_bytes", "expected"),
    [
        (b"GET / HTTP/1.0\r\n\r\n", 404),
        (b"GET /healthy HTTP/1.0\r\n\r\n", 404),
        (b"GET /../health HTTP/1.0\r\n\r\n", 404),
        (b"POST /health HTTP/1.0\r\n\r\n", 405),
        (b"GET /health HTTP/1.1\r\n\r\n", 400),
        (b"GET /health HTTP/1.1\r\nHost: pibot.evil.example\r\n\r\n", 421),
        (b"GET /health?token=x HTTP/1.0\r\n\r\n", 400),
        (b"GET /health HTTP/1.0\r\nContent-Length: 1\r\n\r\n", 413),
        (b"GET /health HTTP/1.0\n\n", 400),
        (b"GET /health HTTP/2.0\r\n\r\n", 505),
        (b"GET /health\r\n\r\n", 400),
        (b"\r\n\r\n", 400),
        (b"\x16\x03\x01 \xff\r\n\r\n", 400),
        (b"GET /health HTTP/1.1\r\nX: " + b"a" * 9000 + b"\r\n\r\n", 431),
        (b"G" * 9000, 431),
    ],
)
def test_what_is_refused(served: Served, request_bytes: bytes, expected: int) -> None:
    status, headers, body = served.ask(request_bytes)
    assert status == expected
    assert set(json.loads(body)) == {"error"}
    assert headers["Cross-Origin-Resource-Policy"] == "same-origin"
    assert "Server" not in headers and ("Allow" in headers) == (expected == 405)


def test_head_has_no_body(served: Served) -> None:
    status, headers, body = served.ask(b"HEAD /health HTTP/1.0\r\n\r\n")
    assert (status, body, headers["Content-Length"]) == (200, b"", "63")
    status, headers, body = served.ask(b"HEAD /else HTTP/1.0\r\n\r\n")
    assert (status, body) == (404, b"") and headers["Content-Length"] != "0"


def test_the_names_of_the_machine(served: Served) -> None:
    served.server.close()
    served.server = HealthServer("127.0.0.1", 0, lambda: served.reply, ["worker-1", "0.0.0.0"])
    served.server.start()
    for host, expected in [("Worker-1.local:5000", 200), ("worker-1", 200), ("worker-2", 421)]:
        request = f"GET /health HTTP/1.1\r\nHost: {host}\r\n\r\n"
        assert served.ask(request.encode())[0] == expected, host


def test_a_failing_answer_shows_no_details(
    served: Served, caplog: pytest.LogCaptureFixture
) -> None:
    served.server.close()

    def fail() -> Tuple[int, Dict[str, Any]]:
        raise ValueError("inner detail")

    served.server = HealthServer("127.0.0.1", 0, fail)
    served.server.start()
    status, _, body = served.ask(GET)
    assert (status, body) == (500, b'{"status":"error"}')
    assert "ValueError: inner detail" in caplog.text


def test_a_request_may_come_in_pieces(served: Served) -> None:
    with served.connect() as sock:
        for byte in GET:
            sock.sendall(bytes([byte]))
        assert read(sock)[0] == 200


def test_slow_loris_is_cut_off_and_holds_nobody_up(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(health, "TIME_LIMIT_S", 0.3)
    slow = [served.connect() for _ in range(3)]
    for sock in slow:
        sock.sendall(b"GET /health HTTP/1.1\r\nX: ")
    assert served.ask(GET)[0] == 200
    began = time.monotonic()
    try:
        while time.monotonic() - began < 5:  # bytes that keep coming do not buy time
            slow[0].sendall(b"a")
            time.sleep(0.02)
    except OSError:
        pass
    assert 0.1 < time.monotonic() - began < 2
    for sock in slow[1:]:
        assert sock.recv(1) == b""
    for sock in slow:
        sock.close()


def from_address(served: Served, address: str) -> socket.socket:
    return socket.create_connection(("127.0.0.1", served.server.port), 10, (address, 0))


def is_cut(sock: socket.socket) -> bool:
    """Whether the server hangs up, long before the time of the connection is over."""
    sock.settimeout(health.TIME_LIMIT_S / 2)
    try:
        return sock.recv(1) == b""
    except ConnectionError:
        return True
    except socket.timeout:
        return False


def test_one_address_takes_room_from_itself_only(served: Served) -> None:
    honest = from_address(served, "127.0.0.2")
    idle = [from_address(served, "127.0.0.3") for _ in range(MAX_OF_ONE_ADDRESS + 1)]
    assert is_cut(idle[0])
    honest.sendall(GET)
    assert read(honest)[0] == 200
    idle[-1].sendall(GET)
    assert read(idle[-1])[0] == 200
    for sock in [honest, *idle]:
        sock.close()


def test_a_full_house_drops_the_oldest_of_the_busiest(served: Served) -> None:
    busy = [from_address(served, "127.0.1.1") for _ in range(MAX_OF_ONE_ADDRESS)]
    others = [
        from_address(served, f"127.0.2.{n}") for n in range(1, MAX_CONNECTIONS - len(busy) + 1)
    ]
    with from_address(served, "127.0.3.1") as newcomer:
        newcomer.sendall(GET)
        assert read(newcomer)[0] == 200
    assert is_cut(busy[0])
    others[0].sendall(GET)
    assert read(others[0])[0] == 200
    for sock in [*busy, *others]:
        sock.close()


def test_who_has_an_answer_makes_room_first(served: Served) -> None:
    waiting = from_address(served, "127.0.0.2")
    answered = from_address(served, "127.0.0.2")
    answered.sendall(GET)
    assert read(answered)[0] == 200  # and does not hang up
    more = [from_address(served, "127.0.0.2") for _ in range(MAX_OF_ONE_ADDRESS - 1)]
    assert served.ask(GET)[0] == 200  # all of them have been looked at
    waiting.sendall(GET)
    assert read(waiting)[0] == 200
    for sock in [waiting, answered, *more]:
        sock.close()


def test_many_at_once(served: Served) -> None:
    statuses: List[int] = []

    def ask() -> None:
        for _ in range(20):
            statuses.append(served.ask(GET)[0])

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert statuses == [200] * 160


def test_a_port_in_use(served: Served) -> None:
    port = served.server.port
    with pytest.raises(ConfigError, match=f"Port {port} is in use .* --port or PIBOT_HEALTH_PORT"):
        HealthServer("127.0.0.1", port, lambda: (200, {})).start()


@pytest.mark.parametrize("host", ["192.0.2.1", "no such host"])
def test_an_address_of_another_machine(host: str) -> None:
    with pytest.raises(ConfigError, match="PIBOT_HEALTH_HOST"):
        HealthServer(host, 0, lambda: (200, {})).start()


def test_close_frees_the_port_and_every_descriptor() -> None:
    before = len(os.listdir("/proc/self/fd"))
    served = Served()
    idle = served.connect()
    served.ask(GET)
    served.server.close()
    served.server.close()
    assert idle.recv(1) == b""
    idle.close()
    assert len(os.listdir("/proc/self/fd")) == before
    again = HealthServer("127.0.0.1", served.server.port, lambda: (200, {}))
    again.start()
    again.close()


def test_light_import() -> None:
    heavy = "{'http', 'http.server', 'socketserver', 'email', 'asyncio'}"
    code = f"import sys, pibot.health; print(sorted({heavy} & set(sys.modules)))"
    environ = {**os.environ, "PYTHONPATH": str(Path(health.__file__).parents[1])}
    done = subprocess.run(
        [sys.executable, "-S", "-c", code], env=environ, capture_output=True, text=True, check=True
    )
    assert done.stdout == "[]\n"
