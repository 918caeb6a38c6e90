"""A broker that loses, delays, doubles and reorders; connections that fall, stall and lie.

A connection has two ends, and each believes what it can: the broker's end ends by a keepalive that
does not come, the party's by an answer that does not come. Between the two it is half open.
"""

from __future__ import annotations

import functools
import random
from dataclasses import dataclass
from typing import Callable, Dict, List, Optional, Tuple

from pibot.bus import matches
from sim.clock import Loop

KEEPALIVE_S = 15.0  # src/pibot/transport.py
RETRY_S = (0.5, 1.0, 2.0, 4.0, 8.0)


@dataclass
class Weather:
    """How bad the network is in this run; zero everywhere is a good one."""

    lost: float = 0.0  # share of what has QoS 1
    lost_0: float = 0.0  # share of what has QoS 0
    doubled: float = 0.0
    echo_s: float = 0.0  # the second copy comes up to this much later
    slow: float = 0.0  # share that takes up to slow_s
    slow_s: float = 0.0
    will_s: float = 0.0  # a last will comes up to this late
    ordered: bool = True  # between one sender and one receiver, on one topic


class Connection:
    """One client's connection: `deliver` gets what comes, `changed` whether it is connected."""

    def __init__(
        self,
        name: str,
        filters: Tuple[str, ...],
        will: Optional[Tuple[str, bytes]],
        deliver: Callable[[str, bytes], None],
        changed: Callable[[bool], None],
    ) -> None:
        self.name, self.filters, self.will = name, filters, will
        self.number = 0  # given by the broker
        self.deliver, self.changed = deliver, changed
        self.here = self.there = False  # whether the party, the broker believes in it
        self.closed = False  # the process is gone
        self.tries = 0
        self.out_until = self.in_until = 0.0  # nothing gets through before
        self.epoch = 0  # counts connections: what was on its way in an older one is gone

    @property
    def cut_until(self) -> float:
        return max(self.out_until, self.in_until)


