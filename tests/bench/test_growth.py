"""The soak sees what grows, and only that."""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any, Callable, List

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "bench"))

from growth import Sample, faults, look, slope_per_hour

FLAT = Sample(0.0, 60.0, 45.0, 18, 3, 20.0, 25.0)


def hour(change: "Callable[[float, int], dict[str, Any]]") -> List[Sample]:
    """Samples of 45 minutes; `change` gets the hours and a number that goes up and down."""
    return [replace(FLAT, at_s=10.0 * i, **change(i / 360, (i * 7) % 5 - 2)) for i in range(270)]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda h, up: {"rss_mb": 60.0 + up, "threads": 4 + up, "descriptors": 18 + up}, []),
        (lambda h, up: {"rss_mb": 60.0 + 0.8 * h + up}, []),
        (lambda h, up: {"rss_mb": 60.0 + 1.5 * h + up}, ["resident memory"]),
        (lambda h, up: {"rss_mb": 60.0 - 5 * h}, []),
        (lambda h, up: {"descriptors": 18 + int(10 * h)}, ["descriptors"]),
        (lambda h, up: {"threads": 3 + int(10 * h)}, ["threads"]),
        (lambda h, up: {"journal_mb": 20.0 + up}, []),
        (lambda h, up: {"journal_mb": 20.0 + 20 * h}, ["the journal"]),
    ],
)
def test_what_grows_is_said(change: Any, said: List[str]) -> None:
    found = faults(hour(change))
    assert [f.split(" grow")[0] for f in found] == said


def test_the_slope_is_per_hour() -> None:
    line = hour(lambda h, up: {"rss_mb": 60.0 + 3 * h})
    assert slope_per_hour(line, lambda s: s.rss_mb) == pytest.approx(3.0)


def test_a_look_at_this_process(tmp_path: Path) -> None:
    (tmp_path / "m").mkdir()
    for name, size in (("journal.db", 2), ("journal.db-wal", 1), ("other", 4)):
        (tmp_path / "m" / name).write_bytes(b"x" * size * 2**20)
    before = look(os.getpid(), 1.0, tmp_path)
    with open(os.devnull) as _:
        after = look(os.getpid(), 2.0, tmp_path)
    assert before and after and after.descriptors == before.descriptors + 1
    assert before.rss_mb >= before.pss_mb > 5 and before.threads >= 1
    assert (before.journal_mb, before.state_mb) == (3.0, 7.0)


def test_a_process_that_is_gone() -> None:
    assert look(2**22 + 1, 0.0) is None
