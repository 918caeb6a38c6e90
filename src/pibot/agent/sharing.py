"""Files of the workspace for the person who asked: checked at once, recorded when the task ends.

The master fetches them slice by slice before it takes the result; until then they must stay.
"""

from __future__ import annotations

import base64
import os
import threading
from pathlib import Path
from typing import Any, Dict, Iterator, List, Set, Tuple

from pibot import paths
from pibot.errors import SkillError
from pibot.messages import FILE_SLICE_BYTES, SHARED_BYTES, SHARED_FILES, Fetch, Slice
from pibot.secrets import Redactor
from pibot.skills._workspace import explained, measured, open_file, parts_of

_SECRET = "holds a secret of this machine, and cannot be shared; leave the secret out"
_BLOCK_BYTES = 1 << 20


class Shared:
    """What one task shares. `add` may be called from the threads of several skills."""

    def __init__(self, workspace: Path, redactor: Redactor) -> None:
        self.workspace, self._redactor = workspace, redactor
        self._lock = threading.Lock()
        self._sizes: Dict[str, int] = {}
        self._looked_through: Set[str] = set()  # SHA-256 of what has been looked through

    def add(self, path: str) -> None:
        """Share a file; raise SkillError that says why it cannot be shared."""
        name = "/".join(parts_of(self, path))
        if self._redactor.holds(name):
            raise SkillError(f"{path}: its name {_SECRET}")
        with self._lock:
            if name not in self._sizes and len(self._sizes) >= SHARED_FILES:
                raise SkillError(
                    f"{path}: {SHARED_FILES} files are shared, which is all that a task may share; "
                    "put many small files into one"
                )
            with explained(path), open_file(self, path, os.O_RDONLY) as fd:
                size = os.fstat(fd).st_size
                if size <= SHARED_BYTES:
                    self._look_through(path, fd, measured(fd, size)[1], size)
            wrong = paths.problem(name)
            if wrong:
                raise SkillError(f"{path}: cannot be shared: {wrong}; rename it")
            taken = sum(s for other, s in self._sizes.items() if other != name)
            if taken + size > SHARED_BYTES:
                raise SkillError(
                    f"{path}: has {size:,} bytes; a task may share {SHARED_BYTES:,} in all, and "
                    f"{taken:,} are taken; make it smaller or share less"
                )
            self._sizes[name] = size

    def record(self) -> Tuple[List[Dict[str, Any]], str]:
        """The shared files as they are now, and words on those that cannot be had any more."""
        files: List[Dict[str, Any]] = []
        missing: List[str] = []
        room = SHARED_BYTES
        for name in list(self._sizes):
            try:
                size, sha256 = self._measured(name, room)
            except SkillError as error:
                missing.append(f"\n[not shared: {error}]")
                continue
            room -= size
            files.append({"path": name, "size": size, "sha256": sha256})
        return files, "".join(missing)

    def _measured(self, name: str, room: int) -> Tuple[int, str]:
        """Size and SHA-256 of a file, which may have grown since it was shared."""
        with explained(name), open_file(self, name, os.O_RDONLY) as fd:
            size, sha256 = measured(fd, room)
            if size > room:
                raise SkillError(f"{name}: has grown, and is more than a task may share")
            self._look_through(name, fd, sha256, size)
        return size, sha256

    def _look_through(self, path: str, fd: int, sha256: str, size: int) -> None:
        """Raise SkillError if a secret of this machine is in the file."""
        if sha256 not in self._looked_through:
            if self._redactor.bytes_hold(_blocks(fd, 0, size)):
                raise SkillError(f"{path}: {_SECRET}")
            self._looked_through.add(sha256)


def cut(workspaces: Path, fetch: Fetch, redactor: Redactor) -> Slice:
    """The slice of a task's file that is asked for, or why it cannot be had."""
    place = Shared(workspaces / fetch.task, redactor)
    try:
        with explained(fetch.path), open_file(place, fetch.path, os.O_RDONLY) as fd:
            size = os.fstat(fd).st_size
            at = min(max(fetch.offset, 0), size)
            raw = os.pread(fd, FILE_SLICE_BYTES, at)
            before = max(0, at - redactor.longest)  # the file may not be what it was when recorded
            if redactor.bytes_hold(_blocks(fd, before, at + len(raw) + redactor.longest)):
                raise SkillError(f"{fetch.path}: {_SECRET}")
    except SkillError as error:
        return Slice(fetch.task, fetch.path, fetch.offset, error=str(error))
    data = base64.b64encode(raw).decode()
    return Slice(fetch.task, fetch.path, fetch.offset, size, data)


def _blocks(fd: int, start: int, end: int) -> Iterator[bytes]:
    """What is in an open file from here to there."""
    while start < end and (block := os.pread(fd, min(_BLOCK_BYTES, end - start), start)):
        start += len(block)
        yield block
