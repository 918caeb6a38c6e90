"""A damaged SQLite file: how to notice it, where to set it aside, what can still be read of it.

Only a process that did not end cleanly leaves a write-ahead log behind; then the whole file is
looked through. A log that was broken in its middle is noticed as well: SQLite silently ends at the
break, and every commit behind it would be forgotten.

Nothing here opens a file with `open()` while this process has a connection to it: closing it again
would end the locks of that connection, and other processes would write over what it reads.
"""

from __future__ import annotations

import os
import re
import shutil
import sqlite3
import struct
from contextlib import closing, suppress
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, Optional, Sequence, Tuple

from pibot import files

Row = Tuple[Any, ...]
Sound = Callable[[str, Row], bool]

MAX_KEPT = 3  # damaged files that stay for a person to look at
MAX_VERSION = 1_000
MAX_ROWID = 2**40
MAX_FRAMES = 2**32
PAGE = 4_096  # of every store
BROKEN_LOG = "its write-ahead log is broken in the middle"
WAL_HEADER = 32
FRAME_HEADER = 24
INDEX_HEADER = 48  # it stands there twice; unequal while somebody writes it
_DAMAGE = re.compile("malformed|not a database|unsupported file format|UTF-8")


def is_damage(error: BaseException) -> bool:
    """Whether SQLite says that the file itself is bad, not the disk or a statement."""
    return isinstance(error, sqlite3.Error) and _DAMAGE.search(str(error)) is not None


def wal_of(path: Path) -> Path:
    return Path(f"{path}-wal")


def shm_of(path: Path) -> Path:
    return Path(f"{path}-shm")


# --- noticing -----------------------------------------------------------------------------------


def trouble(path: Path) -> str:
    """Why this file cannot be trusted, in words; "" if it can. Nothing is changed."""
    if path.stat().st_size == 0:
        return "the file is empty"
    wal = wal_of(path)
    unclean = wal.exists() and wal.stat().st_size > 0
    try:
        with closing(_reader(path)) as db:
            version = int(db.execute("PRAGMA user_version").fetchone()[0])
            db.execute("SELECT count(*) FROM sqlite_master").fetchone()
        if not 0 < version <= MAX_VERSION:
            return f"the version that it names is {version}"
        if not unclean:
            return ""
        if _is_broken(path):
            return BROKEN_LOG
        with closing(_reader(path)) as db:
            found = str(db.execute("PRAGMA quick_check(1)").fetchone()[0])
    except sqlite3.Error as error:
        if is_damage(error):
            return str(error)
        raise
    return "" if found == "ok" else found.replace("\n", " ")


def _reader(path: Path) -> sqlite3.Connection:
    """A connection that leaves the file and its log as they are, also when it is closed."""
    return sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, isolation_level=None)


def _is_broken(path: Path) -> bool:
    """Whether whole commits lie behind the point at which SQLite has just stopped reading.

    One may: the last one before a power cut. A second began only when the first was on the disk.
    """
    wal = wal_of(path)
    size = wal.stat().st_size
    with wal.open("rb") as file:
        header = file.read(WAL_HEADER)
        if not _is_sound(header):
            return True
        page = struct.unpack(">I", header[8:12])[0]
        step, commits = FRAME_HEADER + (65_536 if page == 1 else page), 0
        taken = _frames_taken(path, header[16:24])
        for start in range(WAL_HEADER + taken * step, size - step + 1, step):
            file.seek(start)
            frame = file.read(16)
            commits += frame[8:] == header[16:24] and frame[4:8] != b"\0\0\0\0"
    return commits > 1


def _frames_taken(path: Path, salts: bytes) -> int:
    """How many frames of this log SQLite believes: `mxFrame` of the wal-index.

    Another process may just have begun the index anew; then all count as believed.
    """
    try:
        index = shm_of(path).read_bytes()[: 2 * INDEX_HEADER]
    except OSError:
        return MAX_FRAMES
    one, two = index[:INDEX_HEADER], index[INDEX_HEADER:]
    if one != two or len(one) < INDEX_HEADER or one[12] != 1 or one[32:40] != salts:
        return MAX_FRAMES
    return int(struct.unpack("=I", one[16:20])[0])


def _is_sound(header: bytes) -> bool:
    """Whether the checksum of a log's header fits."""
    if len(header) < WAL_HEADER or header[:3] != b"\x37\x7f\x06" or header[3] not in (0x82, 0x83):
        return False
    order = ">" if header[3] == 0x83 else "<"
    return struct.pack(">2I", *_checksum(header[:24], (0, 0), order)) == header[24:]


