"""The SQLite file under both journals: real files, real locks, real kills, a really full disk."""

from __future__ import annotations

import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Iterator

import pytest

import pibot
from pibot.errors import StoreError
from pibot.store import Schema, Store
from small_disk import small_disk

SOURCES = Path(pibot.__file__).parents[1]
SCHEMA = ("CREATE TABLE t (k INTEGER PRIMARY KEY, v TEXT NOT NULL)",)


def store(path: Path, version: int = 1) -> Store:
    steps = [SCHEMA, *((f"CREATE TABLE added{n} (x)",) for n in range(2, version + 1))]
    return Store(path / "s.db", Schema(steps))


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Store]:
    one = store(tmp_path)
    one.open()
    yield one
    one.close()


def put(k: int, v: object = "x") -> "tuple[str, tuple[object, ...]]":
    return "INSERT INTO t VALUES (?, ?)", (k, v)


def child(tmp_path: Path, code: str) -> "subprocess.Popen[str]":
    """A process that runs `code` with Store, SCHEMA and `path` at hand."""
    start = f"""
        import sys; from pathlib import Path; from pibot.store import Schema, Store
        from pibot.errors import StoreError
        path = Path({str(tmp_path)!r}); SCHEMA = Schema([{SCHEMA!r}])
    """
    script = textwrap.dedent(start) + textwrap.dedent(code)
    return subprocess.Popen(
        [sys.executable, "-c", script],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(SOURCES)},
    )


def test_what_is_committed_is_there_after_opening_again(tmp_path: Path) -> None:
    one = store(tmp_path / "a" / "b")
    one.open()
    one.commit([put(1), put(2, "grüße 你好\0\U0001f600")])
    one.close()
    one.close()
    one.open()
    assert one.rows("SELECT * FROM t") == [(1, "x"), (2, "grüße 你好\0\U0001f600")]
    assert one.rows("PRAGMA journal_mode") == [("wal",)]
    assert one.rows("PRAGMA synchronous") == [(2,)], "FULL: an answer is sent once it is on disk"
    assert (tmp_path / "a" / "b").stat().st_mode & 0o077 == 0
    one.close()


@pytest.mark.parametrize(
    "bad, expected",
    [
        (put(1), StoreError),
        (("INSERT INTO nowhere VALUES (1)", ()), StoreError),
        (put(3, None), StoreError),
        (put(3, object()), StoreError),
        (put(3, "\ud800"), UnicodeEncodeError),
        (("INSERT INTO t VALUES (?, 'x')", (2**70,)), OverflowError),
    ],
)
def test_a_commit_is_all_or_nothing_and_the_next_one_works(
    opened: Store, bad: "tuple[str, tuple[object, ...]]", expected: type
) -> None:
    opened.commit([put(1)])
    with pytest.raises(expected):
        opened.commit([put(2), bad])
    assert opened.rows("SELECT k FROM t") == [(1,)]
    opened.commit([put(4)])
    assert opened.rows("SELECT k FROM t") == [(1,), (4,)]


def test_killed_between_commits_keeps_what_was_committed(tmp_path: Path) -> None:
    code = """
        one = Store(path / "s.db", SCHEMA); one.open()
        for k in range(10**9):
            one.commit([("INSERT INTO t VALUES (?, 'x')", (2 * k,)),
                        ("INSERT INTO t VALUES (?, 'x')", (2 * k + 1,))])
            print(k, flush=True)
    """
    with child(tmp_path, code) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if int(line) == 20:
                process.send_signal(signal.SIGKILL)
            told = int(line)
    one = store(tmp_path)
    one.open()
    keys = [k for (k,) in one.rows("SELECT k FROM t ORDER BY k")]
    assert len(keys) >= 2 * (told + 1) and len(keys) % 2 == 0 and keys == list(range(len(keys)))
    assert one.rows("PRAGMA integrity_check") == [("ok",)]
    one.close()


def test_a_second_opener_is_refused_with_what_to_do(tmp_path: Path) -> None:
    with child(
        tmp_path,
        """
        one = Store(path / "s.db", SCHEMA); one.open()
        print(1, flush=True); sys.stdin.read()
        """,
    ) as process:
        assert process.stdout is not None and process.stdout.readline() == "1\n"
        one = store(tmp_path)
        with pytest.raises(StoreError) as caught:
            one.open()
        words = str(caught.value)
        assert f"in use by another pibot (process {process.pid})" in words
        assert "PIBOT_STATE_DIR or WORKER_ID" in words
        process.kill()
        process.wait()
    one.open()
    one.commit([put(1)])
    one.close()


def test_the_first_is_not_harmed_by_a_second_in_the_same_process(opened: Store) -> None:
    with pytest.raises(StoreError, match="in use"):
        store(opened._path.parent).open()
    with pytest.raises(StoreError, match=f"process {os.getpid()}"):
        store(opened._path.parent).open()
    opened.commit([put(1)])


