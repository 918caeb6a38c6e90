"""Calls that wait for a person, as a client sees them. Pure, but for a clock."""

from __future__ import annotations

import time
from typing import Any, Callable, Dict, Mapping, Sequence

from pibot.errors import Refused

Ask = Dict[str, Any]


def one_of(asks: Sequence[Ask], key: str) -> Ask:
    """The call that `key` names: its own id, or that of its task or goal; raise Refused."""
    found = [a for a in asks if key in (a["id"], a["task_id"], a["goal_id"])]
    if not found:
        raise Refused(f"nothing of {key} waits for approval: see `pibot.pyz tasks`")
    if len(found) > 1:
        which = "; ".join(f"{a['id']} is {a['skill']} on {a['worker_id']}" for a in found[:10])
        more = f"; and {len(found) - 10} more" if len(found) > 10 else ""
        raise Refused(f"{len(found)} calls of {key} wait, name one of them: {which}{more}")
    return found[0]


class Patience:
    """For how long a client waits for a goal: while that waits for a person, no time passes."""

    def __init__(self, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock, self._left_s = clock, seconds
        self._looked_at = clock()
        self._waits = False

    def learn(self, kind: str, data: Mapping[str, Any]) -> None:
        """An event of the goal."""
        if kind == "asked":
            self._pass_time()
            self._waits = bool(data.get("asks"))

    def is_left(self) -> bool:
        self._pass_time()
        return self._left_s > 0

    def _pass_time(self) -> None:
        now = self._clock()
        if not self._waits:
            self._left_s -= now - self._looked_at
        self._looked_at = now
