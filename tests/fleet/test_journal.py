"""The master's journal on a real file: records, order, restarts, damage."""

from __future__ import annotations

import sqlite3
from dataclasses import replace
from pathlib import Path
from typing import Iterator, List

import pytest

from pibot.errors import StoreError
from pibot.fleet.journal import Journal
from pibot.fleet.records import Attempt, Fact, Goal, Known, Standing, Task, from_json, to_json

GOAL = Goal(
    "g1",
    text="grüße 你好 \U0001f600",
    skill="",
    args={"a": [1, {"b": None}]},
    on="w1",
    all=True,
    tag="camera",
    timeout_s=12.5,
    chat="c1",
    ask_id="7",
    asked=True,
    state="running",
    route="plan",
    revision=2,
    answer=None,
    error="e",
    usage={"input_tokens": 3},
    seconds=1.25,
    created="2026-11-22T10:30:00+01:00",
)
TASK = Task(
    "g1-1",
    "g1",
    name="a",
    text="do",
    skill="echo",
    args={"text": "x"},
    needs=("g1-0",),
    skills=("echo", "shell"),
    worker="w1",
    tags=("camera",),
    acceptance="it is done",
    timeout_s=30.0,
    on_lost="wait",
    tries=2,
    needed=False,
    state="running",
    attempt=3,
    assignee="w1",
    failed_on=("w2", "w3"),
    losses=1,
    cancel=True,
    result={"success": True, "data": {"n": 1}, "output": "x\0y"},
    error="boom",
    usage={"output_tokens": 5},
)
ATTEMPT = Attempt("g1-1", 3, "w1", "failed", "boom", {"success": False}, {"n": 1}, [{"step": 1}])
KNOWN = Known("w1", {"slots": 2, "skills": [{"name": "echo"}]})


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    one = Journal(tmp_path / "journal.db")
    one.open("store-1")
    yield one
    one.close()


def reopened(journal: Journal) -> "tuple[int, str]":
    journal.close()
    return journal.open("store-2")


def test_each_start_is_counted_and_the_store_keeps_its_name(journal: Journal) -> None:
    assert reopened(journal) == (2, "store-1")
    assert reopened(journal) == (3, "store-1")


def test_every_field_of_every_record_comes_back(journal: Journal) -> None:
    journal.commit([GOAL, TASK, ATTEMPT, KNOWN])
    reopened(journal)
    assert journal.open_facts() == [TASK, GOAL, KNOWN]
    assert journal.attempts("g1-1") == [ATTEMPT]
    assert journal.goal("g1") == journal.goal("g1-1") == GOAL and journal.goal("g2") is None
    assert isinstance(journal.tasks("g1")[0].needs, tuple)


def test_what_people_decided_about_workers_comes_last(journal: Journal) -> None:
    """So that it counts whatever else is known of them."""
    journal.commit([Standing("w1", "draining"), Standing("w2", "removed"), KNOWN])
    journal.commit([Standing("w1", "")])
    reopened(journal)
    assert journal.open_facts() == [KNOWN, Standing("w1", ""), Standing("w2", "removed")]


def test_an_older_store_gets_what_is_new_and_keeps_what_it_has(
    journal: Journal, tmp_path: Path
) -> None:
    journal.commit([GOAL, KNOWN])
    journal.close()
    with sqlite3.connect(str(tmp_path / "journal.db")) as older:  # as version 1 made it
        older.execute("DROP TABLE standings")
        older.execute("PRAGMA user_version=1")
    older.close()
    assert journal.open("store-2") == (2, "store-1")
    journal.commit([Standing("w1", "draining")])
    assert journal.open_facts() == [GOAL, KNOWN, Standing("w1", "draining")]


@pytest.mark.parametrize("record", [GOAL, TASK, ATTEMPT, Goal("g"), Task("t", "g")])
def test_a_record_survives_json_and_a_field_of_a_later_version(record: Fact) -> None:
    text = to_json(record)
    assert from_json(type(record), text) == record
    assert from_json(type(record), text[:-1] + ',"later":{"x":1}}') == record


def test_lone_surrogates_of_a_model_do_not_stop_the_journal(journal: Journal) -> None:
    journal.commit([replace(GOAL, answer="half a \ud83d smile"), Known("w2", {"x": "\udcff"})])
    found = journal.goal("g1")
    assert found is not None and found.answer == "half a ? smile"
    assert Known("w2", {"x": "?"}) in journal.open_facts()


def test_of_several_facts_about_one_record_the_last_counts(journal: Journal) -> None:
    journal.commit([TASK, replace(TASK, attempt=4), replace(TASK, id="g1-2"), GOAL])
    journal.commit([replace(TASK, attempt=5), replace(ATTEMPT, worker="w9"), ATTEMPT])
    assert [(t.id, t.attempt) for t in journal.tasks("g1")] == [("g1-1", 5), ("g1-2", 3)]
    assert journal.attempts("g1-1") == [ATTEMPT]


@pytest.mark.parametrize(
    "goal_state, task_state, there",
    [
        ("running", "succeeded", True),
        ("planning", "failed", True),
        ("cancelled", "running", True),
        ("succeeded", "succeeded", False),
        ("timed_out", "cancelled", False),
    ],
)
def test_what_is_open_comes_back_and_what_is_over_does_not(
    journal: Journal, goal_state: str, task_state: str, there: bool
) -> None:
    facts: List[Fact] = [replace(GOAL, state=goal_state), replace(TASK, state=task_state)]
    journal.commit(facts)
    assert journal.open_facts() == (facts[::-1] if there else [])


def test_lists_have_the_newest_first_and_chats_the_oldest(journal: Journal) -> None:
    for i in range(5):
        done = replace(GOAL, id=f"g{i}", state="succeeded" if i != 2 else "running", chat="c")
        journal.commit([done, replace(TASK, id=f"g{i}-1", goal=f"g{i}", state="succeeded")])
    journal.commit([replace(GOAL, id="alone", chat="", state="failed")])
    assert [g.id for g in journal.recent(3)] == ["alone", "g4", "g3"]
    assert [g.id for g in journal.chat("c", 3)] == ["g1", "g3", "g4"]
    assert journal.chat("", 3) == []
    assert set(journal.lately_ended(2)) == {"g4-1", "g3-1"}


def test_a_failed_commit_leaves_nothing_of_its_group(journal: Journal) -> None:
    with pytest.raises((StoreError, UnicodeEncodeError)):
        journal.commit([replace(GOAL, id="g2"), replace(GOAL, id="g3", chat="\ud800")])
    assert journal.recent(9) == []
    journal.commit([GOAL])
    assert journal.goal("g1") == GOAL


@pytest.mark.parametrize("record", ["{", "[]", '{"id":"g1"', "{}", "7"])
def test_a_damaged_record_is_an_error_in_words(
    journal: Journal, tmp_path: Path, record: str
) -> None:
    journal.commit([GOAL])
    with sqlite3.connect(str(tmp_path / "journal.db")) as other:
        other.execute("UPDATE goals SET record = ?", (record,))
    other.close()
    with pytest.raises(StoreError, match="a stored goal is damaged"):
        journal.goal("g1")
