"""The skill that reads web pages. What it brings back is text, and not to be trusted."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Optional

from pibot.agent.tools import Context, Output, skill
from pibot.errors import SkillError

if TYPE_CHECKING:
    from http.client import HTTPResponse

    from pibot.skills._connect import Guard, Resolve, Target, WebPolicy, Wire

_MOST_REDIRECTS = 5
_MOST_BYTES = 2 * 1024 * 1024  # of a body, packed and unpacked
_MOST_CHARS = 200_000
_CHUNK_BYTES = 16_384
_TEXT_TYPES = ("json", "xml", "javascript", "ecmascript", "yaml", "toml", "x-ndjson", "x-sh")


@skill(
    timeout_s=30,
    taints=True,
    phrases=(
        "(fetch|get|open|read|download) [the|this] [page|url|website][:] {url}",
        "(抓取|打开|读取|获取|下载|访问)[一下|这个][网页|页面|网址|链接][：]{url}",
    ),
)
def web_fetch(
    url: Annotated[str, "an http:// or https:// URL"],
    ctx: Context,
    max_chars: Annotated[int, "how much of the text to return at most"] = 20_000,
) -> Output:
    """Read a web page (or a text or JSON document) as plain text. Only public addresses."""
    from pibot.skills._connect import WebPolicy

    if not 1 <= max_chars <= _MOST_CHARS:
        raise SkillError(f"max_chars must be between 1 and {_MOST_CHARS}, not {max_chars}.")
    data = fetch(url, WebPolicy(frozenset(ctx.permits.web_allow)), ctx)
    text = data["text"]
    if len(text) > max_chars:
        data = {**data, "text": text[:max_chars], "truncated": True}
    note = f"\n… (cut: {len(data['text'])} of {len(text)} characters)" if data["truncated"] else ""
    heading = f"{data['title']}\n{data['url']}" if data["title"] else data["url"]
    return Output(data, f"{heading}\n\n{data['text']}{note}")


def fetch(
    url: str, policy: WebPolicy, ctx: Context, resolve: Optional[Resolve] = None
) -> dict[str, Any]:
    """Fetch a URL: {"url" (the final one), "status", "content_type", "title", "text", "truncated"}.

    `policy` names the hosts that may have an address which is not public; `resolve` stands in for
    socket.getaddrinfo. Raises SkillError within 0.3 s of a cancel or the deadline of `ctx`, and
    for whatever else keeps the text from being read; its data then holds what is known.
    """
    import socket

    from pibot.skills._connect import Guard, addresses, connect, parse

    first = target = parse(url.strip())
    try:
        for _ in range(_MOST_REDIRECTS + 1):
            guard = Guard(target.url, ctx.cancelled, ctx.deadline)
            entries = addresses(target, policy, guard, resolve or socket.getaddrinfo)
            wire = connect(target, entries, guard)
            try:
                response = _exchange(target, wire)
                onward = _redirect(target, response)
                if onward is None:
                    return _document(target, response, guard)
            finally:
                wire.end()
            target = parse(onward)
    except SkillError as error:
        if target is first:
            raise
        raise SkillError(f"{first.url} was redirected: {error}", error.data) from None
    known = {"url": target.url}
    raise SkillError(f"{first.url} redirects more than {_MOST_REDIRECTS} times.", known)


# -- one request -------------------------------------------------------------------------------


def _exchange(target: Target, wire: Wire) -> HTTPResponse:
    """Send the request and read the answer's head. Proxies and cookies are not looked at."""
    from http.client import HTTPConnection, HTTPException

    from pibot import __version__
    from pibot.skills._connect import reason

    connection = HTTPConnection(target.host, target.port)
    connection.sock = wire  # connected already, to an address that was checked
    headers = {
        "Host": target.netloc,
        "User-Agent": f"pibot/{__version__}",
        "Accept": "text/html, application/xhtml+xml, text/plain, application/json, */*;q=0.1",
        "Accept-Encoding": "gzip, identity;q=0.5",
        "Connection": "close",
    }
    try:
        connection.request("GET", target.path, headers=headers)
        return connection.getresponse()
    except HTTPException as error:
        kind = type(error).__name__
        raise SkillError(f"{target.url} did not answer as a web server does ({kind}).") from None
    except OSError as error:
        raise SkillError(f"{target.url} broke the connection: {reason(error)}.") from None


def _redirect(target: Target, response: HTTPResponse) -> Optional[str]:
    """Return where the answer points to, or None when it is the answer; raise if it is an error."""
    from http.client import responses
    from urllib.parse import urljoin

    location = response.getheader("Location")
    if response.status in (301, 302, 303, 307, 308) and location:
        try:
            # Headers are read as Latin-1; servers write UTF-8.
            location = location.encode("latin-1").decode("utf-8")
        except UnicodeError:
            pass
        try:
            return urljoin(target.url, location.strip().replace(" ", "%20")).partition("#")[0]
        except ValueError:
            raise SkillError(f"{target.url} redirects to what is no URL.") from None
    if not 200 <= response.status < 300:
        words = f"{response.status} {responses.get(response.status, '')}".strip()
        known = {"url": target.url, "status": response.status, "content_type": _type(response)}
        raise SkillError(f"{target.url} answered {words}.", known)
    return None


def _type(response: HTTPResponse) -> str:
    """Return the media type in lower case, "" when none is given."""
    return (response.getheader("Content-Type") or "").partition(";")[0].strip().lower()


