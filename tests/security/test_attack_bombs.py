"""Answers that are small on the wire and large, deep or slow once somebody reads them.

The process of the skills may not grow by more than a few times what an answer may have, and each
call ends in seconds.
"""

from __future__ import annotations

import gzip
import itertools
import json
import os
import socket
import zlib
from functools import cache
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, Union

import pytest

from security.hands import Hands
from skills.web_server import Answer, Server, answer, html, serving

_MB = 1 << 20
GROWTH_BYTES = 100 * _MB
TIME_S = 25.0
Made = Union[bytes, Answer]


def gzipped(body: bytes, kind: str = "text/plain") -> bytes:
    return answer(body, f"Content-Type: {kind}", "Content-Encoding: gzip")


@cache
def large_gzip() -> bytes:
    """256 MiB of zeros in 1.1 MB, at the lowest level: higher ones are too small to be a load."""
    packer = zlib.compressobj(1, wbits=31)
    zeros = bytes(16 * _MB)
    return b"".join([*(packer.compress(zeros) for _ in range(16)), packer.flush()])


def endless(start: bytes, unit: bytes) -> Answer:
    def go_on(connection: socket.socket) -> None:
        connection.sendall(start)
        for _ in itertools.count():
            connection.sendall(unit)

    return go_on


CHUNKED = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nTransfer-Encoding: chunked\r\n\r\n"
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n"
BOMBS: Dict[str, Callable[[], Made]] = {
    "gzip of 256 MB": lambda: gzipped(large_gzip()),
    "gzip in gzip in gzip": lambda: gzipped(gzip.compress(gzip.compress(large_gzip()))),
    "gzip of HTML": lambda: gzipped(
        gzip.compress((b"<p>" + b"word " * 100) * 40_000, 1), "text/html"
    ),
    "many members of gzip": lambda: gzipped(gzip.compress(b"a") * 50_000),
    "gzip that is none": lambda: gzipped(b"\x1f\x8b" + bytes(1000)),
    "gzip that breaks off": lambda: gzipped(gzip.compress(os.urandom(50_000))[:20_000]),
    "gzip said twice": lambda: answer(large_gzip(), "Content-Encoding: gzip, gzip"),
    "deflate that nobody asked for": lambda: answer(b"x", "Content-Encoding: deflate"),
    "brotli that nobody asked for": lambda: answer(b"x", "Content-Encoding: br"),
    "a body without end": lambda: endless(HEAD + b"\r\n", b"a" * 65536),
    "chunks without end": lambda: endless(CHUNKED, b"10000\r\n" + b"a" * 65536 + b"\r\n"),
    "chunks of one byte": lambda: CHUNKED + b"1\r\na\r\n" * 200_000,
    "a chunk of an impossible size": lambda: CHUNKED + b"f" * 40 + b"\r\nabc",
    "a chunk of a negative size": lambda: CHUNKED + b"-1\r\nabc",
    "a chunk whose size has no end": lambda: endless(CHUNKED, b"0" * 65536),
    "extensions of a chunk without end": lambda: endless(CHUNKED + b"1;", b"x" * 65536),
    "trailers without end": lambda: endless(CHUNKED + b"0\r\n", b"X: y\r\n" * 1000),
    "one header without end": lambda: endless(HEAD + b"X: ", b"a" * 65536),
    "headers without end": lambda: endless(HEAD, b"X: y\r\n" * 1000),
    "a status line without end": lambda: endless(b"HTTP/1.1 200 ", b"O" * 65536),
    "continue without end": lambda: endless(
        b"", b"HTTP/1.1 100 Continue\r\nX: y\r\n" + b"Y: " + b"z" * 30_000 + b"\r\n\r\n"
    ),
    "a length of a terabyte": lambda: answer(b"abc", "Content-Length: 1099511627776"),
    "a length with many digits": lambda: answer(b"abc", "Content-Length: " + "9" * 5000),
    "a negative length": lambda: answer(b"abc", "Content-Length: -5"),
    "HTML nested fifty thousand deep": lambda: html("<div>" * 50_000),
    "lists nested without end": lambda: html("<ul><li>" * 30_000),
    "quotations nested without end": lambda: html("<blockquote>x" * 20_000),
    "tables in tables": lambda: html("<table><tr><td>" * 30_000),
    "a table as wide as it is long": lambda: html("<table><tr>" + "<td>a" * 20_000),
    "a table of empty rows": lambda: html("<table>" + "<tr><td>" * 30_000),
    "colspan of a billion": lambda: html(
        "<table><tr><td colspan=999999999 rowspan=999999999>a<td>b<tr><td>c<td>d</table>"
    ),
    "entities in entities": lambda: html(
        '<!DOCTYPE x [<!ENTITY a "ha"><!ENTITY b "' + "&a;" * 10_000 + '">]>' + "&b;" * 10_000
    ),
    "XML with entities": lambda: answer(
        '<?xml version="1.0"?><!DOCTYPE l [<!ENTITY a "' + "x" * 9999 + '">]><l>&a;&a;</l>',
        "Content-Type: application/xml",
    ),
    "a number of an entity without end": lambda: html("&#" + "9" * 500_000 + ";"),
    "tags that never end": lambda: html("<a " * 150_000),
    "attributes that never end": lambda: html("<a " + "b='" * 150_000),
    "comments that never end": lambda: html("<!--" * 120_000),
    "declarations that never end": lambda: html("<![" * 150_000),
    "images in the text": lambda: html("<img src='data:image/png;base64," + "A" * 500_000),
    "many links": lambda: html("<a href=/x>y" * 20_000),
    "a link that is a page long": lambda: html("<a href='/" + "a" * 500_000 + "'>x</a>"),
    "styles that hide": lambda: html(("<p style='" + "display" * 100 + "'>") * 700),
    "backticks": lambda: html("<pre>" + "```\n" * 120_000),
    "charset of charsets": lambda: html("<meta " + "charset= " * 50_000 + ">"),
    "a title that is a page long": lambda: html("<title>" + "a" * 500_000),
    "spaces": lambda: html("<p>" + " " * 500_000 + "x"),
    "control characters": lambda: html("<p>" + "\x1b[2J\x07\x00" * 80_000),
}


