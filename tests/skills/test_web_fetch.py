"""Fetching from real servers on this machine, friendly and hostile ones."""

from __future__ import annotations

import gzip
import json
import os
import shutil
import socket
import ssl
import subprocess
import threading
import time
from contextlib import contextmanager
from ipaddress import IPv6Address
from pathlib import Path
from typing import Any, Callable, Iterator

import pytest

from pibot.agent.tools import Context, Toolbox
from pibot.errors import SkillError
from pibot.fleet import phrases
from pibot.skills._connect import WebPolicy, parse
from pibot.skills.web_fetch import fetch, web_fetch

Answer = Callable[[socket.socket], None]
CLOSED = WebPolicy()


class Server:
    """Answers each path with the bytes, or by the function, that `routes` has for it."""

    def __init__(self, tls: ssl.SSLContext | None = None, host: str = "127.0.0.1") -> None:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._listener = socket.create_server((host, 0), family=family)
        self._tls = tls
        self.port = self._listener.getsockname()[1]
        self.url = f"http{'s' if tls else ''}://{f'[{host}]' if ':' in host else host}:{self.port}"
        self.routes: dict[str, bytes | Answer] = {}
        self.requests: list[str] = []  # heads, as they came
        self.policy = WebPolicy(frozenset({self.url.split("//")[1]}))
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)  # wakes accept(), which else keeps it open
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        try:
            if self._tls:
                connection = self._tls.wrap_socket(connection, server_side=True)
            head = b""
            while b"\r\n\r\n" not in head:
                received = connection.recv(65536)
                if not received:
                    return
                head += received
            self.requests.append(head.decode("latin-1"))
            answer = self.routes[head.split()[1].decode("latin-1")]
            if callable(answer):
                answer(connection)
            else:
                connection.sendall(answer)
        except OSError:
            pass  # the client went away, which many of these tests are about
        finally:
            connection.close()


@contextmanager
def serving(**options: Any) -> Iterator[Server]:
    started = Server(**options)
    try:
        yield started
    finally:
        started.close()


@pytest.fixture
def server() -> Iterator[Server]:
    with serving() as started:
        yield started


@pytest.fixture
def ctx(tmp_path: Path) -> Context:
    return context(tmp_path)


def context(workspace: Path = Path("/"), seconds: float = 10.0) -> Context:
    return Context(workspace, threading.Event(), time.monotonic() + seconds, "t:1")


def answer(body: bytes | str = b"", *headers: str, status: str = "200 OK") -> bytes:
    data = body.encode() if isinstance(body, str) else body
    lines = [f"HTTP/1.1 {status}", *headers]
    if not any(line.lower().startswith(("content-length", "transfer-")) for line in lines):
        lines.append(f"Content-Length: {len(data)}")
    return "\r\n".join([*lines, "", ""]).encode() + data


def html(body: bytes | str, *headers: str) -> bytes:
    return answer(body, "Content-Type: text/html; charset=utf-8", *headers)


def moved(to: str) -> bytes:
    return answer(b"", f"Location: {to}", status="302 Found")


# -- what it brings back -----------------------------------------------------------------------


def test_a_page(server: Server, ctx: Context) -> None:
    server.routes["/a%20b?q=%E6%B8%A9&x"] = html(
        "<title>T</title><h1>Hi</h1><p>温度 &amp; more</p>"
    )
    data = fetch(f"{server.url}/a%20b?q=温&x#part", server.policy, ctx)
    assert data == {
        "url": f"{server.url}/a%20b?q=%E6%B8%A9&x",
        "status": 200,
        "content_type": "text/html",
        "title": "T",
        "text": "# Hi\n\n温度 & more",
        "truncated": False,
    }
    assert f"Host: 127.0.0.1:{server.port}\r\n" in server.requests[0]


@pytest.mark.parametrize("kind", ["text/plain", "application/json", "application/ld+json"])
def test_text_passes_through(server: Server, ctx: Context, kind: str) -> None:
    document = '{"b": [1, "<p>"]}\r\n'
    server.routes["/"] = answer(document, f"Content-Type: {kind}")
    data = fetch(server.url, server.policy, ctx)
    assert (data["text"], data["title"]) == ('{"b": [1, "<p>"]}\n', "")
    assert data["content_type"] == kind


