"""Requests to the owner's other machines: to the listed ones only, with their tokens only."""

from __future__ import annotations

import json
import socket
from dataclasses import replace
from pathlib import Path
from typing import Any, Dict, Iterator, List

import pytest

from pibot.agent.library import load
from pibot.agent.tools import Context, Result, Toolbox
from pibot.errors import SkillError
from pibot.fleet import phrases
from pibot.permits import Permits
from pibot.skills.http_request import ask, http_request
from skills.web_server import Names, Server, answer, context, moved, serving

TOKEN = "secret-token-of-the-house"
BOX = Toolbox([http_request.__skill__])  # type: ignore[attr-defined]


@pytest.fixture
def server() -> Iterator[Server]:
    with serving() as started:
        yield started


@pytest.fixture
def ctx(tmp_path: Path, server: Server) -> Context:
    hosts = (server.url[7:], "ha.test")
    permits = Permits(hosts=hosts, host_tokens={server.url[7:]: TOKEN})
    return replace(context(tmp_path), permits=permits)


def call(ctx: Context, **args: Any) -> Result:
    return BOX.call("http_request", args, ctx)


def head(server: Server) -> Dict[str, str]:
    lines = server.requests[-1].split("\r\n\r\n")[0].split("\r\n")[1:]
    return dict(line.split(": ", 1) for line in lines)


class Echo:
    """Answers with the request's body."""

    def __init__(self, server: Server) -> None:
        self._server = server

    def __call__(self, connection: socket.socket) -> None:
        start, _, body = self._server.requests[-1].partition("\r\n\r\n")
        length = int(dict(x.split(": ", 1) for x in start.split("\r\n")[1:])["Content-Length"])
        raw = body.encode("latin-1")
        while len(raw) < length:
            raw += connection.recv(65536)
        connection.sendall(answer(raw, "Content-Type: text/plain; charset=utf-8"))


def test_json(server: Server, ctx: Context) -> None:
    server.routes["/api/states"] = answer('[{"温": 21.5}]', "Content-Type: application/json")
    done = call(ctx, url=f"{server.url}/api/states")
    assert done.data == {
        "url": f"{server.url}/api/states",
        "status": 200,
        "content_type": "application/json",
        "truncated": False,
        "json": [{"温": 21.5}],
    }
    assert done.output == f'200 {server.url}/api/states\n\n[{{"温":21.5}}]'
    assert head(server)["Authorization"] == f"Bearer {TOKEN}"
    assert head(server)["Idempotency-Key"] == "t:1"


@pytest.mark.parametrize(
    ("body", "sent", "kind"),
    [
        ({"a": "温"}, '{"a":"温"}', "application/json"),
        ('{"a": 1}', '{"a": 1}', "application/json"),
        ("plain 温", "plain 温", "text/plain; charset=utf-8"),
        ("", "", None),
    ],
)
@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH"])
def test_bodies(server: Server, ctx: Context, method: str, body: Any, sent: str, kind: Any) -> None:
    server.routes["/x"] = Echo(server)
    done = call(ctx, url=f"{server.url}/x", method=method, body=body)
    assert (done.success, done.data["text"]) == (True, sent)
    assert server.requests[-1].startswith(f"{method} /x HTTP/1.1\r\n")
    assert head(server).get("Content-Type") == kind


def test_headers_of_ones_own(server: Server, ctx: Context) -> None:
    server.routes["/x"] = answer(b"", status="204 No Content")
    own = {"X-Room": "kitchen", "content-type": "application/x-own", "Accept": "text/csv"}
    done = call(ctx, url=f"{server.url}/x", method="DELETE", body="x", headers=own)
    assert (done.success, done.data["status"], done.data["text"]) == (True, 204, "")
    sent = head(server)
    assert {name: sent[name] for name in own} == own
    assert "Content-Type" not in sent


@pytest.mark.parametrize(
    "name",
    [
        *("Authorization", "authorization", "Host", "Cookie", "Content-Length", "Connection"),
        *("Transfer-Encoding", "transfer_encoding", "Proxy-Authorization", "TE", "Upgrade"),
        *("X-Forwarded-For", "X-HTTP-Method-Override", "Idempotency-Key", "Expect", "Trailer"),
        *("Sec-Fetch-Site", "", "a b", "a:b", "a\r\nb", "ä", "x" * 101),
    ],
)
def test_headers_that_are_not_sent(server: Server, ctx: Context, name: str) -> None:
    done = call(ctx, url=f"{server.url}/x", headers={name: "v"})
    assert not done.success
    assert "is not sent: it is the client's own" in done.output or "is no name of" in done.output
    assert server.requests == []


@pytest.mark.parametrize("value", ["a\r\nX: y", "a\nb", "a\0b", "ä", "x" * 5000, "\x7f"])
def test_values_that_are_not_sent(server: Server, ctx: Context, value: str) -> None:
    done = call(ctx, url=f"{server.url}/x", headers={"X-A": value})
    assert not done.success and "plain ASCII in one line" in done.output
    assert server.requests == []


