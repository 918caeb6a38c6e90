"""Attacks on and by SQLite: statements that write or reach out, bombs, hostile databases."""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any, Dict

import pytest

from security.hands import Hands, left_running
from security.reach import check, lay_out

BEGINNING = ("CREATE TABLE t(a)", "CREATE INDEX i ON t(a)", "INSERT INTO t VALUES ('mine')")
NUMBERS = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n)"


def make(hands: Hands, name: str = "a.db", *statements: str) -> Path:
    path = hands.workspace / name
    with closing(sqlite3.connect(path)) as made, made:
        made.execute("PRAGMA synchronous = OFF")
        for statement in (*BEGINNING, *statements):
            made.execute(statement)
    hands.give(path)
    return path


def state(folder: Path) -> Dict[str, bytes]:
    return {
        path.name: path.read_bytes() if path.is_file() and not path.is_symlink() else b""
        for path in folder.iterdir()
    }


def ask(hands: Hands, sql: str, path: str = "a.db", **options: Any) -> Dict[str, Any]:
    """Ask; nothing outside shows or changes, nothing in the workspace changes, nothing stays."""
    before = state(hands.workspace)
    brief = {"pibot.skills.sqlite_query.TIME_S": 0.3}
    done = hands.call("sqlite_query", {"path": path, "sql": sql}, patch=brief, **options)
    check(hands, done)
    assert state(hands.workspace) == before
    return done


@pytest.fixture
def open_hands(hands: Hands) -> Hands:
    lay_out(hands)
    make(hands)
    return hands


REACHING = {
    "attach": "ATTACH '{outside}/canary.db' AS x",
    "attach-new": "ATTACH '{outside}/new.db' AS x",
    "attach-uri": "ATTACH 'file:{outside}/canary.db?mode=rwc' AS x",
    "attach-by-expression": "ATTACH (SELECT '{outside}/canary.db') AS x",
    "attach-memory": "ATTACH ':memory:' AS x",
    "vacuum-into": "VACUUM INTO '{outside}/new.db'",
    "vacuum": "VACUUM",
    "load-extension": "SELECT load_extension('{outside}/canary')",
    "load-extension-with-entry": "SELECT LOAD_EXTENSION('{outside}/canary', 'main')",
    "readfile": "SELECT readfile('{outside}/canary')",
    "writefile": "SELECT writefile('{outside}/new', 'owned')",
    "edit": "SELECT edit('x', 'touch {outside}/new')",
    "tokenizer": "SELECT fts3_tokenizer('simple', x'4141414141414141')",
    "csv": "CREATE VIRTUAL TABLE temp.c USING csv(filename='{outside}/canary')",
    "two-statements": "SELECT 1; ATTACH '{outside}/canary.db' AS x",
    "comment-and-attach": "/* SELECT */ -- \n ATTACH '{outside}/canary.db' AS x",
    "explain-attach": "EXPLAIN ATTACH '{outside}/canary.db' AS x",
}
WRITING = {
    "insert": "INSERT INTO t VALUES (1)",
    "update": "UPDATE t SET a = 1",
    "delete": "DELETE FROM t",
    "drop": "DROP TABLE t",
    "alter": "ALTER TABLE t RENAME TO u",
    "create-table": "CREATE TABLE u(a)",
    "create-temp-table": "CREATE TEMP TABLE u(a)",
    "schema-table": "UPDATE sqlite_master SET sql = 'x'",
    "reindex": "REINDEX",
    "analyze": "ANALYZE",
    "savepoint": "SAVEPOINT x",
    "commit": "COMMIT",
    "pragma-writable-schema": "PRAGMA writable_schema = 1",
    "pragma-query-only": "PRAGMA query_only = 0",
    "pragma-journal-mode": "PRAGMA journal_mode = wal",
    "pragma-user-version": "PRAGMA user_version = 7",
    "pragma-temp-directory": "PRAGMA temp_store_directory = '{outside}'",
    "pragma-heap": "PRAGMA hard_heap_limit = 0",
    "pragma-checkpoint": "PRAGMA wal_checkpoint(truncate)",
    "pragma-database-list": "PRAGMA database_list",
}


