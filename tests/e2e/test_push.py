"""Skills of one's own on their way to workers: three commands, versions, and what goes wrong."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from pathlib import Path
from typing import Any, Dict, Iterator, List

import pytest

from closed_fleet import ClosedFleet
from fleet_processes import FleetProcesses
from pibot.skills import _sandbox

SKILL = """
import os
from pibot.skills import Context, skill

@skill(timeout_s=60, phrases=["lamp {{of}}"])
def lamp(ctx: Context, of: str = "x") -> str:
    "Do."
    while of.startswith("/") and not os.path.exists(of):
        ctx.cancelled.wait(0.05)
    return "version {n}"
"""


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FleetProcesses]:
    with FleetProcesses(tmp_path_factory.mktemp("push")) as processes:
        processes.start_master()
        processes.start_worker("worker-1", PIBOT_TAGS="camera")
        processes.start_worker("worker-2", PIBOT_ALLOW_SHELL="1")
        processes.wait_idle(2)
        yield processes


def write(folder: Path, n: object, more: str = "") -> str:
    path = folder / "lamp.py"
    path.write_text(SKILL.format(n=n) + more)
    return str(path)


def rows(fleet: FleetProcesses, *args: str, check: int = 0) -> Dict[str, Any]:
    """Whether it was done, by worker."""
    found = fleet.run("skills", *args, check=check).document["workers"]
    return {row["worker_id"]: row["done"] for row in found}


def asked(fleet: FleetProcesses, worker: str = "worker-1") -> str:
    goal = fleet.run("run", "--skill", "lamp", "--on", worker).document
    return str(goal["tasks"][0]["result"]["output"])


def test_from_nothing_to_an_answer_in_three_commands(fleet: FleetProcesses, tmp_path: Path) -> None:
    def said(*args: str) -> str:
        words = fleet.command(*args)
        done = subprocess.run(words, cwd=tmp_path, env=fleet.env, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    said("skills", "new", "garden_lamp")
    said("skills", "push", "garden_lamp.py", "--on", "worker-1")
    assert "garden lamp of rose: 4" in said("run", "garden lamp rose")


def test_every_worker_and_those_with_a_label(fleet: FleetProcesses, tmp_path: Path) -> None:
    everywhere = {"worker-1": True, "worker-2": True}
    assert rows(fleet, "push", write(tmp_path, 1), "--all") == everywhere
    assert rows(fleet, "push", write(tmp_path, 2), "--tag", "camera") == {"worker-1": True}
    assert [asked(fleet, name) for name in everywhere] == ["version 2", "version 1"]
    assert rows(fleet, "back", "lamp", "--tag", "camera") == {"worker-1": True}
    assert asked(fleet) == "version 1"
    assert rows(fleet, "back", "lamp", "--all") == everywhere
    listed = fleet.run("skills").document["skills"]
    assert "lamp" not in [one["name"] for one in listed]


def test_a_task_that_runs_is_not_hurt(fleet: FleetProcesses, tmp_path: Path) -> None:
    """It goes on with the version that it began with; who comes later gets the new one."""
    fleet.run("skills", "push", write(tmp_path, 1), "--on", "worker-1")
    go = tmp_path / "go"
    args = json.dumps({"of": str(go)})
    long = fleet.start("run", "--skill", "lamp", "--args", args, "--on", "worker-1")
    try:
        fleet.wait_for(lambda: fleet.counts()["busy"] == 1, what="the task runs")
        fleet.run("skills", "push", write(tmp_path, 2), "--on", "worker-1")
        assert long.poll() is None
        go.touch()
        out, _ = long.communicate(timeout=30)
    finally:
        long.kill()
    assert "version 1" in out
    assert asked(fleet) == "version 2"


def test_what_a_worker_cannot_load_is_rolled_back(fleet: FleetProcesses, tmp_path: Path) -> None:
    fleet.run("skills", "push", write(tmp_path, 1), "--on", "worker-1")
    bad = "import os\nif 'pibot-trial' not in os.getcwd(): raise OSError('only here')\n"
    done = fleet.run("skills", "push", write(tmp_path, 3, bad), "--on", "worker-1", check=1)
    assert done.document["workers"][0]["why"] == "OSError: only here (line 12)"
    assert asked(fleet) == "version 1"


def test_a_skill_that_takes_the_worker_with_it_is_not_there_again(
    fleet: FleetProcesses, tmp_path: Path
) -> None:
    """It passes its trial, and ends the process that loads it; the old version answers again."""
    fleet.run("skills", "push", write(tmp_path, 1), "--on", "worker-2")
    bad = "import os\nif 'pibot-trial' not in os.getcwd(): os.kill(os.getpid(), 9)\n"
    push = fleet.start("skills", "push", write(tmp_path, 4, bad), "--on", "worker-2")
    try:
        assert fleet.processes["worker-2"].popen.wait(30) == -signal.SIGKILL
        push.send_signal(signal.SIGINT)
        assert push.wait(30) == 130
    finally:
        push.kill()
    fleet.restart("worker-2")
    fleet.wait_idle(2)
    assert asked(fleet, "worker-2") == "version 1"


def test_a_large_folder_arrives_and_stays(fleet: FleetProcesses, tmp_path: Path) -> None:
    """More than a packet holds; and the worker still has it after a kill."""
    tea = tmp_path / "green-tea"
    tea.mkdir()
    (tea / "SKILL.md").write_text("---\nname: green-tea\ndescription: Make tea.\n---\nBoil.\n")
    (tea / "leaves").write_bytes(os.urandom(600_000))
    (tea / "scripts").mkdir()
    (tea / "scripts" / "boil.py").write_text("print('hot')\n")
    assert rows(fleet, "push", str(tea), "--on", "worker-2") == {"worker-2": True}
    fleet.kill("worker-2")
    fleet.restart("worker-2")
    fleet.wait_idle(2)
    goal = fleet.run("run", "--skill", "green_tea", "--on", "worker-2").document
    assert goal["tasks"][0]["result"]["data"]["files"] == ["SKILL.md", "leaves", "scripts/boil.py"]
    if _sandbox.problem() is None:
        args = '{"action": "run", "file": "scripts/boil.py"}'
        goal = fleet.run("run", "--skill", "green_tea", "--args", args, "--on", "worker-2").document
        assert "hot" in goal["tasks"][0]["result"]["output"]


def test_a_worker_that_is_away_is_said(fleet: FleetProcesses, tmp_path: Path) -> None:
    fleet.kill("worker-2", signal.SIGTERM)
    found = rows(fleet, "push", write(tmp_path, 5), "--all", check=1)
    assert found == {"worker-1": True, "worker-2": False}
    fleet.restart("worker-2")
    fleet.wait_idle(2)


def test_who_may_push(tmp_path: Path) -> None:
    """With credentials: a client, and not a worker; what is pushed is in the audit log."""
    with ClosedFleet(tmp_path / "closed") as fleet:
        fleet.add("worker-1")
        fleet.start_enrolled("worker-1")
        fleet.wait_idle(1)
        push: List[str] = ["skills", "push", write(tmp_path, 1), "--on", "worker-1"]
        done = fleet.run(*push, env=fleet.settings("worker-1"), check=1)
        assert "are a worker's" in str(done.document)
        assert "lamp" not in str(fleet.run("skills").document)
        before = [one["what"] for one in fleet.run("audit").document["entries"]]
        assert "push" not in before
        fleet.run(*push)
        fleet.run("skills", "back", "lamp", "--on", "worker-1")
        said = fleet.run("audit").document["entries"]
        found = [one for one in said if one["what"].startswith("push")]
        assert sorted(one["what"] for one in found) == ["push", "push back"]
        assert {(one["by"], one["name"], one["skill"]) for one in found} == {
            ("laptop", "worker-1", "lamp")
        }
