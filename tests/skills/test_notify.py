"""Messages to the owner: as ntfy and Home Assistant take them, and the address stays secret."""

from __future__ import annotations

import base64
import json
import socket
from dataclasses import replace
from pathlib import Path
from typing import Any, Dict, Iterator, Tuple

import pytest

from pibot.agent.library import load
from pibot.agent.tools import Context, Result, Toolbox
from pibot.fleet import phrases
from pibot.permits import Permits
from pibot.skills import notify as module
from pibot.skills._pace import Pace
from skills.web_server import Server, answer, context, moved, serving

TOPIC = "my-secret-topic"
BOX = Toolbox([module.notify.__skill__])  # type: ignore[attr-defined]


class Service:
    """Takes messages at any path."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.reply = answer(b"{}")
        self.bodies: list[bytes] = []

    def __call__(self, connection: socket.socket) -> None:
        head, _, body = self.server.requests[-1].partition("\r\n\r\n")
        length = int(self.headers()["Content-Length"])
        raw = body.encode("latin-1")
        while len(raw) < length:
            raw += connection.recv(65536)
        self.bodies.append(raw)
        connection.sendall(self.reply)

    def headers(self) -> Dict[str, str]:
        lines = self.server.requests[-1].split("\r\n\r\n")[0].split("\r\n")[1:]
        return dict(line.split(": ", 1) for line in lines)


@pytest.fixture
def service() -> Iterator[Service]:
    with serving() as server:
        made = Service(server)
        server.routes.update({f"/{TOPIC}": made, f"/api/webhook/{TOPIC}": made})
        yield made


@pytest.fixture
def ctx(tmp_path: Path, service: Service, monkeypatch: pytest.MonkeyPatch) -> Context:
    monkeypatch.setattr(module, "_PACE", Pace(60.0, 5))
    permits = Permits(notify_url=f"{service.server.url}/{TOPIC}")
    return replace(context(tmp_path), permits=permits)


def to(ctx: Context, url: str) -> Context:
    return replace(ctx, permits=Permits(notify_url=url))


def call(ctx: Context, **args: Any) -> Result:
    return BOX.call("notify", args, ctx)


def shown(result: Result) -> str:
    return json.dumps(result.to_json())


def test_ntfy(service: Service, ctx: Context) -> None:
    done = call(ctx, message="The door is open.\n温", title="Door", urgent=True)
    assert done.data == {
        "message": "The door is open.\n温",
        "title": "Door",
        "urgent": True,
        "status": 200,
    }
    assert done.output == "sent: Door: The door is open.\n温"
    assert service.bodies == ["The door is open.\n温".encode()]
    headers = service.headers()
    assert (headers["Title"], headers["Priority"]) == ("Door", "urgent")
    assert TOPIC not in shown(done)


def test_the_plainest_message(service: Service, ctx: Context) -> None:
    assert call(ctx, message=" hello ").output == "sent: hello"
    assert service.bodies == [b"hello"]
    assert not {"Title", "Priority", "Authorization"} & set(service.headers())


def test_a_title_that_is_not_ascii(service: Service, ctx: Context) -> None:
    call(ctx, message="x", title="温度")
    encoded = service.headers()["Title"]
    assert encoded.startswith("=?UTF-8?B?") and encoded.endswith("?=")
    assert base64.b64decode(encoded[10:-2]).decode() == "温度"


def test_a_webhook_of_home_assistant(service: Service, ctx: Context) -> None:
    hook = to(ctx, f"{service.server.url}/api/webhook/{TOPIC}")
    assert call(hook, message="温", title="t").success
    assert service.headers()["Content-Type"] == "application/json"
    assert json.loads(service.bodies[0]) == {"message": "温", "title": "t", "urgent": False}


def test_a_user_name_in_the_address(service: Service, ctx: Context) -> None:
    login = to(ctx, f"http://me:p%40ss@{service.server.url[7:]}/{TOPIC}")
    assert call(login, message="x").success
    assert base64.b64decode(service.headers()["Authorization"][6:]) == b"me:p@ss"
    assert service.headers()["Host"] == service.server.url[7:]


@pytest.mark.parametrize(
    ("message", "title", "sent"),
    [
        ("a\r\nb\x1b[31mc\x00", "", ("a\nb [31mc", None)),
        ("x", "a\r\nPriority: max", ("x", "a Priority: max")),
        ("x", "=?evil?=", ("x", "=?UTF-8?B?PT9ldmlsPz0=?=")),
        ("\u202egnp.exe\u2066", "", ("gnp.exe", None)),
        ("温" * 2000, "", ("温" * 1332 + "…", None)),
        ("x", "t" * 300, ("x", "t" * 197 + "…")),
    ],
)
def test_it_is_cleaned(
    service: Service, ctx: Context, message: str, title: str, sent: Tuple[str, Any]
) -> None:
    assert call(ctx, message=message, title=title).success
    found = service.headers().get("Title")
    if found and sent[1] and not sent[1].isascii():
        found = base64.b64decode(found[10:-2]).decode()
    assert (service.bodies[0].decode(), found) == sent
    assert "Priority" not in service.headers()
    assert len(service.bodies[0]) <= 4000


@pytest.mark.parametrize("message", ["", "  ", "\x00\x1b"])
def test_an_empty_message(service: Service, ctx: Context, message: str) -> None:
    assert "the message is empty" in call(ctx, message=message).output
    assert service.bodies == []


def test_too_many(service: Service, ctx: Context) -> None:
    results = [call(ctx, message=str(number)) for number in range(7)]
    assert [one.success for one in results] == [True] * 5 + [False] * 2
    assert "the next one can go in 60 s" in results[5].output
    assert len(service.bodies) == 5


FAULTS = {
    "refused": answer(b"", status="403 Forbidden"),
    "moved": moved("http://127.0.0.1:1/elsewhere"),
    "nonsense": b"nonsense\r\n\r\n",
    "closed": b"",
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_failure_does_not_show_the_address(service: Service, ctx: Context, fault: str) -> None:
    service.reply = FAULTS[fault]
    done = call(ctx, message="x")
    assert not done.success
    assert "the service of PIBOT_NOTIFY_URL" in done.output
    for secret in (TOPIC, "127.0.0.1", str(service.server.port)):
        assert secret not in shown(done)


@pytest.mark.parametrize(
    "url",
    [
        f"http://no-such-host.invalid/{TOPIC}",
        f"http://127.0.0.1:1/{TOPIC}",
        f"http://[{TOPIC}/",
        f"http://a b/{TOPIC}",
        f"http://u:{TOPIC}@no-such-host.invalid/",
        f"https://u:{TOPIC}@[",
    ],
)
def test_a_wrong_address_is_not_shown(ctx: Context, url: str) -> None:
    done = call(to(ctx, url), message="x")
    assert not done.success and "PIBOT_NOTIFY_URL" in done.output
    for secret in (TOPIC, "no-such-host", "127.0.0.1"):
        assert secret not in shown(done)


def test_it_is_there_when_it_knows_where_to() -> None:
    toolbox, notes = load(None, Permits())
    assert "notify" not in toolbox.names
    assert any(note.startswith("notify is off: say where to") for note in notes)
    found = load(None, Permits(notify_url=f"https://x/{TOPIC}"))[0].get("notify")
    assert found and (found.sensitive, found.taints, found.repeatable) == (True, False, False)
    assert TOPIC not in str(found.tool()) + str(found.announcement())


@pytest.mark.parametrize(
    ("sentence", "message"),
    [
        ("notify me: dinner is ready", "dinner is ready"),
        ("send a notification: it is done", "it is done"),
        ("通知我：洗好了", "洗好了"),
        ("发一条通知: 好了", "好了"),
    ],
)
def test_sentences(sentence: str, message: str) -> None:
    found = phrases.match(sentence, BOX.announce(), [])
    assert found is not None
    assert found.args == {"message": message}


@pytest.mark.parametrize(
    "sentence", ["notify me when the door opens", "send me a message if it rains", "温度高了通知我"]
)
def test_conditions_are_no_messages(sentence: str) -> None:
    assert phrases.match(sentence, BOX.announce(), []) is None
