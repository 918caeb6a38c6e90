"""`setup` on a machine itself, in a mount namespace where all that it may change is a copy.

There is no systemd. Where a test needs it, a stand-in for systemctl keeps the units' states and
writes down what it is told; whole machines with a real one are in tests/system.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import stat
import subprocess
import zipfile
from pathlib import Path
from typing import Any, Dict, List

import pytest

from fleet_processes import MOSQUITTO, environment, program, wait_for
from terminal import Terminal

PYTHON = "/usr/bin/python3"
UID = 41_000
COVERED = ("/etc", "/opt", "/usr/local", "/var/lib", "/var/cache", "/home", "/root", "/run")
ENTER = """
set -e
for folder in {covered}; do mount --bind "$0$folder" "$folder"; done
if [ -e "$0/run/systemd" ]; then mount --bind "$0/systemctl" "$(command -v systemctl)"; fi
ip link set lo up
exec "$@"
"""
SYSTEMCTL = """#!/bin/sh
verb=$1; shift
[ "$verb" = is-active ] || echo "$verb $*" >>/run/said
case $verb in
is-active) for unit; do cat "/run/state-$unit" 2>/dev/null || echo inactive; done ;;
restart) [ ! -e "/run/fails-$1" ] || { echo "Job for $1 failed." >&2; exit 1; }
    [ ! -e /run/slow ] || read line </run/slow
    echo active >"/run/state-$1" ;;
