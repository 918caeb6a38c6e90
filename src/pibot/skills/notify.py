"""The skill that sends the owner a message: to ntfy, or to a webhook of Home Assistant."""

from __future__ import annotations

import re
import time
from typing import TYPE_CHECKING, Annotated, Optional, Tuple

from pibot.agent.tools import Context, Output, skill
from pibot.errors import SkillError
from pibot.permits import Permits
from pibot.skills._pace import Pace

if TYPE_CHECKING:
    from pibot.skills._connect import Resolve
    from pibot.skills._urls import Target
    from pibot.skills._web import Request

_SERVICE = "the service of PIBOT_NOTIFY_URL"
_MOST_BYTES = 4000  # ntfy makes a file of what is longer than 4096
_MOST_TITLE_BYTES = 200
_EVERY_S = 10.0
_BURST = 5
_WEBHOOK = "/api/webhook/"  # Home Assistant's
_CONTROLS = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]+")
_PACE = Pace(_EVERY_S, _BURST)


def _why_not(permits: Permits) -> Optional[str]:
    if permits.notify_url:
        return None
    return "notify is off: say where to, such as PIBOT_NOTIFY_URL=https://ntfy.sh/my-topic"


@skill(
    timeout_s=30,
    sensitive=True,
    repeatable=False,
    available=_why_not,
    phrases=(
        "(notify|message) [me|us|everyone] : {message}",
        "send [me|us] a (notification|message) : {message}",
        "(通知[我|我们|大家]|发[一条|个]通知)(：|:){message}",
    ),
)
def notify(
    message: Annotated[str, "what to say"],
    ctx: Context,
    title: Annotated[str, "a few words above it"] = "",
    urgent: Annotated[bool, "whether it may wake people"] = False,
) -> Output:
    """Send the owner of this fleet a message on the phone."""
    return send(message, ctx, title, urgent)


def send(
    message: str,
    ctx: Context,
    title: str = "",
    urgent: bool = False,
    resolve: Optional[Resolve] = None,
) -> Output:
    """Send a message to `ctx.permits.notify_url`, which is a secret: nothing here says it."""
    from pibot.skills._hosts import WebPolicy
    from pibot.skills._web import Client, answered

    text = _clean(message, _MOST_BYTES)
    heading = _clean(" ".join(title.split()), _MOST_TITLE_BYTES)
    if not text:
        raise SkillError("the message is empty; say what the owner shall read")
    target, login = _destination(ctx.permits.notify_url or "")
    client = Client(WebPolicy(allow=[target.address]), resolve, polite=False, redirects=0)
    request = _request(target, login, text, heading, urgent)
    _take_turn()
    with answered(target, client, ctx, request) as answer:
        answer.check_ok()
    data = {"message": text, "title": heading, "urgent": urgent, "status": answer.response.status}
    return Output(data, f"sent: {heading + ': ' if heading else ''}{text}")


def _clean(text: str, most_bytes: int) -> str:
    """The text without what could confuse a screen, and no longer than it may be."""
    plain = _CONTROLS.sub(" ", text.replace("\r\n", "\n")).strip()
    raw = plain.encode("utf-8", "replace")
    if len(raw) <= most_bytes:
        return raw.decode()
    return raw[: most_bytes - 3].decode(errors="ignore") + "…"


def _destination(url: str) -> Tuple[Target, str]:
    """Where to, and the value of an Authorization header if the URL has a user name."""
    from base64 import b64encode
    from dataclasses import replace
    from urllib.parse import unquote

    from pibot.skills._urls import parse

    scheme, _, rest = url.partition("://")
    server, slash, path = rest.partition("/")
    user, at, host = server.rpartition("@")
    try:
        target = replace(parse(f"{scheme}://{host}{slash}{path}"), label=_SERVICE)
    except SkillError:  # which shows the URL
        raise SkillError(
            "PIBOT_NOTIFY_URL cannot be used: write it as https://ntfy.sh/my-topic"
        ) from None
    return target, f"Basic {b64encode(unquote(user).encode()).decode()}" if at else ""


def _request(target: Target, login: str, text: str, title: str, urgent: bool) -> Request:
    """JSON for a webhook of Home Assistant; else what ntfy takes: text, the rest in headers."""
    from pibot.skills._web import Request
    from pibot.strictjson import ENCODER

    headers = {"Authorization": login} if login else {}
    if _WEBHOOK in target.path:
        headers["Content-Type"] = "application/json"
        body = ENCODER.encode({"message": text, "title": title, "urgent": urgent})
        return Request("POST", headers, body.encode())
    headers["Content-Type"] = "text/plain; charset=utf-8"
    if title:
        headers["Title"] = _header(title)
    if urgent:
        headers["Priority"] = "urgent"
    return Request("POST", headers, text.encode())


def _header(text: str) -> str:
    """Text as a header's value: as it is when it is ASCII, else as RFC 2047 says."""
    from base64 import b64encode

    if text.isascii() and not text.startswith("=?"):
        return text
    return f"=?UTF-8?B?{b64encode(text.encode()).decode()}?="


def _take_turn() -> None:
    wait_s = _PACE.wait_s("notify", time.monotonic(), 0.0)
    if wait_s > 0:
        raise SkillError(
            f"too many messages were sent: the next one can go in {wait_s:.0f} s; say more in one"
        )
