"""One loop's inbox: library callbacks and threads put, the loop collects in groups."""

from __future__ import annotations

import queue
from typing import Any, List

GROUP = 500  # handled together, committed together
LIMIT = 20_000  # beyond that, what the sender will repeat is dropped


class Mailbox:
    def __init__(self) -> None:
        self._queue: "queue.SimpleQueue[Any]" = queue.SimpleQueue()

    def put(self, item: Any) -> None:
        """Add what must not be lost: ends of attempts, plans, a request to stop."""
        self._queue.put(item)

    def offer(self, item: Any) -> bool:
        """Add what the sender repeats until it is answered; False if there is no room."""
        if self._queue.qsize() >= LIMIT:
            return False
        self._queue.put(item)
        return True

    def size(self) -> int:
        return self._queue.qsize()

    def collect(self, wait_s: float) -> List[Any]:
        """Wait for the first item, then take what else is there; [] when the time is over."""
        items: List[Any] = []
        try:
            items.append(self._queue.get(timeout=max(0.0, wait_s)))
            while len(items) < GROUP:
                items.append(self._queue.get_nowait())
        except queue.Empty:
            pass
        return items
