"""The faults of the chaos, and the seeded plan that says which comes next.

A party has one fault at a time, and of master and broker only one has one: otherwise nobody could
say from what the fleet recovers. For the same reason nobody gets a new one for the few seconds in
which a recovery is measured that it would make longer. At least half of the workers have none.
"""

from __future__ import annotations

import random
import time
from dataclasses import dataclass, field
from typing import AbstractSet, Callable, Dict, List, Optional, Sequence, Set, Tuple

from chaos_parties import CENTRE, Parties

from fleet_processes import FAKETIME

PAUSE_S = (0.5, 3.0)  # between two faults
CENTRE_PAUSE_S = (8.0, 14.0)  # from the end of one of the master or broker to the next
WORKER_NEEDS_S = 7.0  # without one of those, for the recovery from a worker's kill
ROLES = {"worker": 6, "master": 1, "broker": 1, "client": 1}  # how often, among others
Card = Tuple[str, str]  # a kind of fault, and whose role
FIRST: List[Card] = [("SIGKILL", "worker"), ("SIGKILL", "master"), ("SIGKILL", "broker")]
Act = Callable[[Parties, str, random.Random], None]


def nothing(p: Parties, name: str, rng: random.Random) -> None:
    pass


def heal(p: Parties, name: str, rng: random.Random) -> None:
    p.lanes[name].heal()


def _wrong_clock(p: Parties, name: str, rng: random.Random) -> None:
    p.strike(name, wrong_clock=rng.choice(("+10y", "-10y")))


@dataclass(frozen=True)
class Kind:
    """What to do, for how long, then what; for which roles, and how often among others."""

    begin: Act
    end: Act = nothing
    roles: str = "worker master"
    lasts_s: Tuple[float, float] = (0.0, 0.0)
    weight: int = 1


EVERYONE = "worker master broker"
ON_THE_WAY = "worker master client"  # to the broker
KINDS: Dict[str, Kind] = {
    "SIGKILL": Kind(lambda p, n, r: p.strike(n), roles=EVERYONE, weight=5),
    "SIGKILL, away": Kind(lambda p, n, r: p.strike(n, r.uniform(12, 40)), roles="worker"),
    "named point": Kind(
        lambda p, n, r: p.doom(n, r),
        lambda p, n, r: p.points[n].withdraw(),
        lasts_s=(5, 5),
        weight=3,
    ),
    "clock +-10 years": Kind(_wrong_clock),
    "SIGSTOP": Kind(
        lambda p, n, r: p.freeze(n), lambda p, n, r: p.thaw(n), EVERYONE, (1, 40), weight=2
    ),
    "cut": Kind(lambda p, n, r: p.lanes[n].cut(), roles=ON_THE_WAY),
    "stall": Kind(lambda p, n, r: p.lanes[n].stall(), heal, ON_THE_WAY, (1, 40)),
    "blackhole": Kind(lambda p, n, r: p.lanes[n].blackhole(), heal, ON_THE_WAY, (1, 40)),
    "blackhole, up": Kind(lambda p, n, r: p.lanes[n].blackhole("up"), heal, ON_THE_WAY, (1, 40)),
    "blackhole, down": Kind(
        lambda p, n, r: p.lanes[n].blackhole("down"), heal, ON_THE_WAY, (1, 40)
    ),
    "slow": Kind(lambda p, n, r: p.lanes[n].slow(20_000), heal, ON_THE_WAY, (3, 20)),
    "shuffle": Kind(lambda p, n, r: p.lanes[n].shuffle(0.3), heal, ON_THE_WAY, (5, 30), weight=2),
    "full disk": Kind(lambda p, n, r: p.fill(n), lambda p, n, r: p.free(n), lasts_s=(2, 10)),
    "twin": Kind(lambda p, n, r: p.twin(n), lambda p, n, r: p.end_twin(n), "worker", (5, 25)),
}
LANE = {"cut", "stall", "blackhole", "blackhole, up", "blackhole, down", "slow", "shuffle"}


@dataclass
class Fault:
    kind: str
    party: str
    lasts_s: float
    began: float = field(default_factory=time.monotonic)

    def __str__(self) -> str:
        lasts = f" for {self.lasts_s:.1f} s" if self.lasts_s else ""
        return f"{self.kind}: {self.party}{lasts}"


