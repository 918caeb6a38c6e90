"""Prints what signing costs: the same bursts in a fleet with keys and in one without.

Both fleets stand beside each other and work in turns, so that whatever else this machine does
meets both. The processor time of master, workers and client a task is the steadier figure.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Dict, List, Tuple

from run import ECHO, FleetProcesses, connect, cpu_s, submit_all, table

from pibot.roles.client import Fleet

KEY = "5c" * 32  # of all: what a signature costs does not depend on whose it is
WORKERS = 2
WARM_UP = 200


class Side:
    """One of the two fleets, and what its bursts took."""

    def __init__(self, opened: ExitStack, folder: Path, env: Dict[str, str]) -> None:
        folder.mkdir()
        self.fleet = opened.enter_context(FleetProcesses(folder, env=env))
        self.fleet.start_master()
        for number in range(WORKERS):
            self.fleet.start_worker(f"worker-{number + 1}")
        self.fleet.wait_idle(WORKERS)
        self.client: Fleet = connect(self.fleet)
        opened.callback(self.client.close)
        self.rates: List[float] = []
        self.costs: List[float] = []

    def burst(self, count: int, keep: bool = True) -> None:
        pids = [p.popen.pid for n, p in self.fleet.processes.items() if n != "broker"]
        pids.append(os.getpid())
        before = cpu_s(pids)
        rate = submit_all(self.client, count)
        if keep:
            self.rates.append(rate)
            self.costs.append((cpu_s(pids) - before) * 1000 / count)


def rows(signed: Side, bare: Side) -> List[Tuple[str, str, str]]:
    def row(name: str, a: List[float], b: List[float], unit: str) -> Tuple[str, str, str]:
        ratio = statistics.median(x / y for x, y in zip(a, b))
        each = f"{statistics.median(a):.4g} and {statistics.median(b):.4g} {unit}"
        return name, f"{each}, ratio {ratio:.3f}", ""

    cost = row("processor time a task", signed.costs, bare.costs, "ms")
    rate = row("throughput", signed.rates, bare.rates, "tasks/s")
    return [(*cost[:2], "ratio at most 1.05"), (*rate[:2], "ratio at least 0.95")]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--tasks", type=int, default=500, help="in each burst")
    parser.add_argument("--rounds", type=int, default=12)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, ExitStack() as opened:
        signed = Side(opened, Path(folder, "signed"), {"PIBOT_KEY": KEY})
        bare = Side(opened, Path(folder, "bare"), {})
        for side in (signed, bare):
            side.burst(WARM_UP, keep=False)
        for number in range(args.rounds):  # whoever begins has it colder: take turns
            for side in (signed, bare) if number % 2 else (bare, signed):
                side.burst(args.tasks)
        print(f"{args.rounds} bursts of {args.tasks} {sorted(ECHO)} tasks each, medians\n")
        print(table([("", "signed and unsigned", "target"), *rows(signed, bare)]))


if __name__ == "__main__":
    main()
