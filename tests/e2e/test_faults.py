"""Real processes, real kills: the goal still finishes, with one result for each task."""

from __future__ import annotations

import json
import queue
import signal
import threading
from pathlib import Path
from typing import Any, Dict

import pytest

from fleet_processes import FleetProcesses

SLEEP = '{"command": "sleep 4; echo slept"}'


def begin(fleet: FleetProcesses, *args: str) -> "queue.Queue[Any]":
    """Start a `run` in the background; its document arrives in the queue."""
    done: "queue.Queue[Any]" = queue.Queue()
    run = threading.Thread(
        target=lambda: done.put(fleet.run("run", *args, check=None, timeout_s=150)), daemon=True
    )
    run.start()
    return done


def holder(fleet: FleetProcesses) -> str:
    """The worker that runs a task now, by its own word."""
    for name in [n for n in fleet.processes if n.startswith("worker-")]:
        if fleet.health(name).get("current_task"):
            return name
    return ""


def sleeping(fleet: FleetProcesses) -> "queue.Queue[Any]":
    done = begin(fleet, "--skill", "shell", "--args", SLEEP, "--timeout", "80")
    fleet.wait_for(lambda: holder(fleet), what="a worker runs the task")
    return done


def check_one_result(document: Dict[str, Any]) -> None:
    assert document["state"] == "succeeded", document
    assert len(document["tasks"]) == 1
    assert document["tasks"][0]["result"]["success"] is True
    assert "slept" in document["answer"]


def notes(fleet: FleetProcesses) -> Path:
    """A directory that commands may write besides their workspace, whoever they run as."""
    folder = fleet.folder / "notes"
    folder.mkdir(exist_ok=True)
    folder.chmod(0o777)
    return folder


def start(fleet: FleetProcesses) -> None:
    fleet.start_master()
    for name in ("worker-1", "worker-2"):
        fleet.start_worker(name, PIBOT_ALLOW_SHELL="1", PIBOT_WRITE_PATHS=str(notes(fleet)))
    fleet.wait_idle(2)


def test_sigkill_of_the_worker(tmp_path: Path, any_broker: str) -> None:
    with FleetProcesses(tmp_path, broker=any_broker) as fleet:
        start(fleet)
        done = sleeping(fleet)
        killed = holder(fleet)
        fleet.kill(killed)
        document = done.get(timeout=90).document
        check_one_result(document)
        assert document["tasks"][0]["worker_id"] != killed
        assert document["tasks"][0]["attempt"] == 2


def test_a_worker_that_restarts_gets_its_task_again(fleet: FleetProcesses) -> None:
    fleet.start_master()
    fleet.start_worker("worker-1", PIBOT_ALLOW_SHELL="1")
    fleet.wait_idle(1)
    done = sleeping(fleet)
    fleet.kill("worker-1")
    fleet.restart("worker-1")
    document = done.get(timeout=90).document
    check_one_result(document)


def test_sigkill_of_the_master(tmp_path: Path, any_broker: str) -> None:
    with FleetProcesses(tmp_path, broker=any_broker) as fleet:
        start(fleet)
        done = sleeping(fleet)
        fleet.kill("master")
        fleet.restart("master")
        document = done.get(timeout=90).document
        check_one_result(document)
        assert document["tasks"][0]["attempt"] == 1  # the worker went on meanwhile


@pytest.mark.parametrize("persistence", ["false", "true"])
def test_sigkills_of_the_broker(tmp_path: Path, persistence: str) -> None:
    with FleetProcesses(tmp_path, broker="own") as fleet:
        lines = f"persistence_location {tmp_path}/", "autosave_interval 1"
        fleet.start_broker(f"persistence {persistence}", *lines)
        start(fleet)
        done = sleeping(fleet)
        for _ in range(3):
            fleet.kill("broker")
            fleet.restart("broker")
            fleet.wait_for(lambda: fleet.run("status", check=None).status == 0, what="a way back")
        document = done.get(timeout=90).document
        check_one_result(document)
        assert document["tasks"][0]["attempt"] == 1


