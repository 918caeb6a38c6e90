"""The skill that reads web pages. What it brings back is text, and not to be trusted."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Dict, Optional

from pibot.agent.tools import Context, Output, skill
from pibot.errors import SkillError
from pibot.permits import Permits

if TYPE_CHECKING:
    from pibot.skills._connect import Resolve
    from pibot.skills._hosts import WebPolicy
    from pibot.skills._web import Answer

_MOST_BYTES = 2 * 1024 * 1024  # of a body, packed and unpacked
_MOST_CHARS = 200_000
_TEXT_TYPES = ("json", "xml", "javascript", "ecmascript", "yaml", "toml", "x-ndjson", "x-sh")
_ACCEPT = "text/html, application/xhtml+xml, text/plain, application/json, */*;q=0.1"


def reach(permits: Permits) -> str:
    """What the settings say about the hosts that the web skills reach."""
    said = (
        ("Hosts that are not public: ", permits.web_allow),
        ("Of the public hosts only: ", permits.web_only),
        ("Never: ", permits.web_deny),
    )
    return " ".join(f"{words}{', '.join(hosts)}." for words, hosts in said if hosts)


@skill(
    timeout_s=30,
    taints=True,
    note=reach,
    phrases=(
        "(fetch|get|open|read) [the|this] [page|url|website][:] {url}",
        "(抓取|打开|读取|获取|访问)[一下|这个][网页|页面|网址|链接][：]{url}",
    ),
)
def web_fetch(
    url: Annotated[str, "an http:// or https:// URL"],
    ctx: Context,
    max_chars: Annotated[int, "how much of the text to return at most"] = 20_000,
) -> Output:
    """Read a web page (or a text or JSON document) as Markdown. Only public addresses."""
    from pibot.skills._hosts import WebPolicy

    if not 1 <= max_chars <= _MOST_CHARS:
        raise SkillError(f"max_chars must be between 1 and {_MOST_CHARS}, not {max_chars}.")
    data = fetch(url, WebPolicy.of(ctx.permits), ctx)
    text = data["text"]
    if len(text) > max_chars:
        data = {**data, "text": text[:max_chars], "truncated": True}
    note = f"\n… (cut: {len(data['text'])} of {len(text)} characters)" if data["truncated"] else ""
    heading = f"{data['title']}\n{data['url']}" if data["title"] else data["url"]
    return Output(data, f"{heading}\n\n{data['text']}{note}")


def fetch(
    url: str, policy: WebPolicy, ctx: Context, resolve: Optional[Resolve] = None
) -> Dict[str, Any]:
    """Fetch a URL: {"url" (the final one), "status", "content_type", "title", "text", "links",
    "truncated"}.

    `resolve` stands in for socket.getaddrinfo. Raises SkillError within 0.3 s of a cancel or the
    deadline of `ctx`, and for whatever else keeps the text from being read; its data then holds
    what is known.
    """
    from pibot.skills._body import PACKING
    from pibot.skills._urls import parse
    from pibot.skills._web import Client, Request, answered

    asked = Request(headers={"Accept": _ACCEPT, **PACKING})
    with answered(parse(url.strip()), Client(policy, resolve), ctx, asked) as answer:
        answer.check_ok()
        return _document(answer)


def _document(answer: Answer) -> Dict[str, Any]:
    from pibot.skills import _body, _readable

    kind, known = answer.kind, answer.known
    if kind and not kind.startswith("text/") and not kind.endswith(_TEXT_TYPES):
        size = answer.response.getheader("Content-Length") or "an unknown number of"
        raise SkillError(
            f"{answer.target} is {kind} ({size} bytes), not text; web_download brings it.", known
        )
    body, truncated = _body.read(answer, _MOST_BYTES)
    if not kind and b"\0" in body[:1024]:
        raise SkillError(
            f"{answer.target} is {len(body)} bytes of an unknown type, not text.", known
        )
    is_html = kind.endswith(("html", "xhtml+xml")) or (not kind and _looks_html(body))
    text = _body.text(answer, body, is_html, truncated)
    title, links = "", []
    if is_html:
        page = _readable.read(text, answer.guard.check, answer.target.url)
        title, text = page.title, page.text
        links = [{"text": link.text, "url": link.url} for link in page.links]
    text = _readable.without_controls(text)
    return {**known, "title": title, "text": text, "links": links, "truncated": truncated}


def _looks_html(body: bytes) -> bool:
    start = body[:256].removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    return start.startswith((b"<!doctype html", b"<html", b"<head", b"<body"))
