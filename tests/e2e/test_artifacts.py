"""Files that tasks share: from an agent's workspace to the person who asked, whatever dies."""

from __future__ import annotations

import hashlib
import json
import shutil
import signal
import subprocess
from pathlib import Path
from typing import Any, Iterator, List

import pytest

from fleet_processes import FleetProcesses
from model_server import ModelServer, calls, last, text
from mqtt_proxy import MqttProxy

SKILL = '''
from __future__ import annotations
import random
from pibot.skills import Context, skill

@skill(timeout_s=60)
def make(ctx: Context, name: str, size: int) -> str:
    """Make a file that looks random, and share it."""
    (ctx.workspace / name).write_bytes(random.Random(name).randbytes(size))
    ctx.share(name)
    return "made"
'''
LARGE = 24_000_000


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[FleetProcesses]:
    """A master, and a skill that makes files; no model."""
    (tmp_path / "skills").mkdir()
    (tmp_path / "skills" / "make.py").write_text(SKILL)
    env = {"PIBOT_SKILLS_DIR": str(tmp_path / "skills")}
    with FleetProcesses(tmp_path / "fleet", env=env) as processes:
        processes.start_master()
        yield processes


@pytest.fixture
def way(fleet: FleetProcesses) -> Iterator[MqttProxy]:
    """A slow way from a worker to the broker, so that a file takes some seconds to come."""
    with MqttProxy(fleet.port) as proxy:
        fleet.start_worker("worker-1", MQTT_PORT=str(proxy.port))
        fleet.wait_idle(1)
        proxy.slow(2_000_000)
        yield proxy


def kept(fleet: FleetProcesses) -> Path:
    """Where the master keeps the files."""
    return next(iter(fleet.folder.glob("master/state/master"))) / "artifacts"


def workspace(fleet: FleetProcesses, task: str) -> Path:
    return fleet.folder / "worker-1" / "state" / "worker-1" / "tasks" / task


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def test_an_agents_file_reaches_the_person_who_asked(
    fleet_with_model: FleetProcesses, tmp_path: Path, model: ModelServer
) -> None:
    model.on(
        "make a report",
        calls(("shell", {"command": "mkdir out; head -c 5000000 /dev/urandom > out/report.bin"})),
        calls(("share_file", {"path": "out/report.bin"})),
        text("The report is there."),
    )
    model.on(
        "make too much",
        calls(("shell", {"command": "head -c 34603008 /dev/zero > big.bin"})),
        calls(("share_file", {"path": "big.bin"})),
        lambda request: text(last(request, "tool")),
    )
    fleet = fleet_with_model
    done = fleet.run("run", "make a report", "--on", "worker-1", json=False)
    goal = done.err.split()[0]
    hint = f"get them with `pibot.pyz show {goal} --save DIR`"
    assert f"files: out/report.bin (5.0 MB); {hint}" in done.err
    (file,) = fleet.run("show", goal).document["artifacts"]
    made = (workspace(fleet, file["task_id"]) / "out" / "report.bin").read_bytes()
    assert (file["size"], file["sha256"], file["error"]) == (5_000_000, sha256(made), None)

    refused = fleet.run("run", "make too much", "--on", "worker-1").document
    assert refused["answer"].startswith(
        "Error: big.bin: has 34,603,008 bytes; a task may share 33,554,432 in all"
    )
    assert "artifacts" not in refused and "artifacts" not in refused["tasks"][0]

    fleet.kill("worker-1")
    shutil.rmtree(fleet.folder / "worker-1" / "state")
    saved = fleet.run("show", goal, "--save", str(tmp_path / "saved"))
    assert [f["error"] for f in saved.document["files"]] == [None]
    assert (tmp_path / "saved" / "out" / "report.bin").read_bytes() == made


