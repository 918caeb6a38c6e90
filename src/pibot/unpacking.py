"""Folders that are whole or not there: how the program's files come from pibot.pyz to the disk.

A folder gets its name once everything in it is on the disk, with a list of its files beside them.
Whoever uses a folder holds a shared lock on it, and what nobody holds may be removed. Only the
standard library is imported, and little of it: build/pyz_main.py loads this from the archive.
"""

from __future__ import annotations

import fcntl
import os
import stat
import sys
import time
from contextlib import contextmanager
from importlib.machinery import SourceFileLoader
from typing import Callable, Iterator, List, Optional, Sequence

SITE = "site-packages"
LIST = ".files"
END = "."
STAMP = 1_600_000_000  # every file's time: whoever writes into one later changes it
COMMANDS = ("/pibot/cli/", "/pibot/deploy/", "/pibot/doctor/")  # no service imports much of these
BUILD_DIGITS = 64
PASSING = "~"  # in the name of a folder that is on its way in or out
WAIT_S = 120.0  # for another start; a slow SD card needs half a minute


class Place:
    """Where one build of a program keeps its folders: `root`/PROGRAM_BUILD and …_BUILD.PART."""

    def __init__(self, archive: str, root: str, build: str, wait_s: float = WAIT_S) -> None:
        self.archive, self.root, self._wait_s = archive, root, wait_s
        self._family = os.path.basename(archive) + "_"
        self._mine = self._family + build

    def folder(self, part: str = "") -> str:
        return os.path.join(self.root, f"{self._mine}.{part}" if part else self._mine)

    def holds(self, part: str = "") -> bool:
        """Whether the folder is there and whole; it then stays while this process lives."""
        descriptor = _hold(self.folder(part)) if _is_safe(self.root) else None
        if descriptor is None:
            return False
        if is_whole(self.folder(part)):
            return True  # the descriptor stays open, and with it the lock
        os.close(descriptor)
        return False

    def provide(self, part: str, fill: Callable[[str], None]) -> str:
        """Return the folder, whole; `fill(new)` writes what will be there if it is not.

        Raises OSError when the disk does not take it.
        """
        folder = self.folder(part)
        if not self.holds(part):
            os.makedirs(self.root, 0o700, exist_ok=True)
            if not _is_safe(self.root):
                raise OSError("others can change what is there")
            with _locked(self.root, self._wait_s):
                if not self.holds(part):  # else another start was faster
                    self._remove_unused()  # first, for it may be the room that is needed
                    self._put(folder, fill)
                    self._remove_unused()
                    self.holds(part)
        return folder

    def clean(self) -> None:
        """Remove other builds' folders and what a killed start left, unless they are in use."""
        try:
            if self._others():
                with _locked(self.root):
                    self._remove_unused()
        except OSError:
            pass  # not ours to change, or a start is at work there: it cleans up itself

    def _put(self, folder: str, fill: Callable[[str], None]) -> None:
        unique = os.urandom(4).hex()
        new, old = f"{folder}{PASSING}new-{unique}", f"{folder}{PASSING}old-{unique}"
        os.mkdir(new, 0o700)
        try:
            fill(new)
            _write_list(new)
            os.sync()  # else a power cut leaves empty files under the final name for good
            if os.path.isdir(folder):  # damaged, and perhaps in use
                os.rename(folder, old)
            os.rename(new, folder)
        except BaseException:
            _remove(new)
            raise
        descriptor = os.open(self.root, os.O_RDONLY)
        os.fsync(descriptor)
        os.close(descriptor)

    def _others(self) -> List[str]:
        """What is there of other builds of this program, or on its way in or out."""
        start, found = len(self._family), []
        for name in os.listdir(self.root):
            build = name[start : start + BUILD_DIGITS]
            is_ours = name.startswith(self._family) and len(build) == BUILD_DIGITS
            if is_ours and (PASSING in name or not name.startswith(self._mine)):
                found.append(os.path.join(self.root, name))
        return found

    def _remove_unused(self) -> None:
        for path in self._others():
            try:
                with _locked(path):
                    _remove(path)
            except OSError:
                continue


