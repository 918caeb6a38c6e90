"""Journals of real processes are destroyed: what the other side knows comes back."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path

from e2e.test_faults import begin, check_one_result, holder
from fleet_processes import FleetProcesses
from pibot import config
from pibot.roles.client import Fleet

GARBAGE = b"\xa5" * 100_000
SLEEP_S = 4  # longer than the master needs to come back


def journal(fleet: FleetProcesses, name: str) -> Path:
    """The journal of a process, by its name here."""
    return fleet.folder / name / "state" / name / "journal.db"


def destroy(path: Path) -> None:
    """Also the log: it alone may have all there was."""
    for one in (path, Path(f"{path}-wal")):
        one.write_bytes(GARBAGE)


def client(fleet: FleetProcesses) -> Fleet:
    env_file = fleet.folder / "none.env"
    return Fleet.connect(config.load("client", {}, fleet.env, env_file, Path("pibot.pyz")))


def slow(seconds: int) -> "tuple[str, ...]":
    command = json.dumps({"command": f"sleep {seconds}; echo slept"})
    return ("--skill", "shell", "--args", command, "--timeout", "80")


def test_a_destroyed_journal_of_the_master(fleet: FleetProcesses) -> None:
    """One goal runs, one waits for its turn: both clients get their document."""
    fleet.start_master()
    fleet.start_worker("worker-1", PIBOT_ALLOW_SHELL="1")
    fleet.wait_idle(1)
    runs = begin(fleet, *slow(SLEEP_S))
    fleet.wait_for(lambda: holder(fleet), what="the task runs")
    waits = begin(fleet, "--skill", "echo", "--args", '{"text": "second"}', "--timeout", "80")
    fleet.wait_for(lambda: len(fleet.run("tasks").document["goals"]) == 2, what="both are there")
    fleet.kill("master")
    destroy(journal(fleet, "master"))
    fleet.restart("master")
    check_one_result(document := runs.get(timeout=90).document)
    assert document["tasks"][0]["attempt"] == 1, "the worker went on meanwhile"
    second = waits.get(timeout=90).document
    assert (second["state"], second["answer"]) == ("succeeded", "second")
    said = fleet.processes["master"].said()
    assert "set aside as journal.damaged-1.db" in said and "Traceback" not in said
    shown = fleet.run("show", document["goal_id"]).document
    assert shown["document"]["state"] == "succeeded" and "recovered" in shown["goal"]
    refused = fleet.run("retry", document["goal_id"], check=1)
    assert "has succeeded" in refused.err


def test_a_destroyed_journal_of_a_worker(fleet: FleetProcesses) -> None:
    """Its starts are counted anew, yet the same machine is let in again, and works."""
    fleet.start_master()
    fleet.start_worker("worker-1", PIBOT_ALLOW_SHELL="1")
    fleet.wait_idle(1)
    done = begin(fleet, *slow(2))
    fleet.wait_for(lambda: holder(fleet), what="the task runs")
    fleet.kill("worker-1")
    destroy(journal(fleet, "worker-1"))
    fleet.restart("worker-1")
    check_one_result(document := done.get(timeout=90).document)
    assert document["tasks"][0]["attempt"] == 2
    assert "quarantine" not in fleet.processes["master"].said()
    assert "set aside as journal.damaged-1.db" in fleet.processes["worker-1"].said()


def test_damage_that_forgetting_meets(fleet: FleetProcesses) -> None:
    """Only the forgetting of old goals reads there: without it they would pile up for ever."""
    fleet.start_master()
    fleet.start_worker("worker-1")
    fleet.wait_idle(1)
    old = fleet.run("run", "--skill", "echo", "--args", '{"text": "x"}').document["goal_id"]
    fleet.kill("master", 15)
    path = journal(fleet, "master")
    with sqlite3.connect(path) as db:
        db.execute("UPDATE goals SET over_at = over_at - 40 * 86400")
        (root,) = db.execute(
            "SELECT rootpage FROM sqlite_master WHERE name = 'attempts'"
        ).fetchone()
    db.close()
    with path.open("r+b") as file:
        file.seek((root - 1) * 4096)
        file.write(b"\xa5" * 4096)
    fleet.restart("master")
    fleet.wait_for(lambda: "set aside" in fleet.processes["master"].said(), what="it is mended")
    fleet.wait_idle(1)
    fleet.kill("master", 15)
    fleet.restart("master")  # it looks for what is old when it begins, and then each minute
    fleet.wait_idle(1)
    fleet.wait_for(lambda: fleet.run("tasks").document["goals"] == [], 10, f"{old} is forgotten")
    assert "Traceback" not in fleet.processes["master"].said()


def test_damage_that_the_master_meets_at_work(fleet: FleetProcesses) -> None:
    """It goes on by itself: nobody has to start it again."""
    fleet.start_master()
    fleet.start_worker("worker-1")
    fleet.wait_idle(1)
    with client(fleet) as here:  # until the first is in the file, and no longer in memory
        goals = [here.run_skill("echo", {"text": "x" * 400_000})["goal_id"] for _ in range(12)]
    path = journal(fleet, "master")
    with sqlite3.connect(f"file:{path}?mode=ro", uri=True) as db:
        db.execute("PRAGMA wal_checkpoint").fetchall()
    db.close()
    with path.open("r+b") as file:
        file.seek(40 * 4096)
        file.write(b"\xa5" * 500_000)
    fleet.run("show", goals[0], check=None, timeout_s=30)
    fleet.wait_for(lambda: "set aside" in fleet.processes["master"].said(), what="it is noticed")
    fleet.wait_idle(1)
    assert fleet.run("run", "--skill", "echo", "--args", '{"text": "x"}').document["answer"] == "x"
    assert len(fleet.run("tasks").document["goals"]) >= 5
    fleet.kill("master", 15)
    fleet.restart("master")
    fleet.wait_idle(1)
    assert "Traceback" not in fleet.processes["master"].said()
