"""`update` over real processes and a real broker: what breaks on the way is gone on with."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Dict, Iterator, List

import pytest

import releases
from closed_fleet import ClosedFleet
from fleet_processes import WAIT_S, wait_for
from updated_machine import UpdatedMachine, wait_idle

NAMES = ["worker-1", "worker-2"]
FILLING = 8_000_000  # so that there is a middle in which to break something


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ClosedFleet]:
    with ClosedFleet(tmp_path_factory.mktemp("fleet")) as closed:
        for name in NAMES:
            closed.add(name)
        yield closed


@pytest.fixture(scope="module")
def machines(fleet: ClosedFleet) -> Iterator[List[UpdatedMachine]]:
    with ExitStack() as stack:
        found = [stack.enter_context(UpdatedMachine(fleet, name)) for name in NAMES]
        wait_idle(fleet, NAMES, found)
        yield found


def update(fleet: ClosedFleet, path: Path, *more: str, check: int = 0) -> Dict[str, Any]:
    done = fleet.run("update", str(path), *more, check=check, timeout_s=120)
    return {row["worker_id"]: (row["outcome"], row["why"]) for row in done.document["workers"]}


def versions(fleet: ClosedFleet) -> List[str]:
    return [row["version"] for row in fleet.run("status").document["workers"]]


def filled(files: Dict[str, bytes]) -> None:
    files["filling.xz"] = os.urandom(FILLING)


def test_kills_and_a_broken_connection_on_the_way_do_no_harm(
    fleet: ClosedFleet, machines: List[UpdatedMachine], tmp_path: Path
) -> None:
    new = releases.make(tmp_path / "new.pyz", filled)
    fleet.run("workers", "drain", "worker-2")
    command = subprocess.Popen(
        fleet.command("update", str(new), "--json"),
        env=fleet.env,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    _when_half_is_in(fleet.state / "master" / "programs", command)
    fleet.kill("master")
    fleet.restart("master")
    _when_half_is_in(machines[0].places.folder, command)
    machines[0].kill_worker()
    _when_half_is_in(machines[1].places.folder, command)
    fleet.kill("broker")
    fleet.restart("broker")
    out, _ = command.communicate(timeout=120)
    found = {row["worker_id"]: row["outcome"] for row in json.loads(out)["workers"]}
    assert found == dict.fromkeys(NAMES, "updated"), [m.said() for m in machines]
    assert versions(fleet) == [releases.VERSION] * 2
    for machine in machines:
        assert machine.places.program.read_bytes() == new.read_bytes()
        assert machine.places.program.samefile(machine.places.proven)
        assert not machine.places.attempt.exists()
        wait_for(lambda m=machine: not list(m.places.folder.glob("?" * 64)), what="tidied up")
    both = {"worker-1": "idle", "worker-2": "draining"}
    wait_for(lambda: fleet.states() == both, WAIT_S, "who was drained before still is")
    fleet.run("workers", "resume", "worker-2")
    again = update(fleet, new)
    assert again == dict.fromkeys(NAMES, ("up to date", ""))


def _when_half_is_in(folder: Path, command: "subprocess.Popen[bytes]") -> None:
    def is_half() -> bool:
        assert command.poll() is None, "the command has ended before"
        parts = list(folder.glob("*.part"))
        return any(part.stat().st_size > FILLING // 3 for part in parts if part.exists())

    wait_for(is_half, WAIT_S, f"a third of it is in {folder}")


def test_ctrl_c_lets_them_work_again(
    fleet: ClosedFleet, machines: List[UpdatedMachine], tmp_path: Path
) -> None:
    bad = releases.make(tmp_path / "bad.pyz", releases.crashes, "9.9.11")
    command = subprocess.Popen(
        fleet.command("update", str(bad), "--json"),
        env=fleet.env,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    wait_for(lambda: machines[0].trying(), WAIT_S, "root tries it")
    command.send_signal(signal.SIGINT)
    out, _ = command.communicate(timeout=60)
    found = {row["worker_id"]: row["outcome"] for row in json.loads(out)["workers"]}
    assert (command.returncode, found) == (
        130,
        {"worker-1": "interrupted", "worker-2": "not tried"},
    )
    wait_idle(fleet, NAMES, machines)
    assert versions(fleet) == [releases.VERSION] * 2


def test_who_may_not_and_what_cannot(
    fleet: ClosedFleet, machines: List[UpdatedMachine], tmp_path: Path
) -> None:
    new = releases.make(tmp_path / "new.pyz", version="9.9.12")
    own = fleet.settings("worker-1")
    names = ("MQTT_USERNAME", "MQTT_PASSWORD", "PIBOT_KEY")
    as_worker = {name: own[name] for name in names}
    refused = fleet.run("update", str(new), env=as_worker, check=1)
    assert "credentials of worker-1 are a worker's" in refused.err
    fleet.add("worker-3")
    fleet.start_enrolled("worker-3", fleet.settings("worker-3"))
    wait_for(lambda: fleet.states().get("worker-3") == "idle", WAIT_S)
    by_hand = update(fleet, new, "--on", "worker-3", check=1)
    assert by_hand["worker-3"][0] == "cannot be updated" and "setup" in by_hand["worker-3"][1]
    fleet.kill("worker-3", signal.SIGTERM)
    cut = tmp_path / "cut.pyz"
    cut.write_bytes(new.read_bytes()[:-1000])
    assert "not a whole one" in fleet.run("update", str(cut), check=2).err
    assert "known are" in fleet.run("update", str(new), "--on", "worker-9", check=2).err
