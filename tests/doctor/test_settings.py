"""The settings of each role: found, private, valid; and the files that belong to them."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Iterator, List

import pytest

import pibot
from pibot.doctor import settings as checks
from pibot.doctor import stores
from pibot.doctor.findings import Finding
from pibot.doctor.settings import Subject
from recorded_machine import Machine, needs_root

SECRET = "correct-horse-battery"
WORKER = f"""\
WORKER_ID=worker-1
MQTT_HOST=192.168.1.10
MQTT_USERNAME=worker-1
MQTT_PASSWORD={SECRET}
PIBOT_KEY={SECRET}
"""


def of(machine: Machine, role: str) -> Subject:
    return next(s for s in checks.subjects(machine.here()) if s.role == role)


def findings(machine: Machine, role: str) -> List[Finding]:
    return list(checks.settings(machine.here(), of(machine, role)))


def roles(machine: Machine) -> List[str]:
    return [s.role for s in checks.subjects(machine.here())]


# --- which roles --------------------------------------------------------------------------------


def test_a_plain_machine_is_a_client(machine: Machine) -> None:
    assert roles(machine) == ["client"]
    assert [f.state for f in findings(machine, "client")] == ["ok"]


def test_a_worker_needs_no_client(machine: Machine) -> None:
    machine.role("worker", WORKER)
    assert roles(machine) == ["worker"]


def test_a_master_and_a_worker_on_one_machine(machine: Machine) -> None:
    machine.role("worker", WORKER)
    machine.role("master")
    assert roles(machine) == ["master", "worker"]


def test_a_person_with_a_client_file_is_a_client_too(machine: Machine) -> None:
    machine.role("master")
    machine.file("/.config/pibot/client.env", "MQTT_HOST=127.0.0.1\n", 0o600)
    assert roles(machine) == ["master", "client"]


def test_settings_without_a_unit_are_a_role(machine: Machine) -> None:
    machine.file("/etc/pibot/worker.env", WORKER, 0o600)
    assert roles(machine) == ["worker"]


def test_an_older_hand_made_unit_is_no_role(machine: Machine) -> None:
    unit = "[Service]\nExecStart=/home/pi/venv/bin/python /home/pi/pibot/worker.py\n"
    machine.file("/etc/systemd/system/pibot-worker.service", unit)
    assert roles(machine) == ["client"]


def test_a_role_that_listens_elsewhere_is_a_failure_and_a_fresh_machine_is_not(
    machine: Machine,
) -> None:
    assert of(machine, "client").bad("broker", "silent", "start it").state == "warn"
    chosen = checks.subjects(machine.here(environ={"MQTT_HOST": "127.0.0.1"}))[0]
    assert chosen.bad("broker", "silent", "start it").state == "fail"
    machine.role("worker", WORKER)
    assert of(machine, "worker").bad("broker", "silent", "start it").state == "fail"


# --- what is wrong with them --------------------------------------------------------------------


def test_good_settings_are_told_in_a_line(machine: Machine) -> None:
    machine.role("worker", f"{WORKER}VOLC_API_KEY={SECRET}\n")
    (found,) = findings(machine, "worker")
    said = "worker-1, fleet home, broker 192.168.1.10:1883, model ark-code-latest"
    assert (found.state, found.message) == ("ok", said)


@pytest.mark.parametrize(
    ("more", "mode", "message", "fix"),
    [
        ("", 0o644, "is open to other users", "sudo chmod 600 {path}"),
        ("VOLC_API_KEY=your_actual_api_key_here", 0o600, "{path} line 6 is still a placeholder",
         "sudo nano {path}"),
        ("PIBOT_SLOTS=many", 0o600, "PIBOT_SLOTS in {path} line 6 must be a whole",
         "sudo nano {path}"),
        ("PIBOT_SLOT=1", 0o600, "PIBOT_SLOT in {path} line 6 is unknown; perhaps",
         "sudo nano {path}"),
        ("hello", 0o600, "is no assignment", "sudo nano {path}"),
        ("PIBOT_KEY=", 0o600, "PIBOT_KEY must be set", "sudo pibot.pyz setup --role worker"),
    ],
)  # fmt: skip
def test_bad_settings(machine: Machine, more: str, mode: int, message: str, fix: str) -> None:
    path = machine.role("worker", f"{WORKER}{more}\n")
    path.chmod(mode)
    (found,) = findings(machine, "worker")
    assert found.state == "fail" and found.fix is not None
    assert message.format(path=path) in found.message
    assert found.fix.startswith(fix.format(path=path))
    assert SECRET not in found.message + found.fix


def test_the_command_that_mends_the_mode_mends_it(machine: Machine) -> None:
    path = machine.role("worker", WORKER)
    path.chmod(0o644)
    (found,) = findings(machine, "worker")
    command, _, after = (found.fix or "").partition(" && ")
    assert after == "sudo systemctl restart pibot-worker"
    assert os.system(command.replace("sudo ", "")) == 0
    assert findings(machine, "worker")[0].state == "ok"


def test_a_unit_without_settings(machine: Machine) -> None:
    machine.role("worker").unlink()
    (found,) = findings(machine, "worker")
    assert (found.state, found.message) == ("fail", "/etc/pibot/worker.env is not there")


def test_a_bad_environment(machine: Machine) -> None:
    here = machine.here(environ={"PIBOT_SLOTS": "many"})
    (found,) = checks.settings(here, checks.subjects(here)[0])
    assert (found.state, found.fix) == ("fail", "unset PIBOT_SLOTS")


def test_commands_can_be_copied_whatever_a_file_is_called(machine: Machine) -> None:
    path = machine.file("/my pi; reboot/.env", "PIBOT_SLOTS=many\n", 0o600)
    here = machine.here(env_file=path)
    (found,) = checks.settings(here, checks.subjects(here)[0])
    assert shlex.split(str(found.fix)) == ["nano", str(path)]


def test_a_settings_file_that_is_not_there(machine: Machine) -> None:
    here = machine.here(env_file=machine.root / "none.env")
    (found,) = checks.settings(here, checks.subjects(here)[0])
    assert found.state == "fail" and "No such file" in found.message


@needs_root
def test_who_is_not_root_is_told_to_use_sudo(open_root: Machine) -> None:
    open_root.role("worker", WORKER)
    code = (
        "import sys; from pathlib import Path; from pibot.doctor import settings\n"
        "from pibot.doctor.surroundings import Surroundings\n"
        "here = Surroundings(Path('/x.pyz'), {}, root=Path(sys.argv[1]))\n"
        "(one,) = settings.subjects(here)\n"
        "print(*settings.settings(here, one), sep='\\n')\n"
    )
    source = Path(pibot.__file__).parent
    shutil.copytree(source, open_root.root / "pibot")
    done = subprocess.run(
        [_python(), "-c", code, str(open_root.root)],
        env={"PYTHONPATH": os.pathsep.join([str(open_root.root), *_packages(open_root)])},
        user="nobody",
        extra_groups=[],
        capture_output=True,
        encoding="utf-8",
    )
    assert "state='warn'" in done.stdout, done.stderr
    assert "fix='sudo pibot.pyz doctor'" in done.stdout


# --- the files ----------------------------------------------------------------------------------


@needs_root
def test_the_installed_program_is_roots(machine: Machine) -> None:
    machine.role("worker", WORKER)
    path = machine.root / "opt/pibot/pibot.pyz"
    assert [f.state for f in machine.find(checks.program)] == ["ok"]
    path.chmod(0o775)
    (found,) = machine.find(checks.program)
    assert found.state == "fail" and "sudo chmod 755 /opt/pibot/pibot.pyz" in (found.fix or "")
    path.chmod(0o755)
    os.chown(path, 12345, 0)
    assert [f.state for f in machine.find(checks.program)] == ["fail"]
    path.unlink()
    (found,) = machine.find(checks.program)
    assert found.message == "/opt/pibot/pibot.pyz is not there"


def test_a_program_that_everybody_can_change(machine: Machine) -> None:
    path = machine.file("/home/pi/pibot.pyz", "", 0o775)
    assert [f.state for f in machine.find(checks.program, program=path)] == ["ok"]
    path.chmod(0o777)
    (found,) = machine.find(checks.program, program=path)
    assert (found.state, found.fix) == ("fail", f"chmod o-w {path}")


@needs_root
def test_the_state_directory_is_the_services_own(machine: Machine) -> None:
    machine.role("worker", WORKER)
    subject = of(machine, "worker")
    assert machine.find(checks.state_directory, subject) == []  # the first start makes it
    folder = machine.root / "var/lib/pibot"
    folder.mkdir(0o700, parents=True)
    (found,) = machine.find(checks.state_directory, subject)
    assert found.state == "fail" and "sudo chown -R pibot:pibot /var/lib/pibot" in (found.fix or "")
    os.chown(folder, 987, 987)
    assert [f.state for f in machine.find(checks.state_directory, subject)] == ["ok"]
    folder.chmod(0o755)
    assert [f.state for f in machine.find(checks.state_directory, subject)] == ["fail"]
    machine.file("/etc/passwd", "root:x:0:0::/root:/bin/sh\n")
    (found,) = machine.find(checks.state_directory, subject)
    assert (found.message, found.fix) == (
        "there is no user pibot",
        "sudo pibot.pyz setup --role worker",
    )


def test_damaged_journals_that_were_set_aside(machine: Machine) -> None:
    machine.role("worker", WORKER)
    subject = of(machine, "worker")
    assert machine.find(stores.set_aside, subject) == []
    folder = machine.root / "var/lib/pibot/worker-1"
    folder.mkdir(parents=True)
    for name in ("journal.db", "journal.damaged-1.db", "journal.damaged-12.db"):
        (folder / name).touch()
    (found,) = machine.find(stores.set_aside, subject)
    assert (
        found.state == "warn" and "/var/lib/pibot/worker-1: journal.damaged-12.db" in found.message
    )
    assert found.fix == "sudo rm /var/lib/pibot/worker-1/journal.damaged-*"


# --- a machine that another user can look at ----------------------------------------------------


@pytest.fixture
def open_root() -> Iterator[Machine]:
    folder = Path(tempfile.mkdtemp(prefix="pibot-test-"))
    folder.chmod(0o755)
    yield Machine(folder)
    shutil.rmtree(folder)


def _python() -> str:
    """One that the user nobody can start."""
    for path in ("/usr/bin/python3", sys.executable):
        probe = subprocess.run([path, "-c", "import sys; sys.exit(sys.version_info < (3, 9))"],
                               user="nobody", extra_groups=[], capture_output=True)  # fmt: skip
        if probe.returncode == 0:
            return path
    pytest.skip("no Python here that another user can start")


def _packages(machine: Machine) -> List[str]:
    """The packages that settings need, where the user nobody can read them."""
    import dotenv
    import paho

    for package in (dotenv, paho):
        found = next(iter(package.__path__))
        shutil.copytree(found, machine.root / "packages" / Path(found).name)
    return [str(machine.root / "packages")]
