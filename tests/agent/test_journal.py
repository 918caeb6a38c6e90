"""The worker's journal on a real file."""

from __future__ import annotations

import sqlite3
from dataclasses import replace
from pathlib import Path

import pytest

from pibot.agent.journal import Journal
from pibot.agent.worker_core import Dropped, Held
from pibot.errors import StoreError
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


@pytest.mark.parametrize("record", ["{", "7", '{"task":"g1-1"}', '{"task":"g1-1","att":"x"}'])
def test_a_damaged_result_is_an_error_in_words(tmp_path: Path, record: str) -> None:
    assert after(tmp_path, [DONE]) == [DONE]
    with sqlite3.connect(str(tmp_path / "worker.db")) as other:
        other.execute("UPDATE held SET result = ?", (record,))
    other.close()
    with pytest.raises(StoreError, match="a stored result is damaged"):
        opened(tmp_path)
