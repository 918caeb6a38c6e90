"""`pibot.pyz update` on a fleet of three workers: real Debian, real systemd, tasks in flight."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any, Dict, Iterator, List

import pytest

import releases
from fleet_processes import program, wait_for
from machines import Lab, Machine, what_is_missing

pytestmark = [
    pytest.mark.system,
    pytest.mark.skipif(bool(what_is_missing()), reason=what_is_missing()),
]
WORKERS = ["worker-1", "worker-2", "worker-3"]
ADDRESSES = {"master": "192.168.1.10"}
ADDRESSES.update({name: f"192.168.1.1{name[-1]}" for name in WORKERS})
NAP = '''
import time
from pibot.skills import skill

@skill(timeout_s=60)
def nap(seconds: int) -> str:
    """Sleep for a while."""
    time.sleep(seconds)
    return "slept"
'''
NAPS = 9


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    with Lab(tmp_path_factory.mktemp("lab"), ADDRESSES) as machines:
        master = machines["master"]
        master.give(program())
        master.run("sudo apt-get install -qq mosquitto")
        master.run("sudo python3 pibot.pyz setup --role master --yes")
        each = [threading.Thread(target=join, args=(machines, name)) for name in WORKERS]
        for thread in each:
            thread.start()
        for thread in each:
            thread.join()
        wait_until_all_are_idle(machines)
        yield machines


def join(machines: Lab, name: str) -> None:
    """What the guide says, and a skill of the user's own."""
    master, worker = machines["master"], machines[name]
    master.run(f"pibot.pyz workers add {name}")
    worker.write("/opt/skills/nap.py", NAP)
    worker.write(".env".join(["/home/pi/", ""]), "PIBOT_SKILLS_DIR=/opt/skills\n", 0o600)
    master.run(f"scp -q pibot.pyz {name}.env pi@{name}.local:")
    worker.run("sudo python3 pibot.pyz setup --role worker --yes")


def wait_until_all_are_idle(lab: Lab) -> None:
    wanted = "".join(f"✓ {name} idle\n" for name in WORKERS)
    wait_for(
        lambda: lab["master"].run("pibot.pyz health", check=None).out == wanted,
        60,
        "all workers are idle",
        lab.journals,
    )


def update(lab: Lab, path: Path, more: str = "", check: int = 0) -> Dict[str, Dict[str, Any]]:
    """Run the command; what became of each worker."""
    lab["master"].give(path)
    command = f"pibot.pyz update {path.name} {more} --json 2>/dev/null"
    done = lab["master"].run(command, check=None, timeout_s=300)
    assert done.status == check, f"{done.out}\n{lab.journals()}"
    return {row["worker_id"]: row for row in json.loads(done.out)["workers"]}


def versions(lab: Lab) -> List[str]:
    rows = json.loads(lab["master"].run("pibot.pyz status --json").out)["workers"]
    return [row["version"] for row in rows]


def restarts(worker: Machine) -> str:
    return worker.run("systemctl show -p NRestarts -p MainPID pibot-worker").out


def outcomes(found: Dict[str, Dict[str, Any]]) -> List[str]:
    return [found[name]["outcome"] for name in WORKERS]


def test_an_update_under_load_loses_nothing(lab: Lab, tmp_path: Path) -> None:
    run = "pibot.pyz run --skill nap --args '{\"seconds\": 3}' --detach --json"
    said = lab["master"].run(f"for i in $(seq {NAPS}); do {run}; done").out
    goals = [json.loads(part + "}")["goal_id"] for part in said.split("}")[:-1]]
    assert len(goals) == NAPS
    new = releases.make(tmp_path / "new.pyz")
    assert outcomes(update(lab, new)) == ["updated"] * 3
    wait_until_all_are_idle(lab)
    for goal in goals:
        shown = json.loads(lab["master"].run(f"pibot.pyz show {goal} --json").out)
        (task,) = shown["document"]["tasks"]
        assert (task["state"], task["attempt"]) == ("succeeded", 1)
    assert versions(lab) == [releases.VERSION] * 3
    for name in WORKERS:
        there = lab[name].root / "opt/pibot/pibot.pyz"
        assert there.read_bytes() == new.read_bytes()
        assert there.samefile(lab[name].root / "opt/pibot/proven.pyz")


def test_a_program_that_crashes_is_taken_back(lab: Lab, tmp_path: Path) -> None:
    before = [restarts(lab[name]) for name in WORKERS[1:]]
    found = update(lab, releases.make(tmp_path / "bad.pyz", releases.crashes, "9.9.10"), check=1)
    assert outcomes(found) == ["rolled back", "not tried", "not tried"]
    assert "ended 3 times" in found["worker-1"]["why"]
    wait_until_all_are_idle(lab)
    assert versions(lab) == [releases.VERSION] * 3
    assert [restarts(lab[name]) for name in WORKERS[1:]] == before


def test_a_power_cut_does_not_keep_one_that_never_gets_healthy(lab: Lab, tmp_path: Path) -> None:
    worker, found = lab["worker-1"], {}
    sick = releases.make(tmp_path / "sick.pyz", releases.never_gets_healthy, "9.9.11")
    cli = threading.Thread(target=lambda: found.update(update(lab, sick, "--patience 20", check=1)))
    cli.start()
    attempt = worker.root / "var/lib/pibot-update/attempt.json"
    wait_for(attempt.exists, 60, "the new program is tried", lab.journals)
    running = "systemctl show -p MainPID --value pibot-worker"
    worker.cut_power()
    worker.boot()
    worker.wait_until_up()
    assert worker.run(running).out.strip() != "0"
    cli.join()
    assert outcomes(found) == ["rolled back", "not tried", "not tried"]
    assert "did not reach the master" in found["worker-1"]["why"]
    wait_until_all_are_idle(lab)
    assert versions(lab) == [releases.VERSION] * 3
