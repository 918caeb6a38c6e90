"""Many runs of the simulator, on all cores; see docs/reliability.md.

python -m sim.run --seeds 2000              seeds 1 to 2000, then every known bug
python -m sim.run --seed 42 [--bug NAME]    one of them, with its timeline
"""

from __future__ import annotations

import argparse
import hashlib
import multiprocessing
import sys
import time
from typing import Iterable, List, Optional, Tuple

from sim.bugs import BUGS, make
from sim.world import Outcome, run

SEEDS_A_BUG = 200
SHOWN = 5  # failures with their timelines
Summary = Tuple[int, str, str, int, int, int, float]  # of an outcome: what crosses processes


def main(args: Optional[List[str]] = None) -> int:
    wanted = _parse(args)
    if wanted.seed is not None:
        return _show(wanted.seed, wanted.bug, wanted.lines)
    began = time.monotonic()
    with multiprocessing.Pool(wanted.processes) as pool:
        seeds = range(wanted.first, wanted.first + wanted.seeds)
        failed = _hold(pool.imap_unordered(_run, seeds, chunksize=8), began)
        unseen = [] if wanted.no_bugs else _see(pool, wanted.bug)
    for seed in sorted(failed)[:SHOWN]:
        print()
        _show(seed, "", wanted.lines)
    print(f"{time.monotonic() - began:.0f} s in all")
    return 1 if failed or unseen else 0


def _parse(args: Optional[List[str]]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m sim.run", description=__doc__.split("\n")[0])
    parser.add_argument("--seeds", type=int, default=200, help="how many runs (200)")
    parser.add_argument("--first", type=int, default=1, help="the first seed (1)")
    parser.add_argument("--seed", type=int, help="this run only, with its timeline")
    parser.add_argument("--bug", default="", choices=["", *BUGS], help="switch a known bug on")
    parser.add_argument("--no-bugs", action="store_true", help="leave the known bugs out")
    parser.add_argument("--lines", type=int, default=60, help="of a timeline, the last (60)")
    parser.add_argument("--processes", type=int, help="at once (one a core)")
    return parser.parse_args(args)


def _run(seed: int, bug: str = "") -> Summary:
    o = run(seed, make(bug))
    return o.seed, o.rule, o.what, o.messages, o.runs, o.goals, o.seconds


def _hold(found: Iterable[Summary], began: float) -> List[int]:
    """Without a bug nothing may be found; returns the seeds with which something was."""
    outcomes = list(found)
    for seed, rule, what, *_ in sorted(outcomes):
        if what:
            print(f"seed {seed}: {rule}: {what}")
    failed = [seed for seed, _, what, *_ in outcomes if what]
    took = time.monotonic() - began
    messages, runs, goals, seconds = (sum(o[i] for o in outcomes) for i in (3, 4, 5, 6))
    print(
        f"{len(outcomes)} seeds in {took:.0f} s ({len(outcomes) / took:.0f}/s), "
        f"{len(failed)} failed: {seconds / 3600:.0f} h of virtual time, {messages:,} messages, "
        f"{goals:,} goals acknowledged, {runs:,} attempts"
    )
    return failed


def _see(pool: "multiprocessing.pool.Pool", only: str) -> List[str]:
    """Every known bug must be found; returns the names of those that were not."""
    names = [only] if only else list(BUGS)
    print(f"\n{'known bug':44} {'found at':>8}  the rule that it breaks")
    unseen = []
    for name, found in pool.imap(_first, names):
        if found is None:
            unseen.append(name)
            print(f"{name:44} NOT within {SEEDS_A_BUG} seeds")
        else:
            print(f"{name:44} {found[0]:>8}  {found[1]}")
    return unseen


def _first(bug: str) -> Tuple[str, Optional[Summary]]:
    for seed in range(1, SEEDS_A_BUG + 1):
        found = _run(seed, bug)
        if found[2]:
            return bug, found
    return bug, None


def _show(seed: int, bug: str, lines: int) -> int:
    found = run(seed, make(bug))
    print("\n".join(found.timeline.about(found.key, lines)))
    print(f"\nseed {seed}: {found.rule + ': ' + found.what if found.what else 'all is well'}")
    print(f"again: {command(found, bug)}    fingerprint: {fingerprint(found)}")
    return 1 if found.what else 0


def command(found: Outcome, bug: str = "") -> str:
    """What shows this run again."""
    return f"make sim SEED={found.seed}" + (f" BUG={bug}" if bug else "")


def fingerprint(found: Outcome) -> str:
    """The same for the same run, byte for byte."""
    return hashlib.sha256("\n".join(found.timeline.lines()).encode()).hexdigest()[:16]


if __name__ == "__main__":
    sys.exit(main())
