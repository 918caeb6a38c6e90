"""The programs that the master passes on to workers, on its disk, by their SHA-256.

They come slice by slice from a client; one that was cut short goes on from where it was. The
newest ones are kept, so that a worker that was away can be updated later without another upload.
"""

from __future__ import annotations

import os
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Iterator, List, Optional

from pibot.errors import Refused, StoreError, UsageError
from pibot.files import sync_folder
from pibot.growing import SPARE_BYTES, Growing
from pibot.manifest import MAX_BYTES

KEPT = 3
_PART = ".part"


class Programs:
    """The SHA-256 that come here are checked ones: they become names of files."""

    def __init__(self, folder: Path, spare_bytes: int = SPARE_BYTES) -> None:
        self._folder, self._spare = folder, spare_bytes
        self._coming: Optional[Growing] = None

    def take(self, sha256: str, size: int, offset: int, data: bytes) -> int:
        """Add a slice if it is the next one; return how much is there. Raises PibotError."""
        if not 0 < size <= MAX_BYTES:
            raise UsageError(
                f"the program has {size:,} bytes, and at most {MAX_BYTES:,} are taken: is it a "
                "pibot.pyz?"
            )
        if self.size(sha256) is not None:
            return size
        with self._stored():
            part = self._begun(sha256, size)
            if offset != part.size:
                return part.size
            part.append(data)
            return self._ended(part, size)

    def size(self, sha256: str) -> Optional[int]:
        """The bytes of a program that is whole; None if it is not here."""
        try:
            return os.lstat(self._folder / sha256).st_size
        except OSError:
            return None

    def read(self, sha256: str, offset: int, count: int) -> bytes:
        """Some bytes of a program; raise StoreError if it is not there or cannot be read."""
        try:
            fd = os.open(self._folder / sha256, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except FileNotFoundError:
            raise StoreError("the master does not keep this program any more") from None
        except OSError as error:
            raise StoreError(f"the master cannot read the program: {_words(error)}") from None
        try:
            return os.pread(fd, count, max(0, offset))
        except OSError as error:
            raise StoreError(f"the master cannot read the program: {_words(error)}") from None
        finally:
            os.close(fd)

    def keep(self, sha256: str) -> None:
        """It is in use: others go first."""
        with suppress(OSError):
            os.utime(self._folder / sha256)

    # --- what is on its way -----------------------------------------------------------------------

    def _begun(self, sha256: str, size: int) -> Growing:
        part = self._coming
        if part is not None and part.sha256 == sha256:
            return part
        self._leave()
        if not self._folder.is_dir():
            self._folder.mkdir(mode=0o700, parents=True)
            sync_folder(self._folder.parent)
        self._make_room(sha256, size)
        part = self._coming = Growing(self._folder / sha256, sha256)
        return part

    def _ended(self, part: Growing, size: int) -> int:
        if part.size < size:
            return part.size
        if part.size == size and part.keep():
            self._leave()
            return size
        part.empty()
        raise Refused("what came is not the program that was announced (its SHA-256 differs)")

    def _make_room(self, sha256: str, size: int) -> None:
        """Forget the oldest programs; raise StoreError if there is no room for this one."""
        others = [p for p in self._found() if p.name.partition(".")[0] != sha256]
        for old in others[: max(0, len(others) - KEPT + 1)]:
            old.unlink()
        part = self._folder / f"{sha256}{_PART}"
        missing = size - (part.stat().st_size if part.exists() else 0)
        disk = os.statvfs(self._folder)
        if disk.f_bavail * disk.f_frsize < missing + self._spare:
            raise StoreError(
                f"the master has no room for {missing:,} bytes more on its disk: free some there"
            )

    def _found(self) -> List[Path]:
        """What is there, the oldest first."""
        return sorted(self._folder.iterdir(), key=lambda path: path.stat().st_mtime)

    def _leave(self) -> None:
        if self._coming is not None:
            self._coming.close()
            self._coming = None

    @contextmanager
    def _stored(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            self._leave()  # how much of the last slice is there is read anew
            raise StoreError(f"the master cannot keep the program: {_words(error)}") from None


def _words(error: OSError) -> str:
    return (error.strerror or str(error)).lower()
