"""The master of the simulation: the real desk on a simulated disk, and what its role does."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Callable, Dict, List, Tuple

from pibot.errors import StoreError
from pibot.fleet import events as ev
from pibot.fleet.artifacts import Artifacts
from pibot.fleet.audit import Audit
from pibot.fleet.desk import Planning, Surroundings
from pibot.fleet.programs import Programs
from pibot.fleet.records import FORGOTTEN, REMOVED
from pibot.fleet.roster import Own, Roster
from pibot.roles.master import MEND_PAUSE_S
from pibot.signing import MasterKeys
from pibot.topics import Topics
from pibot.wire import Packet
from sim.clock import chance_of
from sim.disk import MasterDisk
from sim.party import Party

if TYPE_CHECKING:
    from sim.world import World

FLEET = "home"
TOPICS = Topics(FLEET)
NOWHERE = Path("/nonexistent/pibot-sim")
STORE_ID = "5" * 16


def key_of(name: str) -> str:
    """The key with which a worker or client signs."""
    return f"the key of {name}"


class MemoryAudit(Audit):
    """Entries in memory: what a full disk does to them, their own tests show."""

    def __init__(self, path: Path, local_time: Callable[[], str]) -> None:
        super().__init__(path, local_time)
        self.entries: List[Tuple[str, Dict[str, Any]]] = []

    def write(self, what: str, **about: Any) -> None:
        self.entries.append((what, about))


class Master(Party):
    filters = (
        *(TOPICS.worker("+", c) for c in ("evt", "hb", "prog", "will")),
        TOPICS.client("+", "req"),
        TOPICS.announce,
    )
    disk: MasterDisk

    def __init__(self, world: "World") -> None:
        super().__init__(world, "master", MasterDisk())
        self.disk.witness = world.witness.committed
        self._mending = False

    def boot(self) -> None:
        self.disk.epoch += 1
        self._mending = False
        roster = Roster(NOWHERE, FLEET, Own(None, None, None))
        around = Surroundings(
            fleet=FLEET,
            epoch=self.disk.epoch,
            store_id=STORE_ID,
            model=True,
            asks=False,
            keyring=MasterKeys("the master's", TOPICS.parse, lambda kind, name: [key_of(name)]),
            nonce=self.world.nonce,
            goal_id=lambda: "unused",
            jitter=self.chance.random,
            local_time=lambda: "2026-01-01T00:00:00+00:00",
        )
        self.desk = self.world.bugs.new_desk(
            *(TOPICS, self.disk, roster, around),
            *(Artifacts(NOWHERE), Programs(NOWHERE), MemoryAudit(NOWHERE, around.local_time)),
        )
        self._begin()

    def _begin(self) -> None:
        """As the role: from what is stored, as often as it takes."""
        now = self.clock.read()
        try:
            self.desk.begin(now)
        except StoreError:
            self._mending = True
            self.loop.after(MEND_PAUSE_S, self._mend, self.lives)
        else:
            self._mending = False
            self.world.witness.master_begins(self.desk, now)
            self._send(self.desk.connected())

    def _mend(self, life: int) -> None:
        if life == self.lives and self._mending and self.guard(self._begin):
            self.poke()

    def wake_at(self) -> float:
        return float("inf") if self._mending else self.desk.wake_at()

    def decide(self, name: str, state: str) -> None:
        """A person removes a worker, or takes that back; see pibot.fleet.manage."""
        if self.alive:
            self.put(ev.StandingWanted(name, state))

    def _decided(self, event: ev.StandingWanted, now: float) -> None:
        standing = self.desk.scheduler.board.standings.get(event.worker, "")
        if event.state == REMOVED:
            self.desk._gateway.dismiss(event.worker)
        elif standing != REMOVED and event.state == FORGOTTEN:
            return
        self.note("decides", event)
        self.desk.take_event(event, now)

    # --- a turn -----------------------------------------------------------------------------------

    def take(self, items: List[Any], now: float) -> None:
        if self._mending:
            self._inbox[:0] = items  # it waits, as long as it takes
            return
        for item in items:
            if isinstance(item, ev.StandingWanted):
                self._decided(item, now)
            elif not isinstance(item, tuple):
                self.desk.take_event(item, now)
            elif isinstance(item[0], str):
                self.desk.take_packet(item[0], item[1], now)
            elif item[0]:
                self._send(self.desk.connected())
        self.desk.take_event(ev.Tick(), now)

    def finish(self, now: float) -> None:
        if self._mending:
            return
        try:
            self.world.bugs.store(self, now)
        except StoreError:
            self.note("cannot store")
            self._send(self.desk.refuse(StoreError("the disk is full")))
            self._mending = True
            self.loop.after(MEND_PAUSE_S, self._mend, self.lives)
            return
        told = self.desk.tell(now)
        self._send(told.packets)
        for planning in told.jobs:
            self._think(planning)
        self.world.witness.master_turn(self.desk, now)

    def after_turn(self) -> None:
        if not self._mending:
            super().after_turn()

    def _send(self, packets: List[Packet]) -> None:
        for packet in packets:
            if "/view/" not in packet.topic:
                self.disk.point("while telling")
                self.publish(packet.topic, packet.payload, packet.qos)

    # --- a model that plans -----------------------------------------------------------------------

    def _think(self, planning: Planning) -> None:
        job = planning.job
        goal, revision = job.goal.id, job.goal.revision
        kind = "plan" if isinstance(job, ev.PlanJob) else "answer"
        chance = chance_of(self.world.seed, f"{kind} {goal} {revision}")
        event: Any
        if kind == "answer":
            event = ev.Answered(goal, revision, chance.choice(["done", "done", None]))
        else:
            event = ev.Planned(goal, revision, self.world.fate.plan(chance))
        self.loop.after(chance.uniform(0.1, 4.0), self._thought, self.lives, event)

    def _thought(self, life: int, event: Any) -> None:
        if life == self.lives:
            self.put(event)
