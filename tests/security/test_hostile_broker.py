"""A broker that does all the harm that it can: it may keep words back, and make people wonder.

Every task ends as it should, with what its worker has done. No other task ever runs, none is done
twice by a worker that forgot it, none ends early, nobody dies.
"""

from __future__ import annotations

import os
import random
import secrets
import signal
import threading
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any, Callable, Dict, Iterator

import pytest

from closed_fleet import ClosedFleet
from counted_fleet import client, counting, executions
from pibot import messages as msg
from pibot.errors import Unreachable
from pibot.roles.client import Fleet
from pibot.roles.common import new_goal_id
from security.hostile_broker import HostileBroker
from security.inventions import WORKERS
from security.siege import Memory

Document = Dict[str, Any]
SEED = int(os.environ.get("SEED", "7"))
HOSTILE_S = float(os.environ.get("HOSTILE_S", "6"))
END_S = 60.0
AT_ONCE = 4
LARGE = 90_000  # characters, which travel in chunks
KINDS = ("dropped", "delayed", "repeated", "reflected", "replayed", "asked", "nonsense", "cut")


class Betrayed(ClosedFleet):
    """Its broker is not Mosquitto."""

    def open_broker(self) -> None:
        self.hostile = HostileBroker(self.port, SEED)
        self.hostile.__enter__()

    def close(self) -> None:
        super().close()
        self.hostile.__exit__()


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Betrayed]:
    made = Betrayed(tmp_path)
    with made:
        for name in WORKERS:
            made.add(name)
            env = counting(made, PIBOT_ALLOW_SHELL="1", PIBOT_SLOTS="4", **made.settings(name))
            made.start_enrolled(name, env)
        made.wait_idle(2)
        yield made


class Work:
    """People who ask for tasks of which each has an answer of its own length, and wait for it."""

    def __init__(self, asks: Fleet) -> None:
        self._asks, self._random = asks, random.Random(SEED)
        self.sizes: Dict[str, int] = {}
        self.documents: Dict[str, Document] = {}
        self._over = threading.Event()
        self._people = [threading.Thread(target=self._ask_on, daemon=True) for _ in range(AT_ONCE)]
        for person in self._people:
            person.start()

    def _ask_on(self) -> None:
        while not self._over.is_set():
            goal, size = new_goal_id(), len(self.sizes) + 1
            size += LARGE if size % 6 == 0 else 0
            self.sizes[goal] = size
            args = {"size": size, "seconds": self._random.random() * 0.4}
            submit = msg.Submit(goal, skill="work", args=args, timeout_s=120.0)
            _patiently(lambda s=submit: self._asks.ask(s, 3.0))  # type: ignore[misc]
            self.documents[goal] = _patiently(lambda g=goal: self._asks.follow(g))  # type: ignore[misc]

    def end(self) -> None:
        """What is under way ends now; all of it was as it should be."""
        self._over.set()
        for person in self._people:
            person.join(END_S)
        assert set(self.documents) == set(self.sizes), "somebody waits in vain"
        for goal, size in self.sizes.items():
            for document in (self.documents[goal], self._asks.follow(goal)):
                assert document["state"] == "succeeded", document
                assert document["answer"] == "x" * size, "a false result"


def _patiently(ask: Callable[[], Document]) -> Document:
    """Again, as long as nobody answers."""
    while True:
        with suppress(Unreachable):
            return ask()


def test_a_hostile_broker_can_only_keep_things_back(fleet: Betrayed) -> None:
    broker, did = fleet.hostile, fleet.hostile.malice.did
    with client(fleet) as asks:
        began, memory = time.monotonic(), Memory(fleet)
        broker.hostile, work = True, Work(asks)
        for name in ("worker-1", "master", ""):
            time.sleep(HOSTILE_S / 3)
            if name:
                fleet.kill(name, signal.SIGKILL)
                fleet.restart(name)
        broker.hostile = False
        work.end()
        print(f"SEED={SEED}: {len(work.sizes)} tasks, {sum(did.values())} operations: {dict(did)}")
        print(f"all of it in {time.monotonic() - began:.1f} s")
        fleet.wait_idle(2)
        attempts = {t["task_id"]: t["attempt"] for d in work.documents.values() for t in d["tasks"]}
        ran = Counter(executions(fleet))
        assert set(ran) == set(attempts), "something ran that nobody asked for"
        assert ran <= Counter(attempts), "something ran more often than it was given to anybody"
        roster = asks.ask(msg.Listing("roster"))["workers"]
        assert [(row["worker_id"], row["state"]) for row in roster] == [
            (w, "idle") for w in WORKERS
        ]
        known = {row["goal_id"] for row in asks.ask(msg.Listing("tasks"))["goals"]}
        assert known <= set(work.sizes), "a goal that nobody asked for"
        token = secrets.token_hex(8)
        assert asks.run_skill("echo", {"text": token}, all=True)["state"] == "succeeded"
    memory.check()
    for process in fleet.processes.values():
        assert process.alive and "Traceback" not in process.said(), process.said()
    assert not list(fleet.folder.rglob("pwned"))
    assert sum(did.values()) > 500 and all(did[kind] for kind in KINDS)
