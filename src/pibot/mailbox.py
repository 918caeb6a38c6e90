"""One loop's inbox: threads put, packets come in while it waits, the loop collects in groups."""

from __future__ import annotations

import socket
import threading
from collections import deque
from typing import Any, Callable, Deque, List, Tuple

GROUP = 500  # handled together, committed together
LIMIT = 20_000  # beyond these, what the sender will repeat is dropped
LIMIT_BYTES = 32 * 1024 * 1024

Poll = Callable[[float, socket.socket], None]


class Mailbox:
    """`open()` first; `collect` belongs to the loop's thread, everything else to any thread."""

    def __init__(self) -> None:
        self._items: Deque[Tuple[Any, int]] = deque()
        self._bytes_in = self._bytes_out = 0  # each has one thread that writes it
        self._owner = 0
        self._asleep = False

    def open(self) -> None:
        self._reader, self._writer = socket.socketpair()
        self._reader.setblocking(False)
        self._writer.setblocking(False)

    def put(self, item: Any) -> None:
        """Add what must not be lost: ends of attempts, plans, a request to stop."""
        self._items.append((item, 0))
        self._end_wait()  # also from a signal handler, which runs in the loop's own thread

    def offer(self, topic: str, payload: bytes) -> bool:
        """Add a packet, which the sender repeats until it is answered; False if there is no room.

        One thread does this: the loop's own, or an in-memory bus under its lock.
        """
        size = len(payload)
        waiting = self._bytes_in - self._bytes_out
        if len(self._items) >= LIMIT or waiting + size > LIMIT_BYTES:
            return False
        self._bytes_in += size
        self._items.append(((topic, payload), size))
        self.wake()
        return True

    def size(self) -> int:
        return len(self._items)

    def wake(self) -> None:
        """End the loop's waiting, if it waits; called inside its own poll, it need not."""
        if threading.get_ident() != self._owner:
            self._end_wait()

    def _end_wait(self) -> None:
        if self._asleep:
            try:
                self._writer.send(b"!")
            except OSError:  # it is full of wake-ups already, or closed
                pass

    def collect(self, wait_s: float, poll: Poll) -> List[Any]:
        """Let `poll` bring packets in, waiting only if nothing is here; return what there is."""
        self._owner = threading.get_ident()
        self._asleep = True
        poll(0.0 if self._items else max(0.0, wait_s), self._reader)
        self._asleep = False
        self._drain()
        return [self._next() for _ in range(min(len(self._items), GROUP))]

    def _next(self) -> Any:
        item, size = self._items.popleft()
        self._bytes_out += size
        return item

    def _drain(self) -> None:
        try:
            while self._reader.recv(4096):
                pass
        except BlockingIOError:
            pass

    def close(self) -> None:
        self._reader.close()
        self._writer.close()
