"""What the sandbox costs: the `shell` skill against the same program started bare, in turns.

python bench/sandbox.py [--rounds 60]
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Callable, Dict, List

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "src"))

from pibot.agent.library import declared  # noqa: E402
from pibot.agent.tools import Context, Toolbox  # noqa: E402
from pibot.permits import Permits  # noqa: E402
from pibot.skills import _sandbox, shell  # noqa: E402

BOX = Toolbox(declared(shell))


def bare(_: Context) -> None:
    subprocess.run(["/bin/true"], check=True, capture_output=True)


def bare_shell(_: Context) -> None:
    subprocess.run(["/bin/sh", "-c", "/bin/true"], check=True, capture_output=True)


def called(ctx: Context) -> None:
    result = BOX.call("shell", {"command": "/bin/true"}, ctx)
    if not result.success:
        raise SystemExit(result.output)


WAYS: Dict[str, Callable[[Context], None]] = {
    "a bare subprocess": bare,
    "the same through /bin/sh": bare_shell,
    "the skill, in the sandbox": called,
}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=60)
    rounds = parser.parse_args().rounds
    why = _sandbox.problem()
    if why:
        raise SystemExit(f"There is no sandbox here: {why}")
    took: Dict[str, List[float]] = {name: [] for name in WAYS}
    with tempfile.TemporaryDirectory() as folder:
        permits = Permits(shell=True)
        ctx = Context(Path(folder), threading.Event(), time.monotonic() + 3600, "t:1", permits)
        for _ in range(rounds):
            for name, way in WAYS.items():
                began = time.perf_counter()
                way(ctx)
                took[name].append((time.perf_counter() - began) * 1000)
    show(took)


def show(took: Dict[str, List[float]]) -> None:
    base = statistics.median(took["a bare subprocess"])
    print(f"{'/bin/true, ms':<28}{'median':>9}{'p90':>9}{'more':>9}")
    for name, times in took.items():
        median, p90 = statistics.median(times), statistics.quantiles(times, n=10)[-1]
        print(f"{name:<28}{median:>9.1f}{p90:>9.1f}{median - base:>9.1f}")


if __name__ == "__main__":
    main()
