"""Works a real fleet steadily and looks whether anything grows: memory, descriptors, threads, disk.

    python bench/soak.py --seconds 3600

Everything is real: build/pibot.pyz as master and three workers, Mosquitto, a scripted model
endpoint. One worker is killed now and then; its lives are told apart. The first quarter is warm-up
and is left out. The samples go to a CSV file. Ends with 1 if anything grew or went wrong.

Runs of an hour or more begin with as many goals as the master remembers, so that its memory is full
of them, and judge the journal: what ended in the last quarter of an hour is never pruned.
"""

from __future__ import annotations

import argparse
import csv
import itertools
import os
import platform
import shutil
import signal
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Dict, List, Optional, TextIO

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "src")]

from growth import Sample, ends, faults, look, slope_per_hour  # noqa: E402
from soak_load import SKILLS, Load, fill  # noqa: E402

import fleet_processes  # noqa: E402
from fleet_processes import FleetProcesses  # noqa: E402
from model_server import (  # noqa: E402
    ModelServer,
    Request,
    Scripted,
    calls,
    default_script,
    is_agent,
    serving,
)
from pibot import config  # noqa: E402
from pibot.fleet.board import REMEMBERED  # noqa: E402
from pibot.roles.client import Fleet  # noqa: E402

WORKERS = ("worker-1", "worker-2", "worker-3")
MORTAL = "worker-3"
EVERY_S = 10.0
KILL_EVERY_S = 300.0
KEEP_GOALS = 500
WHOLE_S = 3600.0  # a run that is judged as a whole; shorter ones are trials
SELF = "client, model"  # this process


class Watch:
    """The samples of every process, in memory and in a file as they come."""

    def __init__(self, fleet: FleetProcesses, file: TextIO) -> None:
        self._fleet, self._file, self._csv = fleet, file, csv.writer(file)
        self._csv.writerow(["process", "life", *Sample.columns()])
        self._began = time.monotonic()
        self.lives: Dict[str, List[List[Sample]]] = {}

    def new_life(self, name: str) -> None:
        self.lives.setdefault(name, []).append([])

    def look(self) -> None:
        at_s = time.monotonic() - self._began
        for name, lives in self.lives.items():
            process = self._fleet.processes.get(name)
            pid = process.popen.pid if process else os.getpid()
            state = self._fleet.folder / name / "state" if process else None
            sample = look(pid, at_s, state)
            if sample is not None:
                lives[-1].append(sample)
                self._csv.writerow([name, len(lives), *sample.row()])
        self._file.flush()


def think(request: Request) -> Scripted:
    """An agent uses a tool once, then answers; the rest as usual."""
    if is_agent(request) and request["messages"][-1]["role"] != "tool":
        return calls(("echo", {"text": "looked"}), words="I look.")
    return default_script(request)


def start(fleet: FleetProcesses, slots: int) -> None:
    skills = fleet.folder / "skills"
    skills.mkdir()
    (skills / "soak.py").write_text(SKILLS)
    # A copy: whoever builds within the hour must not change what is started again.
    copy = shutil.copy(fleet_processes.program(), fleet.folder / "pibot.pyz")
    fleet_processes.program = lambda: copy
    fleet.start_master(PIBOT_KEEP_GOALS=str(KEEP_GOALS))
    for name in WORKERS:
        fleet.start_worker(name, PIBOT_SKILLS_DIR=str(skills), PIBOT_SLOTS=str(slots))
    fleet.wait_idle(len(WORKERS))


def soak(
    fleet: FleetProcesses, load: Load, watch: Watch, model: ModelServer, args: argparse.Namespace
) -> None:
    for name in ("master", *WORKERS, "broker", SELF):
        watch.new_life(name)
    end = time.monotonic() + args.seconds
    kill_at = time.monotonic() + min(KILL_EVERY_S, args.seconds / 3)
    signals = itertools.cycle((signal.SIGKILL, signal.SIGTERM))
    load.start()
    try:
        while time.monotonic() < end:
            time.sleep(EVERY_S)
            model.requests.clear()
            model.headers.clear()
            watch.look()
            if time.monotonic() > kill_at:
                kill_at = time.monotonic() + KILL_EVERY_S
                fleet.kill(MORTAL, next(signals))
                fleet.restart(MORTAL)
                watch.new_life(MORTAL)
    finally:
        load.stop()


