"""The guard of every page: what is no request, who may not ask, and what an answer always says."""

from __future__ import annotations

import json
from typing import Dict, Optional

import pytest

from pibot.httpguard import (
    MAX_HEAD_BYTES,
    MAX_HEADERS,
    STRICT,
    Guard,
    Refusal,
    Request,
    own_names,
    read,
    response,
)

TOKEN = "b7e1c2-a-long-random-word"
PLAIN = Guard(own_names("pi4"), public=frozenset(["/", "/health"]))
API = Guard(
    own_names("pi4"), ("GET", "HEAD", "POST"), frozenset(["/"]), token=TOKEN, max_body=1_000
)


def head(*lines: str) -> bytes:
    return "\r\n".join([*lines, "", ""]).encode("latin-1")


def status(data: bytes) -> int:
    found = read(data)
    assert isinstance(found, (Request, Refusal))
    return found.status if isinstance(found, Refusal) else 200


# --- reading --------------------------------------------------------------------------------------


def test_a_request() -> None:
    found = read(
        head("POST /a/b?x=1&y HTTP/1.1", "Host: pi4", "content-LENGTH:  7\t", "X:") + b"{}"
    )
    assert found == Request(
        "POST", "/a/b", "x=1&y", {"host": "pi4", "content-length": "7", "x": ""}, 7
    )
    several = read(head("GET / HTTP/1.1", "Host: pi4", "Accept: a", "Accept: b, \xff"))
    assert isinstance(several, Request) and several.headers["accept"] == "a, b, \xff"
    old = read(head("GET / HTTP/1.0"))
    assert isinstance(old, Request) and old.headers == {}


def test_nothing_is_said_before_the_head_is_there() -> None:
    whole = head("GET /health HTTP/1.1", "Host: pi4", "X-Long: " + "a" * 500)
    for end in range(len(whole)):
        assert read(whole[:end]) is None
    assert read(whole + b"and more\n") == read(whole)


@pytest.mark.parametrize(
    "first",
    [
        "", " ", "GET", "GET /", "GET / HTTP", "GET / HTTP/1", "GET / HTTP/11", "GET / HTTP/1.1\t",
        "GET  / HTTP/1.1", "GET / HTTP/1.1 ", " GET / HTTP/1.1", "GET\t/ HTTP/1.1", "GET / http/1.",
        "G(T / HTTP/1.1", "G\xc9T / HTTP/1.1", "A" * 33 + " / HTTP/1.1", "GET /a b HTTP/1.1",
        "GET http://pi4/ HTTP/1.1", "GET //pi4@x\\ HTTP/1.1", "GET * HTTP/1.1", "GET pi4 HTTP/1.1",
        "GET /\x00 HTTP/1.1", "GET /\x7f HTTP/1.1", "GET /\xe9 HTTP/1.1", "GET /#a HTTP/1.1",
        "GET /\x0b HTTP/1.1", 'GET /" HTTP/1.1', "GET /<b> HTTP/1.1", "GET /{x} HTTP/1.1",
    ],
)  # fmt: skip
def test_first_lines_that_are_none(first: str) -> None:
    assert status(head(first, "Host: pi4")) == 400


@pytest.mark.parametrize("version", ["0.9", "2.0", "3.0"])
def test_other_versions(version: str) -> None:
    assert status(head(f"GET / HTTP/{version}", "Host: pi4")) == 505


