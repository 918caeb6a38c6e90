"""Removing directory trees that somebody hostile may have made: deep, locked, full of links.

A tree is first moved into a directory of ours: its name is free at once, and what a power cut
interrupts is found again. There each directory that is in another one is brought up to the top
before it is emptied, so that no path gets long and no descriptor is held for a level. No link is
followed and no mount point entered; what cannot be removed stays there.
"""

from __future__ import annotations

import os
import secrets
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import List

from pibot.skills._steps import enter

NAME = ".gone"
_AT_ONCE = 1000  # names in memory
_DIRECTORY = os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def discard(folder: Path, name: str) -> None:
    """Take `name` out of a directory; `empty` then removes it. Raises OSError."""
    fd = os.open(folder, os.O_RDONLY | _DIRECTORY)
    try:
        with suppress(FileExistsError):
            os.mkdir(NAME, 0o700, dir_fd=fd)
        trash = os.open(NAME, os.O_RDONLY | _DIRECTORY, dir_fd=fd)
        try:
            _bring(fd, name, trash)
        finally:
            os.close(trash)
    finally:
        os.close(fd)


def empty(folder: Path) -> None:
    """Remove what was taken out of a directory, as far as that can be done."""
    with suppress(OSError):
        trash = os.open(folder / NAME, os.O_RDONLY | _DIRECTORY)
        try:
            while _removed_some(trash, trash):
                pass
        finally:
            os.close(trash)
        os.rmdir(folder / NAME)


def _removed_some(fd: int, trash: int) -> bool:
    """Remove some of what is in a directory; whether there was anything, and it could be done."""
    done = [_removed(fd, name, trash) for name in _some_names(fd)]
    return any(done)


def _removed(fd: int, name: str, trash: int) -> bool:
    """Remove a file or directory, or come a step nearer to that."""
    for way in (os.unlink, os.rmdir):
        with suppress(OSError):
            way(name, dir_fd=fd)
            return True
    with suppress(OSError):
        if fd != trash:
            _bring(fd, name, trash)
            return True
        return _emptied(name, trash)
    return False


def _emptied(name: str, trash: int) -> bool:
    """Remove a directory of the trash; the directories in it come up beside it."""
    _unlock(trash, name)
    fd = enter(trash, name)
    try:
        while _removed_some(fd, trash):
            pass
    finally:
        os.close(fd)
    os.rmdir(name, dir_fd=trash)
    return True


def _bring(fd: int, name: str, trash: int) -> None:
    _unlock(fd, name)
    os.rename(name, secrets.token_hex(8), src_dir_fd=fd, dst_dir_fd=trash)


def _unlock(fd: int, name: str) -> None:
    """Give ourselves all rights to a directory; whoever only owns it may change it then."""
    with suppress(OSError):
        below = os.open(name, os.O_PATH | _DIRECTORY, dir_fd=fd)
        try:
            os.chmod(f"/proc/self/fd/{below}", 0o700)
        finally:
            os.close(below)


def _some_names(fd: int) -> List[str]:
    with os.scandir(fd) as found:
        return [entry.name for entry in islice(found, _AT_ONCE)]