class Spy:
    """What the master asks a worker for, as its commands pass the broker."""

    def __init__(self, fleet: FleetProcesses) -> None:
        self._log = fleet.folder / "spy"
        args = ["mosquitto_sub", "-p", str(fleet.port), "-t", "pibot/1/home/w/+/cmd"]
        with self._log.open("wb") as out:
            self._process = subprocess.Popen(args, stdout=out)

    def offsets(self) -> List[int]:
        """Of all slices that were asked for until now."""
        lines = [x for x in self._log.read_text().splitlines() if x.endswith("}}")]
        bodies = [json.loads(line)["body"] for line in lines]
        return [body["offset"] for body in bodies if body["t"] == "fetch"]

    def __enter__(self) -> Spy:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()


def begin(fleet: FleetProcesses) -> "tuple[Any, Path, str]":
    """Have a large file made; return once some of it is on the master's disk."""
    args = json.dumps({"name": "large.bin", "size": LARGE})
    running = fleet.start("run", "--skill", "make", "--args", args, "--json")
    parts = fleet.wait_for(lambda: list(kept(fleet).glob("*/*.part")), what="the file comes")
    fleet.wait_for(lambda: parts[0].stat().st_size > 2_000_000, what="2 MB have come")
    return running, parts[0], parts[0].parent.name


def check(fleet: FleetProcesses, running: Any, task: str, tmp_path: Path) -> Any:
    """The goal ends well, and the file is what was made. Returns its document."""
    out, err = running.communicate(timeout=60)
    document = json.loads(out)
    assert document["state"] == "succeeded", err + fleet.logs()
    saved = fleet.run("show", task, "--save", str(tmp_path / "saved")).document["files"]
    assert [f["error"] for f in saved] == [None]
    data = (tmp_path / "saved" / "large.bin").read_bytes()
    assert len(data) == LARGE and sha256(data) == saved[0]["sha256"]
    assert [p.name for p in kept(fleet).glob("*/*")] == [saved[0]["sha256"]]
    return document


@pytest.mark.parametrize("victim", ["worker-1", "master", "broker"])
def test_a_fetch_goes_on_after_a_death(
    fleet: FleetProcesses, way: MqttProxy, tmp_path: Path, victim: str
) -> None:
    with Spy(fleet) as spy:
        running, part, task = begin(fleet)
        fleet.kill(victim)
        if victim == "broker":
            fleet.kill(
                "worker-1", signal.SIGSTOP
            )  # frozen, so that what is under way cannot end the fetch
        there = part.stat().st_size
        assert there < LARGE
        way.heal()
        asked = len(spy.offsets())
        if victim != "broker":
            fleet.restart(victim)
            fleet.wait_for(lambda: len(spy.offsets()) > asked, what="it goes on")
            assert min(spy.offsets()[asked:]) >= there - 1_000_000
        else:
            fleet.restart(victim)
            fleet.kill("worker-1", signal.SIGCONT)
        document = check(fleet, running, task, tmp_path)
    assert [t["attempt"] for t in document["tasks"]] == [1]


def test_a_worker_whose_disk_is_gone_does_it_again(
    fleet: FleetProcesses, way: MqttProxy, tmp_path: Path
) -> None:
    running, _, task = begin(fleet)
    fleet.kill("worker-1", signal.SIGTERM)
    way.heal()
    shutil.rmtree(fleet.folder / "worker-1" / "state")
    fleet.restart("worker-1")
    document = check(fleet, running, task, tmp_path)
    assert [t["attempt"] for t in document["tasks"]] == [2]


def test_a_file_that_is_gone_is_said_and_the_task_ends(
    fleet: FleetProcesses, way: MqttProxy
) -> None:
    running, _, task = begin(fleet)
    fleet.kill("worker-1")
    way.heal()
    (workspace(fleet, task) / "large.bin").unlink()
    fleet.restart("worker-1")
    out, _ = running.communicate(timeout=60)
    assert json.loads(out)["state"] == "succeeded"
    (file,) = fleet.run("show", task).document["artifacts"]
    assert file["error"] == "large.bin: there is no such file or directory"
    assert not list(kept(fleet).glob("*/*"))
    words = fleet.run("show", task, json=False).out
    assert "large.bin (large.bin: there is no such file or directory)" in words
