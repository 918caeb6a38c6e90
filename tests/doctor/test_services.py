"""Units, ports and Mosquitto's own settings, as they are found on real machines."""

from __future__ import annotations

import os
import socket
import subprocess
import threading
from pathlib import Path
from typing import Any, Dict, Iterator, List, Optional, Tuple

import pytest

from fleet_processes import MOSQUITTO, free_port
from pibot import config
from pibot.doctor import mosquitto, ports, services
from pibot.doctor.findings import Finding
from pibot.doctor.settings import Subject
from pibot.health import HealthServer
from recorded_machine import Machine

RUNS = {
    "LoadState": "loaded", "ActiveState": "active", "SubState": "running", "Result": "success",
    "UnitFileState": "enabled", "NeedDaemonReload": "no",
}  # fmt: skip


def systemctl(machine: Machine, state: Dict[str, str], system: str = "running") -> None:
    shown = "\n".join(f"echo {key}={value}" for key, value in state.items())
    script = f'if [ "$1" = is-system-running ]; then echo {system}; exit; fi\n{shown}'
    machine.script("/usr/bin/systemctl", script)


# --- units --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "state", "message", "fix"),
    [
        ({}, "ok", "pibot-worker is active", None),
        ({"LoadState": "not-found", "ActiveState": "inactive"}, "fail", "is not installed",
         "sudo pibot.pyz setup --role worker"),
        ({"LoadState": "masked", "ActiveState": "inactive"}, "fail", "is masked",
         "sudo systemctl unmask --now pibot-worker"),
        ({"ActiveState": "failed", "Result": "exit-code"}, "fail", "has failed (exit-code)",
         "sudo systemctl restart pibot-worker; sudo journalctl"),
        ({"ActiveState": "activating", "SubState": "auto-restart", "Result": "exit-code"}, "fail",
         "has failed (exit-code)", "sudo systemctl restart pibot-worker"),
        ({"ActiveState": "activating", "SubState": "start"}, "ok", "is activating", None),
        ({"ActiveState": "inactive", "SubState": "dead"}, "fail", "does not run",
         "sudo systemctl enable --now pibot-worker"),
        ({"NeedDaemonReload": "yes"}, "warn", "an older unit file",
         "sudo systemctl daemon-reload && sudo systemctl restart pibot-worker"),
        ({"UnitFileState": "disabled"}, "warn", "does not start with the machine",
         "sudo systemctl enable pibot-worker"),
    ],
)  # fmt: skip
def test_a_unit(
    machine: Machine, change: Dict[str, str], state: str, message: str, fix: Optional[str]
) -> None:
    machine.role("worker")
    systemctl(machine, {**RUNS, **change})
    (found,) = machine.find(services.services)
    assert found.state == state and message in found.message
    assert found.fix is None if fix is None else str(found.fix).startswith(fix)


def test_what_systemd_has_given_up_needs_more_than_a_restart() -> None:
    state = {**RUNS, "ActiveState": "failed", "Result": "unit-start-limit-hit"}
    found = services.judge("pibot-broker.path", state, "")
    assert found.state == "fail" and "sudo systemctl reset-failed pibot-broker.s" in str(found.fix)


def test_the_masters_units(machine: Machine) -> None:
    machine.role("master")
    machine.file("/etc/systemd/system/pibot-broker.path", "")
    machine.file("/etc/mosquitto/conf.d/pibot.conf", "")
    systemctl(machine, {**RUNS, "ActiveState": "inactive", "UnitFileState": "static"})
    found = machine.find(services.services)
    assert [(f.message.split()[0], f.state) for f in found] == [
        ("pibot-master", "fail"),
        ("pibot-broker.path", "fail"),
        ("pibot-broker", "ok"),  # runs only when it is woken
        ("mosquitto", "fail"),
    ]


def test_a_machine_that_systemd_does_not_run(machine: Machine) -> None:
    machine.role("worker")
    systemctl(machine, RUNS, "offline")
    assert [f.state for f in machine.find(services.services)] == ["warn"]


def test_a_plain_machine_has_no_units(machine: Machine) -> None:
    systemctl(machine, RUNS)
    assert machine.find(services.services) == []


@pytest.mark.parametrize("folder", ["/etc/systemd/system", "/lib/systemd/system"])
def test_a_unit_that_starts_another_program(machine: Machine, folder: str) -> None:
    start = "ExecStart=-/usr/bin/env KEY=hunter2 /home/pi/pibot/worker.py --password /hunter2"
    machine.file(f"{folder}/pibot-worker.service", f"[Service]\n{start}\n")
    (found,) = machine.find(services.services)
    said = "pibot-worker.service starts another program (/home/pi/pibot/worker.py)"
    assert (found.state, found.message) == ("fail", said)
    assert found.fix == "sudo python3 /nowhere/pibot.pyz setup --role worker"
    assert "hunter2" not in str(found)


