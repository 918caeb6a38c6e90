"""Feeds bent payloads to every decoder that eats bytes from outside, and prints what came of it.

    python bench/fuzz.py --payloads 100000 --seed 1
    python bench/fuzz.py --only "model stream" --seed 7

Each decoder runs in a process of its own. Ends with 1 after an unhandled exception, a payload that
takes more than two seconds, a decoder that no longer serves good payloads, memory that grows, or a
process that dies; the payload stands there as a Python literal.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import platform
import signal
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import Connection
from pathlib import Path
from typing import List, Optional

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "src")]

from fuzzing.running import Report, run  # noqa: E402
from fuzzing.targets import DECODERS  # noqa: E402
from pibot.memory import give_back  # noqa: E402

HEADER = "decoder             payloads  a second  accepted  blocks kept   RSS KB"
FRESH = multiprocessing.get_context("spawn")


def fuzz(name: str, payloads: int, seed: int) -> Report:
    """Feed a decoder in a process of its own. Should that die, then this is what is found."""
    ours, theirs = FRESH.Pipe(duplex=False)
    child = FRESH.Process(target=_child, args=(name, payloads, seed, theirs), name=name)
    with ours:
        with theirs:
            child.start()
        # Now only the child holds the other end: when it dies, there is nothing more to read.
        try:
            report: Optional[Report] = ours.recv()
        except (EOFError, OSError):
            report = None
    child.join()
    if report is None or child.exitcode:
        report = report or Report(name)
        report.findings.append(_death(child.exitcode or 0))
    return report


def _child(name: str, payloads: int, seed: int, answer: Connection) -> None:
    give_back()  # so that the process is as large as what it holds
    decoder = next(d for d in DECODERS if d.name == name)
    with tempfile.TemporaryDirectory() as folder:
        answer.send(run(decoder, payloads, seed, Path(folder)))


def _death(status: int) -> str:
    if status < 0:
        return f"its process was killed by {signal.Signals(-status).name}; is there enough memory?"
    return f"its process ended by itself, with status {status}"


def row(report: Report) -> str:
    share = report.accepted / max(1, report.payloads)
    rate = report.payloads / max(1e-9, report.seconds)
    good = "" if not report.findings else f"  {len(report.findings)} FINDINGS"
    return (
        f"{report.name:18} {report.payloads:9,} {rate:9,.0f} {share:9.1%} {report.blocks:+12,} "
        f"{report.rss_kb:+8,.0f}{good}"
    )


def main(argv: Optional[List[str]] = None) -> int:
    names = [d.name for d in DECODERS]
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--payloads", type=int, default=100_000, help="for each decoder")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", choices=names, metavar="NAME", help=", ".join(names))
    args = parser.parse_args(argv)
    cores = len(os.sched_getaffinity(0))
    print(f"{cores} cores, Python {platform.python_version()}, seed {args.seed}\n\n{HEADER}")
    chosen = [name for name in names if args.only in (None, name)]
    reports = []
    with ThreadPoolExecutor(cores) as threads:
        for report in threads.map(lambda name: fuzz(name, args.payloads, args.seed), chosen):
            reports.append(report)
            print(row(report), flush=True)
    for report in reports:
        for finding in report.findings:
            print(f"\n{report.name}, seed {args.seed}: {finding}", file=sys.stderr)
    failed = [report.name for report in reports if report.findings]
    total = sum(report.payloads for report in reports)
    print(f"\n{'FAILED: ' + ', '.join(failed) if failed else f'passed: {total:,} payloads'}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
