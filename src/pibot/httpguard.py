"""Who may ask what over HTTP: a strict reader of request heads, and one guard for every page. Pure.

A browser that a person uses asks for whatever page it is shown. So a request counts only if it
names this machine, and not a name of a stranger's that was made to lead here (DNS rebinding); and
what is not public only if no page of another site has caused it.
"""

from __future__ import annotations

import hmac
import json
import re
from dataclasses import dataclass, field
from typing import Dict, FrozenSet, Iterable, List, NamedTuple, Optional, Tuple, Union
from urllib.parse import unquote_plus

MAX_HEAD_BYTES = 8_192
MAX_HEADERS = 64
MAX_LENGTH_DIGITS = 12
JSON = "application/json"
REASONS = {
    200: "OK",
    400: "Bad Request",
    401: "Unauthorized",
    403: "Forbidden",
    404: "Not Found",
    405: "Method Not Allowed",
    411: "Length Required",
    413: "Content Too Large",
    415: "Unsupported Media Type",
    421: "Misdirected Request",
    431: "Request Header Fields Too Large",
    500: "Internal Server Error",
    503: "Service Unavailable",
    505: "HTTP Version Not Supported",
}
# Nothing is kept, guessed, framed, or shown to other sites; the server does not say what it is.
STRICT = (
    "Cache-Control: no-store",
    "X-Content-Type-Options: nosniff",
    "Content-Security-Policy: default-src 'none'; frame-ancestors 'none'",
    "Referrer-Policy: no-referrer",
    "Cross-Origin-Resource-Policy: same-origin",
    "Connection: close",
)
_END = b"\r\n\r\n"
_REQUEST = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]{1,32}) (\S+) HTTP/(\d)\.(\d)")
_TARGET = re.compile(rb"/[!$-;=?-Z\[\]_a-z~]*")  # visible ASCII, without what no address may have
_HEADER = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*([\t -~\x80-\xff]*)")
_HOST = re.compile(r"(\[[0-9a-f:.]+(?:%[\w.-]+)?\]|[a-z0-9](?:[a-z0-9._-]{0,252}))(?::[0-9]{1,5})?")
_BYTE = r"(?:25[0-5]|2[0-4][0-9]|1?[0-9]?[0-9])"
_IPV4 = re.compile(rf"(?:{_BYTE}\.){{3}}{_BYTE}")
_SECRET = re.compile(
    r"(?:.*[_-])?(?:api)?(?:token|key|secret|pass|passwd|password|pwd|auth|authorization|bearer)",
    re.IGNORECASE,
)
# What may stand once only: with two of them, two readers would see two different requests.
_SINGLE = ("host", "content-length", "content-type", "transfer-encoding", "authorization", "origin")
# Domains that nobody can buy, so that a name in them is one of the local network.
_PRIVATE = ("local", "lan", "home", "home.arpa", "internal", "localdomain")


class Refusal(NamedTuple):
    """Why a request is not served: a status, and one sentence."""

    status: int
    message: str


@dataclass(frozen=True)
class Request:
    """The head of a request; the names of the headers are in small letters."""

    method: str
    path: str
    query: str = field(repr=False)
    headers: Dict[str, str] = field(repr=False)
    length: int = 0  # of the body that follows


# --- reading --------------------------------------------------------------------------------------


def read(data: bytes) -> Union[Request, Refusal, None]:
    """The request whose head is in `data`, a refusal, or None while more has to come."""
    head, end, _ = data.partition(_END)
    if len(head) > MAX_HEAD_BYTES:
        return Refusal(431, "the head of the request is too large")
    if not end:
        return Refusal(400, "lines must end with CR LF") if _has_odd_end(head) else None
    if _has_odd_end(head):
        return Refusal(400, "lines must end with CR LF")
    first, *lines = head.split(b"\r\n")
    found = _REQUEST.fullmatch(first)
    if found is None:
        return Refusal(400, "the first line is no request")
    if found[3] != b"1":
        return Refusal(505, "this server speaks HTTP/1.1")
    if _TARGET.fullmatch(found[2]) is None:
        return Refusal(400, "the address in the first line is no path")
    headers = _headers(lines)
    if isinstance(headers, Refusal):
        return headers
    length = _length(headers)
    if isinstance(length, Refusal):
        return length
    if "host" not in headers and found[4] != b"0":
        return Refusal(400, "the header Host is missing")
    path, _, query = found[2].decode("ascii").partition("?")
    return Request(found[1].decode("ascii"), path, query, headers, length)


def _has_odd_end(head: bytes) -> bool:
    """Whether a line ends otherwise than with CR LF; a CR that comes last may yet get its LF."""
    pairs = head.count(b"\r\n")
    return head.count(b"\n") != pairs or head.count(b"\r") - head.endswith(b"\r") != pairs


def _headers(lines: List[bytes]) -> Union[Dict[str, str], Refusal]:
    if len(lines) > MAX_HEADERS:
        return Refusal(431, "there are too many headers")
    found: Dict[str, str] = {}
    for line in lines:
        header = _HEADER.fullmatch(line)
        if header is None:  # a folded line, a space before the colon, a control character
            return Refusal(400, "a header is malformed")
        name, value = header[1].decode("ascii").lower(), header[2].decode("latin-1").strip(" \t")
        if name in found and name in _SINGLE:
            return Refusal(400, "a header stands twice")
        found[name] = f"{found[name]}, {value}" if name in found else value
    return found


