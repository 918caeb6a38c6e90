"""Master and workers on a bus that loses, doubles, delays and reorders; they die and are cut off.

The real rules on both sides (gateway, scheduler, worker core, sessions, packets) in virtual time;
disks keep what was committed. One seed is one run.
"""

from __future__ import annotations

import heapq
import itertools
import random
from typing import Any, Dict, List, Tuple

import pytest

from fleet.world import hello
from pibot import messages as msg
from pibot.agent.worker_core import Dropped, Out, Start, WorkerCore
from pibot.errors import BadMessage
from pibot.fleet import events as ev
from pibot.fleet.gateway import Gateway, Packet
from pibot.fleet.records import DRAINING, FORGOTTEN, REMOVED, Attempt, Goal, Known, Standing, Task
from pibot.fleet.scheduler import Scheduler
from pibot.session import Guest
from pibot.signing import Unsigned
from pibot.topics import Topics
from pibot.wire import Reader, Writer

TOPICS = Topics("home")
LARGE = "x" * 70_000  # travels in chunks
FAULTS_S = 400.0
QUIET_S = 600.0


class Bus:
    def __init__(self, seed: int) -> None:
        self.chance = random.Random(f"bus {seed}")
        self.now = 0.0
        self.lossy = True
        self._queue: List[Tuple[float, int, Any]] = []
        self._count = itertools.count()

    def at(self, delay_s: float, what: Any) -> None:
        heapq.heappush(self._queue, (self.now + delay_s, next(self._count), what))

    def publish(self, deliver: Any, topic: str, payload: bytes) -> None:
        copies = self.chance.choice([0, 1, 1, 1, 1, 1, 2]) if self.lossy else 1
        for _ in range(copies):
            slow = self.chance.random() < 0.05
            delay = self.chance.uniform(0.0, 20.0 if slow and self.lossy else 0.2)
            self.at(delay, lambda: deliver(topic, payload))

    def run_until(self, end: float) -> None:
        while self._queue and self._queue[0][0] <= end:
            self.now, _, what = heapq.heappop(self._queue)
            what()
        self.now = end


class Node:
    """Something that ticks, and dies: what is on its way to its old life reaches the new one."""

    def __init__(self, bus: Bus) -> None:
        self.bus = bus
        self.life = 0

    def begin(self) -> None:
        self.life += 1
        self.beat(self.life)

    def beat(self, life: int) -> None:
        if life == self.life:
            self.tick()
            self.bus.at(0.25, lambda: self.beat(life))

    def tick(self) -> None:
        raise NotImplementedError


class Master(Node):
    def __init__(self, bus: Bus, nonce: Any) -> None:
        super().__init__(bus)
        self.workers: Dict[str, Worker] = {}
        self.disk: Dict[Tuple[str, str], Any] = {}
        self.results: Dict[str, Any] = {}
        self._nonce = nonce

    def begin(self) -> None:
        self.scheduler = Scheduler(self.bus.chance.random)
        self.gateway = Gateway(
            TOPICS, Unsigned(), self.scheduler.pool, self._nonce, self.life + 1, "store"
        )
        goals = [f for f in self.disk.values() if isinstance(f, Goal) and not f.ended]
        tasks = [f for f in self.disk.values() if isinstance(f, Task) and not f.ended]
        wanted = {g.id for g in goals} | {t.goal for t in tasks}
        open_tasks = [f for f in self.disk.values() if isinstance(f, Task) and f.goal in wanted]
        open_goals = [f for f in self.disk.values() if isinstance(f, Goal) and f.id in wanted]
        known = [f for f in self.disk.values() if isinstance(f, Known)]
        standings = [f for f in self.disk.values() if isinstance(f, Standing)]
        kept = [*open_tasks, *open_goals, *known, *standings]
        self.settle(self.scheduler.load(kept, self.bus.now))
        self.send(self.gateway.announce())
        super().begin()

    def settle(self, out: ev.Out) -> None:
        for fact in out.facts:
            if isinstance(fact, Task) and fact.ended:
                if fact.result and fact.result["success"]:
                    assert fact.result["data"] == {"by": fact.assignee}, "not from its worker"
                told = self.results.setdefault(fact.id, (fact.state, fact.result))
                assert told == (fact.state, fact.result), f"a second result of {fact.id}"
            if not isinstance(fact, Attempt):
                name = fact.worker if isinstance(fact, (Known, Standing)) else fact.id
                self.disk[type(fact).__name__, name] = fact
        self.send(self.gateway.take_packets())
        for send in out.sends:
            self.send(self.gateway.to_worker(send.worker, send.message, send.qos))

    def send(self, packets: List[Packet]) -> None:
        for packet in packets:
            for name, worker in self.workers.items():
                mine = packet.topic in (TOPICS.announce, TOPICS.worker(name, "cmd"))
                if mine and self.bus.now >= worker.cut_until:
                    self.bus.publish(worker.receive, packet.topic, packet.payload)

    def receive(self, topic: str, payload: bytes) -> None:
        found: Any = self.gateway.receive(topic, payload, self.bus.now)
        self.send(self.gateway.take_packets())
        if found is not None:
            self.settle(self.scheduler.handle(found, self.bus.now))

    def tick(self) -> None:
        self.settle(self.scheduler.handle(ev.Tick(), self.bus.now))

    def submit(self, goal_id: str, **fields: Any) -> None:
        self.settle(self.scheduler.handle(ev.Submitted(Goal(goal_id, **fields)), self.bus.now))

    def cancel(self, goal_id: str) -> None:
        self.settle(self.scheduler.handle(ev.CancelWanted(goal_id), self.bus.now))

    def decide(self, name: str, state: str) -> None:
        """Drain, resume, remove a worker or let it in again, as the manager does."""
        if state in (REMOVED, FORGOTTEN):
            self.gateway.dismiss(name)
        self.settle(self.scheduler.handle(ev.StandingWanted(name, state), self.bus.now))

    def goals(self) -> List[Goal]:
        return [f for f in self.disk.values() if isinstance(f, Goal)]


