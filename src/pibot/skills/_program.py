"""A program of this machine, run with bounds on everything: its time, its output, what it leaves.

It is found in fixed places only, gets its words without a shell between, none of this process's
environment and no terminal. It is the leader of a process group, which is killed when the program
has ended, when its time is over and when the call is cancelled.
"""

from __future__ import annotations

import os
import selectors
import signal
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Dict, Optional, Sequence

from pibot.agent.text import short
from pibot.skills import Context, SkillError

if TYPE_CHECKING:
    from subprocess import Popen

PLACES = ("/usr/bin", "/bin", "/usr/local/bin", "/usr/sbin", "/sbin")
MOST_BYTES = 1 << 20
_LOOK_S = 0.05
_READ_BYTES = 64 * 1024  # as much as a pipe holds
_PIPE_READS = 4
_KEPT_ERRORS = 4096  # the end of what it says on standard error
_SHOWN_CHARS = 300


@dataclass(frozen=True)
class Printed:
    """How a program ended, and what it printed."""

    status: int
    out: bytes
    err: str

    @property
    def text(self) -> str:
        return self.out.decode("utf-8", "replace")

    @property
    def said(self) -> str:
        """Why it failed, as far as it says so: a few words for a person."""
        return short(self.err or self.text, _SHOWN_CHARS) or "it does not say why"


def find(name: str) -> Optional[str]:
    """Where a program lies; None when it is not installed."""
    paths = (os.path.join(place, name) for place in PLACES)
    return next((path for path in paths if os.access(path, os.X_OK)), None)


def run(
    ctx: Context,
    words: Sequence[str],
    limit_s: float,
    *,
    most_bytes: int = MOST_BYTES,
    stdin: Optional[int] = None,
) -> Printed:
    """Run a program to its end, whatever its status. `stdin` is a descriptor that it may read.

    Raises SkillError when it cannot be started, and when it is stopped: its time is over, the call
    is cancelled, or it has printed more than `most_bytes`.
    """
    name = os.path.basename(words[0])
    process = _started(words, stdin)
    following = _Following(process, name, most_bytes)
    try:
        following.follow(ctx, time.monotonic() + limit_s, limit_s)
    finally:
        _kill_group(process.pid)  # it has not been waited for, so the number is still its own
        status = process.wait()
        for pipe in (process.stdout, process.stderr):
            if pipe:
                pipe.close()
    return Printed(status, bytes(following.out), following.err.decode("utf-8", "replace"))


def _started(words: Sequence[str], stdin: Optional[int]) -> Popen[bytes]:
    import subprocess

    try:
        return subprocess.Popen(
            list(words),
            cwd="/",
            env={"PATH": ":".join(PLACES), "LANG": "C.UTF-8", "HOME": "/nonexistent"},
            stdin=subprocess.DEVNULL if stdin is None else stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
    except (OSError, ValueError) as error:
        raise SkillError(f"{os.path.basename(words[0])} could not be started: {error}") from None


class _Following:
    """A started program's output, read until it ends or has to be stopped."""

    def __init__(self, process: Popen[bytes], name: str, most_bytes: int) -> None:
        self.out = bytearray()
        self.err = bytearray()
        self._process = process
        self._name = name
        self._most_bytes = most_bytes

    def follow(self, ctx: Context, ends: float, limit_s: float) -> None:
        with selectors.DefaultSelector() as selector:
            for pipe, kept in ((self._process.stdout, self.out), (self._process.stderr, self.err)):
                assert pipe is not None
                os.set_blocking(pipe.fileno(), False)
                selector.register(pipe, selectors.EVENT_READ, kept)
            while True:
                if _has_ended(self._process.pid):
                    _kill_group(self._process.pid)
                    self._read_rest(selector)
                    return
                self._read(selector, _LOOK_S)
                if ctx.cancelled.is_set():
                    raise SkillError(f"{self._name} was stopped: the call was cancelled")
                if time.monotonic() >= min(ends, ctx.deadline):
                    raise SkillError(f"{self._name} did not end in {limit_s:g} s and was stopped")

    def _read_rest(self, selector: selectors.BaseSelector) -> None:
        """What is left in the pipes, and no more: who left the group may still write there."""
        for _ in range(_PIPE_READS):
            if not self._read(selector, 0):
                return

    def _read(self, selector: selectors.BaseSelector, wait_s: float) -> bool:
        if not selector.get_map():  # it closed both; mostly it is about to end
            time.sleep(min(wait_s, _LOOK_S / 10))
            return False
        ready: Dict[int, bytearray] = {key.fd: key.data for key, _ in selector.select(wait_s)}
        for fd, kept in ready.items():
            chunk = os.read(fd, _READ_BYTES)
            kept += chunk
            if not chunk:
                selector.unregister(fd)
        del self.err[:-_KEPT_ERRORS]
        if len(self.out) > self._most_bytes:
            raise SkillError(
                f"{self._name} printed more than {self._most_bytes} bytes and was stopped"
            )
        return bool(ready)


def _has_ended(pid: int) -> bool:
    """Whether the process has ended; it is not waited for, so its number stays taken."""
    try:
        return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
    except ChildProcessError:  # somebody else waited for it
        return True


def _kill_group(pid: int) -> None:
    try:
        os.killpg(pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        pass  # nobody is left