def test_what_is_too_much(server: Server, ctx: Context) -> None:
    many = {f"X-{n}": "v" for n in range(21)}
    assert "21 headers" in call(ctx, url=f"{server.url}/x", headers=many).output
    large = call(ctx, url=f"{server.url}/x", method="POST", body="x" * (1 << 20) + "x")
    assert "the body has 1,048,577 bytes" in large.output
    assert server.requests == []


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("http://127.0.0.1:1/", "127.0.0.1:1 is not in PIBOT_HOSTS"),
        ("http://localhost:{port}/", "is not in PIBOT_HOSTS"),
        ("http://127.1:{port}/", "is not in PIBOT_HOSTS"),
        ("http://127.0.0.1.:{port}/", "127.0.0.1. was not found"),
        ("HTTP://127.0.0.1:{port}", ""),
        ("http://example.com/", "is not in PIBOT_HOSTS; there are: 127.0.0.1:"),
        ("ftp://127.0.0.1:{port}/", "only http"),
        ("http://u:p@127.0.0.1:{port}/", "leave out the user name"),
        ("http://evil.test\\@127.0.0.1:{port}/", "backslash"),
    ],
)
def test_only_listed_hosts(server: Server, ctx: Context, url: str, problem: str) -> None:
    server.routes["/"] = answer("x")
    done = call(ctx, url=url.format(port=server.port))
    assert done.success is not bool(problem)
    assert problem in done.output
    assert len(server.requests) == (not problem)


def test_what_is_denied_is_denied(server: Server, ctx: Context) -> None:
    denied = replace(ctx, permits=replace(ctx.permits, web_deny=("127.0.0.1",)))
    assert "PIBOT_WEB_DENY" in call(denied, url=f"{server.url}/").output
    assert server.requests == []


def test_a_token_is_for_its_host_alone(server: Server, ctx: Context) -> None:
    server.routes["/x"] = answer("x")
    names = Names(server.port, ["127.0.0.1"])
    assert ask("http://ha.test/x", ctx, resolve=names)["text"] == "x"
    assert "Authorization" not in head(server)


@pytest.mark.parametrize("to", ["{other}/y", "/y", "//127.0.0.1:1/", "http://ha.test/"])
def test_redirects_are_not_followed(server: Server, ctx: Context, to: str) -> None:
    with serving() as other:
        listed = replace(ctx.permits, hosts=(*ctx.permits.hosts, other.url[7:]))
        server.routes["/x"] = moved(to.format(other=other.url))
        done = call(replace(ctx, permits=listed), url=f"{server.url}/x", method="POST")
        assert not done.success
        assert "redirects elsewhere, which is not followed" in done.output
        assert done.data["status"] == 302
        assert (len(server.requests), other.requests) == (1, [])


def test_a_failure_has_its_answer(server: Server, ctx: Context) -> None:
    said = answer('{"message": "no such entity"}', "Content-Type: application/json")
    server.routes["/x"] = said.replace(b"200 OK", b"404 Not Found")
    done = call(ctx, url=f"{server.url}/x")
    assert not done.success
    assert f'{server.url}/x answered 404 Not Found.\n{{"message":"no such entity"}}' == done.output
    assert done.data["json"] == {"message": "no such entity"}


@pytest.mark.parametrize("body", ["{", "[1e999]", '{"a":1,"a":2}', "NaN", "[" * 100_000])
def test_what_is_not_quite_json_is_text(server: Server, ctx: Context, body: str) -> None:
    server.routes["/x"] = answer(body, "Content-Type: application/json")
    done = call(ctx, url=f"{server.url}/x")
    assert done.data["text"] == body
    assert "not JSON as PiBot speaks it" in done.data["not_json"]
    json.dumps(done.to_json())


def test_a_long_answer_is_cut(server: Server, ctx: Context) -> None:
    server.routes["/x"] = answer("a" * (2 << 20))
    done = call(ctx, url=f"{server.url}/x")
    assert (len(done.data["text"]), done.data["truncated"]) == (1 << 20, True)
    assert done.output.endswith("… (cut: 20000 characters are shown)")


def test_what_is_no_text(server: Server, ctx: Context) -> None:
    server.routes["/x"] = answer(b"\x89PNG\0\0", "Content-Type: image/png")
    assert "6 bytes that are not text" in call(ctx, url=f"{server.url}/x").output


def test_it_is_there_when_hosts_are_named() -> None:
    toolbox, notes = load(None, Permits())
    assert "http_request" not in toolbox.names
    assert any(n.startswith("http_request is off: name the hosts") for n in notes)
    permits = Permits(hosts=("ha.lan:8123", "*.iot.lan"), host_tokens={"ha.lan": TOKEN})
    found = load(None, permits)[0].get("http_request")
    assert found and (found.sensitive, found.taints, found.repeatable) == (True, True, False)
    assert "Hosts: ha.lan:8123, *.iot.lan. Tokens are added for ha.lan." in str(found.tool())
    assert TOKEN not in str(found.tool()) + str(found.announcement())


@pytest.mark.parametrize(
    "sentence", ["http get {}", "query the api {} on worker-2", "请求接口 {}", "调用API：{}"]
)
def test_sentences(sentence: str) -> None:
    found = phrases.match(sentence.format("http://ha.lan/api"), BOX.announce(), ["worker-2"])
    assert found is not None
    assert found.args == {"url": "http://ha.lan/api"}


def test_secrets_are_in_no_message(server: Server, ctx: Context) -> None:
    """Whatever goes wrong, the token is not in what is said about it."""
    said: List[str] = []
    bodies = {"/a": b"nonsense\r\n\r\n", "/b": answer(b"", status="401 No"), "/c": b""}
    server.routes.update(bodies)
    for path in bodies:
        with pytest.raises(SkillError) as caught:
            ask(server.url + path, ctx)
        said.append(f"{caught.value} {caught.value.data}")
    assert len(server.requests) == 3 and TOKEN not in "".join(said)
