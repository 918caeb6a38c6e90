"""The skills of services and the journal on a Debian with a real systemd, as root and as a user."""

from __future__ import annotations

import json
import shutil
from typing import Any, Dict, Iterator

import pytest

from fleet_processes import ROOT
from machines import Lab, Machine

pytestmark = pytest.mark.system
UNIT = "[Unit]\nDescription=Good\n[Service]\nExecStart=/bin/sleep 1000\n"
CALL = """
import json, sys, threading, time
from pathlib import Path
from pibot.agent.library import load
from pibot.agent.tools import Context
from pibot.permits import Permits
permits = Permits(services=("good", "bad"))
ctx = Context(Path("/tmp"), threading.Event(), time.monotonic() + 60, "t:1", permits)
toolbox, notes = load(None, permits)
done = toolbox.call(sys.argv[1], json.loads(sys.argv[2]), ctx)
print(json.dumps({**done.to_json(), "notes": notes}))
"""


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    with Lab(tmp_path_factory.mktemp("lab"), {"worker-1": "192.168.1.11"}) as lab:
        made = lab["worker-1"]
        shutil.copytree(ROOT / "src" / "pibot", made.root / "opt/try/pibot")
        made.write("/opt/try/call.py", CALL)
        made.write("/etc/systemd/system/good.service", UNIT)
        made.write("/etc/systemd/system/bad.service", UNIT.replace("sleep 1000", "false"))
        made.wait_until_up()
        made.run("sudo useradd --system pibot && sudo systemctl daemon-reload")
        made.run("sudo systemctl start good; echo a-word-to-find | sudo systemd-cat -t finder")
        made.run("sudo journalctl --sync")
        yield made


def call(machine: Machine, user: str, skill: str, **args: Any) -> Dict[str, Any]:
    words = f"PYTHONDONTWRITEBYTECODE=1 python3 /opt/try/call.py {skill} '{json.dumps(args)}'"
    said = machine.run(f"sudo runuser -u {user} -- env {words}").out
    found: Dict[str, Any] = json.loads(said.splitlines()[-1])
    return found


def pid(machine: Machine) -> str:
    return machine.run("systemctl show --property=MainPID --value good").out.strip()


def test_a_restart_is_a_restart(machine: Machine) -> None:
    before = pid(machine)
    done = call(machine, "root", "restart_service", unit="good")
    assert done["success"], done
    assert str(done["data"]["main_pid"]) == pid(machine) != before
    assert not call(machine, "root", "restart_service", unit="bad")["success"]
    assert not call(machine, "root", "restart_service", unit="ssh")["success"]


def test_a_user_is_told_which_rule_is_missing(machine: Machine) -> None:
    before = pid(machine)
    done = call(machine, "pibot", "restart_service", unit="good")
    assert not done["success"] and 'subject.user == "pibot"' in done["data"]["polkit_rule"]
    assert pid(machine) == before


def test_the_journal_opens_with_the_group(machine: Machine) -> None:
    notes = call(machine, "pibot", "echo", text="x")["notes"]
    assert any("usermod -aG systemd-journal" in note for note in notes)
    machine.run("sudo usermod -aG systemd-journal pibot")
    done = call(machine, "pibot", "journal_search", words="A-WORD-to-find", since="1h")
    assert "finder" in [one["from"] for one in done["data"]["entries"]], done


def test_units_and_timers_are_told(machine: Machine) -> None:
    assert call(machine, "pibot", "service_status", unit="good")["data"]["state"] == "active"
    failed = call(machine, "pibot", "list_services", state="failed")["data"]["services"]
    assert "bad.service" in [one["unit"] for one in failed]
    found = call(machine, "pibot", "timers")["data"]["timers"]
    assert {"apt-daily.timer", "dpkg-db-backup.timer"} <= {one["timer"] for one in found}
    assert any((one["next_in_s"] or 0) > 0 for one in found)
