"""Files of the workspace for the person who asked: checked at once, recorded when the task ends.

The master fetches them slice by slice before it takes the result; until then they must stay.
"""

from __future__ import annotations

import base64
import os
import threading
from pathlib import Path
from typing import Any, Dict, List, Tuple

from pibot import paths
from pibot.errors import SkillError
from pibot.messages import FILE_SLICE_BYTES, SHARED_BYTES, SHARED_FILES, Fetch, Slice
from pibot.skills._workspace import explained, measured, open_file, parts_of


class Shared:
    """What one task shares. `add` may be called from the threads of several skills."""

    def __init__(self, workspace: Path) -> None:
        self.workspace = workspace
        self._lock = threading.Lock()
        self._sizes: Dict[str, int] = {}

    def add(self, path: str) -> None:
        """Share a file; raise SkillError that says why it cannot be shared."""
        name = "/".join(parts_of(self, path))
        with self._lock:
            if name not in self._sizes and len(self._sizes) >= SHARED_FILES:
                raise SkillError(
                    f"{path}: {SHARED_FILES} files are shared, which is all that a task may share; "
                    "put many small files into one"
                )
            with explained(path), open_file(self, path, os.O_RDONLY) as fd:
                size = os.fstat(fd).st_size
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
        with explained(name):
            size, sha256 = measured(self, name, room)
        if size > room:
            raise SkillError(f"{name}: has grown, and is more than a task may share")
        return size, sha256


def cut(workspaces: Path, fetch: Fetch) -> Slice:
    """The slice of a task's file that is asked for, or why it cannot be had."""
    place = Shared(workspaces / fetch.task)
    try:
        with explained(fetch.path), open_file(place, fetch.path, os.O_RDONLY) as fd:
            size = os.fstat(fd).st_size
            raw = os.pread(fd, FILE_SLICE_BYTES, min(max(fetch.offset, 0), size))
    except SkillError as error:
        return Slice(fetch.task, fetch.path, fetch.offset, error=str(error))
    data = base64.b64encode(raw).decode()
    return Slice(fetch.task, fetch.path, fetch.offset, size, data)
