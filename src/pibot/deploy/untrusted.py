"""Files that root takes from a directory of the services, whose user it does not trust.

No link is followed, nothing but a regular file of the directory's owner is read, and no more of it
than what was asked for.
"""

from __future__ import annotations

import os
import stat
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Iterator

from pibot.errors import Refused

_OPEN_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_OPEN_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


class Untrusted:
    """An open directory; its names are single ones. Raises OSError and Refused."""

    def __init__(self, path: Path, descriptor: int) -> None:
        self.path, self._folder = path, descriptor

    def take_mark(self, name: str) -> bool:
        """Remove a mark; False if there was none."""
        try:
            os.unlink(name, dir_fd=self._folder)
        except FileNotFoundError:
            return False
        return True

    @contextmanager
    def opened(self, name: str) -> Iterator[IO[bytes]]:
        """A file of the directory's owner."""

        def without_links(name: str, _flags: int) -> int:
            return os.open(name, _OPEN_FILE, dir_fd=self._folder)

        with open(name, "rb", opener=without_links) as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode) or status.st_uid != os.fstat(self._folder).st_uid:
                raise Refused(f"{self.path / name} is no file of the service's: it is not taken.")
            yield file

    def read(self, name: str, limit: int) -> bytes:
        """A file's bytes, of which there may be `limit`."""
        with self.opened(name) as file:
            data = file.read(limit + 1)
        if len(data) > limit:
            raise Refused(f"{self.path / name} is larger than what PiBot writes: it is not taken.")
        return data

    def put(self, name: str, data: bytes) -> None:
        """Leave a file of root's for the service to read, whole or not at all."""
        beside = f".{name}.new"
        with suppress(FileNotFoundError):
            os.unlink(beside, dir_fd=self._folder)
        with open(os.open(beside, _NEW_FILE, 0o644, dir_fd=self._folder), "wb") as file:
            os.fchmod(file.fileno(), 0o644)
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.rename(beside, name, src_dir_fd=self._folder, dst_dir_fd=self._folder)
        os.fsync(self._folder)


@contextmanager
def untrusted(path: Path) -> Iterator[Untrusted]:
    """Open a directory of a service."""
    folder = os.open(path, _OPEN_FOLDER)
    try:
        yield Untrusted(path, folder)
    finally:
        os.close(folder)
