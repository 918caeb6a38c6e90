"""After the journal was damaged: what workers and clients know of it is believed for a while. Pure.

A worker that names an attempt of a lost task goes on with it, and its result is recorded. A client
that waits for a lost goal is put off for a while, until every living worker has named what it
has; then it hears that the goal is lost, and submits it again.
"""

from __future__ import annotations

from typing import Any, List

from pibot.errors import Refused
from pibot.fleet import events as ev
from pibot.fleet.goals import GATHER_S
from pibot.topics import ID


class Lost(Refused):
    """Nothing is known of this goal, and it may have been lost."""

    code = "lost"


class Recovery:
    def __init__(self, now: float, for_s: float) -> None:
        """`for_s` seconds are left of it; 0: the journal is sound."""
        self._until = now + for_s
        self._gathered_at = now + min(for_s, GATHER_S)

    def is_on(self, now: float) -> bool:
        return now < self._until

    def gathers(self, now: float) -> bool:
        """Whether a worker may just be about to name what it has."""
        return now < self._gathered_at


def named(event: ev.FleetEvent, created: str) -> List[ev.Found]:
    """The attempts that an event says its worker has."""
    pairs: List[List[Any]] = []
    if isinstance(event, ev.Joined):
        pairs = event.inventory.running + event.inventory.results
    elif isinstance(event, ev.Beat):
        pairs = event.heartbeat.running
    elif isinstance(event, ev.AttemptEnded):
        pairs = [[event.result.task, event.result.att]]
    else:
        return []
    found = [(str(task), int(att)) for task, att in pairs]
    return [ev.Found(event.worker, t, a, created) for t, a in found if _is_task(t)]


def _is_task(name: str) -> bool:
    """Whether a goal can have such a task: its own id is before the last hyphen."""
    return ID.fullmatch(name) is not None and bool(name.rpartition("-")[0])