@pytest.mark.parametrize(
    ("header", "body", "text"),
    [
        ("text/html; charset=gbk", "温度".encode("gbk"), "温度"),
        ("text/html; charset=GB2312", "朱镕基".encode("gbk"), "朱镕基"),
        ("text/html", b'<meta charset="gbk">' + "温度".encode("gbk"), "温度"),
        ("text/html", b'<meta content="text/html; charset=big5">' + "溫度".encode("big5"), "溫度"),
        ("text/html", "温度".encode(), "温度"),
        ("text/plain", "温度".encode("gbk"), "温度"),
        ("text/plain; charset=utf-8", "\ufeff温度".encode(), "温度"),
        ("text/plain; charset=gbk", "\ufeff温度".encode(), "温度"),
        ("text/plain", "温度".encode("utf-16"), "温度"),
        ("text/plain; charset=iso-8859-1", b"5 \x80", "5 €"),
        ("text/plain", b"caf\xe9", "café"),
        ("text/plain; charset=utf-8", b"a\xffb", "a\ufffdb"),
        ("text/plain; charset=punycode", b"a-b", "a-b"),
        ("text/plain; charset=zlib", b"a", "a"),
        ("text/plain; charset=no\x01such", b"a", "a"),
    ],
)
def test_charsets(server: Server, ctx: Context, header: str, body: bytes, text: str) -> None:
    server.routes["/"] = answer(body, f"Content-Type: {header}")
    assert fetch(server.url, server.policy, ctx)["text"] == text


@pytest.mark.parametrize(
    ("body", "text"), [(b"plain", "plain"), (b" <!DOCTYPE html><p>a", "a"), (b"<p>a", "<p>a")]
)
def test_a_missing_content_type(server: Server, ctx: Context, body: bytes, text: str) -> None:
    server.routes["/"] = answer(body)
    assert fetch(server.url, server.policy, ctx)["text"] == text


def test_chunks(server: Server, ctx: Context) -> None:
    body = b"5;x=y\r\n<p>ab\r\n1\r\nc\r\n0\r\nTrailer: x\r\n\r\n"
    server.routes["/"] = html(body, "Transfer-Encoding: chunked")
    assert fetch(server.url, server.policy, ctx)["text"] == "abc"


def test_gzip(server: Server, ctx: Context) -> None:
    server.routes["/"] = html(gzip.compress(b"<p>packed"), "Content-Encoding: gzip")
    assert fetch(server.url, server.policy, ctx)["text"] == "packed"


def test_until_the_connection_ends(server: Server, ctx: Context) -> None:
    server.routes["/"] = b"HTTP/1.0 200 OK\r\nContent-Type: text/plain\r\n\r\nall of it"
    assert fetch(server.url, server.policy, ctx)["text"] == "all of it"


def test_redirects_are_followed(server: Server, ctx: Context) -> None:
    server.routes.update(
        {"/": moved("/a"), "/a": moved("b c#x"), "/b%20c": moved("//" + server.url[7:] + "/温")}
    )
    server.routes["/%E6%B8%A9"] = html("there")
    data = fetch(server.url, server.policy, ctx)
    assert (data["text"], data["url"]) == ("there", f"{server.url}/%E6%B8%A9")


