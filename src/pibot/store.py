"""A SQLite file that survives a power cut: WAL, `synchronous=FULL`, a version, a lock.

Both journals are built on it. Statements are committed in groups: one call, one fsync.

    not there    →  built beside under another name, then renamed: it is there as a whole or not
    older        →  copied to NAME.vN.db, then brought up step by step in one transaction
    newer        →  refused
    damaged      →  set aside as NAME.damaged-N.db; a new one begins with all that can be read of it
    deleted      →  written anew from the connection that is still open
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import logging
import os
import sqlite3
import stat
from pathlib import Path
from typing import (
    Any,
    Callable,
    Dict,
    Iterable,
    Iterator,
    List,
    NamedTuple,
    Optional,
    Sequence,
    TextIO,
    Tuple,
)

from pibot import salvage
from pibot.errors import DamagedStore, StoreError
from pibot.files import sync_folder

log = logging.getLogger(__name__)

Statement = Tuple[str, Sequence[Any]]
WAL_BYTES = 4 * 2**20  # to which the log shrinks again after a large commit


class Schema(NamedTuple):
    """What a kind of store consists of. Steps that were released never change."""

    steps: Sequence[Sequence[str]]  # statements that lead from version 0 to 1, from 1 to 2 …
    sound: Callable[[str, Sequence[Any]], bool] = lambda table, row: True  # may a row be saved
    after_loss: Sequence[str] = ()  # done in a store that begins with what was saved

    @property
    def version(self) -> int:
        return len(self.steps)


class Store:
    """One process's own file; a second process that opens it is refused."""

    def __init__(self, path: Path, schema: Schema) -> None:
        self._path, self._schema = path, schema
        self._new = path.with_name(f"{path.stem}.new{path.suffix}")
        self._db: Optional[sqlite3.Connection] = None
        self._inode = 0
        self._lock: Optional[TextIO] = None

    def open(self) -> None:
        """Create or open the file; raise StoreError, in words."""
        try:
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            for one in (self._path, salvage.wal_of(self._path)):
                _check_is_file(one)
            self._take_lock()
            self._make_ready()
        except (OSError, sqlite3.Error) as error:
            self.close()
            raise StoreError(f"{self._path} cannot be used: {_words(error)}") from None
        except StoreError:
            self.close()
            raise

    def _make_ready(self, why: str = "") -> None:
        """Have a sound file of this version, and a connection; `why` it is known to be damaged."""
        self._finish_what_a_crash_left()
        if not self._path.exists():
            self._build(self._schema.version)
            self._put_in_place()
        found = "" if why else salvage.trouble(self._path)
        if why or found:
            self._begin_again(why or f"{self._path} is damaged: {found}")
        self._connect()
        self._bring_up()

    def _take_lock(self) -> None:
        path = self._path.with_suffix(".lock")
        opened = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
        self._lock = os.fdopen(opened, "r+", encoding="ascii", errors="replace")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            owner = self._lock.read().strip() or "unknown"
            raise StoreError(
                f"{self._path} is in use by another pibot (process {owner}): stop it, or give this "
                "one a PIBOT_STATE_DIR or WORKER_ID of its own"
            ) from None
        self._lock.truncate(0)
        self._lock.write(str(os.getpid()))
        self._lock.flush()

    def _connect(self) -> None:
        salvage.keep_head(self._path)  # before there is a connection, see there
        self._db = sqlite3.connect(str(self._path), isolation_level=None, timeout=5.0)
        self._db.execute("PRAGMA journal_mode=WAL")
        self._db.execute("PRAGMA synchronous=FULL")
        self._db.execute(f"PRAGMA journal_size_limit={WAL_BYTES}")
        self._inode = os.stat(self._path).st_ino

    # --- a new file ---------------------------------------------------------------------------

    def _build(
        self, version: int, fill: Optional[Callable[[sqlite3.Connection], None]] = None
    ) -> None:
        """Make the file that is to be ours, beside it; `fill` finds the tables of `version`."""
        self._remove_new()
        try:
            db = sqlite3.connect(str(self._new), isolation_level=None)
            db.execute(f"PRAGMA page_size={salvage.PAGE}")
            with contextlib.closing(db), _transaction(db):
                _climb(db, self._schema.steps[:version], version)
                if fill is not None:
                    fill(db)
        except BaseException:
            self._remove_new()
            raise

    def _put_in_place(self) -> None:
        os.replace(self._new, self._path)
        self._remove_new()
        sync_folder(self._path.parent)

    def _finish_what_a_crash_left(self) -> None:
        """A new file counts once it is complete and the old one is gone; else it is made anew."""
        if self._path.exists():
            self._remove_new()
            return
        salvage.part_from_log(self._path)
        if self._new.exists() and self._new_is_whole():
            self._put_in_place()

    def _new_is_whole(self) -> bool:
        try:
            return not salvage.trouble(self._new)
        except sqlite3.Error:  # its transaction was cut short
            return False

    def _remove_new(self) -> None:
        for end in ("", "-journal", "-wal", "-shm"):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(f"{self._new}{end}")

    # --- an older file ------------------------------------------------------------------------

    def _bring_up(self) -> None:
        found, wanted = self.rows("PRAGMA user_version")[0][0], self._schema.version
        self._refuse_newer(found)
        if found == wanted:
            return
        backup = self._back_up(found)
        db = self._connection()
        with _transaction(db):
            _climb(db, self._schema.steps[found:], wanted)
        self._disconnect()
        self._connect()  # with a copy of the new first page
        log.info("%s: from version %d to %d; as it was: %s", self._path, found, wanted, backup.name)

    def _refuse_newer(self, found: int) -> None:
        if found > self._schema.version:
            raise StoreError(
                f"{self._path} was written by a newer pibot (store version {found}, this one knows "
                f"{self._schema.version}): update this pibot.pyz"
            )

    def _back_up(self, version: int) -> Path:
        """Copy the file as it is; only the newest such copy stays."""
        backup = self._path.with_name(f"{self._path.stem}.v{version}{self._path.suffix}")
        try:
            self._copy_to(backup)
        except (OSError, sqlite3.Error) as error:
            raise StoreError(
                f"{self._path} is of version {version} and was left as it is, because it could not "
                f"be copied to {backup.name} first: {_words(error)}"
            ) from None
        for other in self._path.parent.glob(f"{self._path.stem}.v*{self._path.suffix}"):
            if other != backup:
                other.unlink()
        return backup

    def _copy_to(self, path: Path) -> None:
        """Write what the open connection sees to a file, whole or not at all."""
        self._remove_new()
        try:
            with contextlib.closing(sqlite3.connect(str(self._new))) as copy:
                self._connection().backup(copy)
            _sync(self._new)
            os.replace(self._new, path)
        except BaseException:
            self._remove_new()
            raise
        sync_folder(path.parent)

    # --- a damaged file -----------------------------------------------------------------------

    def mend(self, why: str) -> None:
        """This file turned out to be damaged: begin again; raise StoreError if that fails."""
        try:
            self._disconnect()
            self._make_ready(why)
        except (OSError, sqlite3.Error) as error:
            self._disconnect()
            raise StoreError(f"{self._path} cannot be mended: {_words(error)}") from None

    def _begin_again(self, why: str) -> None:
        """Set the file aside and go on with what can be read of it."""
        if salvage.BROKEN_LOG in why:
            salvage.repair_log(self._path)
        found = salvage.version_of(self._path)
        source = self._path
        if not 0 < found <= salvage.MAX_VERSION:
            source, found = salvage.copy_with_head(self._path)
        saved: Dict[str, int] = {}

        def fill(db: sqlite3.Connection) -> None:
            saved.update(salvage.save_rows(source, db, self._schema.sound))
            for statement in self._schema.after_loss:
                db.execute(statement)

        wanted = self._schema.version
        try:
            self._refuse_newer(found)
            self._build(found if 0 < found < wanted else wanted, fill)
        finally:
            salvage.remove_copy(self._path)
        aside = salvage.set_aside(self._path)
        self._put_in_place()
        rows = [f"{n:,} {table}" for table, n in saved.items() if n and table != "meta"]
        log.error(
            "%s; %s was set aside as %s, and a new one begins with what could be read: %s",
            *(why, self._path.name, aside.name, ", ".join(rows) or "nothing"),
        )

    def _write_anew(self) -> None:
        """Somebody has deleted the file: it is all there in the connection that is still open."""
        self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._copy_to(self._path)
        self._disconnect()  # it leaves no log behind, whose name is now the new file's
        self._connect()
        if self._lock is not None and not self._path.with_suffix(".lock").exists():
            self._lock.close()
            self._take_lock()
        log.error("%s was deleted while in use, and was written anew", self._path)

    # --- reading and writing --------------------------------------------------------------------

    def _connection(self) -> sqlite3.Connection:
        if self._db is None:  # it could not be mended yet
            raise DamagedStore(f"{self._path} is damaged, and there is no new one yet")
        return self._db

    def commit(self, statements: Iterable[Statement]) -> None:
        """Write all of it or nothing; raise StoreError and leave the file as it was."""
        try:
            self._check_it_is_there()
            db = self._connection()
            with _transaction(db):
                for sql, values in statements:
                    db.execute(sql, values)
        except (sqlite3.Error, OSError) as error:
            raise self._error("written", error) from None

    def rows(self, sql: str, values: Sequence[Any] = ()) -> List[Tuple[Any, ...]]:
        """What a query finds; raise StoreError, in words, if the file cannot be read."""
        try:
            return self._connection().execute(sql, values).fetchall()
        except sqlite3.Error as error:
            raise self._error("read", error) from None

    def _error(self, what: str, error: Exception) -> StoreError:
        if salvage.is_damage(error):
            return DamagedStore(f"{self._path} is damaged: {error}")
        return StoreError(f"{self._path} cannot be {what}: {_words(error)}")

    def _check_it_is_there(self) -> None:
        """SQLite writes on into a deleted file, and says that all is well."""
        try:
            now = os.stat(self._path).st_ino
        except FileNotFoundError:
            self._write_anew()
            return
        if now != self._inode:
            raise StoreError(f"{self._path} was replaced while in use: restart pibot")

    @property
    def is_open(self) -> bool:
        return self._db is not None

    def _disconnect(self) -> None:
        if self._db is not None:
            self._db.close()
            self._db = None

    def close(self) -> None:
        self._disconnect()
        if self._lock is not None:
            self._lock.close()
            self._lock = None