def test_a_newer_file_is_refused_and_left_alone(tmp_path: Path) -> None:
    one = store(tmp_path, 7)
    one.open()
    one.close()
    old = store(tmp_path, 6)
    for _ in range(2):
        with pytest.raises(
            StoreError, match="store version 7, this one knows 6.*update this pibot"
        ):
            old.open()
    one.open()
    assert one.rows("PRAGMA user_version") == [(7,)]
    one.close()


def test_a_damaged_lock_file_says_nothing_and_hinders_nobody(tmp_path: Path) -> None:
    (tmp_path / "s.lock").write_bytes(b"\xff\xfe")
    one = store(tmp_path)
    one.open()
    assert (tmp_path / "s.lock").read_text() == str(os.getpid())
    one.close()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_directory_that_is_read_only(tmp_path: Path) -> None:
    (tmp_path / "ro").mkdir(mode=0o500)
    with pytest.raises(StoreError, match="writable for this user, or set PIBOT_STATE_DIR"):
        store(tmp_path / "ro").open()


@pytest.mark.skipif(not Path("/sys/kernel").is_dir(), reason="no file system refuses everybody")
def test_a_file_system_that_is_read_only_for_everybody() -> None:
    """/sys takes no directories, not even root's."""
    with pytest.raises(StoreError, match="set PIBOT_STATE_DIR to another"):
        store(Path("/sys/kernel/pibot")).open()


def test_a_path_that_cannot_be(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="cannot be used"):
        store(tmp_path / "file").open()


FILL = """
    one = Store(path / "s.db", SCHEMA); one.open()
    one.commit([("INSERT INTO t VALUES (1, 'kept')", ())])
    try:
        for k in range(2, 10_000):
            one.commit([("INSERT INTO t VALUES (?, ?)", (k, "x" * 20_000))])
    except StoreError as error:
        print(k, error)
    try:
        one.commit([("INSERT INTO t VALUES (?, ?)", (20_000, "x" * 20_000))])
    except StoreError as error:
        print("again")
    print(one.rows("SELECT count(*) FROM t")[0][0])
"""


def _full(tmp_path: Path, process: "subprocess.Popen[str]") -> None:
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 0, out
    first, again, count = out.splitlines()
    failed_at = int(first.split()[0])
    assert "cannot be written: the disk" in first and again == "again"
    assert int(count) == failed_at - 1


def test_a_disk_that_takes_no_more_leaves_the_file_unharmed(tmp_path: Path) -> None:
    """RLIMIT_FSIZE stands for the full disk: every write beyond it fails."""
    limit = """
import resource, signal
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, 400_000))
"""
    _full(tmp_path, child(tmp_path, limit + textwrap.dedent(FILL)))
    one = store(tmp_path)
    one.open()
    assert one.rows("PRAGMA integrity_check") == [("ok",)]
    assert one.rows("SELECT v FROM t WHERE k = 1") == [("kept",)]
    one.commit([put(99_999, "x" * 20_000)])
    one.close()


