"""What was said once means nothing a second time: at once, after restarts, in restored stores."""

from __future__ import annotations

import random
import re
import shutil
import signal
from pathlib import Path
from typing import Callable, List, Tuple

import pytest

from counted_fleet import executions
from pibot import messages as msg
from security.impostor import TOPICS
from security.intruder import Message as Heard
from security.siege import HONEST, Siege

LARGE = 200_000  # characters of a result that travels in chunks
ROUNDS = 3
Ended = Tuple[str, int, str]  # where, with which attempt, how
UNCHANGED = [(name, 1, "succeeded") for name in HONEST]


class Tape:
    """What the broker heard of a busy minute in the fleet."""

    def __init__(self, siege: Siege) -> None:
        self._siege = siege
        with siege.broker() as tap:
            siege.asks.ask(msg.Manage("drain", "worker-2"))
            siege.asks.ask(msg.Manage("resume", "worker-2"))
            stopped = siege.running("worker-1", 30.0, end="cancelled")
            siege.asks.ask(msg.Cancel(stopped))
            assert siege.asks.follow(stopped)["state"] == "cancelled"
            assert len(siege.done("work", "worker-1", size=LARGE)) == LARGE
            assert siege.done("work", "worker-2") == "done"
            siege.restart("worker-2")
            siege.goes_on()
            assert tap.sync()
            self.heard: List[Heard] = [one for one in tap.heard if b'"kid":' in one[1][:90]]
        kinds = (
            b"hello",
            b"welcome",
            b"inventory",
            b"heartbeat",
            b"assign",
            b"accepted",
            b"cancel",
        )
        for kind in (*kinds, b"result", b"result_ack", b"bye", b"chunk", b"submit", b"manage"):
            assert self.of_kind(kind), f"no {kind!r} on the tape"

    def of_kind(self, kind: bytes) -> List[Heard]:
        return [one for one in self.heard if b'"t":"%s"' % kind in one[1]]

    def play(self, seed: int = 0) -> None:
        """As it was, and then in any order."""
        again, rng = list(self.heard), random.Random(seed)
        with self._siege.broker() as broker:
            for _ in range(ROUNDS):
                for topic, payload in again:
                    broker.publish(topic, payload, rng.randrange(2))
                rng.shuffle(again)
            assert broker.sync()


@pytest.fixture(scope="module")
def tape(closed: Siege) -> Tape:
    return Tape(closed)


def meanwhile(siege: Siege, act: Callable[[], None]) -> List[Ended]:
    """How the tasks end that run while somebody acts; nothing else runs, and nobody is lost."""
    runs = [siege.running(name, 0.8) for name in HONEST]
    ran = executions(siege.fleet)
    act()
    ended = []
    for goal in runs:
        (row,) = siege.asks.follow(goal)["tasks"]
        ended.append((row["worker_id"], row["attempt"], row["state"]))
    assert executions(siege.fleet) == ran, "something ran again"
    assert siege.workers() == dict.fromkeys(HONEST, "idle")
    return ended


def test_a_tape_of_the_present(siege: Siege, tape: Tape) -> None:
    """Also of what runs just now, and of the session in which it runs."""
    assert meanwhile(siege, tape.play) == UNCHANGED
    with siege.broker() as tap:
        goal = siege.running("worker-1", 1.0)
        assert tap.sync()
        for topic, payload in list(tap.heard) * 20:
            tap.publish(topic, payload)
        assert tap.sync()
    (row,) = siege.asks.follow(goal)["tasks"]
    assert (row["attempt"], row["state"]) == (1, "succeeded")


@pytest.mark.parametrize("name", ["worker-1", "master"])
def test_a_tape_of_before_a_restart(siege: Siege, tape: Tape, name: str) -> None:
    siege.restart(name, signal.SIGKILL)
    assert meanwhile(siege, tape.play) == UNCHANGED


def test_a_tape_of_a_future_that_the_master_has_forgotten(siege: Siege, tmp_path: Path) -> None:
    """Its store is put back: the same epoch comes a second time, with the same tasks unknown."""
    assert restored(siege, "master", tmp_path) == UNCHANGED


def test_a_tape_of_a_future_that_a_worker_has_forgotten(siege: Siege, tmp_path: Path) -> None:
    """Its store is put back: it counts the same start a second time, and knows of no result."""
    assert restored(siege, "worker-1", tmp_path) == UNCHANGED


def restored(siege: Siege, name: str, folder: Path) -> List[Ended]:
    """Put a store back, and play what was recorded after it was kept; see meanwhile."""
    state, kept = siege.fleet.folder / name / "state", folder / "kept"
    siege.fleet.kill(name, signal.SIGTERM)
    shutil.copytree(state, kept)
    siege.fleet.restart(name)
    siege.fleet.wait_idle(2)
    before = set(siege.goals)
    tape = Tape(siege)
    siege.fleet.kill(name, signal.SIGTERM)
    shutil.rmtree(state)
    shutil.copytree(kept, state)
    siege.fleet.restart(name)
    siege.fleet.wait_idle(2)
    ended = meanwhile(siege, tape.play)
    if name == "master":
        forgotten = set(siege.goals) - before - siege.known()
        assert forgotten, "the master knows what it was asked to do before its store was put back"
        siege.forget(forgotten)
    return ended


# --- reflected ------------------------------------------------------------------------------------


def elsewhere(topic: str) -> List[str]:
    """All topics on which somebody listens, but this one."""
    topics = [TOPICS.announce, TOPICS.client("laptop", "req"), TOPICS.client("laptop", "rep")]
    for name in HONEST:
        topics += [TOPICS.worker(name, c) for c in ("cmd", "evt", "hb", "prog", "will")]
        topics.append(TOPICS.client(name, "req"))
    return [one for one in topics if one != topic]


def renamed(payload: bytes, name: str) -> bytes:
    """The same words and signature under another name."""
    head, _, body = payload.partition(b',"body":')
    return re.sub(rb'"w:[^"]*"', b'"w:%s"' % name.encode(), head) + b',"body":' + body


def test_what_one_said_is_nobody_elses_word(siege: Siege, tape: Tape) -> None:
    """A worker's words to itself, the master's to itself, one's to another, a client's to all."""
    some = [one for one in tape.heard if len(one[1]) < 2_000] + tape.of_kind(b"chunk")[:1]

    def reflect() -> None:
        with siege.broker() as broker:
            for was, payload in some:
                for topic in elsewhere(was):
                    broker.publish(topic, payload)
                    if topic.endswith(("/evt", "/hb")):
                        broker.publish(topic, renamed(payload, topic.split("/")[4]))
                assert broker.sync()

    assert meanwhile(siege, reflect) == UNCHANGED
