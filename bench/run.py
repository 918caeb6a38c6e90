"""Prints what a fleet costs on this machine: round trip, burst, memory. `make bench` runs it.

Everything is real: build/pibot.pyz as master and workers, Mosquitto on a free loopback port with
TCP_NODELAY, SQLite with synchronous=FULL on both sides. Machines differ and are shared: compare
lines of one run, not of two.
"""

from __future__ import annotations

import argparse
import os
import queue
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, List, Tuple

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "src")]

from fleet_processes import FleetProcesses, Process  # noqa: E402
from pibot import config  # noqa: E402
from pibot import messages as msg  # noqa: E402
from pibot.roles.client import Fleet  # noqa: E402
from pibot.roles.common import new_goal_id  # noqa: E402

ECHO = {"text": "x" * 32}
Row = Tuple[str, str, str]


def connect(fleet: FleetProcesses) -> Fleet:
    settings = config.load("client", {}, fleet.env, Path(fleet._no_settings()), Path("pibot.pyz"))
    return Fleet.connect(settings)


def round_trips(client: Fleet, count: int) -> Row:
    """A no-op skill task, one after the other: submitted, run, recorded on both sides, told."""
    times: List[float] = []
    for _ in range(count):
        began = time.perf_counter()
        assert client.run_skill("echo", ECHO)["state"] == "succeeded"
        times.append((time.perf_counter() - began) * 1000)
    times.sort()
    spread = f"p50 {statistics.median(times):.1f} ms, p95 {times[int(count * 0.95)]:.1f} ms"
    return f"round trip, {count} tasks", spread, "p50 at most 15 ms"


def cpu_s(pids: List[int]) -> float:
    """Processor time of processes until now, in user and system mode."""
    ticks = 0
    for pid in pids:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def submit_all(client: Fleet, count: int) -> float:
    """Echo tasks, submitted at once, until the last outcome is known; return how many a second."""
    events = {new_goal_id(): queue.SimpleQueue() for _ in range(count)}
    client._following.update(events)
    began = time.perf_counter()
    sent = [
        client.send(msg.Submit(goal_id, skill="echo", args=ECHO, follow=True)) for goal_id in events
    ]
    assert all(pending.wait(120) is not None for pending in sent)
    for goal_id, heard in events.items():
        done = client._wait(goal_id, heard, 120, None)
        assert done["state"] == "succeeded", done
    return count / (time.perf_counter() - began)


def burst(client: Fleet, fleet: FleetProcesses, count: int, workers: int) -> List[Row]:
    """The throughput, and what each party spends on a task."""
    parties = {
        "master": [fleet.processes["master"].popen.pid],
        "workers": [p.popen.pid for n, p in fleet.processes.items() if n.startswith("worker")],
        "broker": [fleet.processes["broker"].popen.pid],
        "client": [os.getpid()],
    }
    before = {name: cpu_s(pids) for name, pids in parties.items()}
    rate = submit_all(client, count)
    spent = {n: (cpu_s(pids) - before[n]) * 1000 / count for n, pids in parties.items()}
    return [
        (f"burst of {count}, {workers} workers", f"{rate:.0f} tasks/s", "at least 300 tasks/s"),
        ("processor time a task", ", ".join(f"{n} {ms:.2f} ms" for n, ms in spent.items()), ""),
    ]


def memory_mb(process: Process) -> float:
    for line in Path(f"/proc/{process.popen.pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    raise AssertionError(f"{process.name} has no memory: is it running?")


def table(rows: List[Row]) -> str:
    header: List[Row] = [("what", "measured", "target")]
    wide = [max(len(r[i]) for r in header + rows) for i in range(3)]
    return "\n".join(
        "  ".join(r[i].ljust(wide[i]) for i in range(3)).rstrip() for r in header + rows
    )


def measure(fleet: FleetProcesses, args: argparse.Namespace) -> List[Row]:
    fleet.start_master()
    names = [f"worker-{i + 1}" for i in range(args.workers)]
    idle = fleet.start_worker(names[0])
    fleet.wait_idle(1)
    waiting = f"{memory_mb(idle):.1f} MB"
    for name in names[1:]:
        fleet.start_worker(name)
    fleet.wait_idle(args.workers)
    client = connect(fleet)
    try:
        rows = [
            round_trips(client, args.round_trips),
            *burst(client, fleet, args.tasks, args.workers),
            ("memory of an idle worker", waiting, "at most 32 MB"),
        ]
    finally:
        client.close()
    busy = ", ".join(f"{memory_mb(fleet.processes[n]):.1f}" for n in ("master", names[0]))
    return [*rows, ("memory afterwards, master and a worker", f"{busy} MB", "")]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--tasks", type=int, default=2000, help="size of the burst")
    parser.add_argument("--round-trips", type=int, default=200)
    parser.add_argument("--workers", type=int, default=4)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, FleetProcesses(Path(folder)) as fleet:
        rows: List[Any] = measure(fleet, args)
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, Mosquitto\n")
    print(table(rows))


if __name__ == "__main__":
    main()
