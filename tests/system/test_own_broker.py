"""docs/own-broker.md, typed line by line where Mosquitto serves somebody else already."""

from __future__ import annotations

from pathlib import Path
from typing import Iterator

import pytest

import guide
from fleet_processes import program, wait_for
from machines import Lab, Machine, what_is_missing
from typist import follow

pytestmark = [
    pytest.mark.system,
    pytest.mark.skipif(bool(what_is_missing()), reason=what_is_missing()),
]
PAGE = Path(__file__).resolve().parents[2] / "docs" / "own-broker.md"
BLOCKS = guide.read(PAGE)
ADDRESSES = {"master": "192.168.1.10", "worker-1": "192.168.1.11"}
THEIRS = "listener 1883\nallow_anonymous false\npassword_file /etc/mosquitto/passwd\n"
HASS = "mosquitto_pub -u hass -P secret -t home/lamp -m on"


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    with Lab(tmp_path_factory.mktemp("lab"), ADDRESSES) as machines:
        machines["master"].give(program())
        serve_home_assistant(machines["master"])
        yield machines


def serve_home_assistant(machine: Machine) -> None:
    machine.run("sudo apt-get install -qq mosquitto mosquitto-clients")
    machine.run("sudo mosquitto_passwd -b -c /etc/mosquitto/passwd hass secret")
    machine.run("sudo chown mosquitto /etc/mosquitto/passwd")
    machine.write("/etc/mosquitto/conf.d/homeassistant.conf", THEIRS)
    machine.run("sudo systemctl restart mosquitto")


def test_each_step_does_what_the_page_says(lab: Lab) -> None:
    master = lab["master"]
    refused = master.run("sudo python3 pibot.pyz setup --role master --yes", check=2).out
    assert "homeassistant.conf line 1" in refused and "docs/own-broker.md" in refused
    for block in BLOCKS:
        follow(lab, block)
    master.run(HASS)
    assert "pibot" not in master.run("ls /etc/mosquitto /etc/mosquitto/conf.d").out
    for name in ("a", "b"):  # changes that come close together arrive as well
        master.run(f"pibot.pyz workers add {name} && pibot.pyz workers remove {name}")
    master.reboot()
    follow(lab, BLOCKS[-1])
    master.run("pibot.pyz workers remove worker-1")
    said = "sudo journalctl --no-pager -u pibot-worker"
    wait_for(lambda: "refused the user name" in lab["worker-1"].run(said).out, 30, why=lab.journals)
    master.run(HASS)
