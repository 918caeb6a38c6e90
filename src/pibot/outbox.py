"""What waits while the broker does not read: two bounded lanes, so that neither blocks the other.

QoS 0 (heartbeats, progress, views) is news: the oldest gives way. QoS 1 is repeated by its sender
until it is answered: the newest is refused. Nobody relies on an order between messages.
"""

from __future__ import annotations

from collections import deque
from typing import Deque, NamedTuple

NEWS_BYTES = 4 * 1024 * 1024
SURE_BYTES = 16 * 1024 * 1024
COST = 200  # of a packet beside its payload: a queue of small ones is bounded, too


class Out(NamedTuple):
    topic: str
    payload: bytes
    qos: int
    retain: bool

    @property
    def cost(self) -> int:
        return len(self.payload) + COST


class Outbox:
    def __init__(self) -> None:
        self._news: Deque[Out] = deque()
        self._sure: Deque[Out] = deque()
        self._news_bytes = self._sure_bytes = 0
        self._turn = False

    def __len__(self) -> int:
        return len(self._news) + len(self._sure)

    def add(self, out: Out) -> bool:
        """Let a packet wait; False if there is no room for it."""
        if out.qos:
            if self._sure_bytes + out.cost > SURE_BYTES:
                return False
            self._sure.append(out)
            self._sure_bytes += out.cost
            return True
        self._news.append(out)
        self._news_bytes += out.cost
        while self._news_bytes > NEWS_BYTES:
            self._news_bytes -= self._news.popleft().cost
        return True

    def take(self) -> Out:
        """The next packet, from the lanes in turn; there must be one."""
        self._turn = not self._turn
        if self._sure and (self._turn or not self._news):
            out = self._sure.popleft()
            self._sure_bytes -= out.cost
        else:
            out = self._news.popleft()
            self._news_bytes -= out.cost
        return out