@pytest.mark.parametrize(
    "header",
    [
        " folded", "\tfolded", "X : a", " X: a", "X", ": a", "X\x00: a", "X: \x00", "X: a\x7fb",
        "X: a\x0bb", "(X): a", "X\xe9: a", "Host: pi4", "host: evil.example",
        "Content-Length: 1\r\nContent-Length: 1", "Authorization: a\r\nAuthorization: b",
        "Origin: null\r\nOrigin: http://pi4", "Content-Type: a\r\nContent-Type: b",
        "Content-Length: +1", "Content-Length: -1", "Content-Length: 1,1", "Content-Length: 0x1",
        "Content-Length: ", "Content-Length: \xb2", "Content-Length: 1 1",
        "Content-Length: 1\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: chunked\r\nContent-Length: 1",
        "Transfer-Encoding: identity\r\nTransfer-Encoding: chunked",
    ],
)  # fmt: skip
def test_headers_that_are_none(header: str) -> None:
    assert status(head("GET / HTTP/1.1", "Host: pi4", header, "A: b")) == 400


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\nHost: pi4\n\n",
        b"GET / HTTP/1.1\r\nHost: pi4\n",
        b"GET / HTTP/1.1\r\nHost: pi4\r\nX: a\nY: b\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: pi4\r\nX: a\rb\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: pi4\r\r\n\r\n",
        b"GET / HTTP/1.1\r\r\nHost: pi4\r\n\r\n",
        b"\n",
        b"\rG",
    ],
)
def test_lines_that_end_otherwise(data: bytes) -> None:
    assert status(data) == 400


def test_bodies_of_unknown_or_mad_length() -> None:
    assert status(head("POST / HTTP/1.1", "Host: pi4", "Transfer-Encoding: chunked")) == 411
    for digits in ("9" * 13, "9" * 5_000):
        assert status(head("POST / HTTP/1.1", "Host: pi4", f"Content-Length: {digits}")) == 413


def test_a_host_must_be_named() -> None:
    assert status(head("GET / HTTP/1.1")) == 400
    assert status(head("GET / HTTP/1.0")) == 200


def test_limits() -> None:
    fits = "X: " + "a" * (MAX_HEAD_BYTES - len(head("GET / HTTP/1.1", "Host: pi4", "X: ")) + 4)
    assert status(head("GET / HTTP/1.1", "Host: pi4", fits)) == 200
    assert status(head("GET / HTTP/1.1", "Host: pi4", fits + "a")) == 431
    assert status(b"a" * (MAX_HEAD_BYTES + 1)) == 431  # before its end is there
    many = [f"X{n}: a" for n in range(MAX_HEADERS - 1)]
    assert status(head("GET / HTTP/1.1", "Host: pi4", *many)) == 200
    assert status(head("GET / HTTP/1.1", "Host: pi4", *many, "Y: a")) == 431


# --- judging --------------------------------------------------------------------------------------


def ask(guard: Guard, line: str = "GET /data", host: str = "pi4:8080", **more: str) -> int:
    """What the guard says to a request: a status, 200 for nothing."""
    headers = [f"{name.replace('_', '-')}: {value}" for name, value in more.items()]
    request = read(head(f"{line} HTTP/1.1", f"Host: {host}", *headers))
    assert isinstance(request, Request), request
    why = guard.check(request)
    return why.status if why else 200


@pytest.mark.parametrize(
    "host",
    [
        "pi4", "PI4", "pi4.", "pi4:8080", "pi4.local", "Pi4.Local:1", "pi4.lan", "pi4.home.arpa",
        "localhost", "LOCALHOST:5000", "127.0.0.1", "192.168.1.11:5000", "255.255.255.255",
        "0.0.0.0", "[::1]", "[::1]:5000", "[fe80::1%eth0]:5000", "[::ffff:10.0.0.1]",
    ],
)  # fmt: skip
def test_names_of_this_machine(host: str) -> None:
    assert ask(PLAIN, "GET /health", host) == 200


