"""What befalls a run: which faults there are, when they strike, and what people ask for meanwhile.

Each run has a few kinds of faults, not all: so each of them is also met alone.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any, Callable, Dict, List, Tuple

from pibot import messages as msg
from pibot.fleet.records import FORGOTTEN, REMOVED
from sim.clock import chance_of
from sim.network import Weather

if TYPE_CHECKING:
    from sim.party import Party
    from sim.worker import Worker
    from sim.world import World

FAULTS_S = 90.0
WORDS = "search the files on all disks, then compare them and save a report"
LAGGARDS = Weather(slow=0.5, slow_s=12.0, ordered=False)
WEATHERS = (
    Weather(),
    Weather(lost=0.05, lost_0=0.1),
    Weather(lost=0.3, lost_0=0.5),
    Weather(doubled=0.3, echo_s=1.0),
    Weather(slow=0.1, slow_s=20.0, will_s=30.0),
    Weather(lost=0.1, lost_0=0.2, doubled=0.3, slow=0.1, slow_s=20.0, will_s=30.0, ordered=False),
    Weather(doubled=0.5, slow=0.3, slow_s=15.0, ordered=False),
    LAGGARDS,
)
POINTS = ("before commit", "after commit", "while telling")


class Fate:
    def __init__(self, seed: int) -> None:
        chance = self._chance = chance_of(seed, "fate")
        self.weather = chance.choice(WEATHERS)
        kinds: List[Callable[["World", random.Random], None]] = [
            _kill_worker,
            _kill_master,
            _kill_at_a_point,
            _freeze,
            _cut,
            _drop,
            _restart_broker,
            _slow_disk,
            _full_disk,
            _leave,
            _restart_client,
        ]
        self.kinds = [kind for kind in kinds if chance.random() < 0.4]
        self.people = chance.random() < 0.25
        self.twins = chance.random() < 0.15
        self.strangers = chance.random() < 0.15
        self.large = chance.random() < 0.05
        self.cancels = chance.random() < 0.5
        self.workers = chance.choice([1, 2, 3, 3, 4, 4])
        self.goals = chance.randint(4, 10)
        self.strikes = chance.randint(2, 12)
        self.skills = [chance.choice(_SKILLS) for _ in range(chance.randint(1, 4))]
        theme = chance.random()
        if theme < 0.12:
            self._old_copies()
        elif theme < 0.3:
            self._unsafe_alone()
        elif theme < 0.45:
            self._bad_disks()

    def _old_copies(self) -> None:
        """One attempt after the other on one worker, and old messages in between."""
        self.weather, self.workers, self.skills, self.goals = LAGGARDS, 1, [""], 6
        self.kinds, self.people, self.twins = [], False, False

    def _unsafe_alone(self) -> None:
        """Work that is unsafe to repeat, free workers, and those that have it fall silent."""
        self.kinds = [_freeze, _cut, _drop, _leave]
        self.workers, self.skills, self.goals = 4, ["unlock"], 3
        self.people = self.twins = False

    def _bad_disks(self) -> None:
        """Disks that are slow or full, and processes killed around their commits."""
        self.kinds, self.strikes = [_kill_at_a_point] * 3 + [_slow_disk, _full_disk], 15

    def unfold(self, world: "World") -> None:
        """Put everything that will happen into the world's future."""
        chance, loop = self._chance, world.loop
        for number in range(1, self.goals + 1):
            loop.at(chance.uniform(0.0, FAULTS_S * 0.9), self._submit, world, f"g{number}")
        for _ in range(self.strikes if self.kinds else 0):
            loop.at(chance.uniform(0.0, FAULTS_S), chance.choice(self.kinds), world, chance)
        if self.people:
            for _ in range(4):
                loop.at(chance.uniform(5.0, FAULTS_S), _decide, world, chance)
        if self.twins:
            loop.at(chance.uniform(5.0, FAULTS_S * 0.7), _twin, world, chance)

    # --- what people ask for ----------------------------------------------------------------------

    def _submit(self, world: "World", goal_id: str) -> None:
        chance = chance_of(world.seed, f"goal {goal_id}")
        skill, want = chance.choice(self.skills), {"succeeded"}
        timeout_s = 5_000.0
        if chance.random() < 0.1:
            timeout_s, want = chance.uniform(5.0, 60.0), want | {"timed_out"}
        if skill in ("break", ""):
            want = want | {"failed"}
        some = chance.choice(sorted(w.name for w in world.workers))
        where: Dict[str, Any] = chance.choice(
            [{}, {}, {}, {"on": some}, {"all": True}, {"tag": "fast"}]
        )
        if self.strangers and "all" in where:
            timeout_s, want = 90.0, want | {"timed_out"}  # it waits for one that cannot come
        if where:
            want = want | {"failed"}  # the one that is meant may be offline, unknown, removed
        args = {"text": "x" * 70_000} if self.large and skill == "echo" else {}
        world.witness.wanted[goal_id] = want
        submit = msg.Submit(
            goal_id,
            goal="" if skill else WORDS,
            skill=skill,
            args=args,
            timeout_s=timeout_s,
            follow=chance.random() < 0.5,
            **(where if skill else {}),
        )
        client = chance.choice(world.clients)
        client.ask(submit)
        if self.cancels and chance.random() < 0.3:
            at = chance.uniform(0.0, 20.0)
            world.loop.after(at, self._cancel, world, client, goal_id)
        if self.cancels and chance.random() < 0.3:
            world.loop.after(chance.uniform(0.0, 60.0), client.ask, msg.Retry(goal_id))

    def _cancel(self, world: "World", client: Any, goal_id: str) -> None:
        world.witness.wanted[goal_id] |= {"cancelled"}
        client.ask(msg.Cancel(goal_id))

    # --- what comes of it -------------------------------------------------------------------------

    def work(self, spec: Dict[str, Any], chance: random.Random) -> Tuple[float, str]:
        """How long an attempt takes, and how it ends."""
        skill = spec.get("skill", "agent")
        if skill in ("measure", "unlock"):
            return chance.uniform(1.0, 60.0 if skill == "measure" else 120.0), "succeeded"
        fails = 0.0 if skill == "echo" else 0.5
        return chance.uniform(
            0.0, 3.0 if skill == "echo" else 8.0
        ), "failed" if chance.random() < fails else "succeeded"

    def plan(self, chance: random.Random) -> Tuple[Dict[str, Any], ...]:
        """A planner's answer: some tasks, each of which may need the ones before it."""
        names = ["a", "b", "c", "d"][: chance.randint(1, 4)]
        return tuple(
            {
                "id": name,
                "goal": f"do {name}",
                "needs": [n for n in names[:i] if chance.random() < 0.4],
                "on_lost": chance.choice(["rerun", "rerun", "wait", "fail"]),
                "all": chance.random() < 0.1,
            }
            for i, name in enumerate(names)
        )


