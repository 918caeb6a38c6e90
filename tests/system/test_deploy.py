"""docs/deploy.md, typed line by line on a master, two workers and a computer: all Debian, real
systemd, one network. What its commands print is compared with what the page says.

What differs from a reader's day: names ending in .local stand in /etc/hosts, the machines know
each other's ssh keys, apt takes its packages from the disk, and the model is a scripted one.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Dict, Iterator, List, Set

import pytest

import guide
import model_server
from fleet_processes import program, wait_for
from machines import Lab, Machine
from typist import follow

pytestmark = pytest.mark.system
PAGE = Path(__file__).resolve().parents[2] / "docs" / "deploy.md"
BLOCKS = guide.read(PAGE)
REMOVAL = next(n for n, block in enumerate(BLOCKS) if "--uninstall" in block.script)
ADDRESSES = {
    "master": "192.168.1.10",
    "worker-1": "192.168.1.11",
    "worker-2": "192.168.1.12",
    "laptop": "192.168.1.20",
}
WORKERS = ["worker-0", "worker-1"]  # at the page's end: one beside the master; worker-2 was removed
UNITS = [  # where, what, and ten times the exposure that systemd may see in it
    ("master", "pibot-master.service", 15),
    ("master", "pibot-broker.service", 30),
    ("worker-1", "pibot-worker.service", 30),
]
MODEL_PORT = 8123
OWN = {  # the key, the endpoint and the model of the person who follows the page
    "paste-your-key": f"{model_server.KEY}\nVOLC_BASE_URL=http://127.0.0.1:{MODEL_PORT}/v1",
    "ark-code-latest": model_server.MODEL,
}
FOLDERS = ("/etc", "/home", "/opt", "/root", "/usr", "/var")
# What apt, systemd, ssh, ufw, the editor and the page's own advice about logs leave behind.
OTHERS = re.compile(
    r"/var/(log|cache/apt|lib/(apt|dpkg|systemd|private|sudo|ufw|mosquitto)|tmp)/|.*__pycache__"
    r"|/etc/(to-type|ufw/|systemd/journald|\.pwd\.lock|(passwd|group|shadow|gshadow|subuid|subgid)-?$)"
    r"|/home/pi/(\.ssh/known_hosts|\.bash_history|\.sudo_as_admin_successful)|/usr/local/bin/nano"
)
# What stays after `setup --uninstall`: the fleet's records, and what the person has put there.
STAYS = re.compile(r"/var/lib/pibot(/|$)|/home/pi/pibot\.pyz$|/etc/mosquitto/pibot(/(ca|server)|$)")


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    with Lab(tmp_path_factory.mktemp("lab"), ADDRESSES) as machines:
        _bring_the_file(machines["laptop"], tmp_path_factory.mktemp("file"))
        models = [_start_model(machines[name]) for name in ADDRESSES if name != "laptop"]
        try:
            yield machines
        finally:
            for model in models:
                model.kill()
                model.communicate()


@pytest.fixture(scope="module")
def untouched(lab: Lab) -> Dict[str, Set[str]]:
    """What is on the machines before anything was done."""
    return {name: set(lab[name].files(*FOLDERS)) for name in ADDRESSES}


@pytest.fixture(scope="module")
def fleet(lab: Lab, untouched: Dict[str, Set[str]]) -> Lab:
    """The page was followed, up to where it removes all again."""
    for block in BLOCKS[:REMOVAL]:
        follow(lab, block, OWN)
    return lab


def _bring_the_file(laptop: Machine, folder: Path) -> None:
    """What `make release` leaves in build/, at hand on the computer."""
    digest = hashlib.sha256(program().read_bytes()).hexdigest()
    (folder / "pibot.pyz.sha256").write_text(f"{digest}  pibot.pyz\n")
    laptop.give(program())
    laptop.give(folder / "pibot.pyz.sha256")


def _start_model(machine: Machine) -> "subprocess.Popen[str]":
    """A model that this machine reaches at its own loopback address."""
    model = machine.beside(sys.executable, model_server.__file__, "--port", str(MODEL_PORT))
    assert model.stdout and model.stdout.readline().startswith("http")
    return model


# --- tests, in the order of a reader's days ---------------------------------------------------


def test_each_step_does_what_the_page_says(fleet: Lab) -> None:
    _wait_until_all_are_idle(fleet)
    assert json.loads(fleet["master"].run("pibot.pyz status --json").out)["total"] == len(WORKERS)


@pytest.mark.parametrize(("name", "unit", "most"), UNITS)
def test_the_units_are_sound_and_hardened(fleet: Lab, name: str, unit: str, most: int) -> None:
    assert fleet[name].run(f"systemd-analyze verify {unit}").out == ""
    fleet[name].run(f"systemd-analyze security --no-pager --threshold={most} {unit}")


def test_a_task_reaches_each_worker(fleet: Lab) -> None:
    _wait_until_all_are_idle(fleet)
    said = fleet["master"].run('pibot.pyz run --skill echo --args \'{"text": "hi"}\' --all --json')
    tasks = json.loads(said.out)["tasks"]
    assert [(t["worker_id"], t["state"]) for t in tasks] == [(w, "succeeded") for w in WORKERS]


@pytest.mark.parametrize("name", ["worker-1", "master"])
def test_nothing_is_left_open(fleet: Lab, name: str) -> None:
    said = fleet[name].run("sudo pibot.pyz doctor --security --json", check=None).out
    found = json.loads(said)
    assert found["score"] >= 9, said


@pytest.mark.parametrize("name", ["worker-1", "master"])
def test_a_machine_is_back_after_a_power_cut(fleet: Lab, name: str) -> None:
    fleet[name].cut_power()
    fleet[name].boot()
    fleet[name].wait_until_up()
    _wait_until_all_are_idle(fleet)
    restarts = fleet[name].run("systemctl show -p NRestarts --value 'pibot-*.service'").out.split()
    assert restarts and set(restarts) == {"0"}


def test_a_new_file_takes_the_place_of_the_old(fleet: Lab, tmp_path: Path) -> None:
    worker, newer = fleet["worker-1"], tmp_path / "pibot.pyz"
    shutil.copy(program(), newer)
    with zipfile.ZipFile(newer, "a") as archive:
        archive.comment = b"the next version"
    worker.give(newer)
    before = worker.run("systemctl show -p MainPID pibot-worker").out
    worker.run("sudo python3 pibot.pyz setup --role worker --yes && rm pibot.pyz")
    assert (worker.root / "opt/pibot/pibot.pyz").read_bytes() == newer.read_bytes()
    assert worker.run("systemctl show -p MainPID pibot-worker").out != before
    _wait_until_all_are_idle(fleet)


def test_what_is_removed_leaves_its_records_only(
    fleet: Lab, untouched: Dict[str, Set[str]]
) -> None:
    for block in BLOCKS[REMOVAL:]:
        follow(fleet, block, OWN)
        if "--uninstall" in block.script:
            left = _new(fleet[block.place], untouched)
            assert [path for path in left if "pibot" in path and not STAYS.match(path)] == []
    for name in ("worker-1", "master"):
        assert (name, _new(fleet[name], untouched)) == (name, [])
        assert fleet[name].run("getent passwd pibot", check=None).out == ""


def _new(machine: Machine, untouched: Dict[str, Set[str]]) -> List[str]:
    now = set(machine.files(*FOLDERS)) - untouched[machine.name]
    return sorted(path for path in now if not OTHERS.match(path))


def _wait_until_all_are_idle(fleet: Lab) -> None:
    def said() -> str:
        return fleet["master"].run("pibot.pyz health", check=None).out

    wanted = "".join(f"✓ {name} idle\n" for name in WORKERS)
    wait_for(lambda: said() == wanted, 60, "all workers are idle", fleet.journals)
