"""A file that arrives in pieces, in order, and gets its name once its bytes are the right ones.

PATH.part   its beginning, as far as it has come: a later process goes on from there
PATH        whole: checked, and safe from a power cut
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from pibot.files import sync_folder, write_all

SYNC_BYTES = 1 << 20  # at most so much waits for the disk at once
SPARE_BYTES = 64 << 20  # that should stay free on a disk: the journals need them more
_READ_BYTES = 1 << 20
_FLAGS = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC


class Growing:
    """The file at `path`, with the SHA-256 of what is there. Raises OSError."""

    def __init__(self, path: Path, sha256: str) -> None:
        self.path, self.sha256 = path, sha256
        self._fd = os.open(f"{path}.part", _FLAGS, 0o600)
        self._digest = hashlib.sha256()
        self._unsynced = 0
        self.size = 0
        while data := os.read(self._fd, _READ_BYTES):
            self._digest.update(data)
            self.size += len(data)

    def append(self, data: bytes) -> None:
        write_all(self._fd, data)
        self._digest.update(data)
        self.size += len(data)
        self._unsynced += len(data)
        if self._unsynced >= SYNC_BYTES:  # one large sync at the end would stall its owner's loop
            os.fdatasync(self._fd)
            self._unsynced = 0

    def empty(self) -> None:
        os.lseek(self._fd, 0, os.SEEK_SET)
        os.ftruncate(self._fd, 0)
        self._digest, self.size, self._unsynced = hashlib.sha256(), 0, 0

    def keep(self) -> bool:
        """Give it its name if its bytes are right."""
        if self._digest.hexdigest() != self.sha256:
            return False
        os.fsync(self._fd)
        os.replace(f"{self.path}.part", self.path)
        sync_folder(self.path.parent)
        return True

    def close(self) -> None:
        os.close(self._fd)