enable) ln -s "/lib/systemd/system/$1" "/etc/systemd/system/multi-user.target.wants/$1" ;;
stop) echo inactive >"/run/state-$1" ;;
esac
"""


def cannot() -> str:
    """Why there is no such machine here, "" when there is."""
    if os.geteuid() != 0:
        return "only root can mount"
    for tool in ("unshare", "ip", "systemctl", "useradd", "setpriv"):
        if not shutil.which(tool):
            return f"{tool} is not installed"
    done = subprocess.run(["unshare", "--mount", "--net", "true"], capture_output=True)
    return "no namespaces here" if done.returncode else ""


pytestmark = pytest.mark.skipif(bool(cannot()), reason=cannot())


class Machine:
    """A copy of what setup may change, with a user pi; every command enters it anew."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for covered in COVERED[1:]:
            (folder / covered[1:]).mkdir(parents=True)
        ignore = shutil.ignore_patterns("alternatives", "ssl", "ssh", "fonts", "X11")
        shutil.copytree("/etc", folder / "etc", symlinks=True, ignore=ignore)
        (folder / "etc/mosquitto").mkdir(exist_ok=True)
        self.add_user("pi", UID)
        self.pyz = Path(shutil.copy(program(), self.path("/home/pi/pibot.pyz")))
        self.namespaces: List["subprocess.Popen[bytes]"] = []

    def path(self, path: str) -> Path:
        return self.folder / path[1:]

    def add_user(self, name: str, uid: int, shell: str = "/bin/sh") -> None:
        for file, line in (
            ("passwd", f"{name}:x:{uid}:{uid}::/home/{name}:{shell}"),
            ("group", f"{name}:x:{uid}:"),
            ("shadow", f"{name}:*:::::::"),
        ):
            with self.path(f"/etc/{file}").open("a") as text:
                text.write(f"{line}\n")
        home = self.path(f"/home/{name}")
        home.mkdir(parents=True)
        os.chown(home, uid, uid)

    def with_systemd(self) -> None:
        self.path("/run/systemd/system").mkdir(parents=True)
        stand_in = self.folder / "systemctl"
        stand_in.write_text(SYSTEMCTL)
        stand_in.chmod(0o755)
        wants = self.path("/etc/systemd/system/multi-user.target.wants")
        (wants / "mosquitto.service").unlink(missing_ok=True)
        self.path("/run/state-mosquitto.service").write_text("active\n")

    def said(self) -> List[str]:
        """What systemctl was told since the last time."""
        path = self.path("/run/said")
        lines = path.read_text().splitlines() if path.exists() else []
        path.unlink(missing_ok=True)
        return lines

    def enter(self, *command: str) -> List[str]:
        script = ENTER.format(covered=" ".join(COVERED))
        inside = ["unshare", "--mount", "--net", "sh", "-c", script, str(self.folder)]
        return [*inside, *command]

    def setup_command(self, *args: str, user: str = "pi") -> List[str]:
        env = ["env", f"SUDO_USER={user}", "HOME=/root"]
        return self.enter(*env, PYTHON, "/home/pi/pibot.pyz", "setup", *args)

    def setup(self, *args: str, user: str = "pi", status: int = 0) -> str:
        done = subprocess.run(
            self.setup_command(*args, user=user),
            env=clean(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
            timeout=60,
        )
        assert done.returncode == status, done.stdout
        assert "Traceback" not in done.stdout and "internal error" not in done.stdout
        return done.stdout

    def number(self, name: str) -> int:
        """A user's uid; KeyError if there is none."""
        lines = self.path("/etc/passwd").read_text().splitlines()
        return {line.split(":")[0]: int(line.split(":")[2]) for line in lines}[name]

    def traces(self) -> List[str]:
        """Where something of PiBot's is, besides the program that was brought."""
        found: List[str] = []
        for covered in COVERED[:-1]:
            for path in self.path(covered).rglob("*"):
                if "pibot" in path.name and path != self.pyz:
                    found.append(f"/{path.relative_to(self.folder)}")
        return sorted(found)


def clean() -> Dict[str, str]:
    env = environment()
    for name in ("SHIV_ROOT", "SUDO_USER", "XDG_CONFIG_HOME"):
        env.pop(name, None)
    return env


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    for above in list(tmp_path.parents)[:-2]:
        above.chmod(above.stat().st_mode | 0o011)
    tmp_path.chmod(0o711)
    return Machine(tmp_path)


@pytest.fixture
def systemd(machine: Machine) -> Machine:
    machine.with_systemd()
    return machine


# --- without systemd -----------------------------------------------------------------------------


def test_a_master_and_nothing_is_left_of_it(machine: Machine) -> None:
    said = machine.setup("--role", "master", "--yes")
    assert "nothing is started" in said and "by hand, as root:" in said
    pibot = machine.number("pibot")
    owners = {
        "/var/lib/pibot": pibot,
        "/var/lib/pibot/master/identities.json": pibot,
        "/etc/pibot/master.env": 0,
        "/home/pi/.config/pibot": UID,
        "/home/pi/.config/pibot/client.env": UID,
    }
    for path, owner in owners.items():
        status = machine.path(path).stat()
        assert (path, status.st_uid, status.st_mode & 0o077) == (path, owner, 0)
    assert machine.setup("--role", "master", "--yes").startswith("nothing to change\n")
    assert "/var/lib/pibot stays" in machine.setup("--uninstall", "--yes")
    assert [path for path in machine.traces() if path != "/var/lib/pibot"] == []
    assert machine.path("/var/lib/pibot").stat().st_uid == 0
    with pytest.raises(KeyError):
        machine.number("pibot")


def test_what_setup_makes_is_safe_and_what_is_not_can_be_mended(machine: Machine) -> None:
    machine.setup("--role", "master", "--yes")
    before = audit(machine, status=0)
    assert before["score"] == 10, before
    machine.path("/etc/pibot/master.env").chmod(0o644)
    machine.path("/etc/pibot/ca.key").chmod(0o640)
    machine.path("/etc/mosquitto/pibot/acl").write_text("topic readwrite #\n")
    machine.path("/etc/systemd/system/pibot-master.service").write_text("[Service]\nUser=root\n")
    found = audit(machine, status=1)
    fixes = [str(one["fix"]).replace("sudo ", "") for one in found["checks"] if one["fix"]]
    assert found["score"] < 4 and len(fixes) >= 4, found
    for fix in fixes:
        line = fix.replace("setup --role master", "setup --role master --yes")
        subprocess.run(machine.enter("sh", "-c", f"{line} || true"), env=clean(), check=True)
    assert audit(machine, status=0)["score"] == 10


def audit(machine: Machine, status: int) -> Dict[str, Any]:
    """What `doctor --security` says, as root."""
    command = (PYTHON, "/opt/pibot/pibot.pyz", "doctor", "--security", "--json")
    inside = machine.enter("env", "SUDO_USER=pi", "HOME=/root", *command)
    done = subprocess.run(inside, env=clean(), capture_output=True, encoding="utf-8", timeout=60)
    assert (done.returncode, done.stderr) == (status, ""), done.stdout + done.stderr
    return dict(json.loads(done.stdout))


@pytest.mark.skipif(not Path(MOSQUITTO).exists(), reason="mosquitto is not installed")
def test_a_real_broker_takes_the_files_and_the_lines_for_hands_start_the_master(
    machine: Machine,
) -> None:
    said = machine.setup("--role", "master", "--yes")
    lines = said.partition("by hand, as root:\n")[2]
    machine.path("/var/lib/mosquitto").mkdir()
    machine.path("/run/mosquitto").mkdir()
    for path in ("/var/lib/mosquitto", "/run/mosquitto"):
        machine.path(path).chmod(0o777)
    conf = machine.path("/etc/mosquitto/mosquitto.conf")
    conf.write_text("log_dest stderr\ninclude_dir /etc/mosquitto/conf.d\n")
    ask = f"setpriv --reuid {UID} --regid {UID} --clear-groups env HOME=/home/pi {PYTHON} "
    ask += "/home/pi/pibot.pyz status --json"
    script = f"""
        mosquitto -c /etc/mosquitto/mosquitto.conf >/run/log 2>&1 & broker=$!
        ( {lines} ) >>/run/log 2>&1 &
        for try in 1 2 3 4 5; do {ask} >/run/answer 2>/run/why && break; done
        kill $broker $(cat /var/lib/pibot/master/journal.lock)
        wait
    """
    together = ["unshare", "--pid", "--fork", "--kill-child"]  # none of them outlives it
    subprocess.run([*together, *machine.enter("sh", "-c", script)], env=clean(), timeout=60)
    why = machine.path("/run/why").read_text() + machine.path("/run/log").read_text()
    answer = machine.path("/run/answer").read_text()
    assert answer, why
    assert json.loads(answer)["fleet"] == "home", why


LOGINS = ["nobody-of-that-name", "", "; touch /etc/x", "../../etc", "pi\n", "-rf", "\x1b[31m", "0"]


@pytest.mark.parametrize("login", LOGINS)
def test_a_person_who_is_nobody_is_root(login: str, machine: Machine) -> None:
    said = machine.setup("--role", "master", "--yes", user=login)
    assert "so that root can use the fleet" in said and "\x1b" not in said
    assert machine.path("/root/.config/pibot/client.env").stat().st_uid == 0
    assert not machine.path("/etc/x").exists()
    assert not machine.path("/home/pi/.config").exists()


PLANTED = [
    # in the home of pi: what is a link, where it leads
    (".config", "/etc"),
    (".config/pibot", "/etc"),
    (".config/pibot", "/root"),
    (".config/pibot/client.env", "/etc/passwd"),
    (".config/pibot/.client.env.new", "/etc/shadow"),
]


@pytest.mark.parametrize(("name", "target"), PLANTED)
def test_no_planted_link_is_followed(name: str, target: str, machine: Machine) -> None:
    link = machine.path("/home/pi") / name
    link.parent.mkdir(parents=True, exist_ok=True)
    link.symlink_to(target)
    for path in (*list(link.parents)[: name.count("/") + 1], link):
        os.chown(path, UID, UID, follow_symlinks=False)
    before = {p: machine.path(p).stat() for p in ("/etc", "/etc/passwd", "/etc/shadow", "/root")}
    said = machine.setup("--role", "master", "--yes")
    for path, status in before.items():
        now = machine.path(path).stat()
        assert (now.st_uid, now.st_mode) == (status.st_uid, status.st_mode)
    assert not list(machine.path("/etc").glob("client.env"))
    assert not list(machine.path("/root").glob("client.env"))
    if target in ("/etc", "/root"):
        assert "pi gets no client file" in said
    else:
        assert "root:" in machine.path("/etc/passwd").read_text()
    machine.setup("--uninstall", "--yes")
    assert link.is_symlink() or "client.env" in name


def test_a_person_called_pibot_is_in_the_way(machine: Machine) -> None:
    machine.add_user("pibot", UID + 1)
    assert "usermod --login" in machine.setup("--role", "master", "--yes", status=2)
    assert [path for path in machine.traces() if not path.startswith("/root/.shiv")] == [
        "/home/pibot"
    ]


def test_a_process_of_the_services_user_is_in_the_way_of_its_removal(machine: Machine) -> None:
    machine.setup("--role", "master", "--yes")
    pibot = str(machine.number("pibot"))
    sleeper = ["setpriv", f"--reuid={pibot}", "--clear-groups", "sleep", "60"]
    with subprocess.Popen(sleeper) as process:
        wait_for(lambda: Path(f"/proc/{process.pid}").stat().st_uid == int(pibot))
        said = machine.setup("--uninstall", "--yes", status=1)
        assert "`userdel pibot` failed" in said and str(process.pid) in said
        process.kill()
    machine.setup("--uninstall", "--yes")
    assert [path for path in machine.traces() if path != "/var/lib/pibot"] == []


# --- with a stand-in for systemctl ---------------------------------------------------------------

STARTED = [
    "daemon-reload ",
    "restart mosquitto.service",
    "restart pibot-broker.path",
    "restart pibot-master.service",
]


def test_services_are_started_once(systemd: Machine) -> None:
    systemd.setup("--role", "master", "--yes")
    assert systemd.said() == [STARTED[0], "enable mosquitto.service", *STARTED[1:]]
    assert systemd.setup("--role", "master", "--yes") == "nothing to change\n"
    assert systemd.said() == []


def test_a_new_program_restarts_the_services(systemd: Machine) -> None:
    systemd.setup("--role", "master", "--yes", "--no-broker")
    systemd.setup("--role", "worker", "--yes")
    systemd.said()
    with zipfile.ZipFile(systemd.pyz, "a") as archive:
        archive.comment = b"newer"
    systemd.setup("--role", "worker", "--yes")
    assert systemd.said() == ["restart pibot-master.service", "restart pibot-worker.service"]


def test_a_service_that_does_not_start_is_said_with_where_to_look(systemd: Machine) -> None:
    systemd.path("/run/fails-pibot-master.service").touch()
    said = systemd.setup("--role", "master", "--yes", status=1)
    assert "Job for pibot-master.service failed." in said
    assert "journalctl -u pibot-master.service" in said
    systemd.said()
    systemd.path("/run/fails-pibot-master.service").unlink()
    assert "starts with this machine" in systemd.setup("--role", "master", "--yes")
    assert "restart pibot-master.service" in systemd.said()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_setup_is_finished_by_the_next_one(number: int, systemd: Machine) -> None:
    systemd.setup("--role", "master", "--yes")
    systemd.said()
    os.mkfifo(systemd.path("/run/slow"))
    with systemd.path("/etc/pibot/master.env").open("a") as file:
        file.write("PIBOT_ASK=1\n")
    systemd.path("/etc/pibot/master.env").chmod(0o644)
    with subprocess.Popen(
        systemd.setup_command("--role", "master", "--yes"),
        env=clean(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as process:
        wait_for(lambda: systemd.path("/run/said").exists(), what="it waits for systemctl")
        process.send_signal(number)
        waiting = os.open(systemd.path("/run/slow"), os.O_RDWR)
        os.write(waiting, b"\n")
        assert process.wait(30) != 0
        os.close(waiting)
    systemd.path("/run/slow").unlink()
    systemd.said()
    systemd.setup("--role", "master", "--yes")
    assert set(STARTED) <= set(systemd.said())
    assert not systemd.path("/run/pibot-setup").exists()


def test_an_older_service_is_stopped_and_replaced_after_a_question(systemd: Machine) -> None:
    unit = systemd.path("/etc/systemd/system/pibot-worker.service")
    unit.parent.mkdir(parents=True, exist_ok=True)
    unit.write_text("[Service]\nUser=pi\nExecStart=/home/pi/old.pyz --worker-id worker-1\n")
    systemd.path("/run/state-pibot-worker.service").write_text("active\n")
    env_file = systemd.path("/home/pi/worker-1.env")
    env_file.write_text("WORKER_ID=worker-1\nMQTT_HOST=10.0.0.1\nMQTT_PASSWORD=p\nPIBOT_KEY=k\n")
    env_file.chmod(0o600)
    for answer, status in (("n\r", 1), ("y\r", 0)):
        with Terminal(systemd.setup_command("--role", "worker"), clean()) as terminal:
            terminal.expect("/home/pi/old.pyz as pi")
            terminal.expect("Go on? [y/N] ")
            terminal.send(answer)
            assert terminal.finish() == status, terminal.plain
    said = systemd.said()
    assert said[0] == "stop pibot-worker.service" and said[-1] == "restart pibot-worker.service"
    assert stat.S_IMODE(systemd.path("/etc/pibot/worker.env").stat().st_mode) == 0o600


def test_the_installed_program_finds_a_new_file_where_the_person_is(systemd: Machine) -> None:
    text = "WORKER_ID=worker-1\nMQTT_HOST=10.0.0.1\nMQTT_PASSWORD=p\nPIBOT_KEY={}\n"
    here = systemd.path("/home/pi")
    (here / "worker-1.env").write_text(text.format("old-key"))
    systemd.setup("--role", "worker", "--yes")
    systemd.said()
    systemd.pyz.unlink()
    (here / "worker-1.env").write_text(text.format("new-key"))
    (here / ".env").write_text("OPENAI_API_KEY=of-another-program\nOPENAI_MODEL=m\n")
    command = systemd.enter("sh", "-c", "cd /home/pi && pibot.pyz setup --role worker --yes")
    subprocess.run(command, env=clean(), check=True, timeout=60)
    settings = systemd.path("/etc/pibot/worker.env").read_text()
    assert "PIBOT_KEY=new-key\n" in settings and "OPENAI" not in settings
    assert systemd.said() == ["restart pibot-worker.service"]


def test_uninstall_stops_what_runs(systemd: Machine) -> None:
    systemd.setup("--role", "master", "--yes")
    systemd.said()
    systemd.setup("--uninstall", "--yes")
    assert systemd.said() == [
        "stop pibot-master.service",
        "stop pibot-broker.path",
        "daemon-reload ",
        "restart mosquitto.service",
    ]
    assert [path for path in systemd.traces() if path != "/var/lib/pibot"] == []
