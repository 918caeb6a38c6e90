"""Questions to real SQLite databases: answered, bounded, and never a byte changed."""

from __future__ import annotations

import os
import sqlite3
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List

import pytest

from pibot.agent.library import declared
from pibot.agent.tools import Context, Result, Toolbox
from pibot.permits import Permits
from pibot.skills import sqlite_query

SKILL = declared(sqlite_query)[0]
BOX = Toolbox([SKILL])
Ask = Callable[..., Result]


@pytest.fixture
def ask(ctx: Context) -> Ask:
    """Ask a small database with things of all kinds in it."""
    with sqlite3.connect(ctx.workspace / "a.db") as made:
        made.execute("CREATE TABLE t(id, name, more)")
        made.execute("INSERT INTO t VALUES(1, 'x|y\n z', 1.5)")
        made.execute("INSERT INTO t VALUES(NULL, 'é', x'0102')")
        made.execute("INSERT INTO t VALUES(9e999, CAST(x'ff41' AS TEXT), -9e999)")
    made.close()

    def call(sql: str, path: str = "a.db", **more: Any) -> Result:
        return BOX.call("sqlite_query", {"path": path, "sql": sql, **more}, ctx)

    return call


@pytest.fixture
def foreign(tmp_path: Path) -> Path:
    folder = tmp_path / "foreign"
    folder.mkdir()
    return folder


@pytest.fixture
def reading(ctx: Context, foreign: Path) -> Ask:
    """Ask databases of another program, in a directory that may be read."""
    allowed = replace(ctx, permits=Permits(read_paths=(foreign,)))
    return lambda name, sql: BOX.call(
        "sqlite_query", {"path": str(foreign / name), "sql": sql}, allowed
    )


def contents(folder: Path) -> Dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_values_of_all_kinds(ask: Ask) -> None:
    done = ask("SELECT * FROM t")
    assert done.data == {
        "columns": ["id", "name", "more"],
        "rows": [[1, "x|y\n z", 1.5], [None, "é", {"base64": "AQI="}], ["inf", "\ufffdA", "-inf"]],
        "truncated": False,
        "row_count": 3,
    }
    assert done.output.splitlines() == [
        "| id | name | more |",
        "| --- | --- | --- |",
        r"| 1 | x\|y z | 1.5 |",
        "| NULL | é | (2 bytes) |",
        "| inf | \ufffdA | -inf |",
    ]


@pytest.mark.parametrize(
    ("sql", "rows"),
    [
        ("SELECT count(*), upper(name) FROM t WHERE id = 1", [[1, "X|Y\n Z"]]),
        ("WITH x(a) AS (VALUES (1), (2)) SELECT sum(a) FROM x", [[3]]),
        ("VALUES (1, 'a')", [[1, "a"]]),
        ("SELECT name FROM pragma_table_info('t')", [["id"], ["name"], ["more"]]),
        ("SELECT value FROM json_each('[1, 2]')", [[1], [2]]),
        ("SELECT name FROM sqlite_master", [["t"]]),
        ("PRAGMA user_version", [[0]]),
    ],
)
def test_ways_to_read(ask: Ask, sql: str, rows: List[Any]) -> None:
    assert ask(sql).data["rows"] == rows


def test_other_ways_to_read(ask: Ask) -> None:
    assert ask("PRAGMA table_info(t)").data["row_count"] == 3
    assert "SCAN" in ask("EXPLAIN QUERY PLAN SELECT * FROM t").output
    assert ask("SELECT * FROM t WHERE id = 2").output == "no rows"


def test_a_full_text_index_can_be_searched(ctx: Context, ask: Ask) -> None:
    with sqlite3.connect(ctx.workspace / "text.db") as made:
        try:
            made.execute("CREATE VIRTUAL TABLE f USING fts5(x)")
        except sqlite3.OperationalError:
            pytest.skip("this SQLite has no fts5")
        made.execute("INSERT INTO f VALUES ('hello world')")
    made.close()
    done = ask("SELECT x FROM f WHERE f MATCH 'hello'", path="text.db")
    assert done.data["rows"] == [["hello world"]]


def test_parameters(ask: Ask) -> None:
    assert ask("SELECT ?, ?, ?", params=[1, "a' OR 1", 2.5]).data["rows"] == [[1, "a' OR 1", 2.5]]
    assert "Incorrect number of bindings" in ask("SELECT ?", params=[1, 2]).output


