"""One step from an open directory to what is in it, which never leads anywhere else.

No symbolic link is followed and no mount point entered. A file is looked at before it is opened,
and what was looked at is what is opened, whatever has its name by then. A file with a second name
(a hard link) may lie outside as well: it is not opened.
"""

from __future__ import annotations

import errno
import os
import stat
from typing import Iterator, Tuple

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_LOOK = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC  # opens nothing, not even a device
_FILE = os.O_NONBLOCK | os.O_CLOEXEC


def enter(fd: int, name: str) -> int:
    """Open a directory that is in an open one; no link, no mount point. Raises OSError."""
    below = os.open(name, _DIRECTORY, dir_fd=fd)
    try:
        _check_mount(fd, below)
    except OSError:
        os.close(below)
        raise
    return below


def _check_mount(folder: int, fd: int) -> None:
    if _mount_of(folder) != _mount_of(fd):
        raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))


def _mount_of(fd: int) -> bytes:
    """Which mount a descriptor is in: the device alone does not tell a bind mount."""
    try:
        info = os.open(f"/proc/self/fdinfo/{fd}", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:  # kernels before 5.14 hide it from a process that lets nobody look into it
        return str(os.fstat(fd).st_dev).encode()
    try:
        return os.read(info, 1000).partition(b"mnt_id:")[2].split()[0]
    finally:
        os.close(info)


def open_in(folder: int, name: str, flags: int, linked: bool = False) -> int:
    """Open an ordinary file that is in an open directory; `flags` say what for, as in os.open.

    With `linked` it may have other names (hard links). Raises OSError.
    """
    if flags & os.O_CREAT:
        try:
            return os.open(name, flags | os.O_EXCL | _FILE, 0o644, dir_fd=folder)
        except FileExistsError:
            if flags & os.O_EXCL:
                raise
            flags &= ~os.O_CREAT
    seen = look_in(folder, name, linked)
    try:
        return os.open(f"/proc/self/fd/{seen}", flags | _FILE)
    finally:
        os.close(seen)


def look_in(folder: int, name: str, linked: bool = False) -> int:
    """A descriptor that names such a file and does not open it. Raises OSError."""
    seen = os.open(name, _LOOK, dir_fd=folder)
    try:
        _check_ordinary(os.fstat(seen), linked)
        _check_mount(folder, seen)
    except OSError:
        os.close(seen)
        raise
    return seen


def _check_ordinary(status: os.stat_result, linked: bool) -> None:
    if stat.S_ISLNK(status.st_mode):
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
    if stat.S_ISDIR(status.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    if not stat.S_ISREG(status.st_mode):
        kind = kind_of(status.st_mode)
        raise OSError(errno.EPERM, f"is not an ordinary file but {kind}; it is not opened")
    if status.st_nlink > 1 and not linked:
        raise OSError(
            errno.EPERM,
            "has a second name (a hard link), which may be outside; it is not opened: copy it",
        )


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