@pytest.mark.parametrize(
    "host",
    [
        "", "evil.example", "evil.example:5000", "pi4.evil.example", "pi4.local.evil.example",
        "pi5", "localhost.evil.example", "127.0.0.1.evil.example", "127.0.0.1.nip.io", "256.0.0.1",
        "1.2.3", "1.2.3.4.5", "127.1", "2130706433", "0x7f.0.0.1", "pi4:", "pi4:x", "pi4:123456",
        "pi4 evil", "pi4,evil.example", "pi4@evil.example", "evil.example@pi4", "pi4/",
        "[evil.example]", "[::1", "::1", "[]", ".", "-", "*", "xn--pi4",
        "pi4\xe9", "\xb2.0.0.1", "..pi4",
    ],
)  # fmt: skip
def test_names_of_strangers(host: str) -> None:
    assert ask(PLAIN, "GET /health", host) == 421


def test_which_names_a_machine_has() -> None:
    names = own_names("Pi4", "worker-1", "box.fritz.box", "192.168.1.5", "::1", None, "")
    assert {"pi4", "pi4.local", "worker-1.lan", "box", "box.fritz.box", "box.local"} <= names
    assert not [name for name in names if name.startswith(("192", ":", ".")) or not name]


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "TRACE", "CONNECT", "get"])
def test_methods(method: str) -> None:
    assert ask(PLAIN, f"{method} /health", Sec_Fetch_Site="cross-site") == 405


@pytest.mark.parametrize(
    "query",
    [
        "token=x", "a=1&Token=x", "a;token=x", "key=x", "api_key=x", "apikey=x", "API-KEY=",
        "secret=x", "access_token=x", "%74oken=x", "client_secret=x", "password=x", "pass=1",
        "auth=x", "token", "a=1&&+key+=x", "pibot_http_token=x",
    ],
)  # fmt: skip
def test_no_secrets_in_addresses(query: str) -> None:
    assert ask(PLAIN, f"GET /health?{query}") == 400


@pytest.mark.parametrize("query", ["keyword=x", "monkey=1", "probe=token", "author=me", "", "a&b"])
def test_other_words_in_addresses(query: str) -> None:
    assert ask(PLAIN, f"GET /health?{query}") == 200


@pytest.mark.parametrize(
    "line", [f"/data?probe={TOKEN}", f"/{TOKEN}", f"/?{TOKEN.replace('-', '%2d')}"]
)
def test_the_token_is_in_no_address(line: str) -> None:
    assert ask(API, f"GET {line}", Authorization=f"Bearer {TOKEN}") == 400


@pytest.mark.parametrize(
    ("authorization", "expected"),
    [
        (f"Bearer {TOKEN}", 200),
        (f"bearer  {TOKEN} ", 200),
        (f"Bearer {TOKEN}x", 401),
        (f"Bearer {TOKEN[:-1]}", 401),
        (f"Bearer {TOKEN.upper()}", 401),
        ("Bearer \xe9", 401),
        ("Bearer", 401),
        ("Bearer ", 401),
        (f"Basic {TOKEN}", 401),
        (TOKEN, 401),
        (None, 401),
    ],
)
def test_the_token(authorization: Optional[str], expected: int) -> None:
    more = {"Authorization": authorization} if authorization is not None else {}
    assert ask(API, "GET /data", **more) == expected
    assert ask(API, "GET /", **more) == 200  # which is public


def test_an_empty_token_lets_nobody_in() -> None:
    closed = Guard(own_names("pi4"), token="")
    assert ask(closed) == ask(closed, Authorization="Bearer ") == 401


FOREIGN: Dict[str, Dict[str, str]] = {
    "another site": {"Origin": "http://evil.example"},
    "another port": {"Origin": "http://pi4:9999"},
    "another scheme": {"Origin": "ftp://pi4:8080"},
    "a file or a sandbox": {"Origin": "null"},
    "a beginning": {"Origin": "http://pi4:8080.evil.example"},
    "user info": {"Origin": "http://pi4:8080@evil.example"},
    "fetched from elsewhere": {"Sec_Fetch_Site": "cross-site"},
    "a neighbour": {"Sec_Fetch_Site": "same-site"},
    "one that claims both": {"Sec_Fetch_Site": "same-origin", "Origin": "http://evil.example"},
    "the other way": {"Sec_Fetch_Site": "cross-site", "Origin": "http://pi4:8080"},
}


