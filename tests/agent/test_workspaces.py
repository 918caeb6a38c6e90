"""Which of the tasks' directories stay: newest and held ones, by the time that the worker ran."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Dict, List, Set

import pytest

from pibot.agent import workspaces
from pibot.agent.workspaces import DAY_S, KEEP, Workspaces


class Machine:
    """A worker's directories, with a clock that is moved by hand."""

    def __init__(self, folder: Path, days: float = 7) -> None:
        self.tasks, self.days, self.now = folder / "tasks", days, 0.0
        self.held: Set[str] = set()
        self.tasks.mkdir()
        self.start()

    def start(self) -> None:
        """Also a start again: only what was stored is known."""
        self.workspaces = Workspaces(
            self.tasks, self.days, lambda task: task in self.held, lambda: self.now
        )

    def make(self, name: str, changed: float = 1e9) -> None:
        (self.tasks / name).mkdir()
        (self.tasks / name / "file").touch()
        os.utime(self.tasks / name, (changed, changed))

    def names(self) -> List[str]:
        self.workspaces.prune()
        return sorted(path.name for path in self.tasks.iterdir())

    def run_for(self, days: float) -> List[str]:
        self.now += days * DAY_S
        return self.names()


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    monkeypatch.setattr(workspaces, "RESERVE_BYTES", 0)
    return Machine(tmp_path)


def test_an_empty_one_goes_at_once(machine: Machine) -> None:
    (machine.tasks / "t1").mkdir()
    machine.make("t2")
    assert [machine.workspaces.end(task) for task in ("t1", "t2", "t3")] == [False, True, False]
    assert machine.names() == ["t2"]


def test_it_goes_after_days_of_running(machine: Machine) -> None:
    machine.make("t1")
    assert machine.names() == ["t1"]
    assert machine.run_for(4) == ["t1"]
    machine.make("t2")
    assert machine.run_for(3) == ["t1", "t2"]
    assert machine.run_for(0.1) == ["t2"]
    assert machine.run_for(7.1) == []


@pytest.mark.parametrize("changed", [0.0, 4e9])
def test_what_the_wall_clock_said_does_not_matter(machine: Machine, changed: float) -> None:
    machine.make("t1", changed)
    assert machine.run_for(6.9) == ["t1"]


def test_days_are_counted_over_restarts(machine: Machine) -> None:
    machine.make("t1")
    machine.names()
    for _ in range(3):
        assert machine.run_for(2) == ["t1"]
        machine.start()
        machine.now += 1e9  # nobody ran meanwhile, whatever the machine's clock says
        machine.start()
    assert machine.run_for(1.1) == []


def test_one_that_is_held_is_not_old(machine: Machine) -> None:
    machine.make("t1")
    machine.held.add("t1")
    assert machine.run_for(30) == ["t1"]
    machine.held.clear()
    assert machine.run_for(6) == ["t1"]
    assert machine.run_for(1.1) == []


def test_the_newest_stay_and_what_is_held(machine: Machine) -> None:
    for i in range(KEEP + 5):
        machine.make(f"t{i}", 1e9 + i)
    machine.held |= {"t1", "t3", "t150"}
    gone = {f"t{i}" for i in range(KEEP + 5)} - set(machine.names())
    assert gone == {"t0", "t2", "t4"}


def test_the_oldest_go_while_the_disk_is_short(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("t1", "t2", "t3", "t4"):
        machine.make(name)
        machine.run_for(1)
    machine.held.add("t1")
    monkeypatch.setattr(
        machine.workspaces, "_is_short", lambda: (machine.tasks / "t3").is_dir(), raising=True
    )
    assert machine.names() == ["t1", "t4"]


@pytest.mark.parametrize(
    "stored",
    [
        *("", "{}", "[]", '{"ran_s": 1e999, "left_s": {}}', '{"ran_s": 1, "left_s": {"t1": "x"}}'),
        *('{"ran_s": null, "left_s": {}}', '{"ran_s": 5, "left_s": {"t1": 1e300}}', "\0" * 100),
    ],
)
def test_a_damaged_record_removes_nothing(machine: Machine, stored: str) -> None:
    machine.make("t1")
    machine.tasks.with_name("tasks.json").write_text(stored)
    assert machine.run_for(0) == ["t1"]
    assert machine.run_for(6.9) == ["t1"]
    assert machine.run_for(0.2) == []


def test_the_record_holds_only_what_is_there(machine: Machine) -> None:
    for name in ("t1", "t2"):
        machine.make(name)
    machine.run_for(1)
    (machine.tasks / "t1" / "file").unlink()
    machine.workspaces.end("t1")
    machine.names()
    stored: Dict[str, Dict[str, float]] = json.loads(
        machine.tasks.with_name("tasks.json").read_text()
    )
    assert list(stored["left_s"]) == ["t2"]


def test_where_there_are_no_tasks_yet_nothing_is_written(tmp_path: Path) -> None:
    Workspaces(tmp_path / "tasks", 7, lambda task: False).prune()
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_stored_does_not_keep_the_old_ones(machine: Machine) -> None:
    machine.make("t1")
    machine.names()
    machine.tasks.with_name("tasks.json.new").mkdir()  # nothing can be written there
    assert machine.run_for(7.1) == []
