"""Servers that send a client elsewhere: inside, to other schemes, in circles, away with a token.

A trap listens on all addresses of this machine: nothing may connect to it.
"""

from __future__ import annotations

from typing import Any, Dict, Iterator

import pytest

from security.hands import CANARY, Hands
from security.trap import Trap, trap
from skills.web_server import Server, answer, moved, serving

TARGETS: Dict[str, str] = {
    "loopback": "http://127.0.0.1:{trap}/",
    "loopback, short": "//127.1:{trap}/",
    "loopback as one number": "http://2130706433:{trap}/",
    "loopback in hexadecimal": "http://0x7f000001:{trap}/",
    "loopback in wide digits": "http://１２７.0.0.1:{trap}/",
    "loopback over IPv6": "http://[::1]:{trap}/",
    "a mapped address": "http://[::ffff:127.0.0.1]:{trap}/",
    "NAT64": "http://[64:ff9b::7f00:1]:{trap}/",
    "all addresses": "http://0:{trap}/",
    "by name": "http://localhost:{trap}/",
    "the metadata service": "http://169.254.169.254/latest/meta-data/",
    "a private network": "http://192.168.0.1/",
    "another port of the same host": "http://127.0.0.1:{trap}/",
    "TLS on the way in": "https://127.0.0.1:{trap}/",
    "a user name in front": "http://start@127.0.0.1:{trap}/",
    "the listed host as a user name": "http://127.0.0.1:{start}@127.0.0.1:{trap}/",
    "backslashes": "http:\\\\127.0.0.1:{trap}\\",
    "backslash and @": "http://127.0.0.1:{start}\\@127.0.0.1:{trap}/",
    "a file": "file://{canary}",
    "a file of a host": "file://localhost{canary}",
    "gopher": "gopher://127.0.0.1:{trap}/_GET%20/%20HTTP/1.0%0d%0a%0d%0a",
    "ftp": "ftp://127.0.0.1:{trap}/",
    "data": "data:text/plain,secret",
    "javascript": "javascript:alert('secret')",
    "another header": "/\r\n X-Evil: 1",
    "a control character": "http://127.0.0.1:{trap}/\x01",
    "no URL": "http://[",
    "a URL without end": "http://127.0.0.1:{start}/" + "a" * 9000,
    "no port": "http://127.0.0.1:99999/",
}


@pytest.fixture(scope="module")
def guarded() -> Iterator[Trap]:
    with trap() as made:
        yield made


@pytest.fixture
def start() -> Iterator[Server]:
    with serving() as made:
        yield made


def url_of(to: str, hands: Hands, guarded: Trap, start: Server) -> str:
    values = {"trap": guarded.port, "start": start.port, "canary": hands.canary}
    for name, value in values.items():
        to = to.replace("{" + name + "}", str(value))
    return to


@pytest.mark.parametrize("status", [302, 307])
@pytest.mark.parametrize("name", TARGETS)
def test_nobody_is_led_inside(
    hands: Hands, guarded: Trap, start: Server, name: str, status: int
) -> None:
    guarded.seen.clear()
    to = url_of(TARGETS[name], hands, guarded, start)
    start.routes["/"] = moved(to).replace(b"302 Found", b"%d Go" % status)
    permits = {"web_allow": [start.url[7:]]}
    for skill in ("web_fetch", "web_download"):
        done = hands.call(skill, {"url": start.url}, permits=permits)
        assert not done["success"], done
        assert guarded.seen == []
        assert "secret" not in str(done["data"]) and CANARY not in str(done)
    assert len(start.requests) == 2
    assert list(hands.workspace.iterdir()) == []


CIRCLES: Dict[str, Dict[str, str]] = {
    "to itself": {"/": "/"},
    "in a circle": {"/": "/a", "/a": "/b", "/b": "/"},
    "ever further": {"/" + "x" * n: "/" + "x" * (n + 1) for n in range(20)},
    "to itself as another URL": {"/": "?", "/?": "/"},
    "to itself with another fragment": {"/": "#a"},
}


@pytest.mark.parametrize("name", CIRCLES)
def test_a_circle_ends(hands: Hands, start: Server, name: str) -> None:
    start.routes.update({path: moved(to) for path, to in CIRCLES[name].items()})
    permits = {"web_allow": [start.url[7:]]}
    done = hands.call("web_fetch", {"url": start.url}, permits=permits)
    assert not done["success"] and "redirects more than 5 times" in done["output"]
    assert len(start.requests) == 6


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize("to", ["{other}/", "{same}/again", "//{listed}/"])
def test_a_token_stays_with_its_host(
    hands: Hands, start: Server, status: int, method: str, to: str
) -> None:
    """Neither the token nor the body goes on, not even to another listed host."""
    with serving() as other:
        there = to.format(other=other.url, same=start.url, listed=other.url[7:])
        start.routes["/"] = moved(there).replace(b"302 Found", b"%d Go" % status)
        permits: Dict[str, Any] = {
            "hosts": [start.url[7:], other.url[7:]],
            "host_tokens": {start.url[7:]: CANARY},
        }
        args = {"url": start.url, "method": method, "body": "" if method == "GET" else "x"}
        done = hands.call("http_request", args, permits=permits)
        assert not done["success"] and other.requests == []
        assert len(start.requests) == 1 and f"Bearer {CANARY}" in start.requests[0]
        assert CANARY not in str(done)


def test_a_secret_address_for_messages_leads_nowhere_else(hands: Hands, start: Server) -> None:
    with serving() as other:
        start.routes["/topic"] = moved(f"{other.url}/topic")
        permits = {"notify_url": f"http://u:{CANARY}@{start.url[7:]}/topic"}
        done = hands.call("notify", {"message": "x"}, permits=permits)
        assert not done["success"] and other.requests == []
        assert len(start.requests) == 1
        assert CANARY not in str(done) and start.url[7:] not in str(done)


def test_what_may_be_followed_is(hands: Hands, start: Server) -> None:
    """Else the cases above would prove nothing."""
    start.routes.update({"/": moved("/a"), "/a": moved(f"{start.url}/b"), "/b": answer("there")})
    done = hands.call("web_fetch", {"url": start.url}, permits={"web_allow": [start.url[7:]]})
    assert done["success"] and done["data"]["text"] == "there"