def test_proxies_are_ignored(server: Server, ctx: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    server.routes["/"] = html("direct")
    assert fetch(server.url, server.policy, ctx)["text"] == "direct"


def test_ipv6(ctx: Context) -> None:
    try:
        started = Server(host="::1")
    except OSError:
        pytest.skip("no IPv6 on this machine")
    started.routes["/"] = html("six")
    assert fetch(started.url, started.policy, ctx)["text"] == "six"
    assert f"Host: [::1]:{started.port}\r\n" in started.requests[0]
    with pytest.raises(SkillError, match="a loopback address"):
        fetch(started.url, CLOSED, ctx)
    started.close()


# -- the skill ---------------------------------------------------------------------------------


def call(ctx: Context, **args: Any) -> Any:
    return Toolbox([web_fetch.__skill__]).call("web_fetch", args, ctx)  # type: ignore[attr-defined]


def test_the_skill(server: Server, ctx: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    server.routes["/"] = html("<title>News</title><p>" + "温" * 50)
    refused = call(ctx, url=server.url)
    assert not refused.success
    assert "has a loopback address" in refused.output
    assert f"PIBOT_WEB_ALLOW=127.0.0.1:{server.port}" in refused.output
    assert server.requests == []

    monkeypatch.setenv("PIBOT_WEB_ALLOW", f"nas.local, 127.0.0.1:{server.port}")
    result = call(ctx, url=f" {server.url} ", max_chars=20)
    assert result.success
    assert result.data["text"] == "温" * 20
    assert result.data["truncated"] is True
    assert result.output == f"News\n{server.url}/\n\n{'温' * 20}\n… (cut: 20 of 50 characters)"
    json.dumps(result.to_json())


@pytest.mark.parametrize(
    "sentence",
    [
        *("fetch {}", "Please open the page {} on worker-2.", "download {}", "get this url: {}"),
        *("在 worker-2 上抓取 {}", "打开网页{}", "请访问 {}。", "读取一下 {}"),
    ],
)
def test_sentences(sentence: str) -> None:
    offered = Toolbox([web_fetch.__skill__]).announce()  # type: ignore[attr-defined]
    found = phrases.match(sentence.format("https://example.com/x"), offered, ["worker-2"])
    assert found is not None
    assert (found.skill, found.args) == ("web_fetch", {"url": "https://example.com/x"})
    assert phrases.match(f"summarise {'https://example.com/x'}", offered, []) is None


def test_max_chars_has_bounds(ctx: Context) -> None:
    assert "max_chars must be" in call(ctx, url="http://127.0.0.1", max_chars=0).output


@pytest.mark.parametrize("entry", ["127.0.0.1", "127.0.0.1:{port}", " 127.0.0.1:{port} ,x"])
def test_what_is_allowed(
    server: Server, ctx: Context, monkeypatch: pytest.MonkeyPatch, entry: str
) -> None:
    server.routes["/"] = html("in")
    monkeypatch.setenv("PIBOT_WEB_ALLOW", entry.format(port=server.port))
    assert call(ctx, url=server.url).success


@pytest.mark.parametrize("entry", ["", ",", "127.0.0.1:1", "localhost", "127.0.0", "*", "0.0.0.0"])
def test_what_is_not_allowed(
    server: Server, ctx: Context, monkeypatch: pytest.MonkeyPatch, entry: str
) -> None:
    monkeypatch.setenv("PIBOT_WEB_ALLOW", entry)
    assert not call(ctx, url=server.url).success
    assert server.requests == []


# -- URLs and addresses ------------------------------------------------------------------------


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


class Names:
    """A resolver that answers each question with the next of its addresses, and counts."""

    def __init__(self, port: int, *answers: list[str]) -> None:
        self.port = port
        self.answers = list(answers)
        self.asked: list[str] = []

    def __call__(self, host: str, port: int, **_: Any) -> list[Any]:
        self.asked.append(host)
        addresses = self.answers.pop(0)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (a, self.port)) for a in addresses]


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


# -- answers that are not what was asked for ---------------------------------------------------


@pytest.mark.parametrize("status", ["404 Not Found", "500 \x1b[31mOops", "302 Found", "199 X"])
def test_an_http_error_carries_its_status(server: Server, ctx: Context, status: str) -> None:
    server.routes["/x"] = answer("no", "Content-Type: text/html", status=status)
    with pytest.raises(SkillError, match=f"/x answered {status[:3]}") as caught:
        fetch(f"{server.url}/x", server.policy, ctx)
    assert "\x1b" not in str(caught.value)
    assert caught.value.data == {
        "url": f"{server.url}/x",
        "status": int(status[:3]),
        "content_type": "text/html",
    }


def test_another_type_is_named_with_its_size(server: Server, ctx: Context) -> None:
    server.routes["/"] = answer(b"\x89PNG" * 10, "Content-Type: image/png")
    with pytest.raises(SkillError, match=r"is image/png \(40 bytes\), not text"):
        fetch(server.url, server.policy, ctx)
    server.routes["/"] = answer(b"\x7fELF\0\0")
    with pytest.raises(SkillError, match="6 bytes of an unknown type"):
        fetch(server.url, server.policy, ctx)


def chunked(body: bytes) -> bytes:
    return html(body, "Transfer-Encoding: chunked")


