"""The way to a file of the task's workspace, and to no other; and how much room there is.

Every path is walked from the open workspace, one directory descriptor after the other: nothing that
changes meanwhile (a link put in place of a directory, a file swapped for a FIFO) leads outside or
blocks. See _steps.py for each step.
"""

from __future__ import annotations

import errno
import hashlib
import math
import os
from contextlib import contextmanager
from pathlib import Path
from typing import Iterator, List, Protocol, Tuple

from pibot.growing import SPARE_BYTES
from pibot.skills import Context, SkillError
from pibot.skills._steps import enter, open_in
from pibot.skills._usage import MAX_DEPTH, Usage

_MB = 1 << 20
_READ_BYTES = 1 << 20


class Place(Protocol):
    """What has a workspace, such as the Context of a call."""

    @property
    def workspace(self) -> Path: ...


def parts_of(ctx: Place, path: str) -> List[str]:
    """The names on the way from the workspace to `path`; "." and ".." are resolved as text."""
    if "\0" in path:
        raise SkillError("a path cannot contain a zero byte")
    inside = _below_workspace(ctx, path) if path.startswith("/") else path
    parts: List[str] = []
    for name in inside.split("/"):
        if name == "..":
            if not parts:
                raise _outside(path)
            parts.pop()
        elif name not in ("", "."):
            parts.append(name)
    if len(parts) > MAX_DEPTH:
        raise SkillError(f"{path[:40]}…: is more than {MAX_DEPTH} directories deep")
    return parts


def _below_workspace(ctx: Place, path: str) -> str:
    """The rest of an absolute path after the workspace's own, however that is spelled."""
    normal = os.path.normpath(path) + "/"
    for root in (os.path.normpath(ctx.workspace), os.path.realpath(ctx.workspace)):
        if normal.startswith(root + "/"):
            return normal[len(root) + 1 :]
    raise _outside(path)


def _outside(path: str) -> SkillError:
    return SkillError(f"{path}: is outside the workspace; give a path inside it, such as notes.txt")


@contextmanager
def _descent(ctx: Place, names: List[str], make: bool = False) -> Iterator[int]:
    """The descriptor of a directory, reached name by name."""
    fd = os.open(ctx.workspace, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for name in names:
            if make:
                _make_directory(name, fd)
            below = enter(fd, name)
            os.close(fd)
            fd = below
        yield fd
    finally:
        os.close(fd)


def _make_directory(name: str, fd: int) -> None:
    try:
        os.mkdir(name, 0o755, dir_fd=fd)
    except FileExistsError:
        pass


@contextmanager
def open_directory(ctx: Place, path: str) -> Iterator[int]:
    """The descriptor of a directory inside the workspace. Raises OSError, SkillError."""
    with _descent(ctx, parts_of(ctx, path)) as fd:
        yield fd


@contextmanager
def open_parent(ctx: Place, path: str, make: bool = False) -> Iterator[Tuple[int, str]]:
    """The descriptor of the directory that holds `path`, and the name in it.

    `make` makes the directories on the way. Raises OSError, SkillError.
    """
    names = parts_of(ctx, path)
    if not names:
        raise SkillError(f"{path or 'the path'}: is the workspace itself; name a file in it")
    if make and not all(name.isprintable() for name in names):
        raise SkillError(f"{path}: has characters that cannot be shown; choose another name")
    with _descent(ctx, names[:-1], make) as fd:
        yield fd, names[-1]


@contextmanager
def open_file(ctx: Place, path: str, flags: int) -> Iterator[int]:
    """The descriptor of an ordinary file; anything else is refused without opening it.

    `flags` say what for, as in os.open. Raises OSError, SkillError.
    """
    with open_parent(ctx, path, make=bool(flags & os.O_CREAT)) as (folder, name):
        fd = open_in(folder, name, flags)
    try:
        yield fd
    finally:
        os.close(fd)


def measured(fd: int, room: float = math.inf) -> Tuple[int, str]:
    """Size and SHA-256 of an open file; what is larger than `room` is not read to its end."""
    digest, size = hashlib.sha256(), 0
    while size <= room and (data := os.read(fd, _READ_BYTES)):
        digest.update(data)
        size += len(data)
    return size, digest.hexdigest()


def is_directory(ctx: Place, path: str) -> bool:
    """Whether there is such a directory. Raises SkillError for a path that leads outside."""
    try:
        with open_directory(ctx, path):
            return True
    except OSError:
        return False


_REASONS = {
    errno.EEXIST: "is there already",
    errno.ENOENT: "there is no such file or directory",
    errno.ELOOP: "is a symbolic link; links are not followed",
    errno.ENOTDIR: "is not a directory, or a link is on the way; links are not followed",
    errno.EISDIR: "is a directory",
    errno.EXDEV: "is a mount point, with files that are not the workspace's; it is not entered",
    errno.ENOTEMPTY: "is a directory that is not empty; delete what is in it first",
    errno.ENOSPC: "the disk is full",
    errno.EINVAL: "this cannot be done, such as moving a directory into itself",
}


@contextmanager
def explained(path: str) -> Iterator[None]:
    """Turn an OSError into a SkillError that says in words what is wrong with `path`."""
    try:
        yield
    except OSError as error:
        reason = _REASONS.get(error.errno or 0) or (error.strerror or str(error)).lower()
        raise SkillError(f"{path}: {reason}") from None


# --- how much --------------------------------------------------------------------------------


def room(ctx: Context) -> int:
    """How many bytes the task may still write into its workspace."""
    return _room(ctx)[0]


def check_room(ctx: Context, path: str, size: int) -> None:
    """Raise SkillError unless `size` bytes more may be written to `path`."""
    if size <= 0:
        return
    left, why = _room(ctx)
    if size > left:
        raise SkillError(f"{path}: there is no room for {size:,} bytes more: {why}")


def _room(ctx: Context) -> Tuple[int, str]:
    """The room that is left, and what makes it so small."""
    usage = Usage()
    try:
        with open_directory(ctx, ".") as fd:
            usage.add(fd, 0)
            system = os.fstatvfs(fd)
    except OSError as error:
        return 0, f"the workspace cannot be read: {(error.strerror or str(error)).lower()}"
    if usage.problem:
        return 0, f"the workspace {usage.problem}; delete what is not needed"
    limit = ctx.permits.workspace_mb * _MB
    free = max(0, system.f_bavail * system.f_frsize - SPARE_BYTES)
    if system.f_blocks and free < limit - usage.size:  # some file systems do not say
        return free, f"this machine's disk has only {free:,} bytes to spare"
    return max(0, limit - usage.size), (
        f"the workspace has {usage.size:,} bytes of the {limit:,} that PIBOT_WORKSPACE_MB gives a "
        "task; delete what is not needed"
    )
