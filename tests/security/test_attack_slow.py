"""Servers that take their time: each call ends when its own time is over, and not much later.

All of them are asked at once, as root and as an ordinary user; each gets a second.
"""

from __future__ import annotations

import contextlib
import socket
import threading
from pathlib import Path
from typing import Any, Dict, Iterator

import pytest

from security.hands import Hands, Process
from skills.web_server import Answer, serving

TIME_S = 1.0
SLACK_S = 1.5  # two busy cores, forty calls at once; a call that waits for its server never ends
SKILLS = ("web_fetch", "web_download", "http_request")


def dripping(start: bytes, unit: bytes = b"a") -> Answer:
    def drip(connection: socket.socket) -> None:
        connection.sendall(start)
        pause = threading.Event()
        while not pause.wait(0.05):
            connection.sendall(unit)

    return drip


def silent(start: bytes) -> Answer:
    def wait(connection: socket.socket) -> None:
        connection.sendall(start)
        connection.recv(1)

    return wait


OK = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n"
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"
SLOW: Dict[str, Answer] = {
    "says nothing": silent(b""),
    "stops in the status line": silent(b"HTTP/1.1 2"),
    "stops in the headers": silent(OK + b"X-A: "),
    "stops before the body": silent(OK + b"Content-Length: 9\r\n\r\n"),
    "stops in the body": silent(OK + b"Content-Length: 9\r\n\r\nabc"),
    "stops in a chunk": silent(CHUNKED + b"ff\r\nabc"),
    "stops before the last chunk": silent(CHUNKED + b"3\r\nabc\r\n"),
    "drips the status line": dripping(b"HTTP/1.1 200 "),
    "drips the headers": dripping(OK, b"X: y\r\n"),
    "drips one header": dripping(OK + b"X: "),
    "drips the body": dripping(OK + b"Content-Length: 99999\r\n\r\n"),
    "drips chunks": dripping(CHUNKED, b"1\r\na\r\n"),
    "drips the size of a chunk": dripping(CHUNKED, b"0"),
    "drips trailers": dripping(CHUNKED + b"0\r\n", b"X: y\r\n"),
    "drips gzip": dripping(OK + b"Content-Encoding: gzip\r\n\r\n\x1f\x8b\x08", b"\0"),
    "goes on with 100": dripping(b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
}


@contextlib.contextmanager
def never_accepting() -> Iterator[int]:
    """A port whose queue is full: a connection is never made."""
    with (
        socket.create_server(("127.0.0.1", 0), backlog=0) as listener,
        contextlib.ExitStack() as kept,
    ):
        port = listener.getsockname()[1]
        for _ in range(4):
            filler = kept.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(("127.0.0.1", port))
        yield port


@contextlib.contextmanager
def stalling() -> Iterator[int]:
    """A port that takes connections, and then says nothing: also not the beginning of TLS."""
    with socket.create_server(("127.0.0.1", 0), backlog=50) as listener:
        yield listener.getsockname()[1]


@pytest.fixture(scope="module")
def results(processes: Dict[str, Process]) -> Iterator[Dict[str, Dict[str, Any]]]:
    """The result of each call, by user, skill and what the server does."""
    with contextlib.ExitStack() as opened:
        server = opened.enter_context(serving())
        server.routes.update({f"/{n}": slow for n, slow in enumerate(SLOW.values())})
        urls = {name: f"{server.url}/{number}" for number, name in enumerate(SLOW)}
        urls["never accepts"] = f"http://127.0.0.1:{opened.enter_context(never_accepting())}/"
        urls["stalls in TLS"] = f"https://127.0.0.1:{opened.enter_context(stalling())}/"
        running = {}
        for user, process in processes.items():
            hands = Hands(process, process.home / f"slow-{user}")
            for number, (skill, (name, url)) in enumerate(
                (skill, one) for skill in SKILLS for one in urls.items()
            ):
                workspace = hands.workspace / str(number)
                _made_for(hands, workspace)
                permits = {"web_allow": ["127.0.0.1"], "hosts": ["127.0.0.1"]}
                running[f"{user} {skill} {name}"] = hands.begin(
                    skill, {"url": url}, permits=permits, time_s=TIME_S, workspace=workspace
                )
        yield {name: one.result() for name, one in running.items()}


def _made_for(hands: Hands, workspace: Path) -> None:
    workspace.mkdir(mode=0o700)
    hands.give(workspace)


@pytest.mark.parametrize("name", [*SLOW, "never accepts", "stalls in TLS"])
@pytest.mark.parametrize("skill", SKILLS)
def test_a_slow_server(
    results: Dict[str, Dict[str, Any]], processes: Dict[str, Process], skill: str, name: str
) -> None:
    for user in processes:
        done = results[f"{user} {skill} {name}"]
        assert not done["success"], done
        assert done["took_s"] < TIME_S + SLACK_S
        assert "too slow" in done["output"] or "did not end in time" in done["output"], done