def test_a_really_full_file_system(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", "512k") as disk:
        _full(disk, child(disk, FILL))
        kept = sqlite3.connect(f"file:{disk}/s.db?mode=ro", uri=True)
        assert kept.execute("SELECT v FROM t WHERE k = 1").fetchall() == [("kept",)]
        assert kept.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        kept.close()


# --- somebody deletes it ------------------------------------------------------------------------


@pytest.mark.parametrize("what", ["file", "folder"])
def test_a_file_that_is_deleted_while_in_use_is_written_anew(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, what: str
) -> None:
    one = store(tmp_path / "home")
    one.open()
    one.commit([put(1), put(2, "x" * 20_000)])
    if what == "file":
        (tmp_path / "home" / "s.db").unlink()
    else:
        shutil.rmtree(tmp_path / "home")
    one.commit([put(3)])
    assert "s.db was deleted while in use, and was written anew" in caplog.text
    one.commit([put(4)])
    with pytest.raises(StoreError, match="in use"):
        store(tmp_path / "home").open()
    one.close()
    one.open()
    assert [k for (k,) in one.rows("SELECT k FROM t")] == [1, 2, 3, 4]
    assert one.rows("PRAGMA integrity_check") == [("ok",)]
    one.close()


def test_a_file_that_is_replaced_while_in_use_is_left_alone(tmp_path: Path) -> None:
    other = store(tmp_path / "other")
    other.open()
    other.commit([put(7)])
    other.close()
    one = store(tmp_path)
    one.open()
    (tmp_path / "other" / "s.db").replace(tmp_path / "s.db")
    with pytest.raises(StoreError, match="was replaced while in use: restart pibot"):
        one.commit([put(1)])
    one.close()
    one.open()
    assert one.rows("SELECT k FROM t") == [(7,)]
    one.close()


# --- older files --------------------------------------------------------------------------------


def aged(folder: Path, version: int) -> None:
    """A store of that version with a row in it."""
    one = store(folder, version)
    one.open()
    one.commit([put(1)])
    one.close()


def version_of(path: Path) -> int:
    with sqlite3.connect(path) as db:
        found = int(db.execute("PRAGMA user_version").fetchone()[0])
    db.close()
    return found


def test_an_older_file_is_copied_and_then_brought_up(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    aged(tmp_path, 1)
    one = store(tmp_path, 3)
    one.open()
    assert one.rows("SELECT k FROM t") == [(1,)]
    assert one.rows("SELECT * FROM added2") == one.rows("SELECT * FROM added3") == []
    one.close()
    assert caplog.messages == [f"{tmp_path}/s.db: from version 1 to 3; as it was: s.v1.db"]
    assert version_of(tmp_path / "s.v1.db") == 1
    store(tmp_path, 4).open()
    assert sorted(p.name for p in tmp_path.glob("s.v*.db")) == ["s.v3.db"], "the newest copy only"
    assert version_of(tmp_path / "s.v3.db") == 3


def test_a_file_of_this_version_is_not_copied(tmp_path: Path) -> None:
    aged(tmp_path, 2)
    aged(tmp_path / "again", 2)
    assert list(tmp_path.glob("s.v*.db")) == []


def test_the_copy_has_what_stood_in_the_log_only(tmp_path: Path) -> None:
    with child(
        tmp_path,
        """
        one = Store(path / "s.db", SCHEMA); one.open()
        one.commit([("INSERT INTO t VALUES (1, 'x')", ())])
        import os; os.kill(os.getpid(), 9)
        """,
    ) as process:
        process.wait()
    one = store(tmp_path, 2)
    one.open()
    one.close()
    with sqlite3.connect(tmp_path / "s.v1.db") as copy:
        assert copy.execute("SELECT k FROM t").fetchall() == [(1,)]
    copy.close()


def test_a_step_that_fails_leaves_the_old_file(tmp_path: Path) -> None:
    aged(tmp_path, 1)
    bad = Schema([SCHEMA, ("CREATE TABLE added2 (x)",), ("CREATE TABLE t (x)",)])
    with pytest.raises(StoreError, match="cannot be used: table t already exists"):
        Store(tmp_path / "s.db", bad).open()
    assert version_of(tmp_path / "s.db") == 1
    one = store(tmp_path, 1)
    one.open()
    assert one.rows("SELECT name FROM sqlite_master WHERE name LIKE 'added%'") == []
    one.close()


def test_without_room_for_the_copy_nothing_is_changed(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", "512k") as disk:
        one = store(disk)
        one.open()
        one.commit([put(1, "x" * 150_000)])
        one.close()
        filler = disk / "filler"
        filler.write_bytes(b"x" * 200_000)
        with pytest.raises(
            StoreError, match=r"version 1 and was left .*copied to s\.v1\.db first: .*disk is full"
        ):
            store(disk, 2).open()
        assert version_of(disk / "s.db") == 1
        assert not list(disk.glob("s.v1*")) and not list(disk.glob("s.new*"))
        filler.unlink()
        two = store(disk, 2)
        two.open()
        assert two.rows("SELECT k FROM t") == [(1,)]
        two.close()


def test_killed_at_any_statement_it_is_the_old_file_or_the_new_one(tmp_path: Path) -> None:
    code = """
        import itertools, os, sqlite3
        class Dying(sqlite3.Connection):
            def execute(self, *args):
                global left
                if left == 0:
                    os.kill(os.getpid(), 9)
                left -= 1
                return super().execute(*args)
        connect = sqlite3.connect
        sqlite3.connect = lambda *a, **k: connect(*a, factory=Dying, **k)
        left = int(sys.stdin.readline())
        more = [("CREATE TABLE a%d (x)" % n, "INSERT INTO a%d SELECT k FROM t" % n) for n in (2, 3)]
        Store(path / "s.db", Schema([SCHEMA.steps[0], *more])).open()
    """
    seen = set()
    for step in range(100):
        folder = tmp_path / str(step)
        aged(folder, 1)
        with child(folder, code) as process:
            process.communicate(f"{step}\n", timeout=60)
        seen.add(found := version_of(folder / "s.db"))
        tables = {1: set(), 3: {("a2",), ("a3",)}}[found]
        with sqlite3.connect(folder / "s.db") as db:
            assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
            names = "SELECT name FROM sqlite_master WHERE name LIKE 'a%'"
            assert set(db.execute(names)) == tables
        db.close()
        if process.returncode == 0:
            break
        assert process.returncode == -signal.SIGKILL
        one = store(folder, found)
        one.open()
        assert one.rows("SELECT k FROM t") == [(1,)]
        one.close()
    assert process.returncode == 0 and seen == {1, 3} and step > 10
