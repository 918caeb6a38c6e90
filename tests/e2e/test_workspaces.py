"""Workspaces of a real worker: bounded while a task runs, tidied up as long as it runs."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any, Dict, Iterator

import pytest

from fleet_processes import FleetProcesses
from pibot import config
from pibot.roles.client import Fleet


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FleetProcesses]:
    with FleetProcesses(tmp_path_factory.mktemp("fleet")) as processes:
        processes.start_master()
        processes.start_worker("worker-1", PIBOT_WORKSPACE_MB="1")
        processes.wait_idle(1)
        yield processes


def tasks(fleet: FleetProcesses) -> Path:
    return next(iter(fleet.folder.glob("worker-1/state/worker-1"))) / "tasks"


def write(fleet: FleetProcesses, size: int) -> Dict[str, Any]:
    settings = config.load("client", {}, fleet.env, fleet.folder / "none.env", fleet.folder)
    with Fleet.connect(settings) as asks:
        return asks.run_skill("write_file", {"path": "notes.txt", "content": "x" * size})


def test_a_task_may_not_keep_more_than_its_share(fleet: FleetProcesses) -> None:
    done = write(fleet, 1_100_000)
    assert done["tasks"][0]["error"] == (
        "notes.txt: there is no room for 1,100,000 bytes more: the workspace has 0 bytes of the "
        "1,048,576 that PIBOT_WORKSPACE_MB gives a task; delete what is not needed"
    )
    assert not (tasks(fleet) / f"{done['goal_id']}-1").exists()


def test_what_a_task_left_is_recorded(fleet: FleetProcesses) -> None:
    task = f"{write(fleet, 10)['goal_id']}-1"
    record = tasks(fleet).with_name("tasks.json")
    fleet.wait_for(lambda: task in json.loads(record.read_text())["left_s"], what="it is recorded")
    assert (tasks(fleet) / task / "notes.txt").read_text() == "x" * 10


def test_what_a_power_cut_left_half_removed_goes_at_the_start(fleet: FleetProcesses) -> None:
    write(fleet, 10)
    (tasks(fleet) / ".gone" / "x" / "y").mkdir(parents=True)
    fleet.kill("worker-1", signal.SIGTERM)
    fleet.restart("worker-1")
    fleet.wait_idle(1)
    fleet.wait_for(lambda: ".gone" not in os.listdir(tasks(fleet)), what="it is removed")
    assert len(os.listdir(tasks(fleet))) > 0  # what the task left stays
