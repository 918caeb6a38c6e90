"""Connections to the public internet, and to nothing else: what the web skill may reach.

A name is resolved once, every address that it has is looked at, and the connection goes to one of
those that were looked at. A name that points elsewhere the next time it is asked for (DNS
rebinding) gains nothing, because it is not asked for again.
"""

from __future__ import annotations

import io
import os
import queue
import re
import selectors
import socket
import threading
import time
from dataclasses import dataclass
from ipaddress import IPv6Address
from typing import Any, Callable, Optional, Union
from urllib.parse import quote, urlsplit

from pibot.errors import SkillError
from pibot.skills._addresses import refusal

_POLL_S = 0.1
_CONNECT_S = 5.0  # for one address; then the next is tried
_MOST_ADDRESSES = 6
_LONGEST_URL = 8192
_MOST_INCOMING_BYTES = 8 * 1024 * 1024  # of one connection, whatever its framing says
_PORTS = {"http": 80, "https": 443}
_FORBIDDEN = re.compile(r"[\x00-\x20\x7f-\xa0\\\u2028\u2029\ud800-\udfff]")
_NETLOC = re.compile(r"(\[(?P<v6>[0-9a-fA-F:.]+)\]|(?P<name>[^\[\]:@]+))(:(?P<port>[0-9]{0,6}))?")
_HOST = re.compile(r"[a-z0-9_-]{1,63}(\.[a-z0-9_-]{1,63})*\.?")
_KEPT = "!#$%&'()*+,/:;=?@[]~"  # as they are: the URL's own structure, and what is quoted already

Resolve = Callable[..., "list[Any]"]  # like socket.getaddrinfo
Socket = Union[socket.socket, Any]


@dataclass(frozen=True)
class WebPolicy:
    """Hosts ("nas.local", "127.0.0.1:8000") that may be reached although they are not public."""

    allow_hosts: frozenset[str] = frozenset()

    def allows(self, target: Target) -> bool:
        return target.host in self.allow_hosts or target.address in self.allow_hosts


@dataclass(frozen=True)
class Target:
    """A URL that was checked: ASCII only, lower-case host, no user name, no fragment."""

    scheme: str
    host: str  # without brackets
    port: int
    path: str  # with the query

    @property
    def url(self) -> str:
        return f"{self.scheme}://{self.netloc}{self.path}"

    @property
    def netloc(self) -> str:
        """Host and port as the Host header wants them: the usual port is left out."""
        return self._bracketed if self.port == _PORTS[self.scheme] else self.address

    @property
    def address(self) -> str:
        """Host and port."""
        return f"{self._bracketed}:{self.port}"

    @property
    def _bracketed(self) -> str:
        return f"[{self.host}]" if ":" in self.host else self.host


@dataclass(frozen=True)
class Guard:
    """The end of all waiting: raises as soon as the call was cancelled or is out of time."""

    what: str
    cancelled: threading.Event
    deadline: float  # time.monotonic()

    def check(self) -> None:
        if self.cancelled.is_set():
            raise SkillError(f"Fetching {self.what} was cancelled.")
        if time.monotonic() >= self.deadline:
            raise SkillError(f"{self.what} was too slow: the time for this call is over.")


# -- URLs --------------------------------------------------------------------------------------


def parse(url: str) -> Target:
    """Check a URL and take it apart; SkillError says what is wrong with it."""
    shown = url if len(url) <= 200 else url[:200] + "…"
    if len(url) > _LONGEST_URL:
        raise SkillError(f"The URL is longer than {_LONGEST_URL} characters.")
    if _FORBIDDEN.search(url):
        raise SkillError(
            f"{shown!r} is not a URL: it holds a space, backslash or control character."
        )
    try:
        parts = urlsplit(url)
    except ValueError as error:
        raise SkillError(f"{shown} is not a URL: {error}.") from None
    if parts.scheme not in _PORTS:
        raise SkillError(f"{shown} cannot be fetched: only http:// and https:// URLs can.")
    if "@" in parts.netloc:
        raise SkillError(f"{shown} cannot be fetched: leave out the user name before the @.")
    netloc = _NETLOC.fullmatch(parts.netloc)
    host = _ascii(netloc["name"]) if netloc and netloc["name"] else _ipv6(netloc)
    if netloc is None or not host:
        raise SkillError(f"{shown} is not a URL: its host is not a valid name or address.")
    port = int(netloc["port"] or _PORTS[parts.scheme])
    if not 1 <= port <= 65535:
        raise SkillError(f"{shown} cannot be fetched: there is no port {port}.")
    path = quote(parts.path or "/", safe=_KEPT)
    if parts.query:
        path += "?" + quote(parts.query, safe=_KEPT)
    return Target(parts.scheme, host, port, path)


def _ipv6(netloc: Optional[re.Match[str]]) -> str:
    """Return the normal form of an address in brackets, "" when it is none."""
    try:
        return str(IPv6Address(netloc["v6"])) if netloc and netloc["v6"] else ""
    except ValueError:
        return ""


