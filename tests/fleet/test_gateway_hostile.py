"""The master's end of the wire: strangers, floods and bytes that mean harm."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any, List

import pytest

from fleet.gate import Gate
from fleet.peers import TOPICS, Peer
from fleet.world import World, hello
from pibot import messages as msg
from pibot.fleet import events as ev
from pibot.fleet.gateway import Pulled, Request, Sliced, Step
from pibot.fleet.scheduler import Scheduler
from pibot.messages import Message
from pibot.signing import Unsigned, seal


@pytest.fixture
def gate() -> Gate:
    return Gate()


# --- strangers ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "topic, kid, src",
    [
        (TOPICS.worker("w1", "evt"), "w:w2", "w1"),
        (TOPICS.worker("w1", "evt"), "w:w1", "w2"),
        (TOPICS.worker("w1", "evt"), "c:w1", "w1"),
        (TOPICS.client("w1", "req"), "w:w1", "w1"),
        (TOPICS.announce, "m:other", "master"),
        (TOPICS.ask, "w:w1", "w1"),
        ("pibot/1/lab/w/w1/evt", "w:w1", "w1"),
        ("pibot/1/home/w/w1/evt/x", "w:w1", "w1"),
    ],
)
def test_who_speaks_for_another_is_dropped_and_counted(
    gate: Gate, topic: str, kid: str, src: str
) -> None:
    body = msg.encode(msg.Header("hello", "x", src), hello())
    assert gate.receive(topic, seal(Unsigned(), kid, topic, body)) is None
    assert gate.packets == [] and gate.gateway.dropped[topic] == 1


def test_the_sessions_of_others_cannot_be_used(gate: Gate) -> None:
    one, other = Peer(gate), Peer(gate, name="w2")
    one.join()
    other.join("2" * 16)
    other.channel = one.channel
    assert other.send(msg.Result("g1-1", 1, "succeeded", {})) == []
    client = Peer(gate, "c", "laptop")
    client.channel = one.channel
    assert client.send(msg.Listing("workers")) == []


@pytest.mark.parametrize(
    "message",
    [msg.Assign("g1-1", 1, 1, {}), msg.Welcome("1" * 16, "2" * 16, "s", 1, 1), msg.Ping()],
)
def test_what_a_worker_does_not_say_is_dropped(gate: Gate, message: Message) -> None:
    peer = Peer(gate)
    peer.join()
    gate.told(peer, Message)
    assert peer.send(message) == [] and gate.told(peer, Message) == []


@pytest.mark.parametrize("t, answered", [("sing", True), ("unknown", False)])
@pytest.mark.parametrize("kind", ["w", "c"])
def test_an_unknown_type_is_answered_but_never_an_answer(
    gate: Gate, kind: str, t: str, answered: bool
) -> None:
    peer = Peer(gate, kind)
    peer.join() if kind == "w" else peer.greet()
    gate.told(peer, Message)
    (packet,) = peer.packets(msg.Unknown("sing"))
    packet = packet.replace(b'"t":"unknown"', f'"t":"{t}"'.encode())
    assert gate.receive(peer.topic(), packet) is None
    assert gate.told(peer, msg.Unknown) == ([msg.Unknown("sing")] if answered else [])


def test_a_will_needs_no_session_and_is_a_hint(gate: Gate) -> None:
    peer = Peer(gate)
    assert peer.send(msg.Will("a" * 16), joining=True) == [ev.WillSeen("w1", "a" * 16)]
    assert Peer(gate, "c", "laptop").send(msg.Will("x"), joining=True) == []


# --- hostile --------------------------------------------------------------------------------------

WEIRD: List[Any] = [
    *(None, 0, -1, True, 1.5, "", "x" * 10_000, [], {}, [[]], [None], [{}], {"": {}}),
    *(10**299, -(10**299), 1e308, [1, "a", None, {"name": 5}, {"name": "x\0\n"}]),
    [{"name": "echo", "phrases": p} for p in (5, None, "abc", [1], [[]], [{"a": 1}], ["("], ["a"])],
    [{"name": "echo", "phrases": ['boom => {"x": NaN}', 'bang => {"x": 1e999}', "a {x} b {y} c"]}],
    [
        {"name": ["echo"]},
        {"name": "echo", "repeatable": "no", "description": {"x": 1}, "params": 7},
    ],
    [{"name": "n" * 100_000}, {"name": "../../etc"}, {"name": "echo", "workers": 5}],
]
FACTS = ("slots", "tags", "skills", "model", "host", "machine", "version", "load1", "cpu_temp_c")


@pytest.mark.parametrize("key", FACTS)
def test_no_facts_of_a_worker_hurt_the_master(key: str) -> None:
    """Whatever it says of itself: it can be shown, scheduled, asked in words and stored."""
    from pibot.fleet import routing, status, views
    from pibot.fleet.planner import _describe
    from pibot.fleet.records import Known, to_json

    for weird in WEIRD:
        world = World()
        facts = {key: weird} if key != "skills" else {"skills": weird, "model": True}
        world.join("w1", **facts)
        world.join("w1", start="b" * 16, inc=2, **facts)
        world.beat("w1")
        world.feed(ev.Beat("w1", msg.Heartbeat([], {key: weird})))
        pool = world.scheduler.pool
        pool.refuse("w1", msg.Hello("f" * 16, "c" * 16, 1, facts=facts), world.now)
        for i, text in enumerate(("boom", "a x b y c", "disk space", "fleet status", "echo hi")):
            world.submit(f"g{i}", text=text)
        world.submit("g9", skill="echo", args={})
        world.tick(1.0)
        row = status.worker_row(pool.get("w1"), world.now)
        json.dumps(status.fleet_document("home", 1, pool, world.now), allow_nan=False)
        skills = status.skills_document(pool, "")
        msg.encode(msg.Header("reply", "x", "master"), msg.Reply("x", {"row": row, **skills}))
        _describe({"workers": [row], **skills})
        views.Views(TOPICS, "home", 1).packets(pool, world.now)
        routing.summary(pool)
        to_json(Known("w1", facts))
        for send in world.sends:
            msg.encode(msg.Header(send.message.t, "x", "master"), send.message)
        assert row["worker_id"] == "w1" and row["state"] in ("idle", "busy")


@pytest.mark.parametrize(
    "result, usage, trace",
    [
        ({}, {}, []),
        ({"success": "yes", "output": ["a"], "data": 5}, {"input_tokens": "many"}, [None, 5]),
        ({"success": 1, "output": None}, {"input_tokens": 1.5, "output_tokens": True}, [[]]),
        ({"success": True, "output": {"x": 1}, "data": []}, {"input_tokens": -(10**299)}, [{}]),
        ({"success": True, "output": 10**299}, {"model_calls": 10**299}, ["x"]),
        ({"success": {}, "output": "\x1b[2J\0"}, {"input_tokens": None}, []),
    ],
)
@pytest.mark.parametrize("state", ["succeeded", "failed", "sleeping", ""])
def test_no_result_of_a_worker_hurts_the_master(
    result: Any, usage: Any, trace: Any, state: str
) -> None:
    from pibot.fleet import asks, document

    world = World()
    world.join("w1")
    world.submit(skill="echo", args={"text": "x"})
    weird = msg.Result("g1-1", 1, state, result, "e" * 100_000, usage, trace)
    out = world.feed(ev.AttemptEnded("w1", weird))
    assert [s for s in out.sends if isinstance(s.message, msg.ResultAck)]
    goal, task = world.goal(), world.task("g1-1")
    assert goal.state != "succeeded" or result.get("success") is True
    found = document.goal_document(goal, [task])
    assert all(isinstance(n, int) and 0 <= n < 2**53 for n in found["usage"].values())
    assert len(task.error or "") < 5_000
    asks.answer(found, "7")
    document.context("x", [task], 10)


def test_a_flood_of_facts_is_not_remembered() -> None:
    world = World()
    world.join("w1")
    for i in range(500):
        world.feed(ev.Beat("w1", msg.Heartbeat([], {f"k{i}": i, "load1": 0.1})))
    facts = world.scheduler.pool.get("w1").facts
    assert facts["k499"] == 499 and facts["host"] == "pi" and len(facts) < 20


def test_a_stranger_is_no_worker_because_of_a_hello(gate: Gate) -> None:
    for i in range(100):
        Peer(gate, name=f"ghost{i}").greet()
    assert gate.pool.workers == {}


def test_numbers_of_a_message_never_hurt(gate: Gate) -> None:
    peer = Peer(gate)
    peer.join()
    assert peer.channel is not None
    for n in (2**52, 1, -1, 0, -(2**52), 2**52 - 70_000, 2**52 + 1):
        peer.channel.sent = n - 1
        peer.send(msg.Heartbeat([], {}))


def test_nothing_raises_on_fuzz() -> None:
    """20 000 packets, broken in every way, through gateway and scheduler."""
    source, gate = random.Random(20), Gate()
    scheduler = Scheduler(lambda: 0.5)
    goldens = [p.read_bytes() for p in sorted((Path(__file__).parents[1] / "golden").glob("*"))]
    peers = [Peer(gate), Peer(gate, "c", "laptop"), Peer(gate, name="w2")]
    heard = 0
    for turn in range(20_000):
        peer = source.choice(peers)
        if turn % 500 == 0:
            peer.join(f"{turn:016x}") if peer.kind == "w" else peer.greet(f"{turn:016x}")
        body = json.loads(source.choice(goldens))
        ses = peer.channel.ses if peer.channel else ""
        body.update(src=peer.name, ses=ses, n=turn + 10)
        for _ in range(source.choice([0, 1, 1, 2])):
            body[source.choice(list(body))] = source.choice(WEIRD)
        data = json.dumps(body).encode()
        if source.random() < 0.2:
            at = source.randrange(len(data))
            data = data[:at] + source.randbytes(2) + data[at + 1 :]
        topic = peer.topic(source.choice(["evt", "hb", "prog", "will"]))
        found = gate.receive(topic, seal(Unsigned(), f"{peer.kind}:{peer.name}", topic, data))
        if found is not None and not isinstance(found, (Request, Sliced, Step, Pulled)):
            heard += 1
            scheduler.handle(found, gate.now)
        gate.now += 0.01
        gate.packets.clear()
    assert heard > 300