def is_whole(folder: str) -> bool:
    """Whether each file of the list is there, of its size, and was not written to."""
    try:
        with open(os.path.join(folder, LIST), encoding="utf-8") as file:
            *lines, end = file.read().splitlines()
        for line in lines:
            size, name = line.split(" ", 1)
            status = os.stat(f"{folder}/{name}")
            if status.st_size != int(size) or status.st_mtime != STAMP:
                return False
        return end == END
    except (OSError, ValueError):
        return False


def _write_list(folder: str) -> None:
    paths = _stamp(folder)
    lines = [f"{os.path.getsize(path)} {os.path.relpath(path, folder)}" for path in paths]
    with open(os.path.join(folder, LIST), "w", encoding="utf-8") as file:
        file.write("\n".join([*lines, END]))


def _stamp(folder: str) -> List[str]:
    """Give every file its time; return their paths."""
    paths = [os.path.join(place, name) for place, _, names in os.walk(folder) for name in names]
    for path in paths:
        os.utime(path, (STAMP, STAMP))
    return paths


def _remove(folder: str) -> None:
    import shutil

    shutil.rmtree(folder, ignore_errors=True)


# --- locks ----------------------------------------------------------------------------------------


def _is_safe(root: str) -> bool:
    """Whether nobody else can put something in the place of a folder there."""
    try:
        status = os.stat(root)
    except OSError:
        return False
    is_shared = status.st_mode & stat.S_IWOTH and not status.st_mode & stat.S_ISVTX
    return status.st_uid in (0, os.getuid()) and not is_shared


def _lock(folder: str, kind: int, more: int = 0) -> int:
    """Lock a folder, or raise BlockingIOError at once."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | more)
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


@contextmanager
def _locked(folder: str, wait_s: float = 0.0) -> Iterator[None]:
    """Alone in a folder. Nobody waits for ever: whoever can read a folder can lock it."""
    until = time.monotonic() + wait_s
    while True:
        try:
            descriptor = _lock(folder, fcntl.LOCK_EX)
            break
        except BlockingIOError:
            if time.monotonic() >= until:
                raise OSError("somebody else has locked it") from None
        time.sleep(0.02)
    try:
        yield
    finally:
        os.close(descriptor)


def _hold(folder: str) -> Optional[int]:
    """A shared lock on a folder, no link, that is ours or root's; None if it cannot be had."""
    try:
        descriptor = _lock(folder, fcntl.LOCK_SH, os.O_NOFOLLOW)
    except OSError:
        return None
    status = os.fstat(descriptor)
    try:
        if status.st_uid in (0, os.getuid()) and os.path.samestat(status, os.stat(folder)):
            return descriptor
    except OSError:
        pass  # it was removed between the two
    os.close(descriptor)
    return None


# --- the core -------------------------------------------------------------------------------------


def fill_core(archive: str) -> Callable[[str], None]:
    """What every start needs, from the archive, with the bytecode of the services."""

    def fill(new: str) -> None:
        import zipfile

        with zipfile.ZipFile(archive) as opened:
            opened.extractall(new, [n for n in opened.namelist() if n.startswith(f"{SITE}/")])
        paths = _stamp(new)  # the bytecode remembers the time of its source
        _compile([path for path in paths if path.endswith(".py") and not _is_command(path)])

    return fill


def _is_command(path: str) -> bool:
    return any(folder in path for folder in COMMANDS)


def _compile(paths: Sequence[str]) -> None:
    """Leave the bytecode of modules beside them; that this fails is no harm.

    In children, one for each processor: compiling here would cost 7 MB for as long as this process
    lives. Forking alone works everywhere, even where this program cannot be started once more.
    """
    count = min(4, len(os.sched_getaffinity(0)))
    children = [_in_child(paths[number::count]) for number in range(count)]
    for child in children:
        os.waitpid(child, 0)


def _in_child(paths: Sequence[str]) -> int:
    child = os.fork()
    if child == 0:
        try:
            sys.dont_write_bytecode = False
            for path in paths:
                SourceFileLoader("module", path).get_code("module")
        finally:
            os._exit(0)
    return child
