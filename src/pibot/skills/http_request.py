"""The skill that talks to the owner's other machines: Home Assistant, Node-RED, a printer."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated, Any, Dict, Literal, Optional, Union

from pibot.agent.tools import Context, Output, skill
from pibot.errors import SkillError
from pibot.permits import Permits

if TYPE_CHECKING:
    from pibot.skills._connect import Resolve
    from pibot.skills._urls import Target
    from pibot.skills._web import Answer, Request

_MOST_BODY_BYTES = 1 << 20
_MOST_ANSWER_BYTES = 1 << 20
_MOST_HEADERS = 20
_MOST_HEADER_CHARS = 4096
_SHOWN_CHARS = 20_000
_SHOWN_ERROR_CHARS = 500
# They say who asks, where a request ends or where it goes: the client's own business.
_RESERVED = re.compile(
    "authorization|connection|content-(encoding|length)|cookie2?|expect|forwarded|host"
    "|http2-settings|idempotency-key|keep-alive|origin|range|referer|te|trailer|transfer-encoding"
    "|upgrade|user-agent|via|x-http-method(-override)?|x-method-override|x-original-url"
    "|x-rewrite-url|proxy-.*|sec-.*|x-forwarded-.*"
)
_HEADER = re.compile(r"[a-z0-9-]{1,100}")
_VALUE = re.compile(rf"[\t\x20-\x7e]{{0,{_MOST_HEADER_CHARS}}}")


def _why_not(permits: Permits) -> Optional[str]:
    if permits.hosts:
        return None
    return (
        "http_request is off: name the hosts that it may talk to, such as "
        "PIBOT_HOSTS=homeassistant.local:8123"
    )


def _note(permits: Permits) -> str:
    tokens = f" Tokens are added for {', '.join(permits.host_tokens)}."
    return f"Hosts: {', '.join(permits.hosts)}.{tokens if permits.host_tokens else ''}"


@skill(
    timeout_s=60,
    sensitive=True,
    taints=True,
    repeatable=False,
    available=_why_not,
    note=_note,
    phrases=(
        "http (get|request) {url}",
        "(call|query) [the] api {url}",
        "(请求|调用)(接口|api)[：]{url}",
    ),
)
def http_request(
    url: Annotated[str, "an http:// or https:// URL on one of the hosts"],
    ctx: Context,
    method: Literal["GET", "POST", "PUT", "PATCH", "DELETE"] = "GET",
    body: Annotated[Union[str, Dict[str, Any]], "an object is sent as JSON"] = "",
    headers: Annotated[Optional[Dict[str, str]], "tokens are added by themselves"] = None,
) -> Output:
    """Ask a JSON or text API of a host that the owner named. Bearer tokens are added."""
    data = ask(url, ctx, method, body, headers or {})
    return Output(data, f"{data['status']} {data['url']}\n\n{_readable(data)}")


def ask(
    url: str,
    ctx: Context,
    method: str = "GET",
    body: Union[str, Dict[str, Any]] = "",
    headers: Optional[Dict[str, str]] = None,
    resolve: Optional[Resolve] = None,
) -> Dict[str, Any]:
    """The answer: {"url", "status", "content_type", "json" or "text", "truncated"}.

    Raises SkillError for an answer that is none of success, with the same data. Redirects are
    not followed: the token is for this host alone.
    """
    from pibot.skills._hosts import WebPolicy, listed
    from pibot.skills._urls import parse
    from pibot.skills._web import Client, answered

    target = parse(url.strip())
    permits = ctx.permits
    if not listed(target.host, target.port, permits.hosts):
        raise SkillError(
            f"{target} is refused: {target.address} is not in PIBOT_HOSTS; there are: "
            f"{', '.join(permits.hosts) or 'none'}."
        )
    request = _request(target, ctx, method, body, headers or {})
    policy = WebPolicy(allow=permits.hosts, deny=permits.web_deny)
    client = Client(policy, resolve, polite=False, redirects=0)
    with answered(target, client, ctx, request) as answer:
        data = _told(answer)
        if not 200 <= answer.response.status < 300:
            said = _readable(data)[:_SHOWN_ERROR_CHARS]
            raise SkillError(f"{target} answered {answer.status}.\n{said}".strip(), data)
        return data


def _request(
    target: Target, ctx: Context, method: str, body: Any, headers: Dict[str, str]
) -> Request:
    from pibot import strictjson
    from pibot.skills._body import PACKING
    from pibot.skills._hosts import best_entry
    from pibot.skills._web import Request

    _check_headers(headers)
    sent = {"Accept": "application/json, text/plain, */*;q=0.1", **PACKING}
    sent["Idempotency-Key"] = ctx.key
    token = best_entry(target.host, target.port, ctx.permits.host_tokens)
    if token is not None:
        sent["Authorization"] = f"Bearer {ctx.permits.host_tokens[token]}"
    raw = (body if isinstance(body, str) else strictjson.ENCODER.encode(body)).encode()
    if len(raw) > _MOST_BODY_BYTES:
        raise SkillError(f"the body has {len(raw):,} bytes; at most {_MOST_BODY_BYTES:,} are sent")
    if raw:
        sent["Content-Type"] = "application/json" if _is_json(raw) else "text/plain; charset=utf-8"
    for name in headers:
        sent = {key: value for key, value in sent.items() if key.lower() != name.lower()}
    has_body = raw or method in ("POST", "PUT", "PATCH")
    return Request(method, {**sent, **headers}, raw if has_body else None)


def _check_headers(headers: Dict[str, str]) -> None:
    if len(headers) > _MOST_HEADERS:
        raise SkillError(f"there are {len(headers)} headers; at most {_MOST_HEADERS} are sent")
    for name, value in headers.items():
        plain = name.lower().replace("_", "-")  # some servers take both for the same
        if not _HEADER.fullmatch(plain):
            raise SkillError(f"{name[:100]!r} is no name of a header")
        if _RESERVED.fullmatch(plain):
            raise SkillError(
                f"the header {name} is not sent: it is the client's own; the owner of this machine "
                "sets tokens with PIBOT_HOST_TOKENS"
            )
        if not _VALUE.fullmatch(value):
            raise SkillError(
                f"the header {name} is not sent: a value is plain ASCII in one line, at most "
                f"{_MOST_HEADER_CHARS} characters"
            )


def _told(answer: Answer) -> Dict[str, Any]:
    """The answer as data: parsed when it is JSON, else as text."""
    from pibot import strictjson
    from pibot.errors import BadMessage
    from pibot.skills import _body
    from pibot.skills._readable import without_controls

    body, truncated = _body.read(answer, _MOST_ANSWER_BYTES)
    known = {**answer.known, "truncated": truncated}
    if answer.kind.endswith("json") and body and not truncated:
        try:
            return {**known, "json": strictjson.parse_any(body)}
        except BadMessage as error:
            known["not_json"] = str(error)
    if b"\0" in body[:1024]:
        raise SkillError(f"{answer.target} sent {len(body):,} bytes that are not text.", known)
    text = _body.text(answer, body, False, truncated)
    return {**known, "text": without_controls(text)}


def _is_json(raw: bytes) -> bool:
    from pibot import strictjson
    from pibot.errors import BadMessage

    try:
        strictjson.parse(raw)
    except BadMessage:
        return False
    return True


def _readable(data: Dict[str, Any]) -> str:
    from pibot import strictjson

    text = strictjson.ENCODER.encode(data["json"]) if "json" in data else data.get("text", "")
    if len(text) <= _SHOWN_CHARS and not data["truncated"]:
        return text
    return f"{text[:_SHOWN_CHARS]}\n… (cut: {min(len(text), _SHOWN_CHARS)} characters are shown)"
