"""How often something may be done: a few times at once, then so many seconds apart."""

from __future__ import annotations

import threading
from collections import OrderedDict

_MOST_NAMES = 500


class Pace:
    """Knows when each name (a host) was last used; forgets the oldest. For any thread."""

    def __init__(self, every_s: float, burst: int) -> None:
        self._every_s = every_s
        self._burst = burst
        self._lock = threading.Lock()
        self._until: OrderedDict[str, float] = OrderedDict()  # when its uses are all paid for

    def wait_s(self, name: str, now: float, at_most_s: float, every_s: float = 0.0) -> float:
        """Take the next turn: seconds until it comes. With more than `at_most_s`, none is taken.

        `every_s`: so slow at least; a longer time than the usual allows no burst.
        """
        slow = every_s > self._every_s
        step, burst = (every_s, 1) if slow else (self._every_s, self._burst)
        with self._lock:
            until = max(self._until.get(name, now), now)
            wait = max(0.0, until - now - (burst - 1) * step)
            if wait <= at_most_s:
                self._until[name] = until + step
                self._until.move_to_end(name)
                if len(self._until) > _MOST_NAMES:
                    self._until.popitem(last=False)
        return wait
