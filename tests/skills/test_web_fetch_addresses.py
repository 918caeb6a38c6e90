"""What may be fetched: URLs, the addresses behind names, and redirects."""

from __future__ import annotations

import socket
from ipaddress import IPv6Address
from pathlib import Path
from typing import Any, Iterator

import pytest

from pibot.agent.tools import Context
from pibot.errors import SkillError
from pibot.skills._hosts import WebPolicy
from pibot.skills._urls import parse
from pibot.skills.web_fetch import fetch
from skills.web_server import CLOSED, Names, Server, context, html, moved, serving


@pytest.fixture
def server() -> Iterator[Server]:
    with serving() as started:
        yield started


@pytest.fixture
def ctx(tmp_path: Path) -> Context:
    return context(tmp_path)


@pytest.mark.parametrize(
    "host",
    [
        *("127.0.0.1", "127.1", "2130706433", "0x7f.1", "0x7f000001", "017700000001", "0"),
        *("localhost", "LOCALHOST", "localhost.", "127.0.0.1.", "127。0。0。1", "①②⑦.⓪.⓪.①"),
        *("[::1]", "[::]", "[::ffff:127.0.0.1]", "[::ffff:7f00:1]", "[::127.0.0.1]"),
        *("[64:ff9b::7f00:1]", "[2002:7f00:1::]", "[fe80::1]", "[fd00::1]", "10.0.0.1"),
        *("192.168.1.1", "169.254.169.254", "100.64.0.1", "0.0.0.0", "224.0.0.1"),
    ],
)
def test_addresses_that_are_not_public(server: Server, ctx: Context, host: str) -> None:
    with pytest.raises(SkillError, match=r"refused: .* address|was not found|not a valid name"):
        fetch(f"http://{host}:{server.port}/", CLOSED, ctx)
    assert server.requests == []


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("", "only http"),
        ("example.com", "only http"),
        ("ftp://example.com/", "only http"),
        ("file:///etc/passwd", "only http"),
        ("javascript:alert(1)", "only http"),
        ("http:/example.com", "not a valid name"),
        ("http://", "not a valid name"),
        ("http://user@example.com/", "leave out the user name"),
        ("http://user:pass@example.com/", "leave out the user name"),
        ("http://example.com@127.0.0.1/", "leave out the user name"),
        ("http://example.com\\@127.0.0.1/", "backslash"),
        ("http://127.0.0.1\\.example.com/", "backslash"),
        ("http://example.com/\r\nHost: evil", "control character"),
        ("http://example.com/a b", "space"),
        ("http://exa\tmple.com/", "control character"),
        ("http://example.com/\x00", "control character"),
        ("http://example.com/\ud800", "control character"),
        ("http://example.com:99999/", "no port 99999"),
        ("http://example.com:x/", "not a URL"),
        ("http://example.com:0/", "no port 0"),
        ("http://[::1/", "not a URL"),
        ("http://[nonsense]/", "not a URL"),
        ("http://example.com[::1]/", "not a URL"),
        ("http://[::1]example.com/", "not a URL"),
        ("http://[127.0.0.1]/", "not a URL"),
        ("http://::1/", "not a valid name"),
        ("http://example.com:80:80/", "not a valid name"),
        ("http://example.com:８0/", "not a valid name|not a URL"),
        ("http://[fe80::1%25eth0]/", "not a URL"),
        ("http://exa mple.com/", "space"),
        ("http://exa%6dple.com/", "not a valid name"),
        ("http://a..b/", "not a valid name"),
        ("http://" + "a" * 64 + ".com/", "not a valid name"),
        ("http://℀.com/", "not a URL"),
        ("http://example.com/" + "a" * 9000, "longer than"),
    ],
)
def test_urls_that_are_none(url: str, problem: str, ctx: Context) -> None:
    def never(*_: Any, **__: Any) -> list[Any]:
        raise AssertionError("was resolved")

    with pytest.raises(SkillError, match=problem) as caught:
        fetch(url, WebPolicy(frozenset({"127.0.0.1"})), ctx, never)
    assert "\r" not in str(caught.value)
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize(
    ("url", "normal"),
    [
        ("HTTP://Example.COM", "http://example.com/"),
        ("http://example.com:80/a?b#c", "http://example.com/a?b"),
        ("https://example.com:80//a//b", "https://example.com:80//a//b"),
        ("http://bücher.example/ü?ü", "http://xn--bcher-kva.example/%C3%BC?%C3%BC"),
        ("http://[::FFFF:1.2.3.4]:8080", f"http://[{IPv6Address('::ffff:1.2.3.4')}]:8080/"),
        ("http://e.org/%7e%2F\"<>'", "http://e.org/%7e%2F%22%3C%3E%27"),
        ("http://e.org?x=1", "http://e.org/?x=1"),
    ],
)
def test_normal_form(url: str, normal: str) -> None:
    assert parse(url).url.replace("'", "%27") == normal


