"""Files that tasks shared, on the master's disk: by the task's id and the file's SHA-256.

    ID/SHA256        whole: checked, and safe from a power cut
    ID/SHA256.part   on its way: its beginning, as far as it has come

No name from the wire becomes a name here; which path a file had is in the task's record.
"""

from __future__ import annotations

import os
import shutil
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Collection, Dict, Iterable, Iterator, Optional

from pibot.errors import StoreError
from pibot.files import sync_folder
from pibot.growing import SPARE_BYTES, Growing

LIMIT_BYTES = 1 << 30  # of all files; beyond it the oldest tasks' go


class Artifacts:
    """Fills and reads the folder; the tasks' ids and SHA-256 that come here are checked ones."""

    def __init__(
        self, folder: Path, limit_bytes: int = LIMIT_BYTES, spare_bytes: int = SPARE_BYTES
    ) -> None:
        self._folder, self._limit, self._spare = folder, limit_bytes, spare_bytes
        self._known: Optional[Dict[str, int]] = None
        self._parts: Dict[str, Growing] = {}

    # --- filling: the Shelf of fetching.py --------------------------------------------------------

    def prepare(self, task: str, wanted: Dict[str, int]) -> None:
        """Make room for files (SHA-256: size); forget what else there is of the task."""
        with _explained():
            self.clear(task, wanted)
            there = self._sizes.get(task, 0)
            need = max(0, sum(wanted.values()) - there)
            self._make_room(task, need)
            if not (self._folder / task).is_dir():
                (self._folder / task).mkdir(mode=0o700, parents=True)
                sync_folder(self._folder)
            self._sizes[task] = there

    def has(self, task: str, sha256: str) -> bool:
        return os.path.isfile(self._folder / task / sha256)

    def begin(self, task: str, sha256: str, size: int) -> int:
        """Go on with a file; return how many bytes of it are there."""
        path = self._folder / task / sha256
        part = self._parts.get(task)
        if part is not None and part.path == path:
            return part.size
        self.leave(task)
        with _explained():
            part = self._parts[task] = Growing(path, sha256)
            if part.size > size:
                self._sizes[task] -= part.size
                part.empty()
            return part.size

    def append(self, task: str, data: bytes) -> None:
        """Add to the file that was begun last."""
        part = self._parts[task]
        before = part.size
        with _explained():
            part.append(data)
        self._sizes[task] += part.size - before

    def finish(self, task: str) -> bool:
        """Keep the file that was begun last if it is what it should be; else nothing of it."""
        part = self._parts[task]
        with _explained():
            if part.keep():
                self.leave(task)
                return True
            self._sizes[task] -= part.size
            part.empty()
            return False

    def leave(self, task: str) -> None:
        """Nothing more comes now."""
        part = self._parts.pop(task, None)
        if part is not None:
            part.close()

    def clear(self, task: str, keep: Collection[str]) -> None:
        """Nothing more comes; remove all but these of the task's files (SHA-256)."""
        self.leave(task)
        folder = self._folder / task
        if task not in self._sizes or not folder.is_dir():
            return
        for path in list(folder.iterdir()):
            if path.name.partition(".")[0] not in keep:
                with suppress(OSError):
                    path.unlink()
        self._sizes[task] = _size(folder)
        if not keep:
            self.remove([task])

    def leave_all(self) -> None:
        """Whoever was fetching begins anew."""
        for task in list(self._parts):
            self.leave(task)

    # --- reading and removing ---------------------------------------------------------------------

    def read(self, task: str, sha256: str, offset: int, count: int) -> bytes:
        """Some bytes of a file; raise StoreError if it is not there or cannot be read."""
        try:
            fd = os.open(self._folder / task / sha256, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except FileNotFoundError:
            raise StoreError("this file is no longer kept") from None
        except OSError as error:
            raise StoreError(f"this file cannot be read: {_words(error)}") from None
        try:
            with _explained():
                return os.pread(fd, count, max(0, offset))
        finally:
            os.close(fd)

    def remove(self, tasks: Iterable[str]) -> None:
        """Remove the files of tasks; most have none."""
        for task in tasks:
            if self._sizes.pop(task, None) is not None:
                self.leave(task)
                shutil.rmtree(self._folder / task, ignore_errors=True)

    # --- room -------------------------------------------------------------------------------------

    @property
    def _sizes(self) -> Dict[str, int]:
        """The bytes of each task's files, the oldest task first; looked up once."""
        if self._known is None:
            found = []
            with suppress(OSError):
                found = sorted(self._folder.iterdir(), key=lambda p: p.stat().st_mtime)
            self._known = {p.name: _size(p) for p in found}
        return self._known

    def _make_room(self, task: str, need: int) -> None:
        total = sum(self._sizes.values()) + need
        for old, size in list(self._sizes.items()):
            if total > self._limit and old != task and old not in self._parts:
                self.remove([old])
                total -= size
        if not self._folder.is_dir():
            self._folder.mkdir(mode=0o700, parents=True)
            sync_folder(self._folder.parent)
        disk = os.statvfs(self._folder)
        if total > self._limit or disk.f_bavail * disk.f_frsize < need + self._spare:
            raise StoreError("the master has no room for it on its disk")


@contextmanager
def _explained() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StoreError(f"the master cannot keep it: {_words(error)}") from None


def _words(error: OSError) -> str:
    return (error.strerror or str(error)).lower()


def _size(folder: Path) -> int:
    try:
        return sum(path.lstat().st_size for path in folder.iterdir())
    except OSError:
        return 0
