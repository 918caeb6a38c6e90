"""The master's journal on a real file: records, order, restarts, damage."""

from __future__ import annotations

import json
import sqlite3
from dataclasses import replace
from pathlib import Path
from typing import Iterator, List

import pytest

from pibot.errors import DamagedStore, StoreError
from pibot.fleet.journal import Journal
from pibot.fleet.records import (
    RECOVERED,
    Attempt,
    Fact,
    Goal,
    Known,
    Standing,
    Task,
    from_json,
    to_json,
)

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


class Clock:
    """Seconds that pass when a test says so."""

    now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


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


# As released: these statements never change.
VERSION_1 = """
    CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
    CREATE TABLE goals (id TEXT PRIMARY KEY, state TEXT NOT NULL, chat TEXT NOT NULL,
        created_at REAL NOT NULL, record TEXT NOT NULL);
    CREATE TABLE tasks (id TEXT PRIMARY KEY, goal TEXT NOT NULL, state TEXT NOT NULL,
        changed_at REAL NOT NULL, record TEXT NOT NULL);
    CREATE TABLE attempts (task TEXT NOT NULL, attempt INTEGER NOT NULL, record TEXT NOT NULL,
        PRIMARY KEY (task, attempt)) WITHOUT ROWID;
    CREATE TABLE workers (name TEXT PRIMARY KEY, facts TEXT NOT NULL) WITHOUT ROWID;
    CREATE INDEX tasks_of_goal ON tasks (goal);
    CREATE INDEX open_tasks ON tasks (goal)
        WHERE state NOT IN ('cancelled','failed','succeeded','timed_out');
    CREATE INDEX open_goals ON goals (id)
        WHERE state NOT IN ('cancelled','failed','succeeded','timed_out');
    CREATE INDEX chats ON goals (chat) WHERE chat != '';
"""
VERSION_2 = f"""{VERSION_1}
    CREATE TABLE standings (name TEXT PRIMARY KEY, state TEXT NOT NULL) WITHOUT ROWID;
    INSERT INTO standings VALUES ('w1', 'draining');
"""


def older(path: Path, version: int) -> None:
    """A file as that version of the program left it."""
    done = replace(GOAL, id="g0", state="succeeded")
    with sqlite3.connect(path) as db:
        db.execute("PRAGMA journal_mode=WAL")
        db.executescript((VERSION_1, VERSION_2)[version - 1])
        db.execute(f"PRAGMA user_version={version}")
        db.execute("INSERT INTO meta VALUES ('store_id', 'store-1'), ('epoch', '41')")
        for goal in (done, GOAL):
            values = (goal.id, goal.state, goal.chat, to_json(goal))
            db.execute("INSERT INTO goals VALUES (?, ?, ?, 1.5, ?)", values)
        task = (TASK.id, TASK.goal, TASK.state, to_json(TASK))
        db.execute("INSERT INTO tasks VALUES (?, ?, ?, 1.5, ?)", task)
        db.execute("INSERT INTO attempts VALUES ('g1-1', 3, ?)", (to_json(ATTEMPT),))
        db.execute("INSERT INTO workers VALUES ('w1', ?)", (json.dumps(KNOWN.facts),))
    db.close()


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("damaged", [False, True])
def test_a_file_of_each_older_version_is_brought_up_also_when_it_is_damaged(
    tmp_path: Path, version: int, damaged: bool
) -> None:
    path = tmp_path / "journal.db"
    older(path, version)
    if damaged:
        with path.open("r+b") as file:
            file.truncate(path.stat().st_size - 4096)  # its last index or table
    journal = Journal(path)
    assert journal.open("store-2") == (42, "store-1")
    standings = [Standing("w1", "draining")] if version == 2 and not damaged else []
    assert journal.open_facts() == [TASK, GOAL, KNOWN, *standings]
    assert journal.attempts("g1-1") == [ATTEMPT]
    assert [g.id for g in journal.recent(9)] == ["g1", "g0"]
    assert (journal.recovering_s() > 0) is damaged
    journal.commit([Standing("w1", "removed"), replace(GOAL, state="succeeded")])
    journal.close()
    assert (tmp_path / f"journal.v{version}.db").exists()
    assert (tmp_path / "journal.damaged-1.db").exists() is damaged