def report(watch: Watch, warm_up_s: float, judge_journal: bool) -> List[str]:
    """Print a row a process; return what is wrong."""
    print(f"{'process':14} {'samples':>7} {'RSS MB':>15} {'MB/h':>7} {'PSS MB':>7} {'descr.':>8} "
          f"{'threads':>8} {'journal MB':>13} {'state MB':>13}")  # fmt: skip
    wrong = []
    for name, lives in watch.lives.items():
        if name == MORTAL:
            peaks = [f"{max(s.rss_mb for s in life):.1f}" for life in lives if life]
            print(f"{name:14} {len(lives)} lives, peak RSS MB of each: {', '.join(peaks)}")
            continue
        warm = [s for s in lives[0] if s.at_s >= warm_up_s]
        if len(warm) < 3:
            wrong.append(f"{name}: too few samples")
            continue
        print(_row(name, warm))
        but = [] if judge_journal else ["journal_mb"]
        if name == SELF:  # the model's server and thousands of strangers: none of it is PiBot's
            but += ["descriptors", "threads", "rss_mb"]
        wrong += [f"{name}: {fault}" for fault in faults(warm, but)]
    return wrong


def _row(name: str, warm: List[Sample]) -> str:
    def pair(field: str, digits: int = 1) -> str:
        first, last = ends(warm, lambda s: getattr(s, field))
        return f"{first:.{digits}f}→{last:.{digits}f}"

    slope = slope_per_hour(warm, lambda s: s.rss_mb)
    return (
        f"{name:14} {len(warm):7} {pair('rss_mb'):>15} {slope:7.2f} {warm[-1].pss_mb:7.1f} "
        f"{pair('descriptors', 0):>8} {pair('threads', 0):>8} {pair('journal_mb'):>13} "
        f"{pair('state_mb'):>13}"
    )


def machine() -> str:
    return f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, {platform.platform()}"


def main(argv: Optional[List[str]] = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seconds", type=float, default=3600.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--slots", type=int, default=4, help="of each worker")
    parser.add_argument("--csv", type=Path, default=Path("soak.csv"), help="where the samples go")
    args = parser.parse_args(argv)
    with (
        tempfile.TemporaryDirectory() as folder,
        serving(think) as model,
        args.csv.open("w", newline="") as file,
    ):
        env = {"VOLC_API_KEY": model.key, "VOLC_BASE_URL": model.url, "MODEL_NAME": model.model}
        with FleetProcesses(Path(folder), env=env) as fleet:
            start(fleet, args.slots)

            def connect() -> Fleet:
                none = Path(fleet._no_settings())
                return Fleet.connect(config.load("client", {}, fleet.env, none, Path("pibot.pyz")))

            if args.seconds >= WHOLE_S:
                with connect() as client:
                    fill(client, REMEMBERED)
            load = Load(connect, fleet.port, "home", args.seed)
            watch = Watch(fleet, file)
            soak(fleet, load, watch, model, args)
            print(
                f"{machine()}; {args.seconds:g} s, the first quarter left out, seed {args.seed}\n"
            )
            wrong = report(watch, args.seconds / 4, args.seconds >= WHOLE_S)
            print("\n" + ", ".join(f"{n} {name}" for name, n in sorted(load.outcomes.items())))
            wrong += load.wrong[:20]
            left = sum(thread.name == "fleet" for thread in threading.enumerate())
            wrong += [f"{left} threads of closed clients still run"] if left else []
            tracebacks = [n for n, p in fleet.processes.items() if "Traceback" in p.said()]
            wrong += [f"{name}: a traceback in its log" for name in tracebacks]
            if wrong:
                print(fleet.logs())
    print("\n" + ("\n".join(["FAILED", *wrong]) if wrong else "passed: nothing grows"))
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