_SKILLS = ("echo", "measure", "unlock", "break", "switch", "")  # none: words, which are planned


# --- faults ---------------------------------------------------------------------------------------


def _some(world: "World", chance: random.Random) -> "Party":
    """Anybody; the workers more often, where the promises are."""
    if chance.random() < 0.5:
        return _worker(world, chance)
    return chance.choice([world.master, *world.workers, *world.clients])


def _worker(world: "World", chance: random.Random) -> "Worker":
    """Rather one that works: a fault strikes nothing where nothing happens."""
    working = [w for w in world.workers if w.alive and w.runs]
    return chance.choice(working if working and chance.random() < 0.7 else world.workers)


def _kill_worker(world: "World", chance: random.Random) -> None:
    _worker(world, chance).kill(chance.choice([0.5, 3.0, 20.0, 45.0]))


def _kill_master(world: "World", chance: random.Random) -> None:
    world.master.kill(chance.choice([0.2, 3.0, 40.0]))


def _kill_at_a_point(world: "World", chance: random.Random) -> None:
    _with_disk(world, chance).disk.doom = chance.choice(POINTS)


def _freeze(world: "World", chance: random.Random) -> None:
    _some(world, chance).freeze(chance.choice([1.0, 10.0, 25.0, 35.0, 50.0]))


def _cut(world: "World", chance: random.Random) -> None:
    party, seconds = _some(world, chance), chance.choice([3.0, 12.0, 25.0, 45.0, 60.0])
    way = chance.choice(["both", "in", "out"])
    party.note(f"is cut off ({way}) for {seconds:.0f} s")
    if party.connection is not None:
        world.broker.cut(party.connection, seconds, way)


def _drop(world: "World", chance: random.Random) -> None:
    party = _some(world, chance)
    if party.alive and party.connection is not None:
        world.broker.drop(party.connection)
        world.broker.cut(party.connection, chance.choice([0.0, 0.0, 12.0, 25.0]), "both")


def _restart_broker(world: "World", chance: random.Random) -> None:
    world.timeline.note(world.loop.now, "broker", "restarts")
    world.broker.restart(chance.choice([0.1, 2.0, 20.0]))


def _with_disk(world: "World", chance: random.Random) -> "Party":
    return world.master if chance.random() < 0.5 else _worker(world, chance)


def _slow_disk(world: "World", chance: random.Random) -> None:
    party = _with_disk(world, chance)
    party.note("has a slow disk")
    party.slow_until = world.loop.now + chance.uniform(5.0, 30.0)


def _full_disk(world: "World", chance: random.Random) -> None:
    party = _with_disk(world, chance)
    party.note("has a full disk")
    party.disk.full_until = world.loop.now + chance.uniform(1.0, 20.0)


def _leave(world: "World", chance: random.Random) -> None:
    _worker(world, chance).leave(chance.choice([0.5, 3.0, 20.0]))


def _restart_client(world: "World", chance: random.Random) -> None:
    chance.choice(world.clients).kill(chance.choice([0.2, 5.0]))


def _twin(world: "World", chance: random.Random) -> None:
    """Somebody has copied an SD card and starts a second machine from it."""
    first = chance.choice(world.workers)
    world.add_twin(first)


def _decide(world: "World", chance: random.Random) -> None:
    name, client = chance.choice(world.workers).name, chance.choice(world.clients)
    action = chance.choice(["drain", "remove", "expel"])
    if action != "expel":
        client.ask(msg.Manage(action, name))
        world.loop.after(chance.uniform(1.0, 30.0), client.ask, msg.Manage("resume", name))
    else:  # in a fleet with credentials one that is online can be removed, and added again
        world.master.decide(name, REMOVED)
        world.loop.after(chance.uniform(1.0, 30.0), world.master.decide, name, FORGOTTEN)
