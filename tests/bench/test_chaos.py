"""The chaos sees what it is there to see: lost goals, second results, late recoveries."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "bench"))

from chaos_phase import Count
from chaos_watch import Reader, Results, Times, executions, p95

from pibot.fleet.journal import Journal
from pibot.fleet.records import Task

DONE = Task("g1-1", "g1", skill="work", state="succeeded", attempt=1, result={"success": True})


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    made = Journal(tmp_path / "journal.db")
    made.open("0f0e0d0c0b0a0908")
    made.commit([DONE, replace(DONE, id="g2-1", goal="g2", state="running", result=None)])
    return made


def test_a_recorded_result_that_changes_is_a_second_one(journal: Journal, tmp_path: Path) -> None:
    results = Results(Reader(tmp_path / "journal.db"))
    results.look()
    assert list(results.first) == ["g1-1"] and results.second() == []
    journal.commit([replace(DONE, result={"success": True, "output": "another"})])
    results.look()
    assert len(results.second()) == 1


def test_a_result_that_is_gone_is_no_better(journal: Journal, tmp_path: Path) -> None:
    results = Results(Reader(tmp_path / "journal.db"))
    results.look()
    journal.close()
    (tmp_path / "journal.db").unlink()
    Journal(tmp_path / "journal.db").open("0f0e0d0c0b0a0908")
    assert results.second() == ["g1-1: succeeded is gone"]


def test_executions_are_counted_by_what_the_skills_wrote(tmp_path: Path) -> None:
    (tmp_path / "executions").write_text("g1-1:0 7 1.0\ng2-1:0 7 1.5\ng1-1:0 8 2.0\n")
    assert executions(tmp_path / "executions") == {"g1-1": 2, "g2-1": 1}


@pytest.mark.parametrize(
    "times, expected", [([], 0.0), ([3.0], 3.0), ([float(n) for n in range(1, 101)], 95.0)]
)
def test_p95_is_one_of_the_times(times: "list[float]", expected: float) -> None:
    assert p95(times) == expected


@pytest.mark.parametrize(
    "count, words",
    [
        (Count("mosquitto", lost=["g1"]), "acknowledged goals lost: 1"),
        (Count("mosquitto", stuck=["g1-1"]), "tasks stuck: 1"),
        (Count("mosquitto", second=["g1-1"]), "second results: 1"),
        (Count("mosquitto", wrong=["g1"]), "ended otherwise"),
        (Count("mosquitto", unfenced=["g1-1"]), "attempts executed twice"),
        (Count("mosquitto", recovery={"master": Times([5.1] * 20, [])}), "SIGKILL of a master"),
        (Count("mosquitto", seconds=600, memory={"worker": (30.0, 60.0)}), "memory of a worker"),
    ],
)
def test_each_violation_is_named(count: Count, words: str) -> None:
    (violation,) = count.violations()
    assert words in violation


def test_a_sound_run_has_none() -> None:
    times = {"worker": Times([9.9] * 20, [30.0]), "master": Times([60.0] * 19, [])}  # too few
    assert Count("mosquitto", recovery=times, memory={"master": (1, 2)}).violations() == []
