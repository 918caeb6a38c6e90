"""The retained `view/` topics: for people and other programs; PiBot itself never reads them."""

from __future__ import annotations

import itertools
import json
from collections import deque
from typing import Any, Deque, Dict, Iterable, List, Tuple

from pibot.fleet import status
from pibot.fleet.pool import Pool
from pibot.fleet.records import TERMINAL, Task
from pibot.topics import Topics
from pibot.wire import Packet

EVERY_S = 0.5
AT_ONCE = 100
WAITING = 10_000  # views of tasks that are still to be shown; then the oldest are left out
AGAIN_S = 30.0
KEEP_S = 600.0


def payload(document: Dict[str, Any]) -> bytes:
    text = json.dumps(document, ensure_ascii=False, separators=(",", ":"))
    return text.encode("utf-8", "replace")


class Views:
    """Publishes what has changed, the newest state only, twice a second at most."""

    def __init__(self, topics: Topics, fleet: str, epoch: int) -> None:
        self._topics, self._fleet, self._epoch = topics, fleet, epoch
        self._tasks: Dict[str, Dict[str, Any]] = {}
        self._shown: Dict[str, bytes] = {}
        self._ended: Deque[Tuple[float, str]] = deque()
        self._next = self._again = 0.0

    def changed(self, task: Task) -> None:
        self._tasks[task.id] = status.task_view(task)
        if len(self._tasks) > WAITING:
            del self._tasks[next(iter(self._tasks))]

    def ended_before(self, task_ids: Iterable[str], now: float) -> None:
        """Views of an earlier start that may still stand at the broker."""
        self._ended.extend((now + KEEP_S, task_id) for task_id in task_ids)

    def reconnected(self) -> None:
        """The broker may have forgotten everything: show it all again."""
        self._shown.clear()

    def wake_at(self) -> float:
        return self._next if self._tasks else self._next + 4 * EVERY_S

    def packets(self, pool: Pool, now: float) -> List[Packet]:
        """What is to be published now."""
        if now < self._next:
            return []
        self._next = now + EVERY_S
        packets = self._of_tasks(now) + self._of_ended(now)
        fleet = {"fleet": self._fleet, "state": "online", "epoch": self._epoch}
        fleet.update(status.counts(pool), alarms=status.alarms(pool))
        if now >= self._again:  # an old will may have come late and said that we are offline
            self._again = now + AGAIN_S
            self._shown.pop(self._topics.view("fleet"), None)
        packets += self._if_new(self._topics.view("fleet"), payload(fleet))
        for name, worker in sorted(pool.workers.items()):
            row = status.worker_row(worker, now)
            del row["last_seen_s"], row["skills"]
            packets += self._if_new(self._topics.view("worker", name), payload(row))
        for name in sorted(set(pool.gone).difference(pool.workers)):  # an old one may still stand
            packets += self._if_new(self._topics.view("worker", name), b"")
        return packets

    def _of_tasks(self, now: float) -> List[Packet]:
        """In a burst only so many at a time: what changes meanwhile is shown once, as it is."""
        packets = []
        for task_id in list(itertools.islice(self._tasks, AT_ONCE)):
            view = self._tasks.pop(task_id)
            packets.append(Packet(self._topics.view("task", task_id), payload(view), 0, True))
            if view["state"] in TERMINAL:
                self._ended.append((now + KEEP_S, task_id))
        return packets

    def _of_ended(self, now: float) -> List[Packet]:
        packets = []
        while self._ended and self._ended[0][0] <= now:
            packets.append(
                Packet(self._topics.view("task", self._ended.popleft()[1]), b"", 0, True)
            )
        return packets

    def _if_new(self, topic: str, data: bytes) -> List[Packet]:
        if self._shown.get(topic) == data:
            return []
        self._shown[topic] = data
        return [Packet(topic, data, 0, True)]


def offline(fleet: str) -> bytes:
    """The master's last will on `view/fleet`."""
    return payload({"fleet": fleet, "state": "offline"})