def _length(headers: Dict[str, str]) -> Union[int, Refusal]:
    """How long the body is. Only a length says so: what comes in chunks is not taken."""
    text = headers.get("content-length")
    if "transfer-encoding" in headers:
        if text is not None:
            return Refusal(400, "Transfer-Encoding and Content-Length contradict each other")
        return Refusal(411, "the body needs a Content-Length")
    if text is None:
        return 0
    if not re.fullmatch(r"[0-9]+", text, re.ASCII):
        return Refusal(400, "Content-Length is no number")
    if len(text) > MAX_LENGTH_DIGITS:
        return Refusal(413, "the body is too large")
    return int(text)


# --- judging --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Guard:
    """What is let through. `public` paths need no token, and any site may lead to them.

    With a token everything else needs it, in the header `Authorization: Bearer TOKEN`.
    """

    hosts: FrozenSet[str] = frozenset()  # from own_names
    methods: Tuple[str, ...] = ("GET", "HEAD")
    public: FrozenSet[str] = frozenset()
    token: Optional[str] = field(default=None, repr=False)
    max_body: int = 0

    def check(self, request: Request) -> Optional[Refusal]:
        """None for a request that may be served."""
        if not self._is_asked(request):
            return Refusal(421, "this machine does not go by that name: ask by its address")
        if request.method not in self.methods:
            return Refusal(405, f"only {', '.join(self.methods)} can be asked here")
        if self._tells_a_secret(request):
            return Refusal(400, "no secrets in an address: send `Authorization: Bearer TOKEN`")
        is_plain = request.path in self.public and request.method in ("GET", "HEAD")
        if not is_plain:
            if _is_from_elsewhere(request):
                return Refusal(403, "a page of another site may not ask this")
            if self.token is not None and not self._has_token(request):
                return Refusal(401, "send the token: `Authorization: Bearer TOKEN`")
        if request.length > self.max_body:
            return Refusal(413, f"the body may have {self.max_body:,} bytes")
        if (request.length or request.method == "POST") and not _is_json(request):
            return Refusal(415, f"the body must be {JSON}")  # which no form can send
        return None

    def answer(self, why: Refusal, head: bool = False) -> bytes:
        """What whoever is refused gets to read."""
        more = []
        if why.status == 405:
            more.append(f"Allow: {', '.join(self.methods)}")
        if why.status == 401:
            more.append("WWW-Authenticate: Bearer")
        body = json.dumps({"error": why.message}).encode()
        return response(why.status, body, more=more, head=head)

    def _is_asked(self, request: Request) -> bool:
        """Whether the request names this machine; one of HTTP/1.0 may name none."""
        host = request.headers.get("host")
        if host is None:
            return True
        found = _HOST.fullmatch(host.lower())
        if found is None:
            return False
        name = found[1].rstrip(".")
        is_address = name.startswith("[") or _IPV4.fullmatch(name) is not None
        return is_address or name == "localhost" or name in self.hosts

    def _tells_a_secret(self, request: Request) -> bool:
        """By the name of a parameter, or because it is the token: addresses end up in logs."""
        names = (part.partition("=")[0] for part in re.split("[&;]", request.query))
        address = unquote_plus(f"{request.path}?{request.query}")
        if self.token and self.token in address:
            return True
        return any(_SECRET.fullmatch(unquote_plus(name).strip()) for name in names)

    def _has_token(self, request: Request) -> bool:
        scheme, _, given = request.headers.get("authorization", "").partition(" ")
        expected = (self.token or "").encode("utf-8")
        is_it = hmac.compare_digest(given.strip().encode("latin-1"), expected)
        return is_it and scheme.lower() == "bearer" and expected != b""


def _is_from_elsewhere(request: Request) -> bool:
    """Whether the browser says that another site's page asks; no browser, no such word."""
    if request.headers.get("sec-fetch-site", "none") not in ("same-origin", "none"):
        return True
    origin = request.headers.get("origin")
    if origin is None:
        return False
    scheme, _, host = origin.lower().partition("://")
    return scheme not in ("http", "https") or host != request.headers.get("host", "").lower()


def _is_json(request: Request) -> bool:
    kind = request.headers.get("content-type", "").partition(";")[0]
    return kind.strip().lower() == JSON


def own_names(*names: Optional[str]) -> FrozenSet[str]:
    """By which names a machine may be asked that is called so.

    A bare name counts with the endings of local networks, too: on the Internet nobody can have it.
    """
    given = {name.lower().rstrip(".") for name in names if name}
    found = {name for name in given if ":" not in name and not _IPV4.fullmatch(name)}
    bare = {name.partition(".")[0] for name in found}
    return frozenset(found | bare | {f"{name}.{ending}" for name in bare for ending in _PRIVATE})


# --- answering ------------------------------------------------------------------------------------


def response(
    status: int, body: bytes, kind: str = JSON, more: Iterable[str] = (), head: bool = False
) -> bytes:
    """A whole answer; `head` leaves the body away."""
    lines = [
        f"HTTP/1.1 {status} {REASONS.get(status, 'Status')}",
        f"Content-Type: {kind}",
        f"Content-Length: {len(body)}",
        *STRICT,
        *more,
    ]
    return "\r\n".join([*lines, "", ""]).encode("ascii") + (b"" if head else body)
