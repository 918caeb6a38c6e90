"""Saving the files of a goal: slice by slice into a directory, checked, resumed when cut short.

What has come so far lies in a directory of its own below the target, until the file is whole. No
file that is there already is replaced, and no link on the way is followed.
"""

from __future__ import annotations

import base64
import fcntl
import hashlib
import os
import re
from collections import deque
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable, Deque, Dict, Iterator, List, NamedTuple, Optional, Sequence

from pibot import messages as msg
from pibot import paths
from pibot.errors import PibotError, Refused, Unreachable
from pibot.files import write_all
from pibot.roles.client import Fleet, Pending
from pibot.skills._steps import open_in
from pibot.skills._workspace import explained, measured, open_file, open_parent

PARTS = ".pibot-parts"
WINDOW = 16
_READ_BYTES = 1 << 20
_SHA256 = re.compile("[0-9a-f]{64}")

File = Dict[str, Any]
Shown = Callable[[str, int, int], None]  # path, bytes that have come, bytes in all


class Saved(NamedTuple):
    """What became of one file; `file` is its path on this machine."""

    task_id: str
    path: str
    file: str
    size: int
    sha256: str
    error: Optional[str]


@dataclass(frozen=True)
class Target:
    """The directory that everything is saved in."""

    workspace: Path


def save(fleet: Fleet, files: Sequence[File], folder: Path, shown: Shown) -> List[Saved]:
    """Save files as `show` lists them below `folder`; an error belongs to its file.

    Raises Unreachable when the master is gone, and Refused when the directory cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        why = (error.strerror or str(error)).lower()
        raise Refused(f"{folder} cannot be made: {why}; choose another directory") from None
    apart = _clash(files)
    done = []
    for file in files:
        where = f"{file['task_id']}/{file['path']}" if apart else str(file["path"])
        problem = _saved(fleet, file, Target(folder), where, shown)
        entry = (file["task_id"], file["path"], str(folder / where), file["size"], file["sha256"])
        done.append(Saved(*entry, problem))
    with suppress(OSError):
        os.rmdir(folder / PARTS)
    return done


def _clash(files: Sequence[File]) -> bool:
    """Whether files of two tasks want one place: the same path, or a file and a directory."""
    owner = {str(file["path"]): file["task_id"] for file in files}
    for file in files:
        names = str(file["path"]).split("/")
        ways = ["/".join(names[:n]) for n in range(1, len(names) + 1)]
        if any(owner.get(way, file["task_id"]) != file["task_id"] for way in ways):
            return True
    return False


def _saved(fleet: Fleet, file: File, target: Target, where: str, shown: Shown) -> Optional[str]:
    """Save one file; return why it could not be."""
    if file["error"] is not None:
        return str(file["error"])
    wrong = paths.problem(where)
    if wrong or where.split("/")[0] == PARTS:
        return f"its name is not taken: {wrong or 'it is ours'}"
    if not _SHA256.fullmatch(file["sha256"]):
        return "the master does not say what it should be"
    try:
        with explained(where), open_parent(target, where, make=True) as (folder, name):
            if name not in os.listdir(folder):
                _download(fleet, file, target, folder, name, shown)
            elif _digest(folder, name) != file["sha256"]:
                return "another file is there already: move it away, or choose another directory"
    except Unreachable:
        raise
    except PibotError as error:
        return str(error).removeprefix(f"{where}: ")
    except (KeyError, TypeError, ValueError):
        return "the master's answer cannot be read"
    return None


def _digest(folder: int, name: str) -> str:
    """The SHA-256 of a file that is there; it may have other names, as copies of backups have."""
    fd = open_in(folder, name, os.O_RDONLY, linked=True)
    try:
        return measured(fd)[1]
    finally:
        os.close(fd)


def _download(
    fleet: Fleet, file: File, target: Target, folder: int, name: str, shown: Shown
) -> None:
    """Get a file whole, and then give it its name; what is not right is fetched once more."""
    part = f"{PARTS}/{file['sha256']}"
    for _ in range(2):
        if _fetched(fleet, file, target, part, shown):
            with open_parent(target, part) as (parts, there):
                _name(parts, there, folder, name)
            return
    raise Refused("what came is not what was announced (its SHA-256 differs)")


def _name(parts: int, part: str, folder: int, name: str) -> None:
    """Give a part its name; a file that has come there meanwhile stays."""
    try:
        os.link(part, name, src_dir_fd=parts, dst_dir_fd=folder, follow_symlinks=False)
    except FileExistsError:
        raise Refused("another file has come there meanwhile: move it away") from None
    except OSError:  # a memory stick knows no second names
        if name in os.listdir(folder):
            raise Refused("another file has come there meanwhile: move it away") from None
        os.rename(part, name, src_dir_fd=parts, dst_dir_fd=folder)
        return
    os.unlink(part, dir_fd=parts)


def _fetched(fleet: Fleet, file: File, target: Target, part: str, shown: Shown) -> bool:
    """Go on with a file from where it is; whether its bytes are right."""
    digest, have, size = hashlib.sha256(), 0, int(file["size"])
    with explained(PARTS), open_file(target, part, os.O_RDWR | os.O_CREAT) as fd:
        _lock(fd)
        while data := os.read(fd, _READ_BYTES):
            digest.update(data)
            have += len(data)
        with _slices(fleet, file, have) as slices:
            for data in slices:
                write_all(fd, data)
                digest.update(data)
                have += len(data)
                shown(str(file["path"]), have, size)
        if digest.hexdigest() == file["sha256"]:
            return True
        os.ftruncate(fd, 0)
        return False


def _lock(fd: int) -> None:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise Refused("another pibot is saving it here at this moment") from None


@contextmanager
def _slices(fleet: Fleet, file: File, start: int) -> Iterator[Iterator[bytes]]:
    """The bytes from `start` on, several slices asked for at once; nothing is left asked for."""
    asked: Deque[Pending] = deque()
    try:
        yield _come(fleet, file, start, asked)
    finally:
        for pending in asked:
            pending.done.set()


def _come(fleet: Fleet, file: File, start: int, asked: Deque[Pending]) -> Iterator[bytes]:
    size = int(file["size"])
    come, offset = start, start
    while come < size:
        while offset < size and len(asked) < WINDOW:
            asked.append(fleet.send(msg.Fetch(file["task_id"], file["path"], offset)))
            offset += msg.FILE_SLICE_BYTES
        data = base64.b64decode(fleet.answer(asked[0])["data"])
        asked.popleft()
        if len(data) != min(msg.FILE_SLICE_BYTES, size - come):
            raise Refused("the master has less of it than there should be")
        come += len(data)
        yield data