def _ascii(name: str) -> str:
    """Return the name that is checked, resolved and said to the server; "" when it is invalid."""
    try:
        plain = (name if name.isascii() else name.encode("idna").decode("ascii")).lower()
    except UnicodeError:
        return ""
    return plain if _HOST.fullmatch(plain) else ""


# -- addresses ---------------------------------------------------------------------------------


def addresses(target: Target, policy: WebPolicy, guard: Guard, resolve: Resolve) -> list[Any]:
    """Resolve the host, once; return its getaddrinfo entries, all of them allowed by `policy`."""
    entries = _resolved(target, guard, resolve)
    if policy.allows(target):
        return entries
    for *_, sockaddr in entries:
        kind = refusal(sockaddr[0])
        if kind:
            raise SkillError(
                f"{target.url} is refused: {target.host} has {kind} address ({sockaddr[0]}), and "
                f"only public ones may be fetched; PIBOT_WEB_ALLOW={target.address} allows it."
            )
    return entries


def _resolved(target: Target, guard: Guard, resolve: Resolve) -> list[Any]:
    """Ask for the addresses in a thread that can be left behind: the resolver cannot be stopped."""
    answers: queue.Queue[Union[list[Any], Exception]] = queue.Queue()

    def ask() -> None:
        try:
            answers.put(resolve(target.host, target.port, type=socket.SOCK_STREAM))
        except Exception as error:  # whatever it is, somebody waits for it
            answers.put(error)

    threading.Thread(target=ask, name="resolve", daemon=True).start()
    while True:
        guard.check()
        try:
            answer = answers.get(timeout=_POLL_S)
        except queue.Empty:
            continue
        if isinstance(answer, Exception) or not answer:
            raise SkillError(f"{target.host} was not found: check the name and the network.")
        return answer


# -- connections -------------------------------------------------------------------------------


class Wire:
    """A connection as http.client wants it, which looks at its guard while it waits."""

    def __init__(self, sock: Socket, guard: Guard) -> None:
        self._sock = sock
        self._guard = guard

    def sendall(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            self._guard.check()
            try:
                view = view[self._sock.send(view) :]
            except socket.timeout:
                continue

    def makefile(self, mode: str) -> io.BufferedReader:
        return io.BufferedReader(_Incoming(self._sock, self._guard))

    def close(self) -> None:
        """Do nothing: http.client lets go of a connection while its answer is still being read."""

    def end(self) -> None:
        self._sock.close()


class _Incoming(io.RawIOBase):
    def __init__(self, sock: Socket, guard: Guard) -> None:
        self._sock = sock
        self._guard = guard
        self._left_bytes = _MOST_INCOMING_BYTES

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while True:
            self._guard.check()
            if self._left_bytes <= 0:
                raise SkillError(f"{self._guard.what} sends more than a page can have.")
            try:
                received = int(self._sock.recv_into(buffer))
            except socket.timeout:
                continue
            self._left_bytes -= received
            return received


def connect(target: Target, entries: list[Any], guard: Guard) -> Wire:
    """Connect to the first of the checked addresses that answers; TLS with the host's name."""
    problem: Optional[Exception] = None
    for family, kind, protocol, _, sockaddr in entries[:_MOST_ADDRESSES]:
        try:
            sock = _open(socket.socket(family, kind, protocol), sockaddr, guard)
        except OSError as error:
            problem = error
            continue
        return Wire(_secured(sock, target, guard) if target.scheme == "https" else sock, guard)
    raise SkillError(f"{target.netloc} could not be reached: {reason(problem)}.")


def _open(sock: socket.socket, sockaddr: Any, guard: Guard) -> socket.socket:
    try:
        sock.setblocking(False)
        sock.connect_ex(sockaddr)
        with selectors.DefaultSelector() as selector:
            selector.register(sock, selectors.EVENT_WRITE)
            give_up = time.monotonic() + _CONNECT_S
            while not selector.select(_POLL_S):
                guard.check()
                if time.monotonic() >= give_up:
                    raise socket.timeout("no answer")
        failed = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if failed:
            raise OSError(failed, os.strerror(failed))
        sock.getpeername()  # raises when it is not connected after all
        sock.settimeout(_POLL_S)
    except BaseException:
        sock.close()
        raise
    return sock


def _secured(sock: socket.socket, target: Target, guard: Guard) -> Socket:
    import ssl

    context = ssl.create_default_context()
    try:
        secured = context.wrap_socket(
            sock, server_hostname=target.host, do_handshake_on_connect=False
        )
    except (OSError, ValueError) as error:
        sock.close()
        raise SkillError(f"{target.netloc} cannot be used with TLS: {reason(error)}.") from None
    try:
        while True:
            guard.check()
            try:
                secured.do_handshake()
                return secured
            except socket.timeout:
                continue
    except OSError as error:
        secured.close()
        raise SkillError(f"{target.netloc} has no trusted TLS: {reason(error)}.") from None
    except SkillError:
        secured.close()
        raise


def reason(error: Optional[Exception]) -> str:
    """Say in a few words why a connection failed."""
    if error is None or isinstance(error, socket.timeout):
        return "no answer"
    said = getattr(error, "verify_message", "") or getattr(error, "strerror", "") or error
    return " ".join(str(said).split())