def _checksum(data: bytes, before: Tuple[int, int], order: str = "<") -> Tuple[int, int]:
    """Of a log's header or frame, after that of all before it."""
    first, second = before
    words = struct.unpack(f"{order}{len(data) // 4}I", data)
    for one, two in zip(words[::2], words[1::2]):
        first = (first + one + second) & 0xFFFFFFFF
        second = (second + two + first) & 0xFFFFFFFF
    return first, second


# --- setting aside ------------------------------------------------------------------------------


def set_aside(path: Path) -> Path:
    """Move the file and its log to the next `NAME.damaged-N.db`; return that."""
    aside = _next_aside(path)
    path.replace(aside)
    part_from_log(path)
    for old in kept(path)[:-MAX_KEPT]:
        for one in (old, wal_of(old), shm_of(old)):
            with suppress(OSError):
                one.unlink()
    return aside


def part_from_log(path: Path) -> None:
    """The file is gone: its log goes after it, or another file would take it for its own."""
    aside = kept(path)[-1:]
    if aside and not wal_of(aside[0]).exists():
        _move_log(path, aside[0])
    for one in (wal_of(path), shm_of(path)):
        with suppress(FileNotFoundError):
            one.unlink()


def _move_log(path: Path, aside: Path) -> None:
    with suppress(FileNotFoundError):
        wal_of(path).replace(wal_of(aside))


def kept(path: Path) -> List[Path]:
    """The damaged files of this store that lie here, the oldest first."""
    found = path.parent.glob(f"{path.stem}.damaged-*{path.suffix}")
    return sorted(found, key=_number)


def _next_aside(path: Path) -> Path:
    last = max(map(_number, kept(path)), default=0)
    return path.with_name(f"{path.stem}.damaged-{last + 1}{path.suffix}")


def _number(path: Path) -> int:
    digits = path.stem.rpartition("-")[2]
    return int(digits) if digits.isdecimal() else 0


# --- the log ------------------------------------------------------------------------------------


def repair_log(path: Path) -> None:
    """Let SQLite read what lies behind a break: all frames get checksums that fit.

    What was broken is in there, too; every row of it is looked at when it is read.
    """
    try:
        data = wal_of(path).read_bytes()
    except FileNotFoundError:
        return
    step = FRAME_HEADER + PAGE
    frames = [data[i : i + step] for i in range(WAL_HEADER, len(data) - step + 1, step)]
    known = [a[8:16] for a, b in zip(frames, frames[1:]) if a[8:16] == b[8:16]]
    salts = data[16:24] if _is_sound(data[:WAL_HEADER]) else known[0] if known else b""
    mine = [frame for frame in frames if frame[8:16] == salts]  # others were there before
    if not mine:
        return
    head = struct.pack(">4I", 0x377F0682, 3_007_000, PAGE, 0) + salts
    state = _checksum(head, (0, 0))
    parts = [head, struct.pack(">2I", *state)]
    for frame in mine:
        state = _checksum(frame[:8] + frame[FRAME_HEADER:], state)
        parts += [frame[:16], struct.pack(">2I", *state), frame[FRAME_HEADER:]]
    wal_of(path).write_bytes(b"".join(parts))


# --- the first page -----------------------------------------------------------------------------


def keep_head(path: Path) -> None:
    """Copy the first page beside the file: without it SQLite can read no other.

    It says where each table begins, and that never changes; what else it says may be old.
    """
    with path.open("rb") as file:
        page = file.read(PAGE)
    if _is_head(page):  # else SQLite has a sound one in its log, and the copy of before is better
        files.write_private(head_of(path), page)


def _is_head(page: bytes) -> bool:
    """Whether this can be the first page of a store."""
    known = page[:18] == b"SQLite format 3\0" + PAGE.to_bytes(2, "big")
    return len(page) == PAGE and known and 0 < _version(page) <= MAX_VERSION


def _version(page: bytes) -> int:
    return int.from_bytes(page[60:64], "big")


def head_of(path: Path) -> Path:
    return path.with_suffix(".head")