def test_rows_and_bytes_are_bounded(ask: Ask) -> None:
    numbers = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT i FROM n"
    done = ask(numbers, max_rows=5)
    assert (done.data["rows"], done.data["truncated"]) == ([[1], [2], [3], [4], [5]], True)
    assert done.output.endswith("[cut: only the first 5 rows; add LIMIT and OFFSET, or ask closer]")
    wide = ask(f"SELECT i, hex(zeroblob(50000)) FROM ({numbers})", max_rows=5000)
    assert wide.data["truncated"] and 5 < wide.data["row_count"] < 12
    assert len(wide.output) < 3_000
    assert ask("SELECT zeroblob(2000000)").data["row_count"] == 0
    exactly = ask("VALUES (1), (2)", max_rows=2)
    assert (exactly.data["row_count"], exactly.data["truncated"]) == (2, False)


@pytest.mark.parametrize(
    ("sql", "more", "said"),
    [
        ("SELEC", {}, 'a.db: near "SELEC": syntax error'),
        ("SELECT * FROM missing", {}, "a.db: no such table: missing"),
        ("SELECT 1; SELECT 2", {}, "a.db: You can only execute one statement at a time."),
        ("DELETE FROM t", {}, "a.db: only reading is allowed here, such as SELECT"),
        (" ", {}, "sql must be one statement of 1 to 20,000 characters"),
        ("SELECT 1" + " " * 20_000, {}, "sql must be one statement of 1 to 20,000 characters"),
        ("SELECT 1", {"max_rows": 0}, "max_rows must be 1 to 5,000"),
        ("SELECT ?", {"params": ["x" * 100_000]}, "params are too long"),
        ("SELECT 1", {"path": "none.db"}, "none.db: there is no such file or directory"),
        ("SELECT 1", {"path": "text.txt"}, "text.txt: it is not an SQLite database"),
        ("SELECT 1", {"path": "."}, ".: is the workspace itself; name a file in it"),
        ("SELECT 1", {"path": "/etc/passwd"}, "/etc/passwd: is outside the workspace"),
    ],
)
def test_errors_are_sentences(
    ask: Ask, ctx: Context, sql: str, more: Dict[str, Any], said: str
) -> None:
    (ctx.workspace / "text.txt").write_text("not a database, but long enough to be one" * 20)
    done = ask(sql, **more)
    assert not done.success and done.output.startswith(said), done.output


def test_a_query_without_an_end_is_stopped(ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite_query, "TIME_S", 1)
    endless = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT max(i) FROM n"
    assert ask(endless).output == "a.db: the query took more than 1 s; ask for less"


def readers() -> List[str]:
    """Readers that run for this process."""
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            words = Path(f"/proc/{pid}/cmdline").read_bytes()
            parent = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[1]
        except OSError:
            continue
        if b"_sqlite_reader" in words and int(parent) == os.getpid():
            found.append(pid)
    return found


def wait_for(condition: Callable[[], bool]) -> None:
    ends = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < ends
        time.sleep(0.01)


def test_a_cancelled_query_leaves_nothing(ask: Ask, ctx: Context) -> None:
    endless = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT max(i) FROM n"
    results: List[Result] = []
    asking = threading.Thread(target=lambda: results.append(ask(endless)))
    asking.start()
    wait_for(lambda: bool(readers()))
    ctx.cancelled.set()
    asking.join(10)
    assert "was cancelled" in results[0].output or "was stopped" in results[0].output
    wait_for(lambda: not readers())


# --- databases that other programs write -----------------------------------------------------


@pytest.fixture
def writer(foreign: Path) -> Iterator[Callable[[str, str], sqlite3.Connection]]:
    made: List[sqlite3.Connection] = []

    def write(name: str, mode: str) -> sqlite3.Connection:
        opened = sqlite3.connect(foreign / name, isolation_level=None)
        made.append(opened)
        opened.execute(f"PRAGMA journal_mode={mode}")
        opened.execute("CREATE TABLE t(a)")
        opened.execute("INSERT INTO t VALUES (1)")
        return opened

    yield write
    for one in made:
        one.close()


