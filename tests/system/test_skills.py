"""Skills inside the hardened unit of a real systemd: what the sandbox needs is open there."""

from __future__ import annotations

import json
from typing import Any, Dict, Iterator

import pytest

from fleet_processes import program, wait_for
from machines import Lab, Machine

pytestmark = pytest.mark.system


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    """A master, and a worker beside it that may run commands."""
    with Lab(tmp_path_factory.mktemp("lab"), {"master": "192.168.1.10"}) as machines:
        master = machines["master"]
        master.give(program())
        master.run("sudo apt-get install -qq mosquitto bubblewrap")
        master.run("sudo python3 pibot.pyz setup --role master --yes")
        master.run("pibot.pyz workers add worker-1")
        master.run("echo PIBOT_ALLOW_SHELL=1 >>worker-1.env")
        master.run("sudo python3 pibot.pyz setup --role worker --yes")
        wait_for(
            lambda: master.run("pibot.pyz health", check=None).out == "✓ worker-1 idle\n",
            60,
            "the worker is idle",
            machines.journals,
        )
        yield master


def shell(machine: Machine, command: str) -> Dict[str, Any]:
    args = json.dumps({"command": command})
    done = machine.run(f"pibot.pyz run --skill shell --args '{args}' --json", check=None)
    assert done.status == 0, machine.run("sudo journalctl -q -u pibot-worker").out
    (task,) = json.loads(done.out)["tasks"]
    result: Dict[str, Any] = task["result"]
    return result


def test_a_command_runs_in_the_sandbox_of_the_hardened_unit(machine: Machine) -> None:
    found = shell(machine, "id -u; pwd; ls /home /etc/pibot /var 2>&1; ls /proc | grep -c ^[0-9]")
    assert found["success"], found
    user, place, *_, processes = found["data"]["stdout"].split("\n")[:-1]
    assert (user, place) == ("1000", "/ws")
    assert found["data"]["stdout"].count("No such file") == 3
    assert 0 < int(processes) < 10
