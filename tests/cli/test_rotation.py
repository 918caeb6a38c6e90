"""`workers rotate` with real processes: a task that runs, a stolen card, a power cut."""

from __future__ import annotations

import json
import signal
import time
from pathlib import Path
from typing import Dict, Iterator

import pytest

from closed_fleet import ClosedFleet
from fleet_processes import wait_for
from mqtt_party import Party

OUT_S = 2.0
REFUSED = "refused the user name or password"


@pytest.fixture
def closed(tmp_path: Path) -> Iterator[ClosedFleet]:
    with ClosedFleet(tmp_path / "closed") as made:
        yield made


def moved(closed: ClosedFleet) -> Dict[str, str]:
    """The settings of worker-1 as they were; its file makes room for the next."""
    settings = closed.settings("worker-1")
    (closed.folder / "worker-1.env").unlink()
    return settings


def row(closed: ClosedFleet) -> "Dict[str, object]":
    (found,) = closed.run("workers", "list").document["workers"]
    return dict(found)


def is_let_in(closed: ClosedFleet, settings: Dict[str, str]) -> bool:
    party = Party(closed.port, settings["MQTT_USERNAME"], settings["MQTT_PASSWORD"])
    party.close()
    return party.is_in


def test_a_task_runs_on_while_its_worker_is_rotated(closed: ClosedFleet) -> None:
    closed.add("worker-1")
    gate = closed.folder / "gate" / "go"
    gate.parent.mkdir()
    shell = {"PIBOT_ALLOW_SHELL": "1", "PIBOT_READ_PATHS": str(gate.parent)}
    worker = closed.start_enrolled("worker-1", {**closed.settings("worker-1"), **shell})
    closed.wait_idle(1)
    old = moved(closed)
    command = json.dumps({"command": f"until [ -e {gate} ]; do sleep 0.1; done; echo done"})
    goal = closed.start("run", "--skill", "shell", "--args", command, "--json")
    closed.wait_for(lambda: closed.counts()["busy"] == 1, what="it works")
    assert closed.add("worker-1", "rotate")["state"] == "rotating"
    new = closed.settings("worker-1")
    assert new["MQTT_USERNAME"].startswith("worker-1.") and new["WORKER_ID"] == "worker-1"
    assert not {old[k] for k in ("PIBOT_KEY", "MQTT_PASSWORD", "PIBOT_UPDATE_KEY")} & {
        *new.values()
    }
    wait_for(lambda: is_let_in(closed, new), what="the new user is let in")
    assert is_let_in(closed, old) and row(closed)["rotating"] is True
    gate.touch()
    said, _ = goal.communicate(timeout=30)
    assert json.loads(said)["answer"].strip() == "done", "nothing was lost"
    assert REFUSED not in worker.said()
    table = closed.run("workers", "list", json=False).out
    assert "idle, rotating" in table

    closed.kill("worker-1", signal.SIGTERM)
    closed.start_enrolled("worker-1")
    closed.wait_idle(1)
    wait_for(lambda: not is_let_in(closed, old), OUT_S, what="the old user is out")
    assert row(closed)["rotating"] is False
    echo = closed.run("run", "--skill", "echo", "--args", '{"text": "hi"}', "--on", "worker-1")
    assert echo.document["answer"] == "hi"
    stolen = closed.start_worker("worker-1", process="stolen", **old)
    wait_for(lambda: REFUSED in stolen.said(), what="the old card is refused")


def test_now_ends_the_old_credentials_at_once(closed: ClosedFleet) -> None:
    closed.add("worker-1")
    worker = closed.start_enrolled("worker-1")
    closed.wait_idle(1)
    moved(closed)
    text = closed.run("workers", "rotate", "worker-1", "--now", "--host", "127.0.0.1", json=False)
    answered = time.monotonic()
    assert "the old ones have ended" in text.out
    wait_for(lambda: REFUSED in worker.said(), OUT_S, why=closed.logs)
    print(f"out after {time.monotonic() - answered:.2f} s")
    closed.kill("worker-1", signal.SIGTERM)
    closed.start_enrolled("worker-1")
    closed.wait_idle(1)


def test_a_master_killed_in_between_leaves_a_pair_that_counts(closed: ClosedFleet) -> None:
    """The power is cut before the broker knows the new user, and before it forgets the old one."""
    closed.add("worker-1")
    closed.start_enrolled("worker-1")
    closed.wait_idle(1)
    old = moved(closed)
    before = files(closed)
    closed.add("worker-1", "rotate")
    cut(closed, before)
    new = closed.settings("worker-1")
    wait_for(lambda: is_let_in(closed, new), what="the new user is let in")
    assert is_let_in(closed, old)
    closed.wait_idle(1)
    before = files(closed)
    closed.kill("worker-1", signal.SIGTERM)
    closed.start_enrolled("worker-1")
    wait_for(lambda: not row(closed)["rotating"], what="it has come with the new ones")
    cut(closed, before)
    wait_for(lambda: not is_let_in(closed, old), what="the old user is out")
    closed.wait_idle(1)


def files(closed: ClosedFleet) -> "Dict[Path, bytes]":
    """What the broker knows, as the master has left it and as it was put in place."""
    folders = (closed.state / "broker", closed.placed)
    return {f / name: (f / name).read_bytes() for f in folders for name in ("passwd", "acl")}


def cut(closed: ClosedFleet, left: "Dict[Path, bytes]") -> None:
    closed.kill("master")
    for path, content in left.items():
        path.write_bytes(content)
    (closed.state / "broker" / "changed").unlink(missing_ok=True)
    closed.restart("master")
