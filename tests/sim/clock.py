"""True time, the clocks that parties believe in, and chance, split by label."""

from __future__ import annotations

import heapq
import itertools
import random
from typing import Any, Callable, List, Tuple

DRIFT = 0.01  # a monotonic clock may run this much too fast or too slow


class Loop:
    """What happens next, in the order of true time; equal times in the order of asking."""

    def __init__(self) -> None:
        self.now = 0.0
        self._queue: List[Tuple[float, int, Callable[..., Any], Tuple[Any, ...]]] = []
        self._count = itertools.count()

    def at(self, time: float, what: Callable[..., Any], *args: Any) -> None:
        heapq.heappush(self._queue, (max(time, self.now), next(self._count), what, args))

    def after(self, delay_s: float, what: Callable[..., Any], *args: Any) -> None:
        self.at(self.now + delay_s, what, *args)

    def run_until(self, end: float) -> None:
        while self._queue and self._queue[0][0] <= end:
            self.now, _, what, args = heapq.heappop(self._queue)
            what(*args)
        self.now = end


class Clock:
    """A party's monotonic clock: any beginning, and a rate of its own."""

    def __init__(self, loop: Loop, chance: random.Random) -> None:
        self._loop = loop
        self.rate = 1.0 + chance.uniform(-DRIFT, DRIFT)
        self._offset = chance.uniform(10.0, 1e6)

    def read(self) -> float:
        return self._offset + self.rate * self._loop.now

    def truly(self, local: float) -> float:
        """The true time at which this clock shows `local`."""
        return (local - self._offset) / self.rate


def chance_of(seed: int, label: str) -> random.Random:
    """Randomness of its own for each part, so that one part's use of it moves no other."""
    return random.Random(f"{seed} {label}")
