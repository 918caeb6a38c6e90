"""A SQLite file that survives a power cut: WAL, `synchronous=FULL`, a version, a lock.

Both journals are built on it. Statements are committed in groups: one call, one fsync.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import sqlite3
from pathlib import Path
from typing import Any, Iterable, List, Optional, Sequence, TextIO, Tuple

from pibot.errors import StoreError

Statement = Tuple[str, Sequence[Any]]


class Store:
    """One process's own file; a second process that opens it is refused."""

    def __init__(self, path: Path, schema: Sequence[str], version: int) -> None:
        self._path, self._schema, self._version = path, schema, version
        self._db: Optional[sqlite3.Connection] = None
        self._inode = 0
        self._lock: Optional[TextIO] = None

    def open(self) -> None:
        """Create or open the file; raise StoreError, in words."""
        try:
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._take_lock()
            self._db = sqlite3.connect(str(self._path), isolation_level=None, timeout=5.0)
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=FULL")
            self._prepare()
            self._inode = os.stat(self._path).st_ino
        except (OSError, sqlite3.Error) as error:
            self.close()
            raise StoreError(f"{self._path} cannot be used: {_words(error)}") from None
        except StoreError:
            self.close()
            raise

    def _take_lock(self) -> None:
        path = self._path.with_suffix(".lock")
        self._lock = path.open("a+", encoding="ascii", errors="replace")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._lock.seek(0)
            owner = self._lock.read().strip() or "unknown"
            raise StoreError(
                f"{self._path} is in use by another pibot (process {owner}): stop it, or give this "
                "one a PIBOT_STATE_DIR or WORKER_ID of its own"
            ) from None
        self._lock.truncate(0)
        self._lock.write(str(os.getpid()))
        self._lock.flush()

    def _prepare(self) -> None:
        found = self.rows("PRAGMA user_version")[0][0]
        if found > self._version:
            raise StoreError(
                f"{self._path} was written by a newer pibot (store version {found}, this one knows "
                f"{self._version}): update this pibot.pyz"
            )
        if found < self._version:
            version = f"PRAGMA user_version={self._version}"
            self.commit([(s, ()) for s in (*self._schema, version)])

    def _connection(self) -> sqlite3.Connection:
        assert self._db is not None, "open() comes first"
        return self._db

    def commit(self, statements: Iterable[Statement]) -> None:
        """Write all of it or nothing; raise StoreError and leave the file as it was."""
        db = self._connection()
        self._check_it_is_there()
        try:
            db.execute("BEGIN IMMEDIATE")
            for sql, values in statements:
                db.execute(sql, values)
            db.execute("COMMIT")
        except BaseException as error:
            with contextlib.suppress(sqlite3.Error):
                if db.in_transaction:
                    db.execute("ROLLBACK")
            if isinstance(error, (sqlite3.Error, OSError)):
                raise StoreError(f"{self._path} cannot be written: {_words(error)}") from None
            raise

    def _check_it_is_there(self) -> None:
        """SQLite writes on into a deleted file, and says that all is well."""
        try:
            now = os.stat(self._path).st_ino
        except OSError:
            now = 0
        if self._inode and now != self._inode:
            raise StoreError(f"{self._path} was deleted or replaced while in use: restart pibot")

    def rows(self, sql: str, values: Sequence[Any] = ()) -> List[Tuple[Any, ...]]:
        """What a query finds; raise StoreError, in words, if the file cannot be read."""
        try:
            return self._connection().execute(sql, values).fetchall()
        except sqlite3.Error as error:
            raise StoreError(f"{self._path} cannot be read: {_words(error)}") from None

    def close(self) -> None:
        if self._db is not None:
            self._db.close()
            self._db = None
        if self._lock is not None:
            self._lock.close()
            self._lock = None


def _words(error: Exception) -> str:
    text = str(error)
    if "disk is full" in text or "No space left" in text:
        return "the disk is full: free some space there"
    if "not a database" in text or "malformed" in text:
        return "the file is damaged: move it away, or put a good copy in its place"
    if "disk I/O error" in text:
        return "the disk does not take the data (full, or broken?)"
    denied = isinstance(error, OSError) and error.errno in (errno.EACCES, errno.EPERM, errno.EROFS)
    if denied or "readonly" in text or "unable to open" in text:
        return (
            f"{text}: make it writable for this user, or set PIBOT_STATE_DIR to another directory"
        )
    return text
