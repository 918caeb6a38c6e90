"""A process of the fleet: an inbox, a loop of turns, a disk that outlives it, a connection.

A turn is what the roles' loops do: take what came, commit, then tell. Between taking and telling
the disk may be slow; at each point the process may be killed; at any time it may be frozen.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Callable, List, Optional, Tuple

from sim.clock import Clock, chance_of
from sim.disk import Disk, Killed
from sim.network import Connection

if TYPE_CHECKING:
    from sim.world import World

GROUP = 500  # src/pibot/mailbox.py


class Party:
    filters: Tuple[str, ...] = ()

    def __init__(self, world: "World", label: str, disk: Disk) -> None:
        self.world, self.label, self.disk = world, label, disk
        self.loop = world.loop
        self.chance = chance_of(world.seed, label)
        self.clock = Clock(world.loop, self.chance)
        disk.now = lambda: self.loop.now
        self.alive = self.retired = False
        self.lives = 0
        self.slow_until = 0.0  # until then the disk is slow
        self.frozen_until = 0.0
        self.connection: Optional[Connection] = None
        self._inbox: List[Any] = []
        self._due = float("inf")
        self._busy = False

    def note(self, *what: Any) -> None:
        self.world.timeline.note(self.loop.now, self.label, *what)

    # --- what a kind of party does ----------------------------------------------------------------

    def boot(self) -> None:
        raise NotImplementedError

    def take(self, items: List[Any], now: float) -> None:
        """Handle what came, and the time."""
        raise NotImplementedError

    def finish(self, now: float) -> None:
        """Commit, and only then tell."""
        raise NotImplementedError

    def wake_at(self) -> float:
        raise NotImplementedError

    def will(self) -> "Optional[Tuple[str, bytes]]":
        return None

    # --- life -------------------------------------------------------------------------------------

    def start(self) -> None:
        if self.alive or self.retired:
            return
        self.alive, self._busy, self._inbox = True, False, []
        self._due = float("inf")
        self.lives += 1
        self.note("starts")
        if not self.guard(self.boot):
            return
        c = self.connection = Connection(
            self.label, self.filters, self.will(), self._deliver, self._changed
        )
        self.world.broker.join(c)
        self.poke()

    def retire(self) -> None:
        """Somebody switches the machine off, for good."""
        self.kill(None)
        self.retired = True

    def kill(self, again_s: Optional[float], politely: bool = False) -> None:
        """End the process; `again_s`: when systemd starts it again."""
        if not self.alive:
            return
        self.note("stops" if politely else "is killed")
        self.alive = False
        self.lives += 1
        self.disk.doom = ""
        if self.connection is not None:
            self.world.broker.close(self.connection, politely)
            self.connection = None
        self.ended()
        if again_s is not None:
            self.loop.after(again_s, self.start)

    def ended(self) -> None:
        """The process is gone: whatever it ran is gone with it."""

    def freeze(self, seconds: float) -> None:
        self.note(f"freezes for {seconds:.1f} s")
        self.frozen_until = max(self.frozen_until, self.loop.now + seconds)

    # --- the loop ---------------------------------------------------------------------------------

    def _deliver(self, topic: str, payload: bytes) -> None:
        self.put((topic, payload))

    def _changed(self, up: bool) -> None:
        self.note("is connected" if up else "has lost the broker")
        self.put((up, ""))

    def put(self, item: Any) -> None:
        self._inbox.append(item)
        self.poke()

    def poke(self, at: Optional[float] = None) -> None:
        """See to it that a turn comes, now or at a true time."""
        at = max(self.loop.now, self.frozen_until, at or 0.0)
        if self.alive and not self._busy and at < self._due:
            self._due = at
            self.loop.at(at, self._turn, self.lives, at)

    def _turn(self, life: int, due: float) -> None:
        if life != self.lives or due != self._due or self._busy:
            return
        self._due = float("inf")
        if self.loop.now < self.frozen_until:
            self.poke()
            return
        items, self._inbox = self._inbox[:GROUP], self._inbox[GROUP:]
        now = self.clock.read()
        self._busy = True
        if not self.guard(self.take, items, now):
            return
        slow = self.loop.now < self.slow_until
        if slow:
            self.loop.after(self.chance.uniform(0.0, 2.0), self._finish, life, now)
        else:
            self._finish(life, now)

    def _finish(self, life: int, now: float) -> None:
        if life != self.lives:
            return
        if self.loop.now < self.frozen_until:
            self.loop.at(self.frozen_until, self._finish, life, now)
            return
        if self.guard(self.finish, now):
            self._busy = False
            self.after_turn()

    def guard(self, what: Callable[..., None], *args: Any) -> bool:
        """Do it, unless the process is killed in the middle of it; say whether it lived."""
        try:
            what(*args)
        except Killed as point:
            self.note(f"({point})")
            self.kill(self.chance.uniform(0.2, 5.0))
            return False
        return True

    def after_turn(self) -> None:
        if self._inbox:
            self.poke()
            return
        at = self.wake_at()
        self.world.witness.wakes(self)
        if at != float("inf"):
            self.poke(max(self.clock.truly(at), self.loop.now) + 1e-6)

    def renew(self) -> None:
        """Make another connection to the broker."""
        if self.connection is not None:
            self.world.broker.renew(self.connection)

    def publish(self, topic: str, payload: bytes, qos: int = 1) -> None:
        if self.connection is not None:
            self.world.broker.publish(self.connection, topic, payload, qos)