@pytest.mark.parametrize("mode", ["wal", "delete", "persist", "truncate"])
@pytest.mark.parametrize("is_open", [True, False])
def test_whichever_journal_it_has(
    reading: Ask, foreign: Path, writer: Any, mode: str, is_open: bool
) -> None:
    database = writer("live.db", mode)
    if not is_open:
        database.close()
    before = contents(foreign)
    assert reading("live.db", "SELECT a FROM t").data["rows"] == [[1]]
    assert contents(foreign) == before
    if is_open:
        database.execute("INSERT INTO t VALUES (2)")
        assert reading("live.db", "SELECT count(*) FROM t").data["rows"] == [[2]]


def test_one_that_is_being_written(reading: Ask, foreign: Path, writer: Any) -> None:
    database = writer("busy.db", "delete")
    database.execute("BEGIN EXCLUSIVE")
    assert "another program is writing it; try again" in reading("busy.db", "SELECT 1").output
    database.execute("COMMIT")
    assert reading("busy.db", "SELECT a FROM t").data["rows"] == [[1]]


def test_one_that_a_crash_left(reading: Ask, foreign: Path, writer: Any) -> None:
    database = writer("wal.db", "wal")
    for end in ("", "-wal"):
        (foreign / f"crashed.db{end}").write_bytes((foreign / f"wal.db{end}").read_bytes())
    other = writer("hot.db", "delete")
    other.execute("PRAGMA cache_size=1")
    other.execute("BEGIN")
    for _ in range(50):
        other.execute("INSERT INTO t VALUES (randomblob(3000))")
    for end in ("", "-journal"):
        (foreign / f"left.db{end}").write_bytes((foreign / f"hot.db{end}").read_bytes())
    other.execute("ROLLBACK")
    database.close()
    before = contents(foreign)
    for name in ("crashed.db", "left.db"):
        said = reading(name, "SELECT * FROM t").output
        assert "it was not closed cleanly" in said and "the program that owns it" in said
    assert contents(foreign) == before


def test_the_locks_of_this_process_stay(reading: Ask, foreign: Path, writer: Any) -> None:
    """Whoever closes a file loses all its locks on it: the worker's own journal is SQLite too."""
    database = writer("own.db", "delete")
    database.execute("BEGIN IMMEDIATE")
    assert reading("own.db", "SELECT a FROM t").data["rows"] == [[1]]
    locks = Path("/proc/locks").read_text()
    inode = os.stat(foreign / "own.db").st_ino
    assert any(f":{inode} " in line and " WRITE " in line for line in locks.splitlines())
    database.execute("COMMIT")


def test_what_may_be_read_outside(reading: Ask, foreign: Path, writer: Any, tmp_path: Path) -> None:
    writer("a.db", "delete").close()
    (tmp_path / "secret.db").write_bytes((foreign / "a.db").read_bytes())
    (foreign / "link.db").symlink_to(tmp_path / "secret.db")
    (foreign / "way").symlink_to(tmp_path)
    os.link(tmp_path / "secret.db", foreign / "hard.db")
    assert reading("a.db", "SELECT a FROM t").success
    for name in ("link.db", "way/secret.db", "hard.db", "../secret.db"):
        done = reading(name, "SELECT a FROM t")
        assert not done.success and "rows" not in done.data
    (tmp_path / "secret.db").unlink()
    assert reading("hard.db", "SELECT a FROM t").success  # now it has one name


def test_a_single_file_may_be_allowed(ctx: Context, foreign: Path, writer: Any) -> None:
    for name in ("a.db", "b.db"):
        writer(name, "delete").close()
    allowed = replace(ctx, permits=Permits(read_paths=(foreign / "a.db",)))
    for name, is_allowed in (("a.db", True), ("b.db", False), ("a.db/../b.db", False)):
        args = {"path": str(foreign / name), "sql": "SELECT a FROM t"}
        assert BOX.call("sqlite_query", args, allowed).success is is_allowed


def test_what_others_wrote_is_not_trusted(foreign: Path) -> None:
    plain = SKILL.settled(Permits(), "system")
    assert (plain.taints, plain.note) == (False, "")
    more = SKILL.settled(Permits(read_paths=(foreign,)), "system")
    assert (more.taints, more.note) == (True, f"It also reads databases below {foreign}.")