@pytest.mark.parametrize("sql", {**REACHING, **WRITING}.values(), ids=[*REACHING, *WRITING])
def test_only_reading_is_possible(open_hands: Hands, sql: str) -> None:
    done = ask(open_hands, sql.format(outside=open_hands.outside))
    assert not done["success"], done


def test_a_function_does_not_set_a_limit_either(open_hands: Hands) -> None:
    done = ask(open_hands, "SELECT * FROM pragma_hard_heap_limit(0)")
    assert not done["success"]
    assert ask(open_hands, "SELECT a FROM t")["data"]["rows"] == [["mine"]]


BOMBS = {
    "endless-recursion": f"{NUMBERS} SELECT max(i) FROM n",
    "endless-rows": f"{NUMBERS} SELECT i FROM n",
    "random-blob": "SELECT randomblob(1000000000)",
    "zero-blob": "SELECT hex(zeroblob(400000000))",
    "group-concat": f"{NUMBERS} SELECT group_concat(hex(randomblob(9999))) FROM n",
    "json-group": f"{NUMBERS} SELECT json_group_array(hex(randomblob(9999))) FROM n",
    "printf": "SELECT printf('%.*c', 900000000, 'x')",
    "replace": "SELECT replace(hex(zeroblob(9999999)), '0', hex(zeroblob(9999)))",
    "doubling": "WITH RECURSIVE d(s) AS (VALUES (1) UNION ALL SELECT s||s FROM d) SELECT * FROM d",
    "sort": f"{NUMBERS} SELECT hex(randomblob(999)) AS h FROM n ORDER BY h",
    "distinct": f"{NUMBERS} SELECT count(DISTINCT hex(randomblob(999))) FROM n",
    "cross-join": f"{NUMBERS}, m AS (SELECT i FROM n LIMIT 99999) SELECT count(*) FROM m, m, m, m",
    "like": "SELECT hex(zeroblob(99999)) LIKE '" + "%0" * 20000 + "1'",
    "glob": "SELECT hex(zeroblob(20000)) GLOB '" + "*0" * 4000 + "1'",
    "deep-parentheses": "SELECT " + "(" * 9000 + "1" + ")" * 9000,
    "many-columns": "SELECT " + ",".join(["1"] * 9000),
    "many-selects": " UNION ALL ".join(["SELECT 1"] * 1300),
    "wide-rows": f"{NUMBERS} SELECT hex(zeroblob(300000)), i FROM n",
    "deep-json": "SELECT json_extract('" + "[" * 9000 + "')",
}


@pytest.mark.parametrize("sql", BOMBS.values(), ids=list(BOMBS))
def test_a_bomb_is_bounded(open_hands: Hands, sql: str) -> None:
    done = ask(open_hands, sql[:20_000])
    assert len(str(done)) < 8_000_000
    assert not done["success"] or done["data"]["truncated"] or done["data"]["row_count"] < 3_000
    assert left_running("_sqlite_reader") == []


def test_many_parameters_are_bounded(open_hands: Hands) -> None:
    many = {"path": "a.db", "sql": "SELECT 1", "params": ["x" * 1000] * 1000}
    assert not open_hands.call("sqlite_query", many)["success"]


# --- hostile databases -----------------------------------------------------------------------


def test_a_view_runs_nothing(hands: Hands) -> None:
    lay_out(hands)
    make(hands, "a.db", f"CREATE VIEW v AS SELECT load_extension('{hands.outside}/canary')")
    assert not ask(hands, "SELECT * FROM v")["success"]