def test_an_unknown_name(ctx: Context) -> None:
    with pytest.raises(SkillError, match="no-such-host.invalid was not found"):
        fetch("http://no-such-host.invalid/", CLOSED, ctx)


def test_a_name_is_resolved_once(server: Server, ctx: Context) -> None:
    """What was checked is what is connected to: a second answer (rebinding) is never asked for."""
    server.routes["/"] = html("one")
    names = Names(server.port, ["127.0.0.1"], ["192.0.2.1"])
    data = fetch("http://rebind.test/", WebPolicy(frozenset({"rebind.test"})), ctx, names)
    assert data["text"] == "one"
    assert names.asked == ["rebind.test"]
    assert "Host: rebind.test\r\n" in server.requests[0]


def test_one_bad_address_is_enough(server: Server, ctx: Context) -> None:
    names = Names(server.port, ["1.1.1.1", "127.0.0.1"])
    with pytest.raises(SkillError, match="mixed.test has a loopback address"):
        fetch("http://mixed.test/", CLOSED, ctx, names)
    assert server.requests == []


def test_the_next_address_is_tried(server: Server, ctx: Context) -> None:
    server.routes["/"] = html("second")
    names = Names(server.port, ["127.0.0.2", "127.0.0.1"])
    allowed = WebPolicy(frozenset({"two.test"}))
    assert fetch("http://two.test/", allowed, ctx, names)["text"] == "second"


@pytest.mark.parametrize(
    ("to", "problem"),
    [
        ("http://evil.test/", "a loopback address"),
        ("http://127.0.0.1:{port}/secret", "a loopback address"),
        ("http://[::ffff:127.0.0.1]:{port}/secret", "a loopback address"),
        ("//127.1:{port}/secret", "a loopback address|was not found"),
        ("http://start.test@127.0.0.1/", "leave out the user name"),
        ("file:///etc/passwd", "only http"),
        ("http://[", "no URL"),
        ("http://a\\b/", "backslash"),
    ],
)
def test_each_redirect_is_checked(server: Server, ctx: Context, to: str, problem: str) -> None:
    server.routes["/"] = moved(to.format(port=server.port))
    names = Names(server.port, ["127.0.0.1"], ["127.0.0.1"])

    def resolve(host: str, port: int, **options: Any) -> list[Any]:
        if host.endswith(".test"):
            return names(host, port)
        return socket.getaddrinfo(host, port, **options)

    with pytest.raises(SkillError, match=problem):
        fetch("http://start.test/", WebPolicy(frozenset({"start.test"})), ctx, resolve)
    assert len(server.requests) == 1


def test_a_redirect_to_the_same_name_is_checked_again(server: Server, ctx: Context) -> None:
    server.routes["/"] = moved("/again")
    names = Names(server.port, ["127.0.0.1"], ["127.0.0.1"])
    server.routes["/again"] = html("again")
    fetch("http://start.test/", WebPolicy(frozenset({"start.test"})), ctx, names)
    assert names.asked == ["start.test", "start.test"]


def test_a_redirect_loop_ends(server: Server, ctx: Context) -> None:
    server.routes["/"] = moved("/")
    with pytest.raises(SkillError, match="redirects more than 5 times"):
        fetch(server.url, server.policy, ctx)
    assert len(server.requests) == 6