@contextlib.contextmanager
def _transaction(db: sqlite3.Connection) -> Iterator[None]:
    db.execute("BEGIN IMMEDIATE")
    try:
        yield
        db.execute("COMMIT")
    except BaseException:
        with contextlib.suppress(sqlite3.Error):
            if db.in_transaction:
                db.execute("ROLLBACK")
        raise


def _climb(db: sqlite3.Connection, steps: Sequence[Sequence[str]], version: int) -> None:
    for step in steps:
        for statement in step:
            db.execute(statement)
    db.execute(f"PRAGMA user_version={version}")


def _sync(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())


def _check_is_file(path: Path) -> None:
    """What is written to a link would be written to somebody else's file."""
    with contextlib.suppress(FileNotFoundError):
        if not stat.S_ISREG(os.lstat(path).st_mode):
            raise StoreError(f"{path} is no ordinary file: move it away")


def _words(error: Exception) -> str:
    text = str(error)
    if isinstance(error, OSError) and error.errno in (errno.EISDIR, errno.ELOOP):
        return f"{error.filename2 or error.filename} is no ordinary file: move it away"
    if "disk is full" in text or "No space left" in text:
        return "the disk is full: free some space there"
    if "disk I/O error" in text:
        return "the disk does not take the data (full, or broken?)"
    denied = isinstance(error, OSError) and error.errno in (errno.EACCES, errno.EPERM, errno.EROFS)
    if denied or "readonly" in text or "unable to open" in text:
        return (
            f"{text}: make it writable for this user, or set PIBOT_STATE_DIR to another directory"
        )
    return text
