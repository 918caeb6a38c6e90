"""The helper that other tests stand on: it starts, kills, restarts and cleans up."""

from __future__ import annotations

import signal
import sys
from pathlib import Path

import pytest

from fleet_processes import FleetProcesses, wait_for

ECHO = ("run", "--skill", "echo", "--args", '{"text": "hi"}')


@pytest.mark.skipif(sys.version_info < (3, 10), reason="amqtt needs Python 3.10")
def test_the_embedded_broker_serves_too(tmp_path: Path) -> None:
    with FleetProcesses(tmp_path, broker="amqtt") as fleet:
        fleet.start_master()
        fleet.start_worker("worker-1")
        fleet.wait_idle(1)
        assert fleet.run(*ECHO).document["answer"] == "hi"


def test_processes_can_be_killed_and_started_again(tmp_path: Path) -> None:
    with FleetProcesses(tmp_path) as fleet:
        fleet.start_master()
        fleet.start_worker("worker-1")
        fleet.wait_idle(1)
        assert fleet.kill("worker-1") == -signal.SIGKILL
        worker = fleet.restart("worker-1")
        fleet.wait_for(lambda: fleet.health("worker-1").get("status") == "healthy")
        assert fleet.run(*ECHO, "--on", "worker-1").document["state"] == "succeeded"
    assert not worker.alive and not any(process.alive for process in fleet.processes.values())


def test_a_condition_that_never_comes_shows_the_logs(tmp_path: Path) -> None:
    with FleetProcesses(tmp_path) as fleet:
        fleet.start_master()
        with pytest.raises(AssertionError, match="(?s)pigs fly.*--- master .runs.*connected"):
            fleet.wait_for(lambda: False, 0.1, "pigs fly")
        with pytest.raises(AssertionError, match="status 0, not 3"):
            fleet.run("status", check=3)
    with pytest.raises(AssertionError, match="nothing"):
        wait_for(lambda: 0, 0.05, "nothing")
