"""The SQLite file under both journals: real files, real locks, real kills, a really full disk."""

from __future__ import annotations

import os
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
from pibot.store import Store
from small_disk import small_disk

SOURCES = Path(pibot.__file__).parents[1]
SCHEMA = ("CREATE TABLE t (k INTEGER PRIMARY KEY, v TEXT NOT NULL)",)


def store(path: Path, version: int = 1) -> Store:
    return Store(path / "s.db", SCHEMA, version)


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Store]:
    one = store(tmp_path)
    one.open()
    yield one
    one.close()


def put(k: int, v: object = "x") -> "tuple[str, tuple[object, ...]]":
    return "INSERT INTO t VALUES (?, ?)", (k, v)


def child(tmp_path: Path, code: str) -> "subprocess.Popen[str]":
    """A process that runs `code` with a Store class, SCHEMA and `path` at hand."""
    start = f"""
        import sys; from pathlib import Path; from pibot.store import Store
        from pibot.errors import StoreError
        path = Path({str(tmp_path)!r}); SCHEMA = {SCHEMA!r}
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
        one = Store(path / "s.db", SCHEMA, 1); one.open()
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
        one = Store(path / "s.db", SCHEMA, 1); one.open()
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


@pytest.mark.parametrize("content", [b"x" * 5000, b"SQLite format 3\0" + b"\xff" * 5000])
def test_a_file_that_is_no_database_is_an_error_in_words(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "s.db").write_bytes(content)
    one = store(tmp_path)
    for _ in range(2):
        with pytest.raises(StoreError, match=r"s\.db cannot be used: the file is damaged: move"):
            one.open()
    assert (tmp_path / "s.db").read_bytes() == content


def test_damage_found_later_is_an_error_in_words(tmp_path: Path) -> None:
    one = store(tmp_path)
    one.open()
    one.commit([put(k, "x" * 900) for k in range(200)])
    one.close()
    data = bytearray((tmp_path / "s.db").read_bytes())
    data[4096:] = b"\xa5" * (len(data) - 4096)
    (tmp_path / "s.db").write_bytes(bytes(data))
    one.open()
    with pytest.raises(StoreError, match="cannot be read: the file is damaged"):
        one.rows("SELECT * FROM t")
    with pytest.raises(StoreError, match="cannot be written: the file is damaged"):
        one.commit([put(1000)])
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
    one = Store(path / "s.db", SCHEMA, 1); one.open()
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
