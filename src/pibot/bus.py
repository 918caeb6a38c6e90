"""A broker in memory and connections to it: for tests, the same interface as the real one."""

from __future__ import annotations

import select
import socket
import threading
from typing import Dict, List, Optional, Sequence, Tuple

from pibot.transport import LastWill, OnMessage, OnState, Wake


class MemoryBus:
    """A broker in memory: real topics and filters, retained messages, wills."""

    def __init__(self) -> None:
        self.retained: Dict[str, bytes] = {}
        self.log: List[Tuple[str, bytes]] = []
        self._guests: "List[MemoryTransport]" = []
        self._lock = threading.RLock()

    def join(self, guest: "MemoryTransport") -> None:
        with self._lock:
            self._guests.append(guest)

    def leave(self, guest: "MemoryTransport") -> None:
        with self._lock:
            self._guests = [g for g in self._guests if g is not guest]

    def publish(self, topic: str, payload: bytes, retain: bool) -> None:
        with self._lock:
            self.log.append((topic, payload))
            if retain:
                self.retained.pop(topic, None)
                if payload:
                    self.retained[topic] = payload
            for guest in list(self._guests):
                guest.deliver(topic, payload)


class MemoryTransport:
    """A connection to a MemoryBus."""

    def __init__(
        self, bus: MemoryBus, filters: Sequence[str], will: Optional[LastWill] = None
    ) -> None:
        self._bus, self._filters, self._will = bus, list(filters), will
        self._on_message: Optional[OnMessage] = None

    def start(self, on_message: OnMessage, on_state: OnState, wake: Wake) -> None:
        self._on_message = on_message
        self._bus.join(self)
        on_state(True, "")

    def poll(self, wait_s: float, wake: socket.socket) -> None:
        select.select([wake], [], [], max(0.0, wait_s))

    def deliver(self, topic: str, payload: bytes) -> None:
        if self._on_message and any(matches(f, topic) for f in self._filters):
            self._on_message(topic, payload)

    def publish(self, topic: str, payload: bytes, qos: int = 1, retain: bool = False) -> bool:
        self._bus.publish(topic, payload, retain)
        return True

    def renew(self) -> None:
        """A bus has no connections: nothing could be deaf."""

    def close(self) -> None:
        self._bus.leave(self)

    def die(self) -> None:
        """Vanish as a killed process does: the bus publishes the will."""
        self._bus.leave(self)
        if self._will:
            self._bus.publish(self._will.topic, self._will.payload, self._will.retain)


def matches(pattern: str, topic: str) -> bool:
    """Whether an MQTT topic filter matches a topic (MQTT 3.1.1, section 4.7)."""
    wanted, have = pattern.split("/"), topic.split("/")
    for i, level in enumerate(wanted):
        if level == "#":
            return True
        if i >= len(have) or (level != "+" and level != have[i]):
            return False
    return len(wanted) == len(have)
