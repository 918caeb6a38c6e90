"""The chaos sees what it is there to see: lost goals, second results, late recoveries.

And what it measures is one kill: other faults are held back or make a time one of another kind.
"""

from __future__ import annotations

import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Set

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "bench"))

from chaos_faults import WORKER_NEEDS_S, Wanted
from chaos_phase import Count
from chaos_watch import (
    CLEAR_S,
    SILENT_S,
    Patience,
    Reader,
    Recoveries,
    Recovery,
    Results,
    Times,
    executions,
    p95,
)

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
        (Count("mosquitto", never=["that of master"]), "kills that were never made good: 1"),
        (Count("mosquitto", recovery={"master": Times([5.1] * 20, [])}), "SIGKILL of a master"),
        (
            Count("mosquitto", recovery={"broker": Times([0.9] * 19, [])}, lacking=["broker"]),
            "too few recoveries of a broker: 19",
        ),
        (Count("mosquitto", seconds=600, memory={"worker": (30.0, 60.0)}), "memory of a worker"),
    ],
)
def test_each_violation_is_named(count: Count, words: str) -> None:
    (violation,) = count.violations()
    assert words in violation


def test_a_sound_run_has_none() -> None:
    times = {"worker": Times([9.9] * 20, [30.0]), "master": Times([60.0] * 19, [])}  # too few
    assert Count("mosquitto", recovery=times, memory={"master": (1, 2)}).violations() == []


# --- recoveries -----------------------------------------------------------------------------------

RUNS = Task("g1-1", "g1", skill="work", state="running", attempt=1, assignee="worker-1")
PROBE = Task("p1-1", "p1", skill="work", state="queued")


@pytest.fixture
def recoveries(journal: Journal, tmp_path: Path) -> Recoveries:
    journal.commit([RUNS, PROBE, replace(PROBE, id="p2-1", goal="p2")])
    return Recoveries(Reader(tmp_path / "journal.db"))


def killed(recoveries: Recoveries, of: str, seconds_ago: float = 1.0) -> Recovery:
    party = "worker-1" if of == "worker" else of
    held, probes = ({"g1-1": 1}, ()) if of == "worker" else ({}, ("p1", "p2"))
    recovery = Recovery(of, party, time.monotonic() - seconds_ago, True, held, probes)
    recoveries.add(recovery)
    return recovery


@pytest.mark.parametrize("of", ["worker", "master"])
def test_a_kill_that_is_never_made_good_is_named(
    recoveries: Recoveries, journal: Journal, of: str
) -> None:
    recovery = killed(recoveries, of)
    assert recoveries.look(set()) == []
    assert recoveries.never() == [f"that of {recovery.party}"]
    journal.commit([replace(RUNS, state="failed"), replace(PROBE, state="succeeded")])
    recoveries.look(set())
    assert recoveries.never() == []


def test_probes_that_were_refused_say_nothing(recoveries: Recoveries) -> None:
    recoveries.add(Recovery("master", "master", 0.0, True, {}, ("p8", "p9")))
    assert recoveries.never() == []


def test_a_fleet_that_answers_nothing_ends_the_run() -> None:
    patience = Patience(100.0)
    assert not patience.is_over(0, 100.0 + SILENT_S)
    assert patience.is_over(0, 101.0 + SILENT_S)
    assert not patience.is_over(1, 101.0 + SILENT_S)
    assert not patience.is_over(1, 100.0 + 2 * SILENT_S)
    assert patience.is_over(1, 102.0 + 2 * SILENT_S)


def test_a_worker_is_made_good_when_its_task_runs_elsewhere(
    recoveries: Recoveries, journal: Journal
) -> None:
    killed(recoveries, "worker")
    assert recoveries.look({"worker-1"}) == []
    journal.commit([replace(RUNS, attempt=2, assignee="worker-2", state="assigned")])
    assert recoveries.look(set()) == []
    journal.commit([replace(RUNS, attempt=2, assignee="worker-2")])
    (recovery,) = recoveries.look({"worker-2"})
    assert recoveries.times("worker") == Times([recovery.took_s], [])