class Broker:
    def __init__(self, loop: Loop, chance: random.Random, weather: Weather) -> None:
        self._loop, self._chance, self.weather = loop, chance, weather
        self._connections: List[Connection] = []
        self._last: Dict[Tuple[str, str, int], float] = {}
        self._count = 0
        self.down_until = 0.0
        self.sent = 0

    # --- coming and going -------------------------------------------------------------------------

    def join(self, c: Connection) -> None:
        self._count += 1
        c.number = self._count
        self._connections.append(c)
        self._try(c)

    def _try(self, c: Connection) -> None:
        if c.closed or c.here:
            return
        now, delay = self._loop.now, self._chance.uniform(0.005, 0.05)
        if now < self.down_until or now < c.cut_until:
            pause = RETRY_S[min(c.tries, len(RETRY_S) - 1)]
            c.tries += 1
            self._loop.after(pause * self._chance.uniform(1.0, 1.25), self._try, c)
        else:
            c.there, c.epoch = True, c.epoch + 1
            self._loop.after(delay, self._up, c, c.epoch)

    def _up(self, c: Connection, epoch: int) -> None:
        if c.closed or c.epoch != epoch or not c.there:
            return self._try(c)
        c.here, c.tries = True, 0
        return c.changed(True)

    def close(self, c: Connection, politely: bool = False) -> None:
        """The party's process ends: its socket closes, the broker sees it when it can."""
        c.closed, c.here = True, False
        if politely and self._loop.now >= c.cut_until:
            self._gone(c, c.epoch, None)
        else:
            late = max(self._loop.now, min(c.out_until, self._loop.now + 1.5 * KEEPALIVE_S))
            self._loop.at(late + 0.003, self._gone, c, c.epoch, c.will)
        self._connections.remove(c)

    def _gone(self, c: Connection, epoch: int, will: Optional[Tuple[str, bytes]]) -> None:
        """The broker gives up its end; the last will is published, perhaps late."""
        if not c.there or c.epoch != epoch:
            return
        c.there = False
        if will is not None and self._loop.now >= self.down_until:
            late = self._chance.uniform(0.0, self.weather.will_s)
            self._loop.after(late, self._route, f"broker {c.name}", *will, 1)

    def _noticed(self, c: Connection, epoch: int) -> None:
        """The party gives up its end, and tries to connect again."""
        if c.closed or not c.here or c.epoch != epoch:
            return
        c.here = False
        c.changed(False)
        self._loop.after(RETRY_S[0] * self._chance.uniform(1.0, 1.25), self._try, c)

    # --- faults -----------------------------------------------------------------------------------

    def restart(self, down_s: float) -> None:
        """Every connection falls, every queue is lost; nobody's will is published."""
        self.down_until = self._loop.now + down_s
        for c in self._connections:
            c.there = False
            self._loop.after(self._chance.uniform(0.0, 1.0), self._noticed, c, c.epoch)

    def cut(self, c: Connection, seconds: float, way: str) -> None:
        """Nothing gets through to or from this party, `both`, `in` or `out`, for a while."""
        until = self._loop.now + seconds
        if way in ("both", "out"):
            c.out_until = max(c.out_until, until)
        if way in ("both", "in"):
            c.in_until = max(c.in_until, until)
        self._loop.after(1.5 * KEEPALIVE_S + self._chance.uniform(0, 5), self._missed, c, c.epoch)
        self._loop.after(2.0 * KEEPALIVE_S, self._unanswered, c, c.epoch)
        self._loop.at(until + self._chance.uniform(0.0, KEEPALIVE_S), self._half_open, c, c.epoch)

    def drop(self, c: Connection) -> None:
        """The connection falls: both ends see it at once."""
        self._gone(c, c.epoch, c.will)
        self._noticed(c, c.epoch)

    def renew(self, c: Connection) -> None:
        """The party itself gives the connection up and makes another; no will is published."""
        self._gone(c, c.epoch, None)
        self._noticed(c, c.epoch)

    def _missed(self, c: Connection, epoch: int) -> None:
        if self._loop.now < c.out_until:
            self._gone(c, epoch, c.will)

    def _unanswered(self, c: Connection, epoch: int) -> None:
        if self._loop.now < c.cut_until:
            self._noticed(c, epoch)

    def _half_open(self, c: Connection, epoch: int) -> None:
        if not c.there:
            self._noticed(c, epoch)

    def calm(self) -> None:
        """From now on nothing is lost; what fell before is found out as ever."""
        self.weather = Weather()
        self.down_until = min(self.down_until, self._loop.now)
        for c in self._connections:
            c.out_until = min(c.out_until, self._loop.now)
            c.in_until = min(c.in_until, self._loop.now)
            if not c.there:
                self._loop.after(
                    self._chance.uniform(0.0, KEEPALIVE_S), self._half_open, c, c.epoch
                )

    # --- messages ---------------------------------------------------------------------------------

    def publish(self, c: Connection, topic: str, payload: bytes, qos: int) -> None:
        if c.here:
            at = max(self._loop.now, c.out_until) + self._chance.uniform(0.0005, 0.01)
            self._loop.at(at, self._arrive, c, c.epoch, topic, payload, qos)

    def _arrive(self, c: Connection, epoch: int, topic: str, payload: bytes, qos: int) -> None:
        if c.epoch == epoch and (c.there or c.closed):
            self._route(c.name, topic, payload, qos)

    def _route(self, sender: str, topic: str, payload: bytes, qos: int) -> None:
        if self._loop.now < self.down_until:
            return
        for c in self._connections:
            if c.there and _wants(c.filters, topic):
                self._fly(sender, c, topic, payload, qos)

    def _fly(self, sender: str, c: Connection, topic: str, payload: bytes, qos: int) -> None:
        w, chance, now = self.weather, self._chance, self._loop.now
        self.sent += 1
        if w.lost and chance.random() < (w.lost if qos else w.lost_0):
            return
        copies = 2 if w.doubled and chance.random() < w.doubled else 1
        for copy in range(copies):
            slow = w.slow and chance.random() < w.slow
            at = max(now, c.in_until) + chance.uniform(0.0005, w.slow_s if slow else 0.01)
            at += copy * chance.uniform(0.0, w.echo_s)
            if w.ordered:
                key = (sender, topic, c.number)
                at = self._last[key] = max(at, self._last.get(key, 0.0) + 1e-6)
            self._loop.at(at, self._land, c, c.epoch, topic, payload)

    def _land(self, c: Connection, epoch: int, topic: str, payload: bytes) -> None:
        if c.here and c.epoch == epoch:
            c.deliver(topic, payload)


@functools.lru_cache(maxsize=4096)
def _wants(filters: Tuple[str, ...], topic: str) -> bool:
    return any(matches(f, topic) for f in filters)
