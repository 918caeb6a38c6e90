"""The one HTTP client of the skills: each hop is checked, bounded in size and time, and polite.

Proxies, cookies and credentials of the machine are not looked at.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Dict, Iterator, Mapping, NamedTuple, Optional

from pibot.errors import SkillError

if TYPE_CHECKING:
    from http.client import HTTPResponse

    from pibot.agent.tools import Context
    from pibot.skills._connect import Guard, Resolve, Wire
    from pibot.skills._hosts import WebPolicy
    from pibot.skills._urls import Target

_MOST_REDIRECTS = 5
_MOST_INCOMING_BYTES = 8 * 1024 * 1024


@dataclass(frozen=True)
class Client:
    """How to ask. `resolve` stands in for socket.getaddrinfo.

    `polite` asks strangers for their robots.txt, and no more often than they like. Without
    `redirects` an answer that points elsewhere is an error.
    """

    policy: WebPolicy
    resolve: Optional[Resolve] = None
    polite: bool = True
    redirects: int = _MOST_REDIRECTS
    most_bytes: int = _MOST_INCOMING_BYTES  # of one connection, framing and all


@dataclass(frozen=True)
class Request:
    method: str = "GET"
    headers: Mapping[str, str] = field(default_factory=dict)
    body: Optional[bytes] = None


class Answer(NamedTuple):
    """An answer whose head was read; its body is still to come."""

    target: Target
    response: HTTPResponse
    guard: Guard

    @property
    def kind(self) -> str:
        """The media type in lower case, "" when none is given."""
        return (self.response.getheader("Content-Type") or "").partition(";")[0].strip().lower()

    @property
    def known(self) -> Dict[str, Any]:
        status = self.response.status
        return {"url": str(self.target), "status": status, "content_type": self.kind}

    @property
    def status(self) -> str:
        """The status in words, such as "404 Not Found"."""
        from http.client import responses

        return f"{self.response.status} {responses.get(self.response.status, '')}".strip()

    def check_ok(self) -> None:
        """Raise SkillError unless the request was answered as it was meant."""
        if not 200 <= self.response.status < 300:
            raise SkillError(f"{self.target} answered {self.status}.", self.known)


@contextmanager
def answered(
    target: Target, client: Client, ctx: Context, request: Optional[Request] = None
) -> Iterator[Answer]:
    """Ask, follow redirects, and yield the last answer; its connection is closed afterwards.

    Raises SkillError within 0.3 s of a cancel or the deadline of `ctx`, and for whatever else
    keeps an answer from coming.
    """
    from pibot.skills._connect import Guard
    from pibot.skills._urls import parse

    first = target
    try:
        for _ in range(client.redirects + 1):
            guard = Guard(str(target), ctx.cancelled, ctx.deadline)
            wire = _connected(target, client, ctx, guard)
            try:
                answer = Answer(target, _exchange(target, wire, request or Request()), guard)
                onward = _redirect(answer)
                if onward is None:
                    yield answer
                    return
            finally:
                wire.end()
            target = parse(onward) if client.redirects else target
    except SkillError as error:
        if target is first:
            raise
        raise type(error)(f"{first} was redirected: {error}", error.data) from None
    raise SkillError(_too_far(first, client), answer.known)


def _too_far(first: Target, client: Client) -> str:
    if client.redirects:
        return f"{first} redirects more than {client.redirects} times."
    return f"{first} redirects elsewhere, which is not followed here; ask for the place itself."


def _connected(target: Target, client: Client, ctx: Context, guard: Guard) -> Wire:
    import socket

    from pibot.skills import _manners
    from pibot.skills._connect import addresses, connect

    resolve = client.resolve or socket.getaddrinfo
    entries = addresses(target, client.policy, guard, resolve)
    if client.polite and not client.policy.owns(target):
        _manners.mind(target, client, ctx, guard)
    return connect(target, entries, guard, client.most_bytes)


def _exchange(target: Target, wire: Wire, request: Request) -> HTTPResponse:
    """Send the request and read the answer's head."""
    from http.client import HTTPConnection, HTTPException

    from pibot import __version__
    from pibot.skills._connect import Broken, reason

    connection = HTTPConnection(target.host, target.port)
    connection.sock = wire  # connected already, to an address that was checked
    usual = {"Host": target.netloc, "User-Agent": f"pibot/{__version__}", "Connection": "close"}
    try:
        connection.request(
            request.method, target.path, request.body, headers={**usual, **request.headers}
        )
        return connection.getresponse()
    except (HTTPException, ValueError) as error:  # the latter from impossible lengths
        kind = type(error).__name__
        raise Broken(f"{target} did not answer as a web server does ({kind}).") from None
    except OSError as error:
        raise Broken(f"{target} broke the connection: {reason(error)}.") from None


def _redirect(answer: Answer) -> Optional[str]:
    """Return where the answer points to, None when it is the answer itself."""
    from urllib.parse import urljoin

    target, response = answer.target, answer.response
    location = response.getheader("Location")
    if response.status not in (301, 302, 303, 307, 308) or not location:
        return None
    try:
        # Headers are read as Latin-1; servers write UTF-8.
        location = location.encode("latin-1").decode("utf-8")
    except UnicodeError:
        pass
    try:
        if not location.isprintable():  # urljoin would leave out line ends, and go on
            raise ValueError(location)
        return urljoin(target.url, location.strip().replace(" ", "%20")).partition("#")[0]
    except ValueError:
        raise SkillError(f"{target} redirects to what is no URL.") from None