class Worker(Node):
    def __init__(self, bus: Bus, name: str, master: Master, nonce: Any) -> None:
        super().__init__(bus)
        self.name, self.master, self._nonce = name, master, nonce
        self.disk: Dict[str, Any] = {}
        self.runs = 0
        self.cut_until = 0.0  # nothing gets through to it or from it
        master.workers[name] = self

    def begin(self) -> None:
        inc, start = self.life + 1, self._nonce()
        self.disk = {k: h for k, h in self.disk.items() if h.result is not None}
        facts = hello(start, inc, self.name, slots=2).facts
        guest = Guest(self._nonce, self.bus.chance.random)
        self.core = WorkerCore(
            lambda nonce: msg.Hello(nonce, start, inc, facts=facts),
            2,
            guest,
            self.bus.chance.random,
            list(self.disk.values()),
        )
        self.reader, self.writer = (
            Reader(Unsigned()),
            Writer(f"w:{self.name}", self.name, Unsigned()),
        )
        super().begin()

    def do(self, out: Out) -> None:
        for fact in out.facts:
            if isinstance(fact, Dropped):
                self.disk.pop(fact.task, None)
            else:
                self.disk[fact.task] = fact
        for send in out.sends:
            topic = TOPICS.worker(self.name, send.channel)
            channel = None if send.joining else self.core.guest.channel
            for packet in self.writer.packets(topic, send.message, channel, self.core.guest.epoch):
                if self.bus.now >= self.cut_until:
                    self.bus.publish(self.master.receive, topic, packet)
        for effect in out.effects:
            if isinstance(effect, Start):
                self.runs += 1
                life, assign = self.life, effect.assign
                took = self.bus.chance.choice([0.1, 1.0, 12.0])
                self.bus.at(took, lambda assign=assign, life=life: self.end(assign, life))

    def end(self, assign: msg.Assign, life: int) -> None:
        if life == self.life:
            said = {"success": True, "data": {"by": self.name}, "output": LARGE}
            done = msg.Result(assign.task, assign.att, "succeeded", said)
            self.do(self.core.ended(done, self.bus.now))

    def receive(self, topic: str, payload: bytes) -> None:
        try:
            _, header, message = self.reader.read(topic, payload)
        except BadMessage:
            return
        self.do(self.core.received(header, message, self.bus.now))

    def tick(self) -> None:
        self.do(self.core.tick(self.bus.now))


@pytest.mark.parametrize("people_decide", [False, True])
@pytest.mark.parametrize("seed", range(12))
def test_every_goal_ends_once_whatever_dies(seed: int, people_decide: bool) -> None:
    bus, numbers = Bus(seed), itertools.count(1)
    nonce = lambda: f"{next(numbers):016x}"  # noqa: E731
    master = Master(bus, nonce)
    workers = [Worker(bus, f"w{i}", master, nonce) for i in range(3)]
    for node in (master, *workers):
        node.begin()
    fate = random.Random(f"fate {seed}")
    cancelled = set()
    for i in range(60):
        bus.run_until(bus.now + fate.uniform(0.0, 2 * FAULTS_S / 60))
        master.submit(f"g{i}", skill="echo", args={}, timeout_s=5_000.0)
        if fate.random() < 0.15:
            cancelled.add(f"g{i}")
            bus.at(fate.uniform(0.0, 5.0), lambda i=i: master.cancel(f"g{i}"))
        if fate.random() < 0.2:
            fate.choice([master, *workers]).begin()
        if fate.random() < 0.2:
            fate.choice(workers).cut_until = bus.now + fate.uniform(5.0, 60.0)
        if people_decide and fate.random() < 0.2:
            name, first = fate.choice(workers).name, fate.choice([DRAINING, REMOVED, FORGOTTEN])
            then = "" if first == DRAINING else FORGOTTEN
            master.decide(name, first)
            bus.at(fate.uniform(0.0, 40.0), lambda n=name, s=then: master.decide(n, s))
    for worker in workers if people_decide else ():
        removed = master.scheduler.pool.gone.get(worker.name) == REMOVED
        master.decide(worker.name, FORGOTTEN if removed else "")
    bus.lossy = False
    bus.run_until(bus.now + QUIET_S)
    ended = {g.id: g for g in master.goals()}
    assert len(ended) == 60 and all(g.ended for g in ended.values())
    for goal in ended.values():
        lost = "losses" in (goal.error or "")
        assert goal.state == "succeeded" or goal.id in cancelled or lost, goal
    assert sum(g.state == "succeeded" for g in ended.values()) >= 40
    assert (master.scheduler.board.tasks, master.scheduler.board.goals) == ({}, {})
    assert all(not w.core.held and not w.disk for w in workers), "results nobody acknowledged"
    assert {w.state for w in master.scheduler.pool.workers.values()} == {"idle"}
    assert sum(w.runs for w in workers) >= 50
