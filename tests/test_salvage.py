"""Damaged SQLite files: noticed, set aside, and what can still be read is saved."""

from __future__ import annotations

import logging
import os
import random
import sqlite3
import subprocess
import sys
import textwrap
from contextlib import suppress
from pathlib import Path
from typing import Callable, Set

import pytest

import pibot
from pibot import salvage
from pibot.errors import DamagedStore, StoreError
from pibot.salvage import PAGE
from pibot.store import Schema, Store
from small_disk import small_disk

STEPS = (
    (
        "CREATE TABLE t (k TEXT PRIMARY KEY, v TEXT NOT NULL)",
        "CREATE TABLE w (k TEXT PRIMARY KEY, v TEXT NOT NULL) WITHOUT ROWID",
        "CREATE TABLE marks (text TEXT)",
    ),
)
ROWS = 400
LONG = 4  # every so many rows one has pages of its own
ROWS_A_PAGE = 15


def sound(table: str, row: object) -> bool:
    return table == "marks" or isinstance(row, tuple) and row[1] == value(int(row[0]))


SCHEMA = Schema(STEPS, sound, ("INSERT INTO marks VALUES ('lost')",))


def value(k: int) -> str:
    return f"{k}-" + "x" * (9_000 if k % LONG == 0 else 300)


def filled(folder: Path, rows: int = ROWS) -> Store:
    store = Store(folder / "s.db", SCHEMA)
    store.open()
    for table in ("t", "w"):
        statement = f"INSERT INTO {table} VALUES (?, ?)"
        store.commit([(statement, (str(k), value(k))) for k in range(1, rows + 1)])
    return store


def keys(store: Store, table: str = "t") -> Set[int]:
    return {int(k) for (k,) in store.rows(f"SELECT k FROM {table}")}


def reopened(folder: Path) -> Store:
    store = Store(folder / "s.db", SCHEMA)
    store.open()
    assert store.rows("PRAGMA integrity_check") == [("ok",)]
    assert all(v == value(int(k)) for k, v in store.rows("SELECT * FROM t"))
    return store


def run_child(folder: Path, code: str) -> int:
    """Run code with `path` and `os` at hand in a process of its own; its exit status."""
    start = f"import os, sys; from pathlib import Path; path = Path({str(folder)!r})\n"
    places = [Path(pibot.__file__).parents[1], Path(__file__).parent]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, places))}
    script = start + textwrap.dedent(code)
    return subprocess.run([sys.executable, "-c", script], env=env, timeout=60).returncode


