"""A fleet in virtual time: one seed, one run, and what the witness says of it."""

from __future__ import annotations

import logging
import traceback
from dataclasses import dataclass, field
from typing import Any, List, Optional, Tuple

from pibot.fleet.records import FORGOTTEN
from sim.bugs import Bugs
from sim.client import Client
from sim.clock import Loop, chance_of
from sim.fate import FAULTS_S, Fate
from sim.master import Master
from sim.network import Broker
from sim.person import Person
from sim.timeline import Timeline
from sim.witness import Violation, Witness
from sim.worker import Worker

BOUND_S = 900.0  # once nothing fails any more, everything ends within this
LOOK_S = 5.0


@dataclass
class Outcome:
    seed: int
    what: str = ""  # what is wrong; empty if nothing is
    rule: str = ""
    key: str = ""
    messages: int = 0
    runs: int = 0
    goals: int = 0
    seconds: float = 0.0  # of virtual time
    timeline: Timeline = field(default_factory=Timeline, repr=False)


class World:
    def __init__(self, seed: int, bugs: Bugs) -> None:
        self.seed, self.bugs = seed, bugs
        self.loop, self.timeline = Loop(), Timeline()
        self.fate = Fate(seed)
        self.broker = Broker(self.loop, chance_of(seed, "network"), self.fate.weather)
        self.run_count = 0
        self._nonces = chance_of(seed, "nonces")
        self.witness = Witness(self)
        self.master = Master(self)
        tags: List[List[str]] = [["fast"], [], ["fast"], []]
        self.workers = [
            Worker(self, f"w{i + 1}", slots=1 + i % 2, tags=tags[i])
            for i in range(self.fate.workers)
        ]
        self.clients = [Client(self, "c1"), Client(self, "c2")]
        self.person = Person(self)
        self.strangers: List[Worker] = []
        self.twins: List[Tuple[Worker, Worker]] = []
        if self.fate.strangers:
            self.strangers.append(Worker(self, "old", proto=(2, 3)))

    def nonce(self) -> str:
        return f"{self._nonces.getrandbits(64):016x}"

    @property
    def everybody(self) -> List[Any]:
        return [self.master, *self.workers, *self.strangers, *self.clients]

    def add_twin(self, first: Worker) -> None:
        twin = Worker(self, first.name, f"{first.label}-twin", first.disk.copy(), **first.about)
        self.witness.twins.add(first.name)
        self.twins.append((first, twin))
        self.workers.append(twin)
        twin.start()

    # --- a run ------------------------------------------------------------------------------------

    def run(self) -> None:
        for party in self.everybody:
            party.start()
        self.fate.unfold(self)
        self.loop.after(LOOK_S, self._look)
        self.loop.after(LOOK_S, self.person.look)
        self.loop.run_until(FAULTS_S)
        self._calm()
        end, quiet = self.loop.now + BOUND_S, 0
        while self.loop.now < end and quiet < 2:
            self.loop.run_until(self.loop.now + LOOK_S)
            quiet = quiet + 1 if self.witness.is_quiet() else 0
        self.witness.at_the_end()

    def _look(self) -> None:
        self.witness.look()
        self.loop.after(LOOK_S, self._look)

    def _calm(self) -> None:
        """From here on nothing fails any more."""
        self.timeline.note(self.loop.now, "fate", "calm: nothing fails any more")
        self.broker.calm()
        for first, _ in self.twins:  # somebody switches one of the two machines off
            self.workers.remove(first)
            first.retire()
        for party in self.everybody:
            party.disk.full_until = party.slow_until = 0.0
            party.frozen_until = min(party.frozen_until, self.loop.now)
            party.disk.doom = ""
            party.start()
            party.poke()
        self.loop.after(1.0, self._let_all_work)

    def _let_all_work(self) -> None:
        for name in sorted({w.name for w in self.workers}):
            gone = self.master.desk.pool.gone.get(name)
            self.master.decide(name, FORGOTTEN if gone else "")
        self.loop.after(LOOK_S, self._let_all_work)  # an old request may still come


def run(seed: int, bugs: Optional[Bugs] = None) -> Outcome:
    """One seed, one run; whatever goes wrong in it is its outcome."""
    logging.disable(logging.CRITICAL)
    world = World(seed, bugs or Bugs())
    found = Outcome(seed, timeline=world.timeline)
    try:
        world.run()
    except Violation as wrong:
        found.what, found.rule, found.key = str(wrong), wrong.rule, wrong.key
    except Exception as error:
        where = traceback.extract_tb(error.__traceback__)[-1]
        found.what = f"{type(error).__name__}: {error} ({where.filename}:{where.lineno})"
        found.rule = "no code of ours raises"
    finally:
        logging.disable(logging.NOTSET)
    found.messages, found.runs = world.broker.sent, world.run_count
    found.goals, found.seconds = len(world.witness.acknowledged), world.loop.now
    return found
