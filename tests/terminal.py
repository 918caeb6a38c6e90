"""A program on a real terminal of 80 columns, as a person uses it.

with Terminal(command("chat"), env) as terminal:
    terminal.expect("> ")
    terminal.send("what time is it\\r")
"""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import struct
import subprocess
import termios
import time
from pathlib import Path
from typing import List, Mapping, Optional

WAIT_S = 30.0
CTRL_C, CTRL_D = "\x03", "\x04"
_SEQUENCE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|\r")


class Terminal:
    """`seen` is all that the program wrote, `plain` the same without colours and movements."""

    def __init__(self, args: List[str], env: Mapping[str, str], cwd: Optional[Path] = None) -> None:
        self._ours, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
        self.seen = ""
        self._read = 0
        self.process = subprocess.Popen(
            args,
            env={**env, "TERM": "xterm-256color"},
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            cwd=cwd,
            start_new_session=True,
            preexec_fn=_take_terminal,
        )
        os.close(theirs)

    def __enter__(self) -> "Terminal":
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        os.close(self._ours)

    @property
    def plain(self) -> str:
        return _SEQUENCE.sub("", self.seen)

    def send(self, text: str) -> None:
        os.write(self._ours, text.encode())

    def expect(self, text: str, seconds: float = WAIT_S) -> None:
        """Wait until the text stands there, after what was expected before."""
        deadline = time.monotonic() + seconds
        while True:
            at = self.plain.find(text, self._read)
            if at >= 0:
                self._read = at + len(text)
                return
            if not self._more(deadline):
                raise AssertionError(f"{text!r} is not in:\n{self.plain[self._read :]}")

    def insist(self, keys: str, text: str) -> None:
        """Send keys until the text is there: readline may lose a Ctrl-C while it sets itself up."""
        for _ in range(10):
            self.send(keys)
            try:
                return self.expect(text, 1.0)
            except AssertionError:
                pass
        raise AssertionError(f"{text!r} is not in:\n{self.plain[self._read :]}")

    def finish(self, seconds: float = WAIT_S) -> int:
        """Wait for the program's end; return its exit status."""
        deadline = time.monotonic() + seconds
        while self._more(deadline):
            pass
        return self.process.wait(max(0.1, deadline - time.monotonic()))

    def _more(self, deadline: float) -> bool:
        """Read what comes; False when the program or the time has ended."""
        ready, _, _ = select.select([self._ours], [], [], max(0.0, deadline - time.monotonic()))
        if not ready:
            return False
        try:
            data = os.read(self._ours, 65_536)
        except OSError:  # Linux's way to say that the other end is closed
            return False
        self.seen += data.decode("utf-8", "replace")
        return bool(data)


def _take_terminal() -> None:
    """Make it the program's controlling terminal, so that Ctrl-C reaches it."""
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)