# --- who holds the port -------------------------------------------------------------------------


def subject(role: str, port: int, **more: str) -> Subject:
    environ = {"PIBOT_HEALTH_HOST": "127.0.0.1", "WORKER_ID": "worker-1", "HOME": "/", **more}
    environ["PIBOT_HEALTH_PORT"] = str(port)
    return Subject(role, config.load(role, {}, environ, None, Path("/nowhere/pibot.pyz")))


def health(machine: Machine, role: str, port: int) -> List[Finding]:
    return machine.find(ports.health, subject(role, port), root=Path("/"))


WORKER = {"status": "healthy", "worker_id": "worker-1", "current_task": None}


@pytest.mark.parametrize(
    ("role", "answer", "state", "message"),
    [
        ("worker", (200, WORKER), "ok", "worker-1 is healthy on port"),
        ("client", (200, {**WORKER, "worker_id": "any"}), "ok", "any is healthy on port"),
        ("master", (200, {"status": "healthy", "role": "master", "workers": {}}), "ok", "master"),
        ("worker", (503, {**WORKER, "status": "degraded", "reason": "the master is silent"}),
         "fail", "worker-1 is not healthy: the master is silent"),
        ("worker", (200, {**WORKER, "worker_id": "other\x1b[2J"}), "fail",
         "is held by a worker called other"),
        ("master", (200, WORKER), "fail", "is held by a worker called worker-1"),
        ("worker", (200, {"role": "master", "workers": {}}), "fail", "held by a master of PiBot"),
        ("worker", (200, {"status": "healthy"}), "fail", "is held by python"),
    ],
)  # fmt: skip
def test_health(
    machine: Machine, role: str, answer: Tuple[int, Dict[str, Any]], state: str, message: str
) -> None:
    server = HealthServer("127.0.0.1", 0, lambda: answer)
    server.start()
    try:
        (found,) = health(machine, role, server.port)
    finally:
        server.close()
    assert found.state == state and message in found.message and "\x1b" not in found.message


def test_nobody_on_the_port(machine: Machine) -> None:
    assert health(machine, "client", free_port()) == []
    (found,) = health(machine, "worker", free_port())
    assert found.state == "fail" and str(found.fix).startswith("sudo systemctl restart pibot-wor")


