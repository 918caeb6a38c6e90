"""The files of a machine, or of an image below a prefix, read and written with care.

Setup runs as root and also writes into directories of others: the home of the person who ran it
and the services' state. Paths are therefore walked one open directory at a time. A link that root
made is followed; a link that somebody else made only as far as it leads to their own directories.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import stat
from pathlib import Path
from typing import IO, Callable, Iterator, List, NamedTuple, Optional, Tuple

from pibot.errors import StoreError

NONE, FILE, FOLDER, LINK, OTHER = "none", "file", "folder", "link", "other"
MAX_BYTES = 8_000_000  # more is no file of setup's, and is not read
_OPEN_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_OPEN_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
Ids = Tuple[int, int]


class Entry(NamedTuple):
    """What stands at a path."""

    kind: str = NONE
    mode: int = 0
    uid: int = 0
    gid: int = 0
    content: bytes = b""  # of a file; of a link, where it leads
    half: bool = False  # a write to it was interrupted: what it left lies beside it

    @property
    def text(self) -> str:
        return self.content.decode("utf-8", "replace")


class Tree:
    """All paths are absolute, as they are on the machine itself."""

    def __init__(self, root: Path, owners: bool) -> None:
        self.root = root
        self.is_machine = root == Path("/")
        self._owners = owners  # only root may give files away

    # --- reading ----------------------------------------------------------------------------------

    def entry(self, path: str) -> Entry:
        """What stands at the path; a link is not followed."""
        try:
            with self._parent(path) as (folder, name):
                half = _exists(folder, _half(name))
                return _entry(folder, name)._replace(half=half)
        except (FileNotFoundError, NotADirectoryError):
            return Entry()

    def followed(self, path: str) -> Entry:
        """The same; a link is followed. For paths in root's own directories."""
        found = self.entry(path)
        if found.kind != LINK or not self.is_machine:
            return found
        real = os.path.realpath(path)
        return Entry() if real == path else self.entry(real)

    def names(self, path: str) -> List[str]:
        """What a directory holds; [] where there is none."""
        try:
            with self._parent(path + "/.") as (folder, _):
                return sorted(os.listdir(folder))
        except (FileNotFoundError, NotADirectoryError):
            return []

    # --- writing ----------------------------------------------------------------------------------

    def folder(self, path: str, mode: int, owner: Ids) -> None:
        """Make a directory, or give the one that is there its mode and owner."""
        with self._parent(path, make=True) as (folder, name):
            with contextlib.suppress(FileExistsError):
                os.mkdir(name, 0o700, dir_fd=folder)
            inside = self._enter(folder, name, path)
            try:
                self._give(inside, mode, owner)
            finally:
                os.close(inside)

    def write(self, path: str, content: bytes, mode: int, owner: Ids) -> None:
        """Put a file there, whole or not at all."""
        self._replace(path, mode, owner, lambda file: file.write(content))

    def copy(self, source: Path, path: str, mode: int, owner: Ids) -> None:
        with source.open("rb") as original:
            self._replace(path, mode, owner, lambda file: shutil.copyfileobj(original, file))

    def _replace(
        self, path: str, mode: int, owner: Ids, fill: Callable[[IO[bytes]], object]
    ) -> None:
        with self._parent(path, make=True) as (folder, name):
            _unlink(folder, _half(name))
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
            with open(os.open(_half(name), flags, 0o600, dir_fd=folder), "wb") as file:
                fill(file)
                file.flush()
                self._give(file.fileno(), mode, owner)
                os.fsync(file.fileno())
            _rename(folder, name)

    def link(self, path: str, target: str) -> None:
        with self._parent(path, make=True) as (folder, name):
            _unlink(folder, _half(name))
            os.symlink(target, _half(name), dir_fd=folder)
            _rename(folder, name)

    def mode(self, path: str, mode: int) -> None:
        """Change the mode of a file that is there; a link is not followed."""
        with self._parent(path) as (folder, name):
            descriptor = os.open(name, _OPEN_FILE, dir_fd=folder)
            try:
                os.fchmod(descriptor, mode)
            finally:
                os.close(descriptor)

    def give(self, path: str, owner: Ids) -> None:
        """Give a directory and all that is in it to another owner."""
        with self._parent(path + "/.") as (folder, _):
            _give_all(folder, owner)

    @contextlib.contextmanager
    def locked(self, path: str) -> Iterator[None]:
        """Keep others out. On a machine the file stays if something went wrong, as a mark."""
        above, name = (path if self.is_machine else "/.").rsplit("/", 1)
        with self._parent(f"{above}/.", make=True) as (folder, _):
            flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC
            flags |= os.O_CREAT if self.is_machine else os.O_DIRECTORY
            descriptor = os.open(name, flags, 0o600, dir_fd=folder)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                yield
                if self.is_machine:
                    os.unlink(name, dir_fd=folder)
            except BlockingIOError:
                raise StoreError(
                    "another setup is at work here: wait for its end, and run this again"
                ) from None
            finally:
                os.close(descriptor)

    # --- removing ---------------------------------------------------------------------------------

    def remove(self, path: str) -> None:
        """Remove a file or link, and what an interrupted write left beside it."""
        with contextlib.suppress(FileNotFoundError), self._parent(path) as (folder, name):
            _unlink(folder, _half(name))
            _unlink(folder, name)
            os.fsync(folder)

    def clear(self, path: str) -> None:
        """Remove a directory and all that is in it."""
        with contextlib.suppress(FileNotFoundError), self._parent(path) as (folder, name):
            _clear(folder, name)

    def prune(self, path: str) -> None:
        """Remove a directory if it is empty."""
        with contextlib.suppress(OSError), self._parent(path) as (folder, name):
            os.rmdir(name, dir_fd=folder)

    # --- walking ----------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _parent(self, path: str, make: bool = False) -> Iterator[Tuple[int, str]]:
        """The open directory that holds the path's last name, and that name."""
        *above, name = path.strip("/").split("/")
        folder = os.open(self.root, _OPEN_FOLDER)
        try:
            for step in above:
                if make:
                    self._make(folder, step)
                inside = self._enter(folder, step, path)
                os.close(folder)
                folder = inside
            yield folder, name
        finally:
            os.close(folder)

    def _make(self, folder: int, name: str) -> None:
        """Make a directory of the system that is missing, as in an empty image."""
        with contextlib.suppress(FileExistsError):
            os.mkdir(name, 0o755, dir_fd=folder)
            made = os.open(name, _OPEN_FOLDER | os.O_NOFOLLOW, dir_fd=folder)
            try:
                os.fchmod(made, 0o755)  # whatever the umask says
            finally:
                os.close(made)

    def _enter(self, folder: int, name: str, path: str) -> int:
        try:
            return os.open(name, _OPEN_FOLDER | os.O_NOFOLLOW, dir_fd=folder)
        except OSError:
            if _kind(folder, name) != LINK:
                raise
        inside = os.open(name, _OPEN_FOLDER, dir_fd=folder)
        if self.is_machine and _may_follow(os.fstat(folder), os.fstat(inside)):
            return inside
        os.close(inside)
        raise StoreError(
            f"{path} leads over the link {name!r}, which is not followed: put a real directory "
            "in its place"
        )

    def _give(self, descriptor: int, mode: int, owner: Ids) -> None:
        if self._owners:
            os.fchown(descriptor, *owner)
        os.fchmod(descriptor, mode)


