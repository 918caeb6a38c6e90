"""A worker as `setup` leaves it, below a directory of its own, with stand-ins for systemd.

    machine = UpdatedMachine(fleet, "worker-1")
    machine.start()

`bin/systemctl` is a real program that starts, stops and restarts the worker's process; a thread
does what pibot-update.path does, and starts root's program the way its unit has it.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
from typing import List, Optional

from closed_fleet import ClosedFleet
from fleet_processes import free_port, program, wait_for
from pibot.deploy.program import Places

LOOK_S = 0.05
SYSTEMCTL = """\
#!/bin/sh
# Stands for systemctl: `systemctl stop|start|restart|show [OPTION] UNIT`
cd "{home}"
echo "$@" >> calls
stop() {{
  [ -f supervisor.pid ] || return 0
  kill -TERM "$(cat supervisor.pid)" 2>/dev/null
  while grep -q "^State:.[^Z]" "/proc/$(cat supervisor.pid)/status" 2>/dev/null; do sleep 0.05; done
  rm -f supervisor.pid
}}
start() {{
  echo 0 > restarts
  SHIV_ROOT="{home}/shiv" setsid "{python}" supervise.py >> log 2>&1 < /dev/null &
  echo $! > supervisor.pid
}}
case "$1" in
  stop) stop ;;
  start) start ;;
  restart) stop; start ;;
  show) cat restarts ;;
  *) exit 1 ;;
esac
"""
SUPERVISE = """\
import os, signal, subprocess, time
def end(*_):
    os.kill(child.pid, signal.SIGTERM)
    for _ in range(20):
        if os.waitpid(child.pid, os.WNOHANG)[0]:
            os._exit(0)
        time.sleep(0.1)
    os.kill(child.pid, signal.SIGKILL)
    os._exit(0)
restarts = 0
while True:
    child = subprocess.Popen({command!r})
    open("worker.pid", "w").write(str(child.pid))
    signal.signal(signal.SIGTERM, end)
    child.wait()
    time.sleep(0.2)
    restarts += 1
    open("restarts", "w").write(str(restarts))
"""


class UpdatedMachine:
    def __init__(self, fleet: ClosedFleet, name: str) -> None:
        self.fleet, self.name, self.root = fleet, name, fleet.folder / f"machine-{name}"
        self.places = Places(self.root)
        self.home = self.root / "service"
        self.units: List["subprocess.Popen[bytes]"] = []
        self._done = threading.Event()
        self._path_unit = threading.Thread(target=self._watch)
        self._install()

    def _install(self) -> None:
        p = self.places
        for folder in (p.program.parent, p.settings.parent, p.folder, self.home):
            folder.mkdir(parents=True)
        shutil.copy(program(), p.program)
        os.link(p.program, p.proven)
        settings = self.fleet.settings(self.name)
        p.key.write_text(settings.pop("PIBOT_UPDATE_KEY") + "\n")
        lines = [f"{key}={value}" for key, value in settings.items()]
        p.settings.write_text("\n".join([*lines, ""]))
        p.settings.chmod(0o600)
        command = [sys.executable, "-I", str(p.program), "--role", "worker"]
        command += ["--port", str(free_port()), "--env-file", str(p.settings)]
        (self.home / "supervise.py").write_text(SUPERVISE.format(command=command))
        systemctl = self.root / "bin" / "systemctl"
        systemctl.parent.mkdir()
        systemctl.write_text(SYSTEMCTL.format(home=self.home, python=sys.executable))
        systemctl.chmod(0o755)

    @property
    def env(self) -> "dict[str, str]":
        path = f"{self.root / 'bin'}:{os.environ['PATH']}"
        own = {"PATH": path, "SHIV_ROOT": str(self.root / "shiv")}
        unset = ("MQTT_USERNAME", "MQTT_PASSWORD", "PIBOT_KEY", "MQTT_HOST", "MQTT_PORT")
        rest = {key: value for key, value in self.fleet.env.items() if key not in unset}
        return {**rest, "PIBOT_STATE_DIR": str(self.places.folder.parent), **own}

    def __enter__(self) -> "UpdatedMachine":
        self.systemctl("start")
        self._path_unit.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._path_unit.join()
        self.systemctl("stop")

    def systemctl(self, *args: str) -> None:
        subprocess.run([self.root / "bin" / "systemctl", *args], env=self.env, check=True)

    def kill_worker(self) -> None:
        """As the kernel does when there is no memory; its service starts it again."""
        os.kill(int((self.home / "worker.pid").read_text()), signal.SIGKILL)

    def log(self) -> str:
        path = self.home / "log"
        return path.read_text("utf-8", "replace") if path.exists() else ""

    def calls(self) -> str:
        """What systemctl was asked for."""
        return (self.home / "calls").read_text("utf-8")

    def trying(self) -> Optional["subprocess.Popen[bytes]"]:
        """Root's program, while it waits for a new one to be healthy."""
        started = self.places.attempt.exists() and not self.places.fresh.exists()
        unit = self.units[-1] if self.units else None
        return unit if started and unit and unit.poll() is None else None

    # --- root ------------------------------------------------------------------------------------

    def _watch(self) -> None:
        wanted, attempt = self.places.folder / "wanted", self.places.attempt
        while not self._done.wait(LOOK_S):
            if wanted.exists() or attempt.exists():
                self.start_root().wait()

    def start_root(self) -> "subprocess.Popen[bytes]":
        """What pibot-update.service runs."""
        command = [sys.executable, "-I", str(self.places.proven), "setup", "--place-program"]
        env = {**self.env, "SHIV_ROOT": str(self.root / "shiv-root")}
        with (self.home / "root-log").open("ab") as log:
            unit = subprocess.Popen(
                [*command, "--prefix", str(self.root)], env=env, stdout=log, stderr=log
            )
        self.units.append(unit)
        return unit

    def said(self) -> str:
        """What root's program has said, for the message of a failed test."""
        path = self.home / "root-log"
        return path.read_text("utf-8", "replace") if path.exists() else ""


def wait_idle(
    fleet: ClosedFleet, names: List[str], machines: Optional[List[UpdatedMachine]] = None
) -> None:
    def why() -> str:
        return "\n".join(m.log()[-2000:] for m in machines or [])

    wait_for(lambda: fleet.states() == dict.fromkeys(names, "idle"), 30, "all are idle", why)
