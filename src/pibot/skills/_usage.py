"""What a directory tree takes on the disk, counted in bounded time."""

from __future__ import annotations

import errno
import os
import time

from pibot.skills._steps import enter

MAX_DEPTH = 100  # directories below each other
MAX_ENTRIES = 100_000  # of all kinds
_MEASURE_S = 5.0
_NOT_OURS = (errno.EXDEV, errno.ENOTDIR, errno.ELOOP)  # a mount point; swapped for a link meanwhile


class Usage:
    """`size` is in bytes; `problem` says why the tree could not be counted to its end."""

    def __init__(self) -> None:
        self.size = 0
        self.problem = ""
        self._entries = 0
        self._ends = time.monotonic() + _MEASURE_S

    def add(self, fd: int, depth: int) -> None:
        """Count what is in a directory, and in those below."""
        with os.scandir(fd) as found:
            for entry in found:
                try:
                    self._count(fd, entry, depth)
                except FileNotFoundError:
                    continue  # it has just gone
                except OSError as error:
                    if error.errno not in _NOT_OURS:
                        self.problem = "has directories that cannot be looked into"
                if self.problem:
                    return

    def _count(self, fd: int, entry: "os.DirEntry[str]", depth: int) -> None:
        self._entries += 1
        self.size += entry.stat(follow_symlinks=False).st_blocks * 512
        if self._entries > MAX_ENTRIES or time.monotonic() > self._ends:
            self.problem = f"has too many files: more than {min(self._entries, MAX_ENTRIES):,}"
        elif entry.is_dir(follow_symlinks=False):
            self._below(fd, entry.name, depth + 1)

    def _below(self, fd: int, name: str, depth: int) -> None:
        if depth > MAX_DEPTH:
            self.problem = f"is more than {MAX_DEPTH} directories deep"
            return
        below = enter(fd, name)
        try:
            self.add(below, depth)
        finally:
            os.close(below)