@pytest.fixture
def stranger() -> Iterator[int]:
    """A port where connections are taken and nothing is said; its number."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def test_a_stranger_on_the_port_is_named(machine: Machine, stranger: int) -> None:
    (found,) = health(machine, "worker", stranger)
    mine = Path("/proc/self/comm").read_text().strip()
    assert found.message == f"port {stranger} is held by {mine} (process {os.getpid()})"
    assert str(found.fix).startswith(f"sudo ss -ltnp 'sport = :{stranger}'")


def test_a_stranger_that_never_stops_talking(machine: Machine) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        threading.Thread(target=_babble, args=(server,), daemon=True).start()
        (found,) = health(machine, "worker", server.getsockname()[1])
    assert found.state == "fail" and "is held by" in found.message


def _babble(server: socket.socket) -> None:
    sock, _ = server.accept()
    try:
        while True:
            sock.sendall(b"HTTP/1.1 200 OK\r\n\r\n" + b"[" * 100_000)
    except OSError:
        pass


def test_a_recorded_table_of_sockets(machine: Machine) -> None:
    row = "   0: 00000000:1388 00000000:0000 0A 00000000:00000000 00:00000000 00000000 0 0 4711 1"
    machine.file("/proc/net/tcp", f"  sl  local_address\n{row}\n")
    machine.file("/proc/812/comm", "node-red\x1b[2J\n")
    fds = machine.root / "proc/812/fd"
    fds.mkdir()
    (fds / "3").symlink_to("socket:[4711]")
    assert ports.holder(machine.here(), 5000) == "node-red (process 812)"
    assert ports.holder(machine.here(), 5001) == ""


# --- Mosquitto ----------------------------------------------------------------------------------

MAIN = "pid_file /run/mosquitto.pid\npersistence true\ninclude_dir /etc/mosquitto/conf.d\n"
OURS = "listener 1883\nallow_anonymous false\npassword_file /etc/mosquitto/pibot/passwd\n"


def judged(machine: Machine, ours: str, other: str = "") -> List[Finding]:
    machine.file("/etc/mosquitto/mosquitto.conf", MAIN)
    machine.file("/etc/mosquitto/conf.d/pibot.conf", ours)
    machine.file("/etc/mosquitto/conf.d/README", "listener 1\nallow_anonymous true\n")
    if other:
        machine.file("/etc/mosquitto/conf.d/local.conf", other)
    return machine.find(mosquitto.mosquitto)


@pytest.mark.parametrize(
    ("ours", "other"),
    [
        (OURS, ""),
        ("", ""),  # Debian's own: this machine only
        ("listener 1883 127.0.0.1\nallow_anonymous true\n", ""),
        ("listener 1883 ::1\nlistener 0 /run/m.sock\nallow_anonymous true\n", ""),
        (OURS.replace("1883", "1883 192.168.1.10"), "listener 1883 127.0.0.1\nlistener 1883 ::1\n"),
        (OURS + "allow_anonymous false\n", "# allow_anonymous true\nallow_anonymous true\n"),
        ("per_listener_settings true\n" + OURS,
         "listener 1884 127.0.0.1\nallow_anonymous true\npassword_file /x\n"),
    ],
)  # fmt: skip
def test_mosquitto_is_closed(machine: Machine, ours: str, other: str) -> None:
    assert [f.state for f in judged(machine, ours, other)] == ["ok"]


@pytest.mark.parametrize(
    ("ours", "other", "file"),
    [
        ("listener 1883\nallow_anonymous true\n", "", "pibot.conf"),
        ("listener 1883 0.0.0.0\n", "allow_anonymous true\n", "local.conf"),
        ("port 1883\nallow_anonymous true\n", "", "pibot.conf"),
        ("per_listener_settings true\n" + OURS, "listener 1884\nallow_anonymous true\n", "local"),
    ],
)
def test_mosquitto_lets_everybody_in(machine: Machine, ours: str, other: str, file: str) -> None:
    if file == "local":  # read before ours, so the switch must be there
        other = "per_listener_settings true\n" + other
    (found,) = judged(machine, ours, other)
    assert found.state == "fail" and "without a password" in found.message
    assert file in found.message and file in str(found.fix)


def test_the_command_closes_mosquitto(machine: Machine) -> None:
    (found,) = judged(machine, "listener 1883\nallow_anonymous true\n")
    command = str(found.fix).partition(" && ")[0].replace("sudo ", "")
    assert os.system(command.replace("/etc/", f"{machine.root}/etc/")) == 0
    assert [f.state for f in machine.find(mosquitto.mosquitto)] == ["ok"]


@pytest.mark.parametrize(
    ("other", "what"),
    [
        ("listener {port}\n", "listener {port}"),
        ("password_file /etc/hosts\n", "password_file"),
    ],
)
def test_doubled_settings_keep_mosquitto_from_starting(
    machine: Machine, tmp_path: Path, other: str, what: str
) -> None:
    port = free_port()
    ours = f"listener {port} 127.0.0.1\npassword_file /dev/null\n"
    (found,) = judged(machine, ours, other.format(port=port))
    assert found.state == "fail" and "Mosquitto does not start" in found.message
    assert f"{what.format(port=port)} stands in /etc/mosquitto/conf.d/local.conf" in found.message
    assert "sudo nano /etc/mosquitto/conf.d/local.conf" in str(found.fix)

    conf = tmp_path / "real.conf"  # and so it is with the real one
    conf.write_text(f"include_dir {machine.root}/etc/mosquitto/conf.d\nuser root\n")
    done = subprocess.run([MOSQUITTO, "-c", conf], capture_output=True, timeout=20)
    assert done.returncode != 0


def test_no_mosquitto_here(machine: Machine) -> None:
    machine.root.mkdir()
    assert machine.find(mosquitto.mosquitto) == []


UFW = "Status: active\n\nTo                         Action      From\n--        ------      ----\n"


@pytest.mark.parametrize(
    ("rules", "state"),
    [
        ("1883/tcp                   ALLOW       192.168.1.0/24", "ok"),
        ("1883                       ALLOW       Anywhere", "ok"),
        ("Anywhere                   ALLOW       192.168.1.0/24", "ok"),
        ("22/tcp                     ALLOW       Anywhere", "warn"),
        ("1883/tcp                   DENY        Anywhere", "warn"),
        ("Anywhere                   DENY        10.0.0.1", "warn"),
        ("11883/tcp                  ALLOW       Anywhere", "warn"),
    ],
)
def test_the_firewall(machine: Machine, rules: str, state: str) -> None:
    machine.file("/etc/ufw/ufw.conf", "ENABLED=yes\n")
    machine.says("/usr/sbin/ufw", UFW + rules)
    machine.role("master")
    judged(machine, OURS)
    found = machine.find(mosquitto.mosquitto, uid=0)[-1]
    assert (found.check, found.state) == ("firewall", state)
    assert found.fix == (None if state == "ok" else "sudo ufw allow 1883/tcp")
    not_root = machine.find(mosquitto.mosquitto, uid=1000)[-1]
    assert (not_root.state, not_root.fix) == ("warn", "sudo pibot.pyz doctor")


def test_a_firewall_that_is_off(machine: Machine) -> None:
    machine.file("/etc/ufw/ufw.conf", "ENABLED=no\n")
    assert [f.check for f in judged(machine, OURS)] == ["mosquitto"]
