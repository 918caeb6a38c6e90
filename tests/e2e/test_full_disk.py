"""A full disk under a state directory: a clear refusal, and work goes on once there is space."""

from __future__ import annotations

from pathlib import Path
from typing import Iterator

import pytest

from fleet_processes import FleetProcesses
from small_disk import small_disk

ECHO = ("run", "--skill", "echo", "--args", '{"text": "x"}')


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """A file system of one megabyte."""
    with small_disk(tmp_path / "small", "1m") as folder:
        yield folder


def fill(folder: Path) -> Path:
    filler = folder / "filler"
    with filler.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(b"x" * 4096)
        except OSError:
            pass
    return filler


def test_the_masters_disk(fleet: FleetProcesses, small: Path) -> None:
    fleet.start_master(PIBOT_STATE_DIR=str(small))
    fleet.start_worker("worker-1")
    fleet.wait_idle(1)
    fleet.run(*ECHO)
    filler = fill(small)
    refused = fleet.run(*ECHO, check=1)
    assert "full" in refused.err and len(refused.err.strip().splitlines()) == 1
    assert refused.document["error"]["code"] == "store"
    filler.unlink()
    fleet.wait_for(lambda: fleet.run(*ECHO, check=None).status == 0, what="work goes on")
    shown = fleet.run("tasks").document["goals"]
    assert {g["state"] for g in shown} == {"succeeded"}


def test_a_workers_disk(fleet: FleetProcesses, small: Path) -> None:
    fleet.start_master()
    fleet.start_worker("worker-1", PIBOT_STATE_DIR=str(small))
    fleet.wait_idle(1)
    fleet.run(*ECHO)
    filler = fill(small)
    fleet.run(*ECHO, "--timeout", "5", check=4)  # nobody else is there to do it
    assert "full" in fleet.processes["worker-1"].said()
    filler.unlink()
    fleet.wait_for(lambda: fleet.run(*ECHO, check=None).status == 0, what="work goes on")