@pytest.mark.parametrize("more", FOREIGN.values(), ids=FOREIGN)
def test_pages_of_other_sites(more: Dict[str, str]) -> None:
    bearer = {"Authorization": f"Bearer {TOKEN}"}
    assert ask(PLAIN, "GET /data", **more) == 403
    assert ask(API, "GET /data", **more, **bearer) == 403
    json_body = {"Content_Type": "application/json", "Content_Length": "2"}
    assert ask(API, "POST /data", **more, **bearer, **json_body) == 403
    assert ask(API, "POST /", **more, **bearer, **json_body) == 403  # public only for reading
    assert ask(PLAIN, "GET /health", **more) == 200  # a link to it may stand anywhere


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"Origin": "http://pi4:8080"},
        {"Origin": "HTTP://Pi4:8080"},
        {"Origin": "https://pi4:8080"},
        {"Sec_Fetch_Site": "same-origin", "Origin": "http://pi4:8080"},
        {"Sec_Fetch_Site": "none"},
    ],
)
def test_our_own_pages(more: Dict[str, str]) -> None:
    assert ask(PLAIN, "GET /data", **more) == 200


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("application/json", 200),
        ("Application/JSON ; charset=utf-8", 200),
        ("text/plain", 415),
        ("application/x-www-form-urlencoded", 415),
        ("multipart/form-data; boundary=application/json", 415),
        ("application/json-seq", 415),
        ("text/plain, application/json", 415),
        (None, 415),
    ],
)
def test_what_a_body_may_be(kind: Optional[str], expected: int) -> None:
    more = {"Content_Type": kind} if kind is not None else {}
    for length in ("2", "0"):  # a form without a field is still one
        more.update(Authorization=f"Bearer {TOKEN}", Content_Length=length)
        assert ask(API, "POST /data", **more) == expected


def test_how_long_a_body_may_be() -> None:
    more = {"Authorization": f"Bearer {TOKEN}", "Content_Type": "application/json"}
    assert ask(API, "POST /data", **more, Content_Length="1000") == 200
    assert ask(API, "POST /data", **more, Content_Length="1001") == 413
    assert ask(PLAIN, "GET /health", Content_Length="1", Content_Type="application/json") == 413


# --- answering ------------------------------------------------------------------------------------


def test_no_secret_is_shown() -> None:
    request = read(head("GET /a?word=abc HTTP/1.1", "Host: pi4", f"Authorization: Bearer {TOKEN}"))
    assert TOKEN not in repr(API) + repr(request) and "abc" not in repr(request)


@pytest.mark.parametrize("why", [Refusal(401, "no"), Refusal(405, "no"), Refusal(999, "no")])
def test_what_a_refusal_says(why: Refusal) -> None:
    said, _, body = API.answer(why).decode().partition("\r\n\r\n")
    first, *lines = said.split("\r\n")
    assert first.startswith(f"HTTP/1.1 {why.status} ") and json.loads(body) == {"error": "no"}
    assert f"Content-Length: {len(body)}" in lines and set(STRICT) <= set(lines)
    assert ("Allow: GET, HEAD, POST" in lines) == (why.status == 405)
    assert ("WWW-Authenticate: Bearer" in lines) == (why.status == 401)
    assert "Access-Control" not in said and "Server" not in said
    assert API.answer(why, head=True).decode() == said + "\r\n\r\n"


def test_an_answer_of_another_kind() -> None:
    said = response(200, "é".encode(), "text/html; charset=utf-8", ["Content-Language: fr"])
    assert said.startswith(b"HTTP/1.1 200 OK\r\nContent-Type: text/html; charset=utf-8\r\n")
    assert b"\r\nContent-Length: 2\r\n" in said and b"\r\nContent-Language: fr\r\n" in said