@cache
def made(name: str) -> Made:
    return BOMBS[name]()


@pytest.fixture
def server() -> Iterator[Server]:
    with serving() as made:
        yield made


def peak_bytes(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024


def call(hands: Hands, server: Server, skill: str, **args: Any) -> Dict[str, Any]:
    """A call that ends in time, in a process that stays small."""
    pid = hands.process.pid
    Path(f"/proc/{pid}/clear_refs").write_text("5")  # the peak is counted from here
    before = peak_bytes(pid)
    permits = {"web_allow": [server.url[7:]], "hosts": [server.url[7:]]}
    at_once = {"pibot.skills._downloading._FIRST_WAIT_S": 0.01}
    done = hands.call(
        skill, {"url": server.url, **args}, permits=permits, time_s=TIME_S, patch=at_once
    )
    assert "too slow" not in done["output"] and "did not end" not in done["output"], done["output"]
    assert peak_bytes(pid) - before < GROWTH_BYTES
    assert len(json.dumps(done)) < 12 * _MB
    return done


@pytest.mark.parametrize("name", BOMBS)
def test_pages(hands: Hands, server: Server, name: str) -> None:
    server.routes["/"] = made(name)
    done = call(hands, server, "web_fetch")
    assert done["success"] or done["output"].startswith(server.url)
    assert not any(bad in str(done["data"].get("text")) for bad in "\x1b\x07\x00")


def deep(opening: str, closing: str) -> bytes:
    body = opening * 200_000 + closing * 200_000
    return answer(body, "Content-Type: application/json")


JSON: Dict[str, Callable[[], Made]] = {
    "lists in lists": lambda: deep("[", "]"),
    "objects in objects": lambda: deep('{"a":', "}"),
    "a number of many digits": lambda: answer("9" * 900_000, "Content-Type: application/json"),
    "a number beyond all": lambda: answer("[1e999999999]", "Content-Type: application/json"),
    "a name a thousand times": lambda: answer(
        "{" + ",".join(['"a":1'] * 50_000) + "}", "Content-Type: application/json"
    ),
    "gzip of lists": lambda: gzipped(gzip.compress(b"[" * 50 * _MB), "application/json"),
    "no end": lambda: endless(
        HEAD.replace(b"text/plain", b"application/json") + b"\r\n", b"[1," * 9999
    ),
    "lone surrogates": lambda: answer('["\\ud800"]', "Content-Type: application/json"),
    "another encoding": lambda: answer('["a"]'.encode("utf-32"), "Content-Type: application/json"),
}


@pytest.mark.parametrize("name", JSON)
def test_answers_of_an_api(hands: Hands, server: Server, name: str) -> None:
    server.routes["/"] = JSON[name]()
    done = call(hands, server, "http_request")
    assert "json" not in done["data"]


DOWNLOADS = [
    *("gzip of 256 MB", "a body without end", "chunks without end", "headers without end"),
    *("a length of a terabyte", "trailers without end", "a chunk of an impossible size"),
]


@pytest.mark.parametrize("name", DOWNLOADS)
def test_downloads(hands: Hands, server: Server, name: str) -> None:
    server.routes["/"] = made(name)
    done = call(hands, server, "web_download", max_mb=4)
    used = sum(path.stat().st_size for path in hands.workspace.rglob("*"))
    assert used < 5 * _MB
    assert done["success"] is (name == "gzip of 256 MB")  # it is kept as it is: packed
