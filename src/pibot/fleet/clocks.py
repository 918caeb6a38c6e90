"""The time that goals have: it stands still while one waits for a person. Pure."""

from __future__ import annotations

import heapq
from dataclasses import dataclass
from typing import Dict, List, Optional, Tuple

LOOK_S = 1.0  # a goal that waits is looked at again after this, or later


@dataclass
class _Clock:
    started: float
    limit_s: float
    stood_s: float = 0.0
    stands_since: Optional[float] = None

    def due_at(self, now: float) -> float:
        stands_s = 0.0 if self.stands_since is None else now - self.stands_since
        return self.started + self.limit_s + self.stood_s + stands_s


class Clocks:
    def __init__(self) -> None:
        self._clocks: Dict[str, _Clock] = {}
        self._looks: List[Tuple[float, str, float]] = []  # when, goal, when it had started

    def start(self, goal: str, limit_s: float, now: float) -> None:
        """A goal begins (again): it has all of its time."""
        self._clocks[goal] = _Clock(now, limit_s)
        heapq.heappush(self._looks, (now + limit_s, goal, now))

    def stop(self, goal: str, now: float) -> None:
        """From now on the goal waits for a person."""
        clock = self._clocks.get(goal)
        if clock is not None and clock.stands_since is None:
            clock.stands_since = now

    def go_on(self, goal: str, now: float) -> None:
        clock = self._clocks.get(goal)
        if clock is not None and clock.stands_since is not None:
            clock.stood_s += now - clock.stands_since
            clock.stands_since = None

    def end(self, goal: str, now: float) -> float:
        """The goal is over; return the seconds since its start."""
        clock = self._clocks.pop(goal, None)
        return now - clock.started if clock else 0.0

    def over(self, now: float) -> List[str]:
        """The goals whose time is over now; each is named once."""
        found = []
        while (at := self.wake_at()) is not None and now >= at:
            _, goal, started = heapq.heappop(self._looks)
            due_at = self._clocks[goal].due_at(now)
            if due_at <= now:
                found.append(goal)
            else:
                heapq.heappush(self._looks, (max(due_at, now + LOOK_S), goal, started))
        return found

    def wake_at(self) -> Optional[float]:
        """When to look at `over` again."""
        while self._looks and not self._is_current(self._looks[0]):
            heapq.heappop(self._looks)  # it ended before, and may have been begun again
        return self._looks[0][0] if self._looks else None

    def _is_current(self, look: Tuple[float, str, float]) -> bool:
        clock = self._clocks.get(look[1])
        return clock is not None and clock.started == look[2]
