"""One command in the sandbox, from its start until nothing of it is left."""

from __future__ import annotations

import json
import os
import selectors
import signal
import time
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING, Sequence

from pibot.skills import Context, Output, SkillError
from pibot.skills._sandbox import Box
from pibot.skills._streams import Stream
from pibot.skills._workspace import room

if TYPE_CHECKING:
    from subprocess import Popen

_LOOK_S = 0.05
_ENDING_S = 0.005
_READ_BYTES = 64 * 1024
_LAST_LINES = 10
_LAST_CHARS = 2000
_GONE_S = 2.0  # for the kernel to end what is in a namespace
_MEASURE_S = 0.5  # between two looks at the workspace …
_MEASURE_SHARE = 10  # … and so many times as long as one look takes
_CLEARING_S = 10.0


class Command:
    def __init__(self, ctx: Context, box: Box, timeout_s: float) -> None:
        self._ctx, self._box, self._timeout_s = ctx, box, timeout_s
        self._streams = {"stdout": Stream(ctx), "stderr": Stream(ctx)}
        self._limit_s = timeout_s
        self._stopped = ""
        self._status = 0
        self._seconds = 0.0
        # Who finds the workspace full gets some time to make room in it.
        until_s = _CLEARING_S if room(ctx) <= 0 else _MEASURE_S
        self._measure_at = time.monotonic() + until_s

    def run(self, words: Sequence[str], stdin: bytes) -> Output:
        """Run it; raise SkillError when it fails, is stopped or cannot be started."""
        started = time.monotonic()
        deadline = min(started + self._timeout_s, self._ctx.deadline)
        self._limit_s = round(deadline - started, 1)
        with ExitStack() as opened:
            process, inside = self._start(words, stdin, opened)
            try:
                self._follow(process, deadline)
            finally:
                _end(process, inside)
                self._status = process.wait()
                self._seconds = round(time.monotonic() - started, 3)
        return self._output()

    def _start(
        self, words: Sequence[str], stdin: bytes, opened: ExitStack
    ) -> "tuple[Popen[bytes], int]":
        """The process, and a descriptor of the first one inside (-1: the kernel has none)."""
        reader, writer = os.pipe()
        with os.fdopen(reader, "rb") as info, ExitStack() as handed:
            handed.callback(os.close, writer)
            try:
                process = self._box.start(words, self._timeout_s, stdin, handed, writer)
            except (OSError, ValueError) as error:
                raise SkillError(f"the command could not be started: {error}") from error
            handed.close()
            for pipe in (process.stdout, process.stderr):
                assert pipe is not None
                opened.callback(pipe.close)
            return process, _first_inside(info.read(4096), opened)

    def _follow(self, process: "Popen[bytes]", deadline: float) -> None:
        with selectors.DefaultSelector() as selector:
            for name, pipe in (("stdout", process.stdout), ("stderr", process.stderr)):
                assert pipe is not None
                os.set_blocking(pipe.fileno(), False)
                selector.register(pipe, selectors.EVENT_READ, self._streams[name])
            while not self._is_over(deadline):
                ended = _has_ended(process.pid)
                self._read(selector, 0 if ended else _LOOK_S)
                if ended:
                    self._read_rest(selector)
                    return

    def _is_over(self, deadline: float) -> bool:
        now = time.monotonic()
        if self._ctx.cancelled.is_set():
            self._stopped = "the command was stopped: the call was cancelled"
        elif now >= deadline:
            self._stopped = f"the command did not end in {self._limit_s:g} s and was stopped"
        elif now >= self._measure_at:
            self._measure(now)
        return bool(self._stopped)

    def _measure(self, now: float) -> None:
        """Stop what fills the workspace."""
        if room(self._ctx) <= 0:
            self._stopped = (
                "the command was stopped: the workspace is full; delete what is not needed, or set "
                "PIBOT_WORKSPACE_MB on this machine"
            )
        took_s = time.monotonic() - now
        self._measure_at = now + took_s + max(_MEASURE_S, _MEASURE_SHARE * took_s)

    def _read(self, selector: selectors.BaseSelector, wait_s: float) -> bool:
        """Take in what is there; returns whether there was anything."""
        if not selector.get_map():  # it closed both streams; mostly it is about to end
            time.sleep(min(wait_s, _ENDING_S))
            return False
        ready = selector.select(wait_s)
        for key, _ in ready:
            chunk = os.read(key.fd, _READ_BYTES)
            if chunk:
                key.data.take(chunk)
            else:
                selector.unregister(key.fileobj)
        return bool(ready)

    def _read_rest(self, selector: selectors.BaseSelector) -> None:
        """What the ended command left in its pipes, and no more: others may still write there."""
        for _ in range(4):
            if not self._read(selector, 0):
                return

    def _output(self) -> Output:
        """What the command printed. Raises SkillError when it failed or was stopped."""
        out, err = self._streams["stdout"].text(), self._streams["stderr"].text()
        status = self._status if self._status >= 0 else 128 - self._status  # as shells count
        data = {"exit_status": status, "stdout": out, "stderr": err, "seconds": self._seconds}
        shown = "\n".join(part.rstrip("\n") for part in (out, err) if part)
        if not self._stopped and status == 0:
            return Output(data, shown or "(no output)")
        reason = self._stopped or f"the command ended with {_status_words(status)}"
        last = "\n".join(shown.splitlines()[-_LAST_LINES:])[-_LAST_CHARS:]
        raise SkillError(f"{reason}: {last}" if last else reason, data)


def _first_inside(info: bytes, opened: ExitStack) -> int:
    """A descriptor of the process with which all others inside end."""
    try:
        fd: int = os.pidfd_open(json.loads(info)["child-pid"])  # type: ignore[attr-defined,unused-ignore]
    except (AttributeError, OSError, ValueError, KeyError, TypeError):
        return -1  # it is gone already, or the kernel is older than 5.3
    opened.callback(os.close, fd)
    return fd


def _end(process: "Popen[bytes]", inside: int) -> None:
    """End all that runs inside, and wait until it is gone."""
    if inside >= 0:
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(inside, signal.SIGKILL)  # type: ignore[attr-defined,unused-ignore]
        with selectors.DefaultSelector() as selector:
            selector.register(inside, selectors.EVENT_READ)
            selector.select(_GONE_S)
    with suppress(ProcessLookupError, PermissionError):
        # It has not been waited for, so the number is still its own.
        os.killpg(process.pid, signal.SIGKILL)


def _has_ended(pid: int) -> bool:
    """Whether the process has ended; it is not waited for, so its number stays taken."""
    try:
        return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
    except ChildProcessError:  # somebody else waited for it
        return True


def _status_words(status: int) -> str:
    """bwrap passes a signal on as shells do: 128 and its number."""
    try:
        return f"signal {status - 128} ({signal.Signals(status - 128).name})"
    except ValueError:
        return f"status {status}"
