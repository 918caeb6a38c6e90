"""A program of its own: reads one SQLite database that it is given, and writes nothing.

It runs in a process of its own, so that the memory, the time and the locks of a query are not the
worker's, and imports nothing of ours. Standard input is a request, standard output the answer:

    {"fd": 5, "sql": "…", "params": […], "max_rows": 200, "max_bytes": 1000000, "time_s": 20}
    {"columns": […], "rows": [[…]], "truncated": false}   or   {"error": "…"}

SQLite opens a database by its name; afterwards it is compared with the descriptor that was given.
"""

from __future__ import annotations

import base64
import fcntl
import json
import os
import resource
import signal
import sqlite3
import stat
import sys
import time
from typing import Any, Dict, List, Optional

HEAP_BYTES = 64 << 20
_MEMORY_BYTES = 512 << 20
_BUSY_S = 2.0
_SHARED_FIRST, _SHARED_SIZE = 0x40000002, 510  # the bytes of a database that its readers lock
_WAL = b"\2\2"  # the versions in its header, for who keeps changes in a -wal file
_SHOWN_OF = frozenset(
    ("table_info", "table_xinfo", "table_list", "index_list", "index_info", "index_xinfo")
    + ("foreign_key_list",)
)
_SHOWN = frozenset(
    ("user_version", "schema_version", "application_id", "encoding", "page_count", "page_size")
    + (
        "freelist_count",
        "data_version",
        "journal_mode",
        "compile_options",
        "collation_list",
        "function_list",
    )
)
_NOT_CALLED = frozenset(
    ("load_extension", "fts3_tokenizer", "readfile", "writefile", "edit", "lsdir", "eval")
)
_WORDS = {
    "not authorized": "only reading is allowed here, such as SELECT",
    "attempt to write a readonly database": "it was not closed cleanly, and a journal beside it "
    "waits to be rolled back; open it once with the program that owns it",
    "database is locked": "another program is writing it; try again",
    "file is not a database": "it is not an SQLite database",
    "unable to open database file": "it cannot be opened",
}


class Refused(Exception):
    """The message says why."""


def main() -> None:
    """Answer the request, whatever it is."""
    request = json.loads(sys.stdin.buffer.read())
    _limit(request["time_s"])
    try:
        answer = _answer(request)
    except Refused as error:
        answer = {"error": str(error)}
    except MemoryError:
        answer = {"error": f"it needs more than {HEAP_BYTES >> 20} MB of memory; ask for less"}
    except OSError as error:
        answer = {"error": (error.strerror or str(error)).lower()}
    except (sqlite3.Error, sqlite3.Warning, ValueError, OverflowError) as error:
        said = str(error)
        answer = {"error": next((w for s, w in _WORDS.items() if said.startswith(s)), said)}
    sys.stdout.write(json.dumps(answer))


def _limit(time_s: float) -> None:
    """Not a byte can be written to a file from here on, and the kernel ends what takes too long."""
    for what, most in (
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_AS, _MEMORY_BYTES),
        (resource.RLIMIT_CPU, int(time_s) + 1),
        (resource.RLIMIT_NOFILE, 32),
    ):
        resource.setrlimit(what, (most, most))
    signal.setitimer(signal.ITIMER_REAL, time_s)


def _answer(request: Dict[str, Any]) -> Dict[str, Any]:
    fd = os.open(f"/proc/self/fd/{request['fd']}", os.O_RDONLY)
    path = os.readlink(f"/proc/self/fd/{fd}")
    _lock(fd)
    immutable = _is_left(fd, path)
    connection = sqlite3.connect(
        f"file:{_quoted(path)}?{'immutable=1' if immutable else 'mode=ro&readonly_shm=1'}",
        uri=True,
        isolation_level=None,
        timeout=_BUSY_S,
    )
    for line in ("query_only=1", "trusted_schema=0", "temp_store=2", "mmap_size=0"):
        connection.execute(f"PRAGMA {line}")
    connection.execute(f"PRAGMA hard_heap_limit={HEAP_BYTES}")
    connection.execute("BEGIN")
    connection.execute("SELECT count(*) FROM sqlite_master").fetchall()
    _check_opened(fd, path)
    connection.text_factory = lambda raw: raw.decode("utf-8", "replace")
    connection.set_authorizer(_allowed)
    cursor = connection.execute(request["sql"], request["params"])
    found = _rows(cursor, request["max_rows"], request["max_bytes"])
    if immutable and os.path.exists(f"{path}-wal"):
        raise Refused("another program has begun to write it; try again")
    return found


