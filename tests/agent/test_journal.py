"""The worker's journal on a real file."""

from __future__ import annotations

import json
import sqlite3
from dataclasses import replace
from pathlib import Path

import pytest

from pibot.agent.effects import Dropped, Held
from pibot.agent.journal import Journal
from pibot.messages import Result

RESULT = Result(
    "g1-1",
    2,
    "failed",
    {"success": False, "data": {"n": [1, None]}, "output": "grüße\0你好"},
    "boom",
    {"input_tokens": 4},
    [{"step": 1}],
)
DONE = Held("g1-1", 2, result=RESULT)


def opened(path: Path) -> "tuple[Journal, int, list[Held]]":
    journal = Journal(path / "worker.db")
    inc, held = journal.open()
    return journal, inc, held


def after(path: Path, *groups: "list[Held | Dropped]") -> "list[Held]":
    """What is held after these commits and a restart."""
    journal, _, _ = opened(path)
    for facts in groups:
        journal.commit(facts)
    journal.close()
    journal, _, held = opened(path)
    journal.close()
    return held


def test_starts_are_counted(tmp_path: Path) -> None:
    for expected in (1, 2, 3):
        journal, inc, held = opened(tmp_path)
        assert (inc, held) == (expected, [])
        journal.close()


def test_a_result_comes_back_in_every_field(tmp_path: Path) -> None:
    assert after(tmp_path, [DONE]) == [DONE]


def test_what_ran_died_with_the_process(tmp_path: Path) -> None:
    assert after(tmp_path, [Held("g2-1", 1), DONE]) == [DONE]
    assert after(tmp_path) == [DONE]


def test_of_several_facts_on_one_task_the_last_counts(tmp_path: Path) -> None:
    assert after(tmp_path, [Held("g1-1", 1), DONE, Dropped("g1-1")]) == []
    raised = Held("g1-1", 3, result=replace(RESULT, att=3))
    assert after(tmp_path, [Dropped("g1-1"), DONE], [raised]) == [raised]


def test_what_is_acknowledged_is_forgotten(tmp_path: Path) -> None:
    assert after(tmp_path, [DONE], [Dropped("g1-1"), Dropped("g9-1")]) == []


def test_lone_surrogates_do_not_stop_the_journal(tmp_path: Path) -> None:
    (found,) = after(tmp_path, [Held("g1-1", 2, result=replace(RESULT, error="a\udcff"))])
    assert found.result is not None and found.result.error == "a?"


# As released: these statements never change.
VERSION_1 = """
    CREATE TABLE meta (key TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;
    CREATE TABLE held (task TEXT PRIMARY KEY, att INTEGER NOT NULL, result TEXT) WITHOUT ROWID;
    PRAGMA user_version=1;
    INSERT INTO meta VALUES ('inc', 6);
"""


def test_a_file_of_the_first_version(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "worker.db") as db:
        db.execute("PRAGMA journal_mode=WAL")
        db.executescript(VERSION_1)
        text = json.dumps(RESULT.__dict__)
        db.execute("INSERT INTO held VALUES ('g1-1', 2, ?), ('g2-1', 1, NULL)", (text,))
    db.close()
    journal, inc, held = opened(tmp_path)
    assert (inc, held) == (7, [DONE])
    journal.close()


NOT_TO_BE_SENT = '{"task":"g1-1","att":2,"state":"succeeded","result":{"data":Infinity}}'


@pytest.mark.parametrize(
    "record",
    ["{", "7", '{"task":"g1-1"}', '{"task":"g1-1","att":"x"}', "[" * 2000, NOT_TO_BE_SENT],
    ids=range(6),
)
def test_a_damaged_result_is_left_behind(tmp_path: Path, record: str) -> None:
    other = replace(RESULT, task="g2-1")
    assert len(after(tmp_path, [DONE, Held("g2-1", 2, result=other)])) == 2
    with sqlite3.connect(tmp_path / "worker.db") as db:
        db.execute("UPDATE held SET result = ? WHERE task = 'g1-1'", (record,))
    db.close()
    journal, inc, held = opened(tmp_path)
    assert inc > 2 and [h.task for h in held] == ["g2-1"]
    journal.close()
    assert (tmp_path / "worker.damaged-1.db").exists()


def test_damage_while_at_work_costs_nothing_that_is_in_memory(tmp_path: Path) -> None:
    journal, _, _ = opened(tmp_path)
    journal.close()
    journal, inc, _ = opened(tmp_path)
    journal.commit([DONE])
    journal.mend("it is damaged", [DONE, Held("g2-1", 1)])
    journal.commit([Dropped("g9-1")])
    journal.close()
    journal, again, held = opened(tmp_path)
    assert (again, held) == (inc + 1, [DONE])
    journal.close()


def test_a_file_of_which_nothing_is_left(tmp_path: Path) -> None:
    assert after(tmp_path, [DONE]) == [DONE]
    (tmp_path / "worker.db").write_bytes(b"\xa5" * 20_000)
    journal, inc, held = opened(tmp_path)
    assert (inc, held) == (1, [])
    journal.close()