def overwrite(path: Path, start: int, data: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(start)
        file.write(data)


def truncated(path: Path) -> None:
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size * 2 // 3)


def emptied(path: Path) -> None:
    path.write_bytes(b"")


def zeroed(path: Path) -> None:
    path.write_bytes(bytes(path.stat().st_size))


def garbage(path: Path) -> None:
    path.write_bytes(random.Random(1).randbytes(path.stat().st_size))


def no_version(path: Path) -> None:
    overwrite(path, 60, b"\0\0\0\0")


def wild_version(path: Path) -> None:
    overwrite(path, 60, b"\xa5\xa5\xa5\xa5")


def first_page(path: Path) -> None:
    overwrite(path, 0, random.Random(1).randbytes(PAGE))


@pytest.mark.parametrize(
    ("damage", "at_least"),
    [
        *((truncated, 100), (emptied, 0), (zeroed, 0), (garbage, 0)),
        *((no_version, ROWS), (wild_version, ROWS), (first_page, ROWS)),
    ],
)
def test_a_file_that_is_found_damaged_at_its_opening(
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    damage: Callable[[Path], None],
    at_least: int,
) -> None:
    filled(tmp_path).close()
    damage(tmp_path / "s.db")
    evidence = (tmp_path / "s.db").read_bytes()
    store = reopened(tmp_path)
    assert len(keys(store)) >= at_least
    assert store.rows("SELECT * FROM marks") == [("lost",)]
    assert (tmp_path / "s.damaged-1.db").read_bytes() == evidence
    assert not list(tmp_path.glob("s.reading*"))
    (line,) = [r.getMessage() for r in caplog.records if r.levelno == logging.ERROR]
    assert f"{tmp_path}/s.db is damaged: " in line and "set aside as s.damaged-1.db" in line
    count = len(keys(store))
    assert line.split("read: ")[1].startswith(f"{count} t" if count else "nothing")
    store.commit([("INSERT INTO t VALUES ('9999', ?)", (value(9999),))])
    store.close()
    caplog.clear()
    store = reopened(tmp_path)
    assert 9999 in keys(store) and caplog.records == []
    store.close()


@pytest.mark.parametrize("seed", range(10))
def test_damage_in_the_middle_costs_what_lay_there_and_no_more(tmp_path: Path, seed: int) -> None:
    store = filled(tmp_path)
    roots = {r for (r,) in store.rows("SELECT rootpage FROM sqlite_master")}
    store.close()
    chance = random.Random(seed)
    pages = (tmp_path / "s.db").stat().st_size // PAGE
    for page in chance.sample(sorted(set(range(2, pages + 1)) - roots), 3):
        data = chance.choice([bytes(PAGE), b"\xa5" * PAGE])
        overwrite(tmp_path / "s.db", (page - 1) * PAGE, data)
    store.open()
    store.mend("a page could not be read")
    assert store.rows("PRAGMA integrity_check") == [("ok",)]
    assert len(keys(store)) >= ROWS - 3 * ROWS_A_PAGE
    assert all(v == value(int(k)) for k, v in store.rows("SELECT * FROM t UNION SELECT * FROM w"))
    store.close()


def test_rows_keep_their_order(tmp_path: Path) -> None:
    store = filled(tmp_path, 30)
    store.commit([("DELETE FROM t WHERE k IN ('3', '4')", ())])
    before = store.rows("SELECT rowid, k FROM t ORDER BY rowid")
    store.mend("for a test")
    assert store.rows("SELECT rowid, k FROM t ORDER BY rowid") == before
    store.close()


def test_a_row_that_is_not_sound_is_left_behind(tmp_path: Path) -> None:
    store = filled(tmp_path, 30)
    store.commit([("UPDATE t SET v = 'nonsense' WHERE k = '7'", ())])
    store.mend("row 7")
    assert set(range(1, 31)) - keys(store) == {7} and keys(store, "w") == set(range(1, 31))
    store.close()


def test_damage_that_shows_while_at_work(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    store = filled(tmp_path)
    store.close()
    (root,) = (
        sqlite3.connect(tmp_path / "s.db")
        .execute("SELECT rootpage FROM sqlite_master WHERE name = 'w'")
        .fetchone()
    )
    overwrite(tmp_path / "s.db", (root - 1) * PAGE, b"\xa5" * PAGE)
    store.open()
    with pytest.raises(DamagedStore, match=r"s\.db is damaged: .*malformed"):
        store.rows("SELECT * FROM w")
    with pytest.raises(DamagedStore, match="malformed"):
        store.commit([("INSERT INTO w VALUES ('0', '')", ())])
    store.mend("it was malformed")
    assert keys(store) == set(range(1, ROWS + 1)) and keys(store, "w") == set()
    assert "it was malformed; s.db was set aside as s.damaged-1.db" in caplog.text
    store.close()


# --- the first page ------------------------------------------------------------------------------


def missing(head: Path) -> None:
    head.unlink()


def cut_short(head: Path) -> None:
    head.write_bytes(head.read_bytes()[:1_000])


@pytest.mark.parametrize("head_is", [missing, emptied, zeroed, garbage, cut_short, no_version])
def test_a_copy_of_the_first_page_that_is_none_takes_nothing_away(
    tmp_path: Path, head_is: Callable[[Path], None]
) -> None:
    filled(tmp_path).close()
    no_version(tmp_path / "s.db")
    head_is(tmp_path / "s.head")
    store = reopened(tmp_path)
    assert keys(store) == keys(store, "w") == set(range(1, ROWS + 1))
    store.close()


def test_a_bad_first_page_that_the_log_has_better_is_not_copied(tmp_path: Path) -> None:
    store = filled(tmp_path)
    head = (tmp_path / "s.head").read_bytes()
    code = """
    from test_salvage import reopened
    store = reopened(path)
    store.commit([("CREATE TABLE more (k)", ())])  # which changes the first page
    os.kill(os.getpid(), 9)
    """
    store.close()
    assert run_child(tmp_path, code) == -9
    kept = (tmp_path / "s.head").read_bytes()
    first_page(tmp_path / "s.db")
    store = reopened(tmp_path)
    assert (tmp_path / "s.head").read_bytes() in (head, kept)
    assert keys(store) == set(range(1, ROWS + 1)) and store.rows("SELECT * FROM more") == []
    store.close()


def test_a_link_in_the_place_of_the_file_is_not_written_through(tmp_path: Path) -> None:
    letter = tmp_path / "letter"
    letter.write_text("dear SQLite, " * 1_000, "utf-8")
    said = letter.read_bytes()
    filled(tmp_path).close()
    for name in ("s.db", "s.db-wal", "s.lock"):
        (tmp_path / name).unlink(missing_ok=True)
        (tmp_path / name).symlink_to(letter)
        with pytest.raises(StoreError, match=rf"{name} is no ordinary file: move it away"):
            Store(tmp_path / "s.db", SCHEMA).open()
        (tmp_path / name).unlink()
    for name in ("s.head.new", "s.reading.db"):  # whatever was left there is replaced
        (tmp_path / name).symlink_to(letter)
    filled(tmp_path).close()
    no_version(tmp_path / "s.db")
    reopened(tmp_path).close()
    assert letter.read_bytes() == said and not (tmp_path / "s.head").is_symlink()


@pytest.mark.parametrize("name", ["s.db", "s.head", "s.lock"])
def test_a_directory_in_the_place_of_a_file(tmp_path: Path, name: str) -> None:
    (tmp_path / name).mkdir()
    with pytest.raises(StoreError, match=rf"{name} is no ordinary file: move it away"):
        Store(tmp_path / "s.db", SCHEMA).open()


def test_a_letter_in_the_place_of_the_file_is_set_aside_as_it_is(tmp_path: Path) -> None:
    filled(tmp_path).close()
    (tmp_path / "s.db").write_text("dear SQLite, " * 1_000, "utf-8")
    evidence = (tmp_path / "s.db").read_bytes()
    reopened(tmp_path).close()
    assert (tmp_path / "s.damaged-1.db").read_bytes() == evidence


# --- a process that was killed ------------------------------------------------------------------

KILLED = """
    from test_salvage import filled, value
    store = filled(path, 20)
    for k in range(21, 121):
        store.commit([("INSERT INTO t VALUES (?, ?)", (str(k), value(k)))])
    os.kill(os.getpid(), 9)
"""


@pytest.fixture
def killed(tmp_path: Path) -> Path:
    """The folder of a store whose process was killed: much of it stands in the log only."""
    assert run_child(tmp_path, KILLED) == -9
    assert salvage.wal_of(tmp_path / "s.db").stat().st_size > 100 * PAGE
    return tmp_path


def test_a_kill_is_no_damage(killed: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert salvage.trouble(killed / "s.db") == ""
    store = reopened(killed)
    assert keys(store) == set(range(1, 121)) and caplog.records == []
    store.close()


def test_looking_at_a_file_leaves_the_locks_of_its_connection(killed: Path) -> None:
    """Closing any descriptor of a file ends the locks that this process has on it."""
    store = reopened(killed)
    store.commit([("INSERT INTO t VALUES ('9999', ?)", (value(9999),))])
    code = """
    import fcntl
    def is_free(name, start, length):
        with (path / name).open("r+b") as file:
            try:
                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, length, start)
            except OSError:
                return False
        return True
    # What SQLite holds as long as a connection lasts: of the file, and of the index of its log.
    sys.exit(2 * is_free("s.db", 0x40000002, 510) + is_free("s.db-shm", 128, 1))
    """
    assert run_child(killed, code) == 0
    store.close()


def test_a_log_that_was_torn_at_its_end_is_no_damage(killed: Path) -> None:
    wal = salvage.wal_of(killed / "s.db")
    frame = PAGE + salvage.FRAME_HEADER
    overwrite(wal, wal.stat().st_size - frame + 2_000, b"\xa5" * 90)  # what a power cut leaves
    store = reopened(killed)
    assert keys(store) == set(range(1, 120))
    store.close()


@pytest.mark.parametrize("where", ["header", "all of it", "the middle"])
def test_a_log_that_is_broken_is_not_taken_for_its_end(
    killed: Path, caplog: pytest.LogCaptureFixture, where: str
) -> None:
    wal = salvage.wal_of(killed / "s.db")
    size = wal.stat().st_size
    start, length = {"header": (0, 32), "all of it": (0, size)}.get(where, (size // 2, 500))
    overwrite(wal, start, b"\0" * length)
    store = reopened(killed)
    assert "set aside as s.damaged-1.db" in caplog.text
    lost = set(range(1, 121)) - keys(store)
    assert lost == set(range(1, 121)) if where == "all of it" else len(lost) <= ROWS_A_PAGE
    assert salvage.wal_of(killed / "s.damaged-1.db").stat().st_size > 100 * PAGE
    store.close()


@pytest.mark.parametrize("step", range(6))
def test_killed_while_setting_aside(tmp_path: Path, step: int) -> None:
    """Each rename and removal is a moment to die: the old file or the new one is whole."""
    filled(tmp_path).close()
    no_version(tmp_path / "s.db")
    code = f"""
    import pathlib
    left = [{step}]
    def dying(name):
        old = getattr(os, name)
        def new(*args, **more):
            if left[0] == 0:
                os.kill(os.getpid(), 9)
            left[0] -= 1
            return old(*args, **more)
        setattr(os, name, new)
    for name in ("replace", "unlink", "fsync"):
        dying(name)
    from test_salvage import reopened
    reopened(path).close()
    """
    assert run_child(tmp_path, code) == -9
    store = reopened(tmp_path)
    assert keys(store) == keys(store, "w") == set(range(1, ROWS + 1))
    assert store.rows("SELECT * FROM marks") == [("lost",)]
    assert [p.name for p in salvage.kept(tmp_path / "s.db")] == ["s.damaged-1.db"]
    assert not (tmp_path / "s.new.db").exists()
    store.close()


def test_what_stands_in_the_log_of_an_emptied_file_is_saved(killed: Path) -> None:
    emptied(killed / "s.db")
    store = reopened(killed)
    assert keys(store) >= set(range(21, 121))
    store.close()


def test_only_the_newest_damaged_files_are_kept(tmp_path: Path) -> None:
    filled(tmp_path, 3).close()
    for _ in range(salvage.MAX_KEPT + 3):
        no_version(tmp_path / "s.db")
        reopened(tmp_path).close()
    names = [p.name for p in salvage.kept(tmp_path / "s.db")]
    assert names == ["s.damaged-4.db", "s.damaged-5.db", "s.damaged-6.db"]


def test_no_room_for_a_new_file_changes_nothing(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", "8m") as disk:  # room for it, a copy and the new one
        filled(disk).close()
        no_version(disk / "s.db")
        filler = disk / "filler"
        with suppress(OSError), filler.open("wb", buffering=0) as file:
            while True:
                file.write(b"x" * PAGE)
        with pytest.raises(StoreError, match=r"s\.db cannot be used: the disk "):
            Store(disk / "s.db", SCHEMA).open()
        assert [p.name for p in disk.glob("s.*db")] == ["s.db"]
        filler.write_bytes(b"")
        filler.unlink()
        store = reopened(disk)
        assert keys(store) == set(range(1, ROWS + 1))
        store.close()
