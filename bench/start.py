"""Prints what a start of build/pibot.pyz costs on this machine: time, memory, disk. Medians.

Cold: nothing is unpacked yet. Warm: it was started before. A service has started when /health says
healthy; a worker needs its master's answer for that. `make bench` runs it.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import Callable, Dict, List, Tuple

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "src")]

from run import Row, memory_mb, table  # noqa: E402

from fleet_processes import FleetProcesses, Process, free_port, program  # noqa: E402
from model_server import serving  # noqa: E402

LIMIT_S = 60.0
COLD, WARM, COMMAND = "at most 0.8 s", "at most 0.5 s", "at most 0.2 s"


class Bench:
    """Starts the program with one Python and one place to unpack to, which `cold` empties."""

    def __init__(self, python: str, folder: Path, fleet: FleetProcesses) -> None:
        self._python, self._folder, self._fleet = python, folder, fleet
        self.root = folder / "root"
        self.memory_mb: Dict[str, float] = {}

    def cold(self) -> None:
        shutil.rmtree(self.root, ignore_errors=True)

    def command(self, *words: str) -> float:
        """Seconds until a command has ended."""
        began = time.perf_counter()
        subprocess.run(self._line(*words), env=self._env(), stdout=subprocess.DEVNULL, check=True)
        return time.perf_counter() - began

    def service(self, name: str, *words: str, **env: str) -> float:
        """Seconds until a service is healthy; it is then stopped."""
        port = free_port()
        told = self._folder / "log"
        with told.open("ab") as log:
            began = time.perf_counter()
            process = subprocess.Popen(
                self._line("--role", *words, "--port", str(port)),
                env=self._env(PIBOT_STATE_DIR=tempfile.mkdtemp(dir=self._folder), **env),
                stdout=log,
                stderr=log,
            )
            try:
                self._wait_until_healthy(port, began)
                took = time.perf_counter() - began
                self.memory_mb[name] = memory_mb(Process(name, process, told))
            finally:
                process.terminate()
                process.wait()
        return took

    def _line(self, *words: str) -> List[str]:
        return [self._python, "-I", str(program()), *words]

    def _env(self, **more: str) -> Dict[str, str]:
        env = {**self._fleet.env, "SHIV_ROOT": str(self.root), **more}
        env.pop("PYTHONDONTWRITEBYTECODE", None)
        return env

    def _wait_until_healthy(self, port: int, began: float) -> None:
        while time.perf_counter() - began < LIMIT_S:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=1) as said:
                    if json.load(said)["status"] == "healthy":
                        return
            except OSError:
                time.sleep(0.002)
        raise AssertionError(f"not healthy: {(self._folder / 'log').read_text()[-2000:]}")


def disk_mb(folder: Path) -> float:
    return sum(path.lstat().st_blocks * 512 for path in folder.rglob("*")) / 1e6


def starts(bench: Bench, rounds: int) -> List[Row]:
    other = {"PIBOT_FLEET": "other"}  # beside the fleet whose master the worker needs
    alone = "master with its own broker"
    cases: List[Tuple[str, Callable[[], float], bool]] = [
        ("version", lambda: bench.command("version"), False),
        ("--help", lambda: bench.command("--help"), False),
        ("worker", lambda: bench.service("worker", "worker", "--worker-id", "w1"), True),
        ("master", lambda: bench.service("master", "master", **other), True),
        (alone, lambda: bench.service(alone, "master", **elsewhere()), True),
    ]
    rows: List[Row] = []
    for name, measure, is_service in cases:
        cold, warm = [], []
        for _ in range(rounds):
            bench.cold()
            cold.append(measure())
            warm.append(measure())
        rows.append((f"{name}, cold", spread(cold), COLD if is_service else ""))
        rows.append((f"{name}, warm", spread(warm), WARM if is_service else COMMAND))
    return rows


def elsewhere() -> Dict[str, str]:
    """Settings under which a master finds no broker."""
    return {"MQTT_HOST": "", "MQTT_PORT": str(free_port())}


def spread(times: List[float]) -> str:
    return f"{statistics.median(times):.2f} s ({min(times):.2f} to {max(times):.2f})"


def model_calls(bench: Bench, fleet: FleetProcesses) -> List[Row]:
    """A goal for a worker's agent; the first one unpacks the model client."""
    fleet.env["SHIV_ROOT"] = str(bench.root)
    bench.cold()
    rows: List[Row] = []
    with serving() as model:
        env = {"VOLC_API_KEY": model.key, "VOLC_BASE_URL": model.url, "MODEL_NAME": model.model}
        fleet.start_worker("agent", **env)
        fleet.wait_idle(1)
        for name in ("first", "second"):
            began = time.perf_counter()
            fleet.run("run", "describe this machine", "--on", "agent")
            took = f"{time.perf_counter() - began:.2f} s"
            rows.append((f"{name} goal with a model", took, ""))
    return [*rows, ("disk afterwards", f"{disk_mb(bench.root):.1f} MB", "at most 40 MB")]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--python", default=sys.executable, help="which Python starts it")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, FleetProcesses(Path(name, "fleet")) as fleet:
        bench = Bench(options.python, Path(name), fleet)
        fleet.start_master()
        rows = starts(bench, options.rounds)
        rows += [
            (f"memory, idle {n}", f"{mb:.1f} MB", "at most 30 MB" if n == "worker" else "")
            for n, mb in bench.memory_mb.items()
        ]
        rows += model_calls(bench, fleet)
        size = program().stat().st_size / 1e6
        rows.append(("the file", f"{size:.1f} MB", "at most 25 MB"))
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, {options.python}\n")
    print(table(rows))


if __name__ == "__main__":
    main()
