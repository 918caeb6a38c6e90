"""The way to a file of the task's workspace, and to no other.

Every path is walked from the open workspace, one directory descriptor after the other, without
ever following a symbolic link. What was looked at is what is used: nothing that changes in
between (a link put in place of a directory, a file swapped for a FIFO) leads outside or blocks.
"""

from __future__ import annotations

import errno
import hashlib
import math
import os
import stat
from contextlib import contextmanager
from pathlib import Path
from typing import Iterator, List, Protocol, Tuple

from pibot.skills import SkillError

_READ_BYTES = 1 << 20
DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC  # a FIFO must not hold us up


class Place(Protocol):
    """What has a workspace, such as the Context of a call."""

    @property
    def workspace(self) -> Path: ...


def parts_of(ctx: Place, path: str) -> List[str]:
    """The names on the way from the workspace to `path`; "." and ".." are resolved as text."""
    if "\0" in path:
        raise SkillError("a path cannot contain a zero byte")
    if path.startswith("/"):
        path = _below_workspace(ctx, path)
    parts: List[str] = []
    for name in path.split("/"):
        if name == "..":
            if not parts:
                raise _outside(path)
            parts.pop()
        elif name not in ("", "."):
            parts.append(name)
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
            below = os.open(name, DIRECTORY, dir_fd=fd)
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
    with _descent(ctx, names[:-1], make) as fd:
        yield fd, names[-1]


@contextmanager
def open_file(ctx: Place, path: str, flags: int) -> Iterator[int]:
    """The descriptor of an ordinary file; anything else is refused without waiting for it.

    `flags` say what for, as in os.open. Raises OSError, SkillError.
    """
    with open_parent(ctx, path, make=bool(flags & os.O_CREAT)) as (folder, name):
        fd = os.open(name, flags | FILE, 0o644, dir_fd=folder)
    try:
        mode = os.fstat(fd).st_mode
        if stat.S_ISDIR(mode):
            raise IsADirectoryError(errno.EISDIR, "is a directory")
        if not stat.S_ISREG(mode):
            raise SkillError(
                f"{path}: is not an ordinary file but {kind_of(mode)}; it is not opened"
            )
        yield fd
    finally:
        os.close(fd)


def measured(ctx: Place, path: str, room: float = math.inf) -> Tuple[int, str]:
    """Size and SHA-256 of an ordinary file; what is larger than `room` is not read to its end.

    Raises OSError, SkillError.
    """
    digest, size = hashlib.sha256(), 0
    with open_file(ctx, path, os.O_RDONLY) as fd:
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
    errno.ENOENT: "there is no such file or directory",
    errno.ELOOP: "is a symbolic link; links are not followed",
    errno.ENOTDIR: "is not a directory, or a link is on the way; links are not followed",
    errno.EISDIR: "is a directory",
    errno.ENXIO: "is not an ordinary file; it is not opened",
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


def entries_of(fd: int) -> Iterator[Tuple[str, str, int]]:
    """Name, kind and size in bytes of what is in a directory."""
    with os.scandir(fd) as found:
        for entry in found:
            try:
                status = entry.stat(follow_symlinks=False)
            except FileNotFoundError:
                continue
            yield entry.name, kind_of(status.st_mode), status.st_size


def kind_of(mode: int) -> str:
    kinds = {
        stat.S_IFREG: "file",
        stat.S_IFDIR: "directory",
        stat.S_IFLNK: "link",
        stat.S_IFIFO: "fifo",
        stat.S_IFSOCK: "socket",
    }
    return kinds.get(stat.S_IFMT(mode), "device")
