"""What systemd hears: ready, status, a sign of life while the loop turns, stopping."""

from __future__ import annotations

import os
import signal
import socket
import time
from pathlib import Path
from typing import Callable, Dict, Iterator, List, Optional

import pytest

from fleet_processes import FleetProcesses
from pibot.notify import Notify

SILENCE_S = 3.5  # longer than any pause between two signs of life of WATCHED
WATCHED = {"WATCHDOG_USEC": "2000000"}


class Systemd:
    """systemd's end: a datagram socket, and what came so far."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.heard: List[str] = []
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.sock.bind("\0" + address[1:] if address[0] == "@" else address)

    def listen(self, seconds: float, until: Callable[[str], bool]) -> bool:
        """Take what comes until something fits; False when it does not in time."""
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0:
            self.sock.settimeout(left)
            try:
                self.heard.append(self.sock.recv(4096).decode())
            except socket.timeout:
                return False
            if until(self.heard[-1]):
                return True
        return False

    def expect(self, message: str) -> None:
        assert self.listen(30, lambda said: said == message), (message, self.heard)

    def drain(self) -> None:
        self.sock.setblocking(False)
        try:
            while self.sock.recv(4096):
                pass
        except BlockingIOError:
            pass


@pytest.fixture(params=["path", "abstract"])
def systemd(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Systemd]:
    made = Systemd(
        str(tmp_path / "notify") if request.param == "path" else f"@pibot-test-{os.getpid()}"
    )
    yield made
    made.sock.close()


def test_what_is_said(systemd: Systemd) -> None:
    notify = Notify(systemd.address, watchdog_s=10)
    notify.ready()
    notify.status("no broker:\nMAINPID=1  é")
    notify.stopping()
    systemd.expect("STOPPING=1")
    assert systemd.heard == ["READY=1", "STATUS=no broker: MAINPID=1 é", "STOPPING=1"]


def test_signs_of_life_come_at_half_the_interval(systemd: Systemd) -> None:
    notify = Notify(systemd.address, watchdog_s=10)
    for now in (0.0, 1.0, 4.9, 5.0, 9.9, 10.1):
        notify.alive(now)
        notify.status(str(now))
    systemd.expect("STATUS=10.1")
    signs = [systemd.heard[i + 1] for i, said in enumerate(systemd.heard) if said == "WATCHDOG=1"]
    assert signs == ["STATUS=0.0", "STATUS=5.0", "STATUS=10.1"]


@pytest.mark.parametrize(
    ("environ", "watched"),
    [
        ({"WATCHDOG_USEC": "60000000"}, True),
        ({"WATCHDOG_USEC": "60000000", "WATCHDOG_PID": str(os.getpid())}, True),
        ({"WATCHDOG_USEC": "60000000", "WATCHDOG_PID": "1"}, False),
        ({"WATCHDOG_USEC": "0"}, False),
        ({"WATCHDOG_USEC": "soon"}, False),
        ({}, False),
    ],
)
def test_what_is_asked_for(tmp_path: Path, environ: Dict[str, str], watched: bool) -> None:
    systemd = Systemd(str(tmp_path / "notify"))
    environ = {**environ, "NOTIFY_SOCKET": systemd.address, "HOME": "/"}
    notify = Notify.taken(environ)
    assert environ == {"HOME": "/"}
    notify.alive(0.0)
    notify.ready()
    systemd.expect("READY=1")
    assert systemd.heard == (["WATCHDOG=1"] if watched else []) + ["READY=1"]
    systemd.sock.close()


@pytest.mark.parametrize("address", [None, "", "relative", "vsock:1:2", "/nowhere/notify"])
def test_nobody_listens(address: Optional[str]) -> None:
    environ = {"NOTIFY_SOCKET": address} if address is not None else {}
    notify = Notify.taken(environ)
    notify.ready()
    notify.alive(0.0)
    notify.stopping()
    assert environ == {}


def test_a_socket_that_nobody_empties_holds_nobody_up(tmp_path: Path) -> None:
    systemd = Systemd(str(tmp_path / "notify"))
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as other:
        other.setblocking(False)
        with pytest.raises(BlockingIOError):
            while True:
                other.sendto(b"x", systemd.address)
    started = time.monotonic()
    Notify(systemd.address).ready()
    assert time.monotonic() - started < 5
    systemd.sock.close()


@pytest.mark.parametrize("role", ["master", "worker"])
def test_a_role_that_is_cut_off_is_ready_and_alive(role: str, tmp_path: Path) -> None:
    """No broker: that is the network's fault. A loop that hangs falls silent: that is ours."""
    systemd = Systemd(str(tmp_path / "notify"))
    env = {"NOTIFY_SOCKET": systemd.address, **WATCHED}
    with FleetProcesses(tmp_path, broker="none") as fleet:
        if role == "master":
            fleet.start_master(wait=False, **env)
        else:
            fleet.start_worker(role, **env)
        systemd.expect("READY=1")
        assert systemd.heard == ["READY=1"]
        assert systemd.listen(30, lambda said: said.startswith("STATUS=no broker answers at"))
        for _ in range(3):
            systemd.expect("WATCHDOG=1")
        said = fleet.processes[role].said()
        assert said.count("no broker answers at") == 1, "it tries often and says it once"
        fleet.kill(role, signal.SIGSTOP)
        systemd.drain()
        assert not systemd.listen(SILENCE_S, lambda said: True)
        fleet.kill(role, signal.SIGCONT)
        systemd.expect("WATCHDOG=1")
        assert fleet.kill(role, signal.SIGTERM) == 0
        systemd.expect("STOPPING=1")
    systemd.sock.close()


SKILL = '''
import os
from pibot.skills import skill

@skill()
def names() -> str:
    """The names in the environment."""
    return " ".join(os.environ)
'''


def test_a_fleet_under_systemd(tmp_path: Path) -> None:
    """It says when the broker is there; a broken store is no hung loop; skills hear of nothing."""
    systemd = Systemd(str(tmp_path / "notify"))
    (tmp_path / "skills").mkdir()
    (tmp_path / "skills" / "names.py").write_text(SKILL)
    env = {"NOTIFY_SOCKET": systemd.address, **WATCHED}
    with FleetProcesses(tmp_path) as fleet:
        fleet.start_master(**env)
        systemd.expect("STATUS=connected to the broker")
        fleet.start_worker("worker-1", PIBOT_SKILLS_DIR=str(tmp_path / "skills"), **env)
        fleet.wait_idle(1)
        found = fleet.run("run", "--skill", "names").document["answer"].split()
        assert "PATH" in found and not {"NOTIFY_SOCKET", "WATCHDOG_USEC"} & set(found)
        fleet.kill("worker-1")
        journal = tmp_path / "master" / "state" / "master" / "journal.db"
        other = journal.with_name("other")
        other.write_bytes(journal.read_bytes())
        other.rename(journal)
        fleet.run("run", "--skill", "echo", "--args", '{"text": "x"}', check=1)
        master = fleet.processes["master"]
        fleet.wait_for(lambda: "restart pibot" in master.said(), what="it cannot begin anew")
        systemd.drain()
        systemd.expect("WATCHDOG=1")
        systemd.expect("WATCHDOG=1")
    systemd.sock.close()