def _lock(fd: int) -> None:
    """As a reader: nobody who closes it takes its -wal file away from here on."""
    ends = time.monotonic() + _BUSY_S
    while True:
        try:
            fcntl.lockf(fd, fcntl.LOCK_SH | fcntl.LOCK_NB, _SHARED_SIZE, _SHARED_FIRST)
            return
        except OSError:
            if time.monotonic() >= ends:
                raise Refused("another program is writing it; try again") from None
            time.sleep(0.05)


def _is_left(fd: int, path: str) -> bool:
    """Whether it is one with a -wal file that nobody has open: SQLite would make that file."""
    if os.pread(fd, 2, 18) != _WAL:
        return False
    try:
        size = os.lstat(f"{path}-wal").st_size
    except FileNotFoundError:
        return True
    if os.path.lexists(f"{path}-shm"):
        return False
    if size:
        raise Refused(
            "it was not closed cleanly, and its -wal file has changes; "
            "open it once with the program that owns it"
        )
    return True


def _check_opened(fd: int, path: str) -> None:
    """What SQLite has opened must be the file that was given, and its own -wal and -shm."""
    given, found = os.fstat(fd), False
    for name in os.listdir("/proc/self/fd"):
        try:
            opened, where = os.fstat(int(name)), os.readlink(f"/proc/self/fd/{name}")
        except OSError:
            continue  # the listing's own
        if int(name) <= 2 or int(name) == fd or not stat.S_ISREG(opened.st_mode):
            continue
        if os.path.samestat(given, opened):
            found = True
        elif where not in (f"{path}-wal", f"{path}-shm"):
            raise Refused("it was exchanged while it was opened; try again")
    if not found:
        raise Refused("it was exchanged while it was opened; try again")


def _allowed(
    action: int, one: Optional[str], two: Optional[str], base: Optional[str], by: Optional[str]
) -> int:
    """SQLite's question about each part of a statement."""
    allowed = action in (sqlite3.SQLITE_SELECT, sqlite3.SQLITE_READ, sqlite3.SQLITE_RECURSIVE)
    if action == sqlite3.SQLITE_FUNCTION:
        allowed = (two or "").lower() not in _NOT_CALLED
    elif action == sqlite3.SQLITE_UPDATE:
        allowed = one == "sqlite_master"  # how virtual tables are declared; no statement may
    elif action == sqlite3.SQLITE_PRAGMA:
        name = (one or "").lower()
        allowed = name in _SHOWN_OF or (name in _SHOWN and two is None)
    return sqlite3.SQLITE_OK if allowed else sqlite3.SQLITE_DENY


def _rows(cursor: sqlite3.Cursor, max_rows: int, max_bytes: int) -> Dict[str, Any]:
    columns = [column[0] for column in cursor.description or ()]
    rows: List[List[Any]] = []
    left = max_bytes
    for row in cursor:
        plain = [_plain(value) for value in row]
        left -= len(json.dumps(plain))
        if left < 0 or len(rows) == max_rows:
            return {"columns": columns, "rows": rows, "truncated": True}
        rows.append(plain)
    return {"columns": columns, "rows": rows, "truncated": False}


def _plain(value: Any) -> Any:
    """A value as JSON: blobs in base64, and what is no number there as text."""
    if isinstance(value, bytes):
        return {"base64": base64.b64encode(value).decode()}
    if isinstance(value, float) and value - value != 0.0:
        return str(value)
    return value


def _quoted(path: str) -> str:
    return "".join(f"%{byte:02x}" for byte in os.fsencode(path))


if __name__ == "__main__":
    main()