def copy_with_head(path: Path) -> Tuple[Path, int]:
    """Copy a file whose first page cannot be read, and put the page that was kept into the copy.

    Return the copy and the version of the store; the file itself and 0 if no page was kept. The
    file stays as it is, for a person to look at. `remove_copy` ends the copy.
    """
    remove_copy(path)
    try:
        page = head_of(path).read_bytes()
    except FileNotFoundError:
        return path, 0
    if not _is_head(page):
        return path, 0  # it would take away what can still be read
    copy = copy_of(path)
    try:
        _copy(path, copy)
        if wal_of(path).exists():
            _copy(wal_of(path), wal_of(copy))
        with copy.open("r+b") as file:
            # The size of the file and the list of free pages are for SQLite to find.
            file.write(page[:28] + bytes(12) + page[40:])
    except BaseException:
        remove_copy(path)
        raise
    return copy, _version(page)


def copy_of(path: Path) -> Path:
    return path.with_name(f"{path.stem}.reading{path.suffix}")


def _copy(source: Path, target: Path) -> None:
    """Into a file that is made here, never through a link."""
    opened = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    with source.open("rb") as data, open(opened, "wb") as file:
        shutil.copyfileobj(data, file, 2**20)


def remove_copy(path: Path) -> None:
    copy = copy_of(path)
    for one in (copy, wal_of(copy), shm_of(copy)):
        with suppress(FileNotFoundError):
            one.unlink()


# --- reading what can be read -------------------------------------------------------------------


def version_of(path: Path) -> int:
    """The version that a damaged file still names, 0 if none."""
    if path.stat().st_size == 0:
        return 0  # SQLite would remove the log of an empty file, with all that is in it
    try:
        with closing(_reader(path)) as db:
            db.execute("PRAGMA writable_schema=ON")  # also opens a file that was cut off
            return int(db.execute("PRAGMA user_version").fetchone()[0])
    except sqlite3.Error:
        return 0


def save_rows(source: Path, target: sqlite3.Connection, sound: Sound) -> Dict[str, int]:
    """Copy every sound row that can be read into the tables of `target`; return the counts."""
    schema = "SELECT name, sql FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%'"
    saved = {}
    with closing(_reader(source)) as db:
        with suppress(sqlite3.Error):
            db.execute("PRAGMA writable_schema=ON")
        for table, sql in target.execute(schema).fetchall():
            columns = [r[1] for r in target.execute(f"PRAGMA table_info({table})")]
            saved[table] = 0
            for row in _rows(db, table, columns, "WITHOUT ROWID" not in sql):
                values = row[-len(columns) :]
                if sound(table, values):
                    saved[table] += _put(target, table, columns, row)
    return saved


def _put(target: sqlite3.Connection, table: str, columns: Sequence[str], row: Row) -> int:
    """Rows keep their rowids: the order in which they were made."""
    names = ", ".join(columns if len(row) == len(columns) else ("rowid", *columns))
    marks = ", ".join("?" * len(row))
    try:
        done = target.execute(f"INSERT OR IGNORE INTO {table} ({names}) VALUES ({marks})", row)
    except sqlite3.Error:
        return 0  # a value that the table does not take
    return done.rowcount


def _rows(
    db: sqlite3.Connection, table: str, columns: Sequence[str], by_rowid: bool
) -> Iterator[Row]:
    names = ", ".join(columns)
    if by_rowid:
        yield from _around_damage(db, f"SELECT rowid, {names} FROM {table}")
        return
    for order in ("ASC", "DESC"):  # from both ends to the damage
        with suppress(sqlite3.Error):
            yield from db.execute(f"SELECT {names} FROM {table} ORDER BY {columns[0]} {order}")


def _around_damage(db: sqlite3.Connection, select: str) -> Iterator[Row]:
    """Every row of a table that can be read, in order; what is damaged is skipped."""
    last: Optional[int] = 0
    while last is not None:
        try:
            for row in db.execute(f"{select} WHERE rowid > ? ORDER BY rowid", (last,)):
                last = row[0]
                yield row
            return
        except sqlite3.Error:
            last = _behind(db, select, last)


def _behind(db: sqlite3.Connection, select: str, last: int) -> Optional[int]:
    """The smallest rowid after `last` behind which a row can be read; None if nothing can."""

    def reads(step: int) -> bool:
        try:
            sql = f"{select} WHERE rowid > ? ORDER BY rowid LIMIT 1"
            db.execute(sql, (last + step,)).fetchone()
        except sqlite3.Error:
            return False
        return True

    high = 1
    while not reads(high):
        high *= 2
        if high > MAX_ROWID:
            return None
    low = high // 2
    while low + 1 < high:
        middle = (low + high) // 2
        low, high = (low, middle) if reads(middle) else (middle, high)
    return last + high