@pytest.mark.parametrize(
    ("raw", "problem"),
    [
        (b"", "did not answer as a web server"),
        (b"SSH-2.0-OpenSSH_9.2\r\n", "did not answer as a web server"),
        (b"HTTP/1.1 abc\r\n\r\n", "did not answer as a web server"),
        (b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * 200 + b"\r\n", "did not answer as a web server"),
        (b"HTTP/1.1 200 OK\r\nA: " + b"b" * 100_000, "did not answer as a web server"),
        (html("<p>half", "Content-Length: 100"), "broke off"),
        (chunked(b"5\r\nab"), "broke off"),
        (chunked(b"zz\r\nab\r\n"), "broke off"),
        (chunked(b"-5\r\nabcdefgh"), "broke off"),
        (chunked(b"-1\r\n" + b"a" * 9_000_000), "more than a page|broke off"),
        (html(gzip.compress(os.urandom(99))[:-20], "Content-Encoding: gzip"), "broke off"),
        (html(b"not gzip", "Content-Encoding: gzip"), "is not"),
        (html(gzip.compress(b"x"), "Content-Encoding: gzip, gzip"), "not asked for"),
        (html(b"x", "Content-Encoding: br"), "not asked for"),
    ],
    ids=lambda value: repr(value[-30:]),
)
def test_broken_servers(server: Server, ctx: Context, raw: bytes, problem: str) -> None:
    server.routes["/"] = raw
    with pytest.raises(SkillError, match=problem):
        fetch(server.url, server.policy, ctx)


def test_nobody_listens(ctx: Context) -> None:
    with serving() as gone:
        pass
    with pytest.raises(SkillError, match="could not be reached: Connection refused"):
        fetch(gone.url, gone.policy, ctx)


# -- bounds ------------------------------------------------------------------------------------


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


# -- TLS ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    if not shutil.which("openssl"):
        pytest.skip("no openssl program to make a certificate with")
    place = tmp_path_factory.mktemp("tls")
    key, cert = place / "key.pem", place / "cert.pem"
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"]
    command += ["-nodes", "-keyout", str(key), "-out", str(cert), "-days", "2"]
    command += ["-subj", "/CN=pi.test", "-addext", "subjectAltName=DNS:pi.test"]
    subprocess.run(command, check=True, capture_output=True)
    return key, cert


@pytest.fixture
def secure(certificate: tuple[Path, Path]) -> Iterator[Server]:
    key, cert = certificate
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(cert, key)
    names: list[Any] = []
    tls.sni_callback = lambda _sock, name, _ctx: names.append(name)  # type: ignore[assignment]
    with serving(tls=tls) as started:
        started.routes["/"] = html("safe")
        started.names = names  # type: ignore[attr-defined]
        yield started


def test_tls_is_made_with_the_name(
    secure: Any, ctx: Context, certificate: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate[1]))
    names = Names(secure.port, ["127.0.0.1"], ["127.0.0.1"])
    policy = WebPolicy(frozenset({"pi.test", "other.test"}))
    assert fetch("https://pi.test/", policy, ctx, names)["text"] == "safe"
    assert secure.names == ["pi.test"]
    with pytest.raises(SkillError, match="Hostname mismatch"):
        fetch("https://other.test/", policy, ctx, names)


def test_tls_with_an_unknown_issuer_is_refused(secure: Any, ctx: Context) -> None:
    names = Names(secure.port, ["127.0.0.1"])
    with pytest.raises(SkillError, match="no trusted TLS: self.signed certificate"):
        fetch("https://pi.test/", WebPolicy(frozenset({"pi.test"})), ctx, names)


def test_tls_with_a_server_that_has_none(ctx: Context) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def greet() -> None:
            connection, _ = listener.accept()
            connection.sendall(b"220 mail.test ESMTP\r\n")
            connection.recv(65536)
            connection.close()

        threading.Thread(target=greet, daemon=True).start()
        address = f"127.0.0.1:{listener.getsockname()[1]}"
        with pytest.raises(SkillError, match="no trusted TLS"):
            fetch(f"https://{address}/", WebPolicy(frozenset({address})), ctx)


def test_a_tls_server_that_says_nothing() -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    address = f"127.0.0.1:{listener.getsockname()[1]}"
    started = time.monotonic()
    with pytest.raises(SkillError, match="too slow"):
        fetch(f"https://{address}/", WebPolicy(frozenset({address})), context(seconds=0.3))
    assert time.monotonic() - started < 0.8
    listener.close()
