"""Servers that send too much, too slowly or nothing at all."""

from __future__ import annotations

import gzip
import socket
import threading
import time
from pathlib import Path
from typing import Any, Iterator

import pytest

from pibot.agent.tools import Context
from pibot.errors import SkillError
from pibot.skills._hosts import WebPolicy
from pibot.skills.web_fetch import fetch
from skills.web_server import CLOSED, Answer, Server, answer, context, serving


@pytest.fixture
def server() -> Iterator[Server]:
    with serving() as started:
        yield started


@pytest.fixture
def ctx(tmp_path: Path) -> Context:
    return context(tmp_path)


def endless(connection: socket.socket) -> None:
    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n\r\n")
    while True:
        connection.sendall(b"0123456789abcdef" * 4096)


def test_a_huge_body_is_cut(server: Server, ctx: Context) -> None:
    server.routes["/"] = endless
    data = fetch(server.url, server.policy, ctx)
    assert data["truncated"] is True
    assert len(data["text"]) == 2 * 1024 * 1024


def test_a_gzip_bomb_is_cut(server: Server, ctx: Context) -> None:
    bomb = gzip.compress(b"a" * 100_000_000)
    server.routes["/"] = answer(bomb, "Content-Type: text/plain", "Content-Encoding: gzip")
    started = time.perf_counter()
    data = fetch(server.url, server.policy, ctx)
    assert time.perf_counter() - started < 1.0
    assert data["truncated"] is True
    assert len(data["text"]) == 2 * 1024 * 1024


@pytest.mark.parametrize("charset", ["gbk", "utf-8"])
def test_a_cut_character_does_not_hide_the_charset(
    server: Server, ctx: Context, charset: str
) -> None:
    body = b"a" + "温".encode(charset) * 1_100_000
    server.routes["/"] = answer(body, "Content-Type: text/plain")
    data = fetch(server.url, server.policy, ctx)
    assert data["truncated"] is True
    assert data["text"][:3] == "a温温"


def test_many_gzip_members_are_not_unpacked(server: Server, ctx: Context) -> None:
    body = gzip.compress(b"a") * 1000
    server.routes["/"] = answer(body, "Content-Type: text/plain", "Content-Encoding: gzip")
    data = fetch(server.url, server.policy, ctx)
    assert (data["text"], data["truncated"]) == ("a", True)


def dripping(start: bytes) -> Answer:
    def drip(connection: socket.socket) -> None:
        connection.sendall(start)
        ended = threading.Event()
        while not ended.wait(0.02):
            connection.sendall(b"a")

    return drip


def silent(connection: socket.socket) -> None:
    connection.recv(1)


SLOW: dict[str, Answer] = {
    "head": dripping(b"HTTP/1.1 200 OK\r\nX: "),
    "body": dripping(b"HTTP/1.1 200 OK\r\nContent-Length: 9999\r\n\r\n"),
    "chunk": dripping(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nfff\r\n"),
    "silent": silent,
}


@pytest.mark.parametrize("kind", SLOW)
def test_a_slow_server_meets_the_deadline(server: Server, kind: str) -> None:
    server.routes["/"] = SLOW[kind]
    started = time.monotonic()
    with pytest.raises(SkillError, match="too slow"):
        fetch(server.url, server.policy, context(seconds=0.3))
    assert time.monotonic() - started < 0.8


@pytest.mark.parametrize("kind", SLOW)
def test_a_cancel_in_the_middle(server: Server, ctx: Context, kind: str) -> None:
    cancelled_at: list[float] = []

    def cancel_after_start(connection: socket.socket) -> None:
        ctx.cancelled.set()
        cancelled_at.append(time.monotonic())
        SLOW[kind](connection)

    server.routes["/"] = cancel_after_start
    with pytest.raises(SkillError, match="was cancelled"):
        fetch(server.url, server.policy, ctx)
    assert time.monotonic() - cancelled_at[0] < 0.5


def test_a_resolver_that_hangs_is_left_behind() -> None:
    release = threading.Event()

    def hang(*_: Any, **__: Any) -> list[Any]:
        release.wait(5)
        return []

    started = time.monotonic()
    with pytest.raises(SkillError, match="too slow"):
        fetch("http://slow.test/", CLOSED, context(seconds=0.2), hang)
    assert time.monotonic() - started < 0.7
    release.set()


def test_a_connect_that_hangs_meets_the_deadline() -> None:
    """A listener whose queue is full drops what asks for more."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=0)
    port = listener.getsockname()[1]
    fillers = [socket.socket() for _ in range(4)]
    for filler in fillers:
        filler.setblocking(False)
        filler.connect_ex(("127.0.0.1", port))
    started = time.monotonic()
    with pytest.raises(SkillError, match="too slow"):
        fetch(
            f"http://127.0.0.1:{port}/",
            WebPolicy(frozenset({"127.0.0.1"})),
            context(seconds=0.3),
        )
    assert time.monotonic() - started < 0.8
    for each in (listener, *fillers):
        each.close()