def test_two_workers_with_one_name(fleet: FleetProcesses) -> None:
    fleet.start_master()
    fleet.start_worker("worker-1")
    fleet.wait_idle(1)
    second = fleet.start_worker("worker-1", process="twin")
    fleet.wait_for(lambda: "WORKER_ID" in second.said(), what="the twin says what to do")
    assert fleet.counts()["total"] == 1
    status = fleet.run("status").document
    assert "two machines use the name worker-1" in status["workers"][0]["alarm"]
    fleet.run("run", "--skill", "echo", "--args", '{"text": "x"}')


def test_a_stopped_worker_is_offline_at_once(fleet: FleetProcesses) -> None:
    start(fleet)
    assert fleet.kill("worker-2", signal.SIGTERM) == 0
    fleet.wait_for(lambda: fleet.counts()["offline"] == 1, 7, "the goodbye is heard")


def test_a_worker_that_is_stopped_leaves_nothing_running(fleet: FleetProcesses) -> None:
    """Neither does another begin what is unsafe to repeat before it has stopped here."""
    start(fleet)
    ticks = notes(fleet) / "ticks"
    who = "who=$(cat /proc/sys/kernel/random/uuid); n=0"
    tick = f"while [ $n -lt 40 ]; do echo $who >> '{ticks}'; n=$((n+1)); sleep 0.05; done"
    args = {"command": f"{who}; {tick}; echo slept"}
    done = begin(fleet, "--skill", "shell", "--args", json.dumps(args), "--timeout", "80")
    fleet.wait_for(lambda: holder(fleet) and ticks.exists(), what="a worker runs the task")
    assert fleet.kill(holder(fleet), signal.SIGTERM) == 0
    check_one_result(done.get(timeout=60).document)
    shells = ticks.read_text("utf-8").split()
    first, *_, last = shells
    assert first != last and shells == sorted(shells, key=[first, last].index)
    assert shells.count(last) == 40 and shells.count(first) < 40


@pytest.mark.parametrize("who", ["master", "worker-1"])
def test_cancel_interrupts_a_running_skill(fleet: FleetProcesses, who: str) -> None:
    start(fleet)
    done = begin(fleet, "--skill", "shell", "--args", '{"command": "sleep 60"}')
    fleet.wait_for(lambda: holder(fleet), what="a worker runs the task")
    goal_id = fleet.run("tasks").document["goals"][0]["goal_id"]
    if who == "master":
        fleet.kill("master")
        fleet.restart("master")
        fleet.wait_for(lambda: fleet.run("status", check=None).status == 0, what="master is back")
    fleet.run("cancel", goal_id)
    assert done.get(timeout=30).status == 1
    fleet.wait_idle(2, 10)


def test_an_unsafe_task_outlives_a_master_that_is_away_for_a_lease(fleet: FleetProcesses) -> None:
    start(fleet)
    begun = notes(fleet) / "begun"
    only_the_first_time = f"[ $(wc -l < '{begun}') -gt 1 ] || sleep 100"
    command = f"echo begun >> '{begun}'; {only_the_first_time}; echo slept"
    args = {"command": command, "timeout_s": 200}
    done = begin(fleet, "--skill", "shell", "--args", json.dumps(args), "--timeout", "200")
    fleet.wait_for(lambda: holder(fleet), what="a worker runs the task")
    fleet.kill("master", signal.SIGSTOP)
    fleet.wait_for(lambda: not holder(fleet), 60, "the worker stops what it may not do twice")
    fleet.kill("master", signal.SIGCONT)
    check_one_result(done.get(timeout=120).document)
    # Not the attempt's number: one may be used up by an assignment to a session that is just over.
    assert begun.read_text("utf-8").split() == ["begun", "begun"]
