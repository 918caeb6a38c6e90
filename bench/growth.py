"""What a process takes of its machine, and whether that grows: samples, a line, limits."""

from __future__ import annotations

import os
import statistics
from contextlib import suppress
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from typing import Callable, Collection, List, Optional, Sequence

MAX_SLOPE_MB_H = 1.0
MORE_HANDLES = 2  # descriptors or threads: as many come and go with the work of a moment
MORE_BYTES = 1.25  # of a journal: it may be about to reuse its free pages
SPARE_MB = 1.0
MB = 1024 * 1024


@dataclass(frozen=True)
class Sample:
    """One look at a process. `journal_mb` has the store with its -wal and -shm files."""

    at_s: float
    rss_mb: float
    pss_mb: float
    descriptors: int
    threads: int
    journal_mb: float
    state_mb: float

    @classmethod
    def columns(cls) -> List[str]:
        return [f.name for f in fields(cls)]

    def row(self) -> List[str]:
        return [
            f"{value:.3f}" if isinstance(value, float) else str(value) for value in astuple(self)
        ]


def look(pid: int, at_s: float, state: Optional[Path] = None) -> Optional[Sample]:
    """A sample of a process and of its state directory; None if it is gone."""
    try:
        status = _fields(Path(f"/proc/{pid}/status"))
        shared = _fields(Path(f"/proc/{pid}/smaps_rollup"))
        descriptors = len(os.listdir(f"/proc/{pid}/fd"))
        rss_mb, pss_mb = int(status["VmRSS"]) / 1024, int(shared["Pss"]) / 1024
    except (OSError, KeyError):
        return None
    sizes = {} if state is None else _sizes(state)
    journal = sum(size for name, size in sizes.items() if "/journal.db" in name)
    return Sample(
        at_s,
        rss_mb,
        pss_mb,
        descriptors,
        int(status["Threads"]),
        journal / MB,
        sum(sizes.values()) / MB,
    )


def _fields(path: Path) -> "dict[str, str]":
    pairs = (line.partition(":") for line in path.read_text().splitlines())
    return {name: value.split()[0] for name, _, value in pairs if value.strip()}


def _sizes(folder: Path) -> "dict[str, int]":
    """The files below a folder; what has just gone is left out."""
    found = {}
    for place, _, names in os.walk(folder):
        for name in names:
            with suppress(OSError):
                found[f"{place}/{name}"] = os.stat(f"{place}/{name}").st_size
    return found


def slope_per_hour(samples: Sequence[Sample], value: Callable[[Sample], float]) -> float:
    """The least-squares line through a value of the samples, in units an hour."""
    if len(samples) < 2:
        return 0.0
    times, values = [s.at_s / 3600 for s in samples], [value(s) for s in samples]
    mid_t, mid_v = statistics.fmean(times), statistics.fmean(values)
    across = sum((t - mid_t) ** 2 for t in times)
    along = sum((t - mid_t) * (v - mid_v) for t, v in zip(times, values))
    return along / across if across else 0.0


def ends(samples: Sequence[Sample], value: Callable[[Sample], float]) -> "tuple[float, float]":
    """The medians of the first and of the last third."""
    third = max(1, len(samples) // 3)
    first, last = samples[:third], samples[-third:]
    return statistics.median(map(value, first)), statistics.median(map(value, last))


def faults(samples: Sequence[Sample], but: Collection[str] = ()) -> List[str]:
    """What grows that should not, `but` for columns that are not judged.

    The samples begin after the warm-up.
    """
    found = []
    slope = slope_per_hour(samples, lambda s: s.rss_mb)
    if "rss_mb" not in but and slope >= MAX_SLOPE_MB_H:
        found.append(f"resident memory grows by {slope:.2f} MB/h")
    for name in ("descriptors", "threads"):
        first, last = ends(samples, lambda s, n=name: getattr(s, n))
        if name not in but and last > first + MORE_HANDLES:
            found.append(f"{name} grow from {first:g} to {last:g}")
    first, last = ends(samples, lambda s: s.journal_mb)
    if "journal_mb" not in but and last > first * MORE_BYTES + SPARE_MB:
        found.append(f"the journal grows from {first:.1f} to {last:.1f} MB")
    return found
