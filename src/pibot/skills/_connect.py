"""Connections to what a policy lets through: the public internet, and the owner's own hosts.

A name is resolved once, every address that it has is looked at, and the connection goes to one of
those that were looked at. A name that points elsewhere the next time it is asked for (DNS
rebinding) gains nothing, because it is not asked for again.
"""

from __future__ import annotations

import io
import os
import queue
import selectors
import socket
import threading
import time
from dataclasses import dataclass
from typing import Any, Callable, Optional, Union

from pibot.errors import SkillError
from pibot.skills._hosts import WebPolicy
from pibot.skills._urls import Target

_POLL_S = 0.1
_CONNECT_S = 5.0  # for one address; then the next is tried
_MOST_ADDRESSES = 6
_SILENT_S = 20.0  # longer than any server thinks before it goes on

Resolve = Callable[..., "list[Any]"]  # like socket.getaddrinfo
Socket = Union[socket.socket, Any]


class Broken(SkillError):
    """The network's or the server's fault: another try may succeed."""


@dataclass(frozen=True)
class Guard:
    """The end of all waiting: raises as soon as the call was cancelled or is out of time."""

    what: str
    cancelled: threading.Event
    deadline: float  # time.monotonic()

    def check(self) -> None:
        if time.monotonic() >= self.deadline:  # first: it also cancels
            raise SkillError(f"{self.what} was too slow: the time for this call is over.")
        if self.cancelled.is_set():
            raise SkillError(f"The request to {self.what} was cancelled.")


# -- addresses ---------------------------------------------------------------------------------


def addresses(target: Target, policy: WebPolicy, guard: Guard, resolve: Resolve) -> list[Any]:
    """Resolve the host, once; return its getaddrinfo entries, all of them allowed by `policy`."""
    policy.check_name(target)
    entries = _resolved(target, guard, resolve)
    for *_, sockaddr in entries:
        policy.check_address(target, sockaddr[0])
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
            name = target.label or target.host
            raise SkillError(f"{name} was not found: check the name and the network.")
        return answer


# -- connections -------------------------------------------------------------------------------


class Wire:
    """A connection as http.client wants it, which looks at its guard while it waits.

    It takes in no more than `most_bytes`, whatever the framing of an answer says.
    """

    def __init__(self, sock: Socket, guard: Guard, most_bytes: int) -> None:
        self._sock = sock
        self._guard = guard
        self._most_bytes = most_bytes

    def sendall(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            self._guard.check()
            try:
                view = view[self._sock.send(view) :]
            except socket.timeout:
                continue

    def makefile(self, mode: str) -> io.BufferedReader:
        return io.BufferedReader(_Incoming(self._sock, self._guard, self._most_bytes))

    def close(self) -> None:
        """Do nothing: http.client lets go of a connection while its answer is still being read."""

    def end(self) -> None:
        self._sock.close()


class _Incoming(io.RawIOBase):
    def __init__(self, sock: Socket, guard: Guard, most_bytes: int) -> None:
        self._sock = sock
        self._guard = guard
        self._left_bytes = most_bytes

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        silent_until = time.monotonic() + _SILENT_S
        while True:
            self._guard.check()
            if self._left_bytes <= 0:
                raise SkillError(f"{self._guard.what} sends more than was asked for.")
            try:
                received = int(self._sock.recv_into(buffer))
            except socket.timeout:
                if time.monotonic() >= silent_until:
                    raise Broken(f"{self._guard.what} has gone silent.") from None
                continue
            self._left_bytes -= received
            return received


def connect(target: Target, entries: list[Any], guard: Guard, most_bytes: int) -> Wire:
    """Connect to the first of the checked addresses that answers; TLS with the host's name."""
    problem: Optional[Exception] = None
    for family, kind, protocol, _, sockaddr in entries[:_MOST_ADDRESSES]:
        try:
            sock = _open(socket.socket(family, kind, protocol), sockaddr, guard)
        except OSError as error:
            problem = error
            continue
        sock = _secured(sock, target, guard) if target.scheme == "https" else sock
        return Wire(sock, guard, most_bytes)
    raise Broken(f"{target.place} could not be reached: {reason(problem)}.")


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
            sock, server_hostname=target.host.rstrip("."), do_handshake_on_connect=False
        )
    except (OSError, ValueError) as error:
        sock.close()
        raise SkillError(f"{target.place} cannot be used with TLS: {reason(error)}.") from None
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
        why = "it was not accepted" if target.label else reason(error)  # which names the host
        raise SkillError(f"{target.place} has no trusted TLS: {why}.") from None
    except SkillError:
        secured.close()
        raise


def reason(error: Optional[Exception]) -> str:
    """Say in a few words why a connection failed."""
    if error is None or isinstance(error, socket.timeout):
        return "no answer"
    said = getattr(error, "verify_message", "") or getattr(error, "strerror", "") or error
    return " ".join(str(said).split())
