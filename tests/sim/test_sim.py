"""Some runs of the simulator, and proof that it sees: `make sim SEEDS=2000` has many more."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from sim.bugs import BUGS, make
from sim.run import SEEDS_A_BUG, command, fingerprint
from sim.world import run

TESTS = Path(__file__).resolve().parents[1]


@pytest.mark.parametrize("seed", range(1, 21))
def test_nothing_is_lost_whatever_fails(seed: int) -> None:
    found = run(seed)
    lines = "\n".join(found.timeline.about(found.key))
    assert found.what == "", f"{lines}\n{found.rule}: {found.what}\nagain: {command(found)}"
    assert found.messages > 100 and found.seconds > 90


@pytest.mark.parametrize("bug", BUGS)
def test_a_known_bug_is_found(bug: str) -> None:
    seeds = range(1, SEEDS_A_BUG + 1)
    found = next((f for seed in seeds if (f := run(seed, make(bug))).what), None)
    assert found is not None and found.rule
    assert len(found.timeline.about(found.key)) > 10
    assert run(found.seed, make(bug)).what == found.what, "the same seed, the same run"


def test_a_run_is_the_same_byte_for_byte_whatever_python_hashes() -> None:
    asked = "from sim.run import fingerprint, run; print(*[fingerprint(run(s)) for s in (3, 8)])"
    env = {**os.environ, "PYTHONPATH": f"{TESTS}{os.pathsep}{TESTS.parent / 'src'}"}
    said = {
        subprocess.run(
            [sys.executable, "-c", asked],
            env={**env, "PYTHONHASHSEED": hashseed},
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        for hashseed in ("1", "2")
    }
    assert said == {f"{fingerprint(run(3))} {fingerprint(run(8))}\n"}
