"""Kills, freezes, cuts off and fills up a fleet of real processes while it works.

    bench/chaos.py --tasks 300 --seed 7

First with Mosquitto without persistence, then with the embedded broker, which dies with its master.
It ends with a table and a verdict. The exit status is 1 if an acknowledged goal was lost, a result
recorded twice, a task left undone, a kill never made good, or a limit missed; then the logs are
kept. A run of 10 000 tasks or more goes on with further ones until each limit can be judged; a
shorter one judges those for which it has measured enough.
"""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import sys
import tempfile
from pathlib import Path
from statistics import median
from typing import Dict, List, Tuple

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "src")]

from chaos_parties import Parties  # noqa: E402
from chaos_phase import ENOUGH, LIMITS_S, Count, Phase  # noqa: E402
from chaos_watch import p95  # noqa: E402

MAX_RATE = 16.0  # goals a second
SHARES = {"mosquitto": 0.75, "amqtt": 0.25}  # of the tasks, when both brokers serve
SHORT_S = 45.0  # how long few tasks are spread over
LONGEST_S = 40.0  # the longest fault
LONG = 10_000  # tasks; a run of so many measures enough recoveries of each kind
PACKETS = ("lost", "delayed", "repeated")


def cells(count: Count) -> Dict[str, str]:
    """What the table says of a phase."""
    c, packets = count, count.packets
    found = {
        "seconds": f"{c.seconds:.0f}",
        "faults": f"{sum(c.faults.values())}",
        "goals acknowledged": f"{c.goals}",
        "goals refused": f"{c.refused}",
        "goals lost": f"{len(c.lost)}",
        "tasks, results": f"{c.tasks}, {c.results}",
        "second results": f"{len(c.second)}",
        "stuck tasks": f"{len(c.stuck)}",
        "goals that ended otherwise": f"{len(c.wrong)}",
        "executions": f"{c.executions}",
        "executions beyond one a task": f"{c.repeated}",
        "executions beyond one an attempt": f"{len(c.unfenced)}",
        "packets lost, late, twice": ", ".join(str(packets[k]) for k in PACKETS),
    }
    for role in LIMITS_S:
        found[f"recovery of a {role}: n, p50, p95 s"] = _times(c.recovery[role].clear)
    for role in LIMITS_S:
        found[f"{role} among other faults: n, p50, p95 s"] = _times(c.recovery[role].compound)
    for role, (first, last) in c.memory.items():
        found[f"memory of a {role}, first and last quarter, MB"] = f"{first:.1f}, {last:.1f}"
    return found


def _times(seconds: List[float]) -> str:
    if not seconds:
        return "-"
    return f"{len(seconds)}, {median(seconds):.1f}, {p95(seconds):.1f}"


def table(counts: List[Count]) -> str:
    columns = [cells(c) for c in counts]
    lines = [["", *(c.broker for c in counts)]]
    lines += [[name, *(column[name] for column in columns)] for name in columns[0]]
    kinds = sorted({kind for c in counts for kind in c.faults})
    lines += [[f"fault: {kind}", *(str(c.faults[kind]) for c in counts)] for kind in kinds]
    wide = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    return "\n".join("  ".join(c.ljust(w) for c, w in zip(line, wide)).rstrip() for line in lines)


def machine() -> str:
    load = os.getloadavg()[0]
    python = platform.python_version()
    return f"{platform.machine()}, {os.cpu_count()} cores, load {load:.1f}, Python {python}"


def phases(broker: str, tasks: int) -> List[Tuple[str, int]]:
    if broker != "both":
        return [(broker, tasks)]
    return [(name, round(tasks * share)) for name, share in SHARES.items()]


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--tasks", type=int, default=300)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--broker", choices=["both", *SHARES], default="both")
    parser.add_argument("--workers", type=int, default=6)
    parser.add_argument("--samples", type=int, help="recoveries of each kind to measure at least")
    args = parser.parse_args()
    if args.samples is None:
        args.samples = ENOUGH if args.tasks >= LONG else 0
    folder, counts = Path(tempfile.mkdtemp(prefix="pibot-chaos-")), []
    print(f"seed {args.seed}, {args.tasks} tasks, {args.workers} workers; {machine()}", flush=True)
    passed = False
    try:
        for broker, tasks in phases(args.broker, args.tasks):
            rate = min(MAX_RATE, args.tasks / SHORT_S)
            longest_s = min(LONGEST_S, tasks / rate / 5)
            with Parties(folder / broker, broker, args.workers, tasks, args.seed) as parties:
                parties.start_all()
                phase = Phase(parties, tasks, args.samples, args.seed, longest_s)
                counts.append(phase.run(rate))
        passed = verdict(counts)
    finally:
        if passed:
            shutil.rmtree(folder)
        else:
            print(f"The logs are kept in {folder}")
    return 0 if passed else 1


def verdict(counts: List[Count]) -> bool:
    print(table(counts))
    violations = [f"FAILED: {c.broker}: {v}" for c in counts for v in c.violations()]
    print("\n".join(violations) or "PASSED: nothing is lost, nothing is recorded twice")
    return not violations


if __name__ == "__main__":
    sys.exit(main())
