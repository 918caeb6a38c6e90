"""The processes of the chaos: a broker, a master, workers; each with its own way to the broker.

Whatever ends is started again, as systemd would do it, from one copy of the program.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import time
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any, Dict, List, Mapping, Optional, Tuple

import pytest

from deadly import Point
from fleet_processes import FAKETIME, FleetProcesses, Process, program
from mqtt_proxy import MqttProxy
from small_disk import small_disk

ROOT = Path(__file__).resolve().parents[1]
SKILLS = ROOT / "tests" / "counted_skills"
CLOCK = ("LD_PRELOAD", "FAKETIME", "DONT_FAKE_MONOTONIC")
SLOTS = 4
WORKER_DISK = "48m"
CENTRE = ("master", "broker")  # without them nothing goes on
WORKER_RESTART_S = 5.0  # RestartSec of its unit


class Parties(FleetProcesses):
    """`broker` is mosquitto or amqtt, which lives and dies with the master."""

    def __init__(self, folder: Path, broker: str, workers: int, tasks: int, seed: int) -> None:
        super().__init__(folder, broker, {"PIBOT_KEEP_GOALS": "1000000"})
        self.names = [f"worker-{i + 1}" for i in range(workers)]
        self.executions = folder / "executions"
        self.away: Dict[str, float] = {}  # who is to stay down until when
        self.wrong_clocks: Dict[str, str] = {}  # of whoever is started next
        self.disks: Dict[str, Path] = {}
        self.points = {n: Point(folder / f"point-{n}") for n in ("master", *self.names)}
        self.lanes: Dict[str, MqttProxy] = {}
        self._tasks, self._seed, self._opened = tasks, seed, ExitStack()
        self._program = folder / "pibot.pyz"

    def __enter__(self) -> "Parties":
        self._program.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(program(), self._program)  # others may build a new one meanwhile
        super().__enter__()
        try:
            for number, name in enumerate(self._with_a_lane()):
                proxy = MqttProxy(self.port, self._seed + number)
                self.lanes[name] = self._opened.enter_context(proxy)
            self._mount()
        except BaseException:
            self.close()
            raise
        return self

    def _with_a_lane(self) -> List[str]:
        """The embedded broker is the master's own: there is nothing between them."""
        return [*self.names, "client", *(["master"] if self.broker == "mosquitto" else [])]

    def _mount(self) -> None:
        """Small disks for the master and one worker; without the right to, no disk gets full."""
        sizes = {"master": f"{64 + self._tasks // 20}m", self.names[0]: WORKER_DISK}
        for name, size in sizes.items():
            with suppress(pytest.skip.Exception):
                disk = small_disk(self.folder / f"disk-{name}", size)
                self.disks[name] = self._opened.enter_context(disk)

    def close(self) -> None:
        super().close()
        for name, disk in self.disks.items():  # what is on it would go with it
            shutil.copytree(disk, self.folder / name / "state", dirs_exist_ok=True)
        self.disks.clear()
        self._opened.close()

    # --- starting ---------------------------------------------------------------------------------

    def start_all(self) -> None:
        self.start_master("master", True, **self.env_of("master"))
        for name in self.names:
            self.start_worker(name, **self.env_of(name))
        self.wait_idle(len(self.names), 60)

    def env_of(self, name: str) -> Dict[str, str]:
        env = self.points[name].mortal()
        if name in self.lanes:
            env["MQTT_PORT"] = str(self.lanes[name].port)
        if name in self.disks:
            env["PIBOT_STATE_DIR"] = str(self.disks[name])
        if name != "master":
            env.update(PIBOT_SKILLS_DIR=str(SKILLS), COUNTED=str(self.executions))
            env.update(PIBOT_SLOTS=str(SLOTS))
        return env

    def _start(
        self, name: str, args: List[str], env: Mapping[str, str], health_port: int = 0
    ) -> Process:
        copied = [str(self._program) if a == str(program()) else a for a in args]
        return super()._start(name, copied, env, health_port)

    def state_dir(self, name: str) -> Path:
        return self.disks.get(name) or self.folder / name / "state"

    def journal(self) -> Path:
        return self.state_dir("master") / "master" / "journal.db"

    def everyone(self) -> List[str]:
        return [n for n in ("broker", "master", *self.names) if n in self.processes]

    # --- dying and coming back --------------------------------------------------------------------

    def strike(self, name: str, away_s: Optional[float] = None, wrong_clock: str = "") -> None:
        """SIGKILL; the clock of its next life may be wrong, the monotonic one stays right."""
        self.away[name] = time.monotonic() + (_restart_s(name) if away_s is None else away_s)
        self.wrong_clocks[name] = wrong_clock
        self.kill(name)

    def doom(self, name: str, rng: random.Random) -> None:
        """It will die soon, at a named point that nobody chose."""
        points = (("before", "commit"), ("after", "commit"), ("before", "publish"))
        when, call = rng.choice(points)
        self.points[name].ask(when, call, nth=rng.randint(1, 30))

    def tend(self) -> "Tuple[List[str], List[str]]":
        """Start again what has ended and may come back: (who died by itself, who is back)."""
        now = time.monotonic()
        down = [name for name in self.everyone() if not self.processes[name].alive]
        died = [name for name in down if name not in self.away]
        for name in died:  # at its point
            self.away[name] = now + _restart_s(name)
        back = [name for name in down if self.away[name] <= now]
        for name in back:
            del self.away[name]
            old = self.processes[name]
            old.env = {k: v for k, v in old.env.items() if k not in CLOCK}
            wrong = self.wrong_clocks.pop(name, "")
            if wrong:
                old.env.update(zip(CLOCK, (str(FAKETIME), wrong, "1")))
            self.restart(name)
        return died, back

    def freeze(self, name: str) -> None:
        self.kill(name, signal.SIGSTOP)

    def thaw(self, name: str) -> None:
        if self.processes[name].alive:
            self.kill(name, signal.SIGCONT)

    def twin(self, name: str) -> None:
        """Another machine from a copy of its card: the same name, the same store."""
        home = self.folder / f"twin-{name}"
        shutil.rmtree(home, ignore_errors=True)
        shutil.copytree(self.state_dir(name), home / "state", ignore=_fillers)
        env = {**self.env_of(name), "PIBOT_STATE_DIR": str(home / "state")}
        self.start_worker(name, process=f"twin-{name}", **env)

    def end_twin(self, name: str) -> None:
        twin = self.processes.pop(f"twin-{name}")
        if twin.alive:
            twin.popen.kill()
            twin.popen.wait()

    def fill(self, name: str) -> None:
        """Leave no byte on its disk."""
        with (self.disks[name] / "filler").open("wb", buffering=0) as file:
            room = os.statvfs(self.disks[name])
            try:
                os.posix_fallocate(file.fileno(), 0, max(1, room.f_bavail * room.f_bsize))
            except OSError:
                pass
            file.seek(0, os.SEEK_END)
            try:
                while True:
                    file.write(b"x" * 4096)
            except OSError:
                pass

    def free(self, name: str) -> None:
        (self.disks[name] / "filler").unlink(missing_ok=True)

    def memory_mb(self, name: str) -> Optional[float]:
        """Resident memory; None while it does not run."""
        process: Any = self.processes[name]
        try:
            pages = Path(f"/proc/{process.popen.pid}/statm").read_text().split()[1]
        except OSError:
            return None
        return int(pages) * os.sysconf("SC_PAGE_SIZE") / 1e6


def _restart_s(name: str) -> float:
    """How long systemd would wait; what is measured of master and broker begins with a start."""
    return 0.0 if name in CENTRE else WORKER_RESTART_S


def _fillers(_folder: str, names: List[str]) -> List[str]:
    return [n for n in names if n == "filler" or n.endswith(".lock")]