# --- damage -------------------------------------------------------------------------------------


def test_a_damaged_file_keeps_its_name_and_counts_on_if_that_can_be_read(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal.db")
    journal.open("store-1")
    journal.commit([GOAL, TASK, ATTEMPT, KNOWN, Standing("w2", "removed")])
    journal.close()
    with (tmp_path / "journal.db").open("r+b") as file:
        file.seek(60)
        file.write(bytes(4))  # its version
    assert journal.open("store-2") == (2, "store-1")
    assert journal.open_facts() == [TASK, GOAL, KNOWN, Standing("w2", "removed")]
    assert 3_500 < journal.recovering_s() <= 3_600
    assert reopened(journal) == (3, "store-1") and journal.recovering_s() > 3_500
    journal.close()
    (tmp_path / "journal.db").write_bytes(b"\xa5" * 9_000)
    assert journal.open("store-3") == (1, "store-3") and journal.open_facts() == []
    journal.close()


def test_recovering_ends_after_an_hour_of_running(tmp_path: Path) -> None:
    (tmp_path / "journal.db").write_bytes(b"")
    clock = Clock()
    journal = Journal(tmp_path / "journal.db", clock=clock)
    journal.open("store-1")
    clock.now += 1_000
    assert journal.recovering_s() == 2_600
    journal.close()
    clock.now -= 500_000  # another boot
    journal.open("store-1")
    assert journal.recovering_s() == 2_600
    clock.now += 2_601
    assert journal.recovering_s() == 0
    journal.close()


def test_damage_while_at_work_costs_nothing_that_is_in_memory(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal.db")
    assert journal.open("store-1") == (1, "store-1")
    done = replace(TASK, state="succeeded")
    journal.commit([GOAL, done])
    with (tmp_path / "journal.db").open("r+b") as file:
        file.write(b"\xa5" * 4_096)
    journal.mend("it is damaged", [TASK, GOAL, replace(TASK, id="g2-1", goal="g2"), KNOWN])
    assert [f.id for f in journal.open_facts() if isinstance(f, (Goal, Task))]
    assert journal.tasks("g1")[0] in (done, TASK), "what was committed counts, if it can be read"
    assert journal.recovering_s() > 0
    assert reopened(journal) == (2, "store-1"), "the same start of the same store went on"


def test_without_damage_what_was_committed_counts(journal: Journal) -> None:
    done = replace(TASK, state="succeeded")
    journal.commit([GOAL, done])
    journal.mend("for a test", [TASK, GOAL, KNOWN])
    assert journal.tasks("g1") == [done] and KNOWN in journal.open_facts()


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


@pytest.mark.parametrize("record", ["{", "[]", '{"id":"g1"', "{}", "7", "[" * 9_000])
def test_a_damaged_record_is_noticed_and_left_behind(
    journal: Journal, tmp_path: Path, record: str
) -> None:
    journal.commit([GOAL, replace(GOAL, id="g2"), TASK])
    with sqlite3.connect(tmp_path / "journal.db") as other:
        other.execute("UPDATE goals SET record = ? WHERE id = 'g1'", (record,))
    other.close()
    with pytest.raises(DamagedStore, match="a stored goal is damaged"):
        journal.goal("g1")
    with pytest.raises(DamagedStore):
        journal.open_facts()
    journal.mend("a goal", [])
    made = Goal("g1", text=RECOVERED, state="running", route="recovered")
    assert journal.goal("g1") == made, "for its task, which goes on"
    assert journal.open_facts() == [TASK, replace(GOAL, id="g2"), made]