# -- the document ------------------------------------------------------------------------------


def _document(target: Target, response: HTTPResponse, guard: Guard) -> dict[str, Any]:
    from pibot.skills import _readable

    kind = _type(response)
    known = {"url": target.url, "status": response.status, "content_type": kind}
    if kind and not kind.startswith("text/") and not kind.endswith(_TEXT_TYPES):
        size = response.getheader("Content-Length") or "an unknown number of"
        raise SkillError(f"{target.url} is {kind} ({size} bytes), not text.", known)
    body, truncated = _body(target, response)
    if not kind and b"\0" in body[:1024]:
        raise SkillError(f"{target.url} is {len(body)} bytes of an unknown type, not text.", known)
    is_html = kind.endswith(("html", "xhtml+xml")) or (not kind and _looks_html(body))
    text = _decoded(body, response.headers.get_content_charset() or "", is_html, truncated)
    title = ""
    if is_html:
        title, text = _readable.read(text, guard.check)
    known.update(title=title, text=_readable.without_controls(text), truncated=truncated)
    return known


def _looks_html(body: bytes) -> bool:
    start = body[:256].removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    return start.startswith((b"<!doctype html", b"<html", b"<head", b"<body"))


def _body(target: Target, response: HTTPResponse) -> tuple[bytes, bool]:
    """Read the body up to the limit; return it, and whether it was longer than that."""
    from http.client import HTTPException

    from pibot.skills._connect import reason

    encoding = (response.getheader("Content-Encoding") or "identity").strip().lower()
    if encoding not in ("identity", "gzip", "x-gzip"):
        raise SkillError(f"{target.url} is packed in a way that was not asked for ({encoding}).")
    try:
        if encoding == "identity":
            return _plain(target, response)
        return _unpacked(target, response)
    except (HTTPException, ValueError) as error:  # the latter from impossible chunk sizes
        kind = type(error).__name__
        raise SkillError(f"{target.url} broke off in the middle ({kind}).") from None
    except OSError as error:
        raise SkillError(f"{target.url} broke off in the middle: {reason(error)}.") from None


def _plain(target: Target, response: HTTPResponse) -> tuple[bytes, bool]:
    body = bytearray()
    while len(body) <= _MOST_BYTES:
        chunk = response.read(_CHUNK_BYTES)
        if not chunk:
            _complete(target, response)
            return bytes(body), False
        body += chunk
    return bytes(body[:_MOST_BYTES]), True


def _unpacked(target: Target, response: HTTPResponse) -> tuple[bytes, bool]:
    """Unpack one layer of gzip, never more than the limit at a time."""
    import zlib

    unpacker = zlib.decompressobj(wbits=31)
    body = bytearray()
    packed_bytes = 0
    while packed_bytes <= _MOST_BYTES:
        chunk = response.read(_CHUNK_BYTES)
        packed_bytes += len(chunk)
        try:
            body += unpacker.decompress(chunk, _MOST_BYTES + 1 - len(body))
        except zlib.error:
            raise SkillError(f"{target.url} says that it is gzip, and is not.") from None
        if len(body) > _MOST_BYTES:
            break
        if unpacker.eof:
            return bytes(body), bool(unpacker.unused_data)
        if not chunk:
            raise SkillError(f"{target.url} broke off in the middle of its gzip data.")
    return bytes(body[:_MOST_BYTES]), True


def _complete(target: Target, response: HTTPResponse) -> None:
    if response.length:  # what is missing of the announced length
        raise SkillError(f"{target.url} broke off, {response.length} bytes before its end.")


def _decoded(body: bytes, charset: str, is_html: bool, truncated: bool) -> str:
    """Decode as a byte order mark, the header, the page itself or the bytes suggest."""
    import re

    marks = ((b"\xef\xbb\xbf", "utf-8"), (b"\xff\xfe", "utf-16"), (b"\xfe\xff", "utf-16"))
    for mark, codec in marks:
        if body.startswith(mark):
            return body.decode(codec, "replace").lstrip("\ufeff")
    meta = rb"charset\s{0,9}=\s{0,9}[\"']?([\w-]{1,40})"
    named = re.search(meta, body[:4096], re.IGNORECASE) if is_html else None
    for name in (charset, named[1].decode("ascii") if named else ""):
        codec = _codec(name)
        if codec:
            return body.decode(codec, "replace")
    for codec in ("utf-8", "gb18030"):
        try:
            return body.decode(codec)
        except UnicodeDecodeError as error:
            if truncated and error.start > len(body) - 4:  # only the last character: it was cut
                return body.decode(codec, "replace")
    return body.decode("cp1252", "replace")


def _codec(name: str) -> str:
    """Return Python's codec for a charset, "" for an unknown one and for what is no charset."""
    import re

    name = name.strip().lower()
    if name in ("gb2312", "gbk", "gb_2312-80", "x-gbk"):
        return "gb18030"  # contains the others, and pages use more than they declare
    if name in ("iso-8859-1", "latin1", "ascii", "us-ascii"):
        return "cp1252"  # as browsers do
    known = r"utf-?8|gb18030|big5(-hkscs)?|shift_jis|euc-(jp|kr)|iso-2022-(jp|kr)"
    if re.fullmatch(known + r"|iso-8859-\d{1,2}|windows-125\d|windows-874|koi8-[ru]", name):
        import codecs

        try:
            return codecs.lookup(name).name
        except LookupError:
            return ""
    return ""