def _may_follow(here: os.stat_result, there: os.stat_result) -> bool:
    """Root's links are root's business; those of others may not leave what is theirs."""
    only_root_writes = here.st_uid == 0 and not here.st_mode & 0o022
    return only_root_writes or here.st_uid == there.st_uid


def _entry(folder: int, name: str) -> Entry:
    status = os.stat(name, dir_fd=folder, follow_symlinks=False)
    content, kind = b"", _kind_of(status)
    if kind == LINK:
        content = os.fsencode(os.readlink(name, dir_fd=folder))
    elif kind == FILE and status.st_size <= MAX_BYTES:
        with open(os.open(name, _OPEN_FILE, dir_fd=folder), "rb") as file:
            content = file.read(MAX_BYTES)
    return Entry(kind, stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid, content)


def _kind_of(status: os.stat_result) -> str:
    kinds = {stat.S_IFREG: FILE, stat.S_IFDIR: FOLDER, stat.S_IFLNK: LINK}
    return kinds.get(stat.S_IFMT(status.st_mode), OTHER)


def _kind(folder: int, name: str) -> Optional[str]:
    try:
        return _kind_of(os.stat(name, dir_fd=folder, follow_symlinks=False))
    except FileNotFoundError:
        return None


def _exists(folder: int, name: str) -> bool:
    return _kind(folder, name) is not None


def _half(name: str) -> str:
    """Where a file is written before it gets its name; always the same, so that it is found."""
    return f".{name}.new"


def _rename(folder: int, name: str) -> None:
    os.rename(_half(name), name, src_dir_fd=folder, dst_dir_fd=folder)
    os.fsync(folder)


def _unlink(folder: int, name: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(name, dir_fd=folder)


def _clear(folder: int, name: str) -> None:
    if _kind(folder, name) != FOLDER:
        return os.unlink(name, dir_fd=folder)
    inside = os.open(name, _OPEN_FOLDER | os.O_NOFOLLOW, dir_fd=folder)
    try:
        for one in os.listdir(inside):
            _clear(inside, one)
    finally:
        os.close(inside)
    return os.rmdir(name, dir_fd=folder)


def _give_all(folder: int, owner: Ids) -> None:
    for name in os.listdir(folder):
        status = os.stat(name, dir_fd=folder, follow_symlinks=False)
        if stat.S_ISDIR(status.st_mode):
            inside = os.open(name, _OPEN_FOLDER | os.O_NOFOLLOW, dir_fd=folder)
            try:
                _give_all(inside, owner)
            finally:
                os.close(inside)
        else:
            _give_one(folder, name, owner)
    os.fchown(folder, *owner)


def _give_one(folder: int, name: str, owner: Ids) -> None:
    """A second name of a file may be anybody's file; so may the name itself a moment later."""
    one = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
    try:
        if os.fstat(one).st_nlink == 1:
            os.chown(f"/proc/self/fd/{one}", *owner)
    finally:
        os.close(one)