@pytest.mark.parametrize("troubled", [{"master"}, {"broker", "worker-1"}, {"worker-2"}])
def test_what_else_holds_up_a_workers_task_counts_apart(
    recoveries: Recoveries, journal: Journal, troubled: Set[str]
) -> None:
    killed(recoveries, "worker")
    journal.commit([replace(RUNS, attempt=2, assignee="worker-2", state="assigned")])
    recoveries.look(troubled)
    journal.commit([replace(RUNS, state="succeeded", attempt=2)])
    (recovery,) = recoveries.look(set())
    assert recoveries.times("worker") == Times([], [recovery.took_s])


@pytest.mark.parametrize(
    "assignees, alone",
    [
        (("", ""), True),
        (("worker-1", "worker-2"), True),
        (("worker-1", "worker-1"), False),
    ],
)
def test_a_probe_measures_as_long_as_anybody_well_has_one(
    recoveries: Recoveries, journal: Journal, assignees: "tuple[str, str]", alone: bool
) -> None:
    killed(recoveries, "master")
    probes = [replace(PROBE, id=f"p{i}-1", goal=f"p{i}") for i in (1, 2)]
    states = ["assigned" if worker else "queued" for worker in assignees]
    given = zip(probes, states, assignees)
    journal.commit([replace(p, state=s, assignee=worker) for p, s, worker in given])
    assert recoveries.look({"master", "worker-1"}) == []
    journal.commit([replace(probes[0], state="succeeded", attempt=1)])
    (recovery,) = recoveries.look(set())
    assert recovery.alone is alone and recovery.took_s >= 1.0


def test_what_waits_before_a_kill_is_counted(recoveries: Recoveries, journal: Journal) -> None:
    assert recoveries.queued() == 2
    journal.commit([replace(PROBE, state="assigned")])
    assert recoveries.queued() == 1


def test_what_is_late_already_has_no_excuse(recoveries: Recoveries) -> None:
    recovery = killed(recoveries, "worker", CLEAR_S + 1)
    recoveries.look({"master"})
    assert recovery.alone


def test_nobody_gets_a_fault_that_a_recovery_would_show(recoveries: Recoveries) -> None:
    everyone = {"master", "broker", "worker-1", "worker-2"}
    assert recoveries.spared(everyone) == set()
    killed(recoveries, "worker")
    assert recoveries.spared(everyone) == {"worker-1"}
    probe = killed(recoveries, "broker")
    assert recoveries.spared(everyone) == everyone
    probe.took_s = 2.0
    assert recoveries.spared(everyone) == {"worker-1"}


def test_nobody_is_spared_for_long(recoveries: Recoveries) -> None:
    killed(recoveries, "master", CLEAR_S + 1)
    assert recoveries.spared({"master", "worker-1"}) == set()


def test_wanted_kills_take_turns_with_the_deck() -> None:
    wanted, broker, worker = Wanted(), ("SIGKILL", "broker"), ("SIGKILL", "worker")
    assert wanted.cards(["broker", "worker"], WORKER_NEEDS_S) == [broker, worker]
    assert wanted.cards(["broker", "worker"], WORKER_NEEDS_S - 0.1) == [broker]
    wanted.dealt(worker, True)
    assert wanted.cards(["broker", "worker"], WORKER_NEEDS_S) == [broker]
    wanted.dealt(broker, True)
    assert wanted.cards(["broker", "worker"], WORKER_NEEDS_S) == [worker]
    wanted.dealt(("stall", "master"), False)
    assert wanted.cards(["broker", "worker"], WORKER_NEEDS_S) == [broker, worker]
    assert wanted.cards([], WORKER_NEEDS_S) == []