@pytest.mark.parametrize("end", ["-journal", "-wal", "-shm"])
@pytest.mark.parametrize("kind", ["link", "dangling", "fifo", "garbage", "hard"])
def test_what_stands_beside_it_is_not_touched(hands: Hands, end: str, kind: str) -> None:
    lay_out(hands)
    path = make(hands)
    if end != "-journal":
        with path.open("r+b") as file:  # as who keeps changes in a -wal file
            file.seek(18)
            file.write(b"\2\2")
    beside = Path(f"{path}{end}")
    if kind == "link":
        beside.symlink_to(hands.canary)
    elif kind == "dangling":
        beside.symlink_to(hands.outside / "new")
    elif kind == "fifo":
        os.mkfifo(beside)
    elif kind == "hard":
        os.link(hands.canary, beside)
        hands.outside_is_now()
    else:
        beside.write_bytes(os.urandom(5000))
    if kind != "hard":
        hands.give(beside)
    if end == "-shm":
        Path(f"{path}-wal").write_bytes(b"")
        hands.give(Path(f"{path}-wal"))
    ask(hands, "SELECT a FROM t")
    assert left_running("_sqlite_reader") == []


def test_a_journal_that_names_a_file_outside_deletes_nothing(hands: Hands) -> None:
    """Rolling such a journal back would delete the file that it names."""
    lay_out(hands)
    path = make(hands)
    name = os.fsencode(hands.canary)
    magic = bytes.fromhex("d9d505f920a163d7")
    header = magic + bytes(4) + bytes(4) + (2).to_bytes(4, "big") + (512).to_bytes(4, "big")
    checksum = sum(name).to_bytes(4, "big")
    lock_page = (2**30 // 4096 + 1).to_bytes(4, "big")
    tail = lock_page + name + len(name).to_bytes(4, "big") + checksum + magic
    Path(f"{path}-journal").write_bytes(
        (header + (4096).to_bytes(4, "big")).ljust(512, b"\0") + tail
    )
    hands.give(Path(f"{path}-journal"))
    ask(hands, "SELECT a FROM t")


@pytest.mark.parametrize("seed", range(3))
def test_a_damaged_database_ends_only_its_reader(hands: Hands, seed: int) -> None:
    import random

    lay_out(hands)
    chance = random.Random(seed)
    more = [f"INSERT INTO t VALUES ('{'x' * 100}{i}')" for i in range(200)]
    path = make(hands, "a.db", *more)
    raw = bytearray(path.read_bytes())
    for _ in range(200):
        raw[chance.randrange(100, len(raw))] = chance.randrange(256)
    path.write_bytes(raw)
    for sql in ("SELECT * FROM t", "SELECT * FROM t ORDER BY a", "SELECT * FROM sqlite_master"):
        ask(hands, sql)
    assert hands.call("echo", {"text": "still there"})["success"]


def test_a_link_that_is_put_in_its_place_is_not_read(hands: Hands) -> None:
    lay_out(hands)
    (hands.workspace / "a.db").symlink_to(hands.outside / "canary.db")
    assert not ask(hands, "SELECT * FROM t")["success"]


def test_nothing_outside_the_permitted_paths_is_read(hands: Hands) -> None:
    lay_out(hands)
    allowed = hands.folder / "allowed"
    allowed.mkdir()
    (allowed / "link.db").symlink_to(hands.outside / "canary.db")
    (allowed / "way").symlink_to(hands.outside)
    hands.give(allowed)
    permits = {"read_paths": [str(allowed)]}
    for path in (
        f"{allowed}/link.db",
        f"{allowed}/way/canary.db",
        f"{allowed}/../outside/canary.db",
        f"{allowed}-beside/canary.db",
        f"{hands.outside}/canary.db",
    ):
        assert not ask(hands, "SELECT * FROM t", path, permits=permits)["success"]


@pytest.mark.parametrize("through", ["shared/in", "alias"])
def test_a_link_in_place_of_a_permitted_path_is_not_followed(
    open_hands: Hands, through: str
) -> None:
    """What a command has left where it may write."""
    hands = open_hands
    shared = hands.folder / "shared"
    shared.mkdir()
    (shared / "in").symlink_to(hands.outside)
    (hands.folder / "alias").symlink_to(shared / "in")
    place = hands.folder / through
    permits = {"read_paths": [str(place)], "write_paths": [str(shared)]}
    done = ask(hands, "SELECT * FROM t", str(place / "canary.db"), permits=permits)
    assert not done["success"]
    assert "cannot be read: it " in done["output"]
