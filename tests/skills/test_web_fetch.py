"""Fetching from real servers on this machine: what comes back, and what cannot."""

from __future__ import annotations

import gzip
import json
from dataclasses import replace
from pathlib import Path
from typing import Any, Iterator

import pytest

from pibot.agent.tools import Context, Toolbox
from pibot.errors import SkillError
from pibot.fleet import phrases
from pibot.permits import Permits
from pibot.skills.web_fetch import fetch, web_fetch
from skills.web_server import CLOSED, Server, answer, context, html, moved, serving


@pytest.fixture
def server() -> Iterator[Server]:
    with serving() as started:
        yield started


@pytest.fixture
def ctx(tmp_path: Path) -> Context:
    return context(tmp_path)


# -- what it brings back -----------------------------------------------------------------------


def test_a_page(server: Server, ctx: Context) -> None:
    server.routes["/a%20b?q=%E6%B8%A9&x"] = html(
        "<title>T</title><h1>Hi</h1><p>温度 &amp; <a href='/c d'>more</a></p>"
    )
    data = fetch(f"{server.url}/a%20b?q=温&x#part", server.policy, ctx)
    assert data == {
        "url": f"{server.url}/a%20b?q=%E6%B8%A9&x",
        "status": 200,
        "content_type": "text/html",
        "title": "T",
        "text": f"# Hi\n\n温度 & [more]({server.url}/c%20d)",
        "links": [{"text": "more", "url": f"{server.url}/c%20d"}],
        "truncated": False,
    }
    assert f"Host: 127.0.0.1:{server.port}\r\n" in server.requests[0]


PACKED = gzip.compress(bytes(range(99)), mtime=0)


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


def test_the_skill(server: Server, ctx: Context) -> None:
    server.routes["/"] = html("<title>News</title><p>" + "温" * 50)
    refused = call(ctx, url=server.url)
    assert not refused.success
    assert "has a loopback address" in refused.output
    assert f"PIBOT_WEB_ALLOW=127.0.0.1:{server.port}" in refused.output
    assert server.requests == []

    permits = Permits(web_allow=("nas.local", f"127.0.0.1:{server.port}"))
    result = call(replace(ctx, permits=permits), url=f" {server.url} ", max_chars=20)
    assert result.success
    assert result.data["text"] == "温" * 20
    assert result.data["truncated"] is True
    assert result.output == f"News\n{server.url}/\n\n{'温' * 20}\n… (cut: 20 of 50 characters)"
    json.dumps(result.to_json())


@pytest.mark.parametrize(
    "sentence",
    [
        *("fetch {}", "Please open the page {} on worker-2.", "get this url: {}"),
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


@pytest.mark.parametrize("entry", ["127.0.0.1", "127.0.0.1:{port}"])
def test_what_is_allowed(server: Server, ctx: Context, entry: str) -> None:
    server.routes["/"] = html("in")
    permits = Permits(web_allow=(entry.format(port=server.port),))
    assert call(replace(ctx, permits=permits), url=server.url).success


@pytest.mark.parametrize("entry", ["", "127.0.0.1:1", "localhost", "127.0.0", "*", "0.0.0.0"])
def test_what_is_not_allowed(server: Server, ctx: Context, entry: str) -> None:
    permits = Permits(web_allow=(entry,))
    assert not call(replace(ctx, permits=permits), url=server.url).success
    assert server.requests == []


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
        (chunked(b"-1\r\n" + b"a" * 9_000_000), "more than was asked for|broke off"),
        (html(PACKED[:-20], "Content-Encoding: gzip"), "broke off"),
        (html(b"not gzip", "Content-Encoding: gzip"), "is not"),
        (html(gzip.compress(b"x", mtime=0), "Content-Encoding: gzip, gzip"), "not asked for"),
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