class Wanted:
    """Says which kills come before the deck, because their recovery was measured too rarely.

    Of the master and broker every second fault is still one of the deck, and in each pause between
    them one worker is killed, as early as its recovery needs.
    """

    def __init__(self) -> None:
        self._centre_next = self._worker_next = True

    def cards(self, lacking: Sequence[str], rest_s: float) -> List[Card]:
        """For the roles that lack times; `rest_s` is what is left of the pause."""
        roles = [r for r in lacking if r in CENTRE and self._centre_next]
        if "worker" in lacking and self._worker_next and rest_s >= WORKER_NEEDS_S:
            roles.append("worker")
        return [("SIGKILL", role) for role in roles]

    def dealt(self, card: Card, wanted: bool) -> None:
        if card[1] in CENTRE:
            self._centre_next, self._worker_next = not wanted, True
        elif wanted:
            self._worker_next = False


class Plan:
    """Deals faults from a shuffled deck. One seed is one deck; when each is dealt, time decides."""

    def __init__(self, parties: Parties, seed: int, longest_s: float) -> None:
        self._parties, self._longest_s = parties, longest_s
        self._random = random.Random(seed)
        self._deck: List[Card] = list(FIRST)
        self._wanted = Wanted()
        self._next_at = self._centre_at = 0.0
        self.active: List[Fault] = []
        self._over: Dict[str, float] = {}  # when somebody's last fault ended

    def step(
        self, spared: AbstractSet[str] = frozenset(), lacking: Sequence[str] = ()
    ) -> "Tuple[List[Fault], List[Fault]]":
        """End what is over, and begin the next fault when it is time: (begun, ended).

        The spared get none now. `lacking` are the roles whose kills are wanted before others.
        """
        now = time.monotonic()
        ended = [f for f in self.active if now >= f.began + f.lasts_s and self._up(f.party)]
        self._end(ended)
        if now < self._next_at:
            return [], ended
        self._next_at = now + self._random.uniform(*PAUSE_S)
        fault = self._deal(spared, self._wanted.cards(lacking, self._centre_at - now))
        if fault is None:
            return [], ended
        self.active.append(fault)
        KINDS[fault.kind].begin(self._parties, fault.party, self._random)
        return [fault], ended

    def stop(self) -> None:
        """End every fault."""
        self._end(list(self.active))

    def lately(self, seconds: float) -> Set[str]:
        """Whose last fault has ended since so long."""
        return {party for party, at in self._over.items() if time.monotonic() - at < seconds}

    def _end(self, faults: List[Fault]) -> None:
        for fault in faults:
            KINDS[fault.kind].end(self._parties, fault.party, self._random)
            self.active.remove(fault)
            self._over[fault.party] = time.monotonic()
            if fault.party in CENTRE:
                self._centre_at = time.monotonic() + self._random.uniform(*CENTRE_PAUSE_S)

    def _up(self, name: str) -> bool:
        return name not in self._parties.processes or self._parties.processes[name].alive

    def _deal(self, spared: AbstractSet[str], wanted: List[Card]) -> Optional[Fault]:
        """The first card that somebody can take now."""
        if not any(role == "worker" for _, role in self._deck):
            self._deck += self._shuffled()
        for i, card in enumerate([*wanted, *self._deck]):
            party = self._victim(*card, spared)
            if party:
                if i >= len(wanted):
                    self._deck.remove(card)
                self._wanted.dealt(card, i < len(wanted))
                return Fault(card[0], party, self._lasts_s(*KINDS[card[0]].lasts_s))
        return None

    def _lasts_s(self, low: float, high: float) -> float:
        """Short ones more often than long ones."""
        return min(low + (high - low) * self._random.random() ** 2, self._longest_s)

    def _shuffled(self) -> List[Card]:
        cards = [
            (kind, role)
            for kind, k in KINDS.items()
            for role in k.roles.split()
            for _ in range(k.weight * ROLES[role])
        ]
        self._random.shuffle(cards)
        return cards

    def _victim(self, kind: str, role: str, spared: AbstractSet[str]) -> str:
        """Somebody of that role who may have this fault now, or ""."""
        busy = {f.party for f in self.active}
        if role in CENTRE and (busy.intersection(CENTRE) or time.monotonic() < self._centre_at):
            return ""
        names = self._parties.names if role == "worker" else [role]
        if role == "worker" and 2 * len(busy.intersection(names)) >= len(names):
            return ""
        free = [n for n in names if n not in busy and n not in spared]
        able = [n for n in free if self._can(kind, n) and self._up(n)]
        return self._random.choice(able) if able else ""

    def _can(self, kind: str, name: str) -> bool:
        parties = self._parties
        if kind in LANE:
            return name in parties.lanes
        if kind == "full disk":
            return name in parties.disks
        if kind.startswith("clock"):
            return FAKETIME is not None
        return name in parties.processes
