"""The master's end of the wire: who is heard, who is refused, and that nothing hurts it."""

from __future__ import annotations

import itertools
import json
import random
from pathlib import Path
from typing import Any, List, Optional

import pytest

from fleet.peers import TOPICS, Peer, Wire
from fleet.world import World, hello
from pibot import messages as msg
from pibot.fleet import events as ev
from pibot.fleet.gateway import REFUSALS, Gateway, Incoming, Request, Sliced, Step
from pibot.fleet.pool import LEASE_S, MAX_WORKERS, Pool
from pibot.fleet.scheduler import Scheduler
from pibot.messages import Message
from pibot.signing import Unsigned, seal
from pibot.wire import Reader


class Gate(Wire):
    def __init__(self) -> None:
        super().__init__()
        numbers = itertools.count(1)
        self.now = 10.0
        self.pool = Pool()
        nonce = lambda: f"{next(numbers):016x}"  # noqa: E731
        half = lambda: 0.5  # noqa: E731
        self.gateway = Gateway(TOPICS, Unsigned(), self.pool, nonce, 7, "store-1", half)

    def receive(self, topic: str, payload: bytes) -> Optional[Incoming]:
        found = self.gateway.receive(topic, payload, self.now)
        if isinstance(found, ev.Joined):
            self.pool.take(found.worker, found.hello, self.now)
        self.packets += self.gateway.take_packets()
        return found

    def carry(self, peer: Peer, shuffled: bool = False, rounds: int = 99) -> List[Incoming]:
        """Take chunks and acknowledgements to and fro, each twice; what comes out of it here."""
        found: List[Incoming] = []
        for i in range(rounds):
            self.now += 0.01
            self.packets += self.gateway.due(self.now)
            assert peer.channel is not None
            for packet in [p for p in self.packets if "/rep" in p.topic or "/cmd" in p.topic] * 2:
                _, header, message = Reader(Unsigned()).read(packet.topic, packet.payload)
                if header.ses != peer.channel.ses or not peer.channel.fresh(header.n):
                    continue
                if isinstance(message, msg.ChunkAck):
                    peer.line.sender.acked(peer.channel, header.n, message, self.now)
                elif isinstance(message, msg.Chunk):
                    peer.got += filter(
                        None, [peer.line.take(peer.channel, header, message, self.now)]
                    )
            self.packets.clear()
            payloads = [p.payload for p in peer.line.due(self.now)] * 2
            if shuffled:
                random.Random(i).shuffle(payloads)
            found += filter(None, [self.receive(peer.topic(), p) for p in payloads])
        return found


@pytest.fixture
def gate() -> Gate:
    return Gate()


# --- the handshake --------------------------------------------------------------------------------


def test_hello_welcome_inventory(gate: Gate) -> None:
    peer = Peer(gate)
    welcome = peer.greet()
    assert welcome is not None
    assert (welcome.nonce, welcome.store_id, welcome.lease_ms) == ("1" * 16, "store-1", 30_000)
    assert gate.pool.workers == {}, "no state changes before the inventory"
    assert peer.send(msg.Inventory([["g1-1", 1]], [])) == [
        ev.Joined("w1", peer.hello(), msg.Inventory([["g1-1", 1]], []))
    ]


@pytest.mark.parametrize(
    "message, event",
    [
        (msg.Heartbeat([], {}), ev.Beat("w1", msg.Heartbeat([], {}))),
        (msg.Accepted("g1-1", 1), ev.AttemptAccepted("w1", "g1-1", 1)),
        (msg.Declined("g1-1", 1, "x"), ev.AttemptDeclined("w1", "g1-1", 1, "x")),
        (msg.Progress("g1-1", 1, {}), Step("w1", msg.Progress("g1-1", 1, {}))),
        (msg.Bye(), ev.Left("w1")),
        (
            msg.Result("g1-1", 1, "failed", {}),
            ev.AttemptEnded("w1", msg.Result("g1-1", 1, "failed", {})),
        ),
    ],
)
def test_nothing_is_heard_before_the_inventory_and_once_after_it(
    gate: Gate, message: Message, event: Incoming
) -> None:
    peer = Peer(gate)
    peer.greet()
    assert peer.send(message) == []
    peer.send(msg.Inventory([], []))
    (packet,) = peer.packets(message)
    assert gate.receive(peer.topic(), packet) == event
    assert gate.receive(peer.topic(), packet) is None, "a duplicate of the broker"


def test_a_replay_of_an_old_session_is_refused_and_says_so_once_a_second(gate: Gate) -> None:
    peer = Peer(gate)
    peer.join()
    (old,) = peer.packets(msg.Accepted("g1-1", 1))
    inventory = peer.packets(msg.Inventory([], []))[0]
    peer.join("2" * 16)
    gate.told(peer, Message)
    for packet in (old, inventory, old, old):
        assert gate.receive(peer.topic(), packet) is None
    assert [r.reason for r in gate.told(peer, msg.Refusal)] == ["session"]
    gate.now += 1.1
    gate.receive(peer.topic(), old)
    assert len(gate.told(peer, msg.Refusal)) == 1
    assert peer.send(msg.Accepted("g1-1", 1)) == [ev.AttemptAccepted("w1", "g1-1", 1)]


def test_refusals_are_bounded_also_under_many_names(gate: Gate) -> None:
    for second in range(2):
        for i in range(3 * REFUSALS):
            stranger = Peer(gate, name=f"x{i}")
            (packet,) = stranger.packets(msg.Accepted("g1-1", 1), joining=True)
            gate.receive(stranger.topic(), packet)
        assert len(gate.packets) == REFUSALS * (second + 1)
        gate.now += 1.0


def test_a_flood_of_hellos_leaves_the_live_session_alone(gate: Gate) -> None:
    peer = Peer(gate)
    peer.join()
    for i in range(3_000):
        stranger = Peer(gate, name=f"x{i}" if i % 2 else "w1", start=f"{i:016x}")
        for packet in stranger.packets(msg.Hello(f"{i:016x}", f"{i:x}"), joining=True):
            gate.receive(stranger.topic(), packet)
    assert peer.send(msg.Accepted("g1-1", 1)) == [ev.AttemptAccepted("w1", "g1-1", 1)]


def test_a_fleet_takes_so_many_workers_and_says_so(gate: Gate) -> None:
    for i in range(MAX_WORKERS):
        Peer(gate, name=f"x{i}").join()
    late = Peer(gate, name="late")
    for packet in late.packets(late.hello(), joining=True):
        gate.receive(late.topic(), packet)
    (refused,) = gate.told(late, msg.Refusal)
    assert refused.reason == "full" and "workers remove" in refused.detail
    assert "late" not in gate.pool.workers


def test_what_is_dropped_is_told_ever_more_rarely(
    gate: Gate, caplog: pytest.LogCaptureFixture
) -> None:
    for i in range(10_000):
        gate.gateway.drop(f"topic/{i % 5_000}", "no reason")
    assert len(caplog.records) == 99 + 2 and "10000 messages" in caplog.records[-1].getMessage()
    assert len(gate.gateway.dropped) == 1_000


def test_a_replayed_hello_changes_nothing_for_the_live_session(gate: Gate) -> None:
    peer = Peer(gate)
    (said,) = peer.packets(peer.hello(), joining=True)
    peer.join()
    for _ in range(300):
        assert gate.receive(peer.topic(), said) is None
    assert peer.send(msg.Heartbeat([], {})) != []


def test_after_goodbye_a_heartbeat_that_was_overtaken_does_not_bring_it_back(gate: Gate) -> None:
    peer = Peer(gate)
    peer.join()
    (beat,) = peer.packets(msg.Heartbeat([], {}))
    assert peer.send(msg.Bye()) == [ev.Left("w1")]
    assert gate.receive(peer.topic("hb"), beat) is None
    assert peer.join("2" * 16) != []


def test_a_second_machine_of_one_name_is_told(gate: Gate) -> None:
    first, twin = Peer(gate), Peer(gate, start="b" * 16)
    first.join()
    assert twin.greet() is None
    (refusal,) = gate.told(twin, msg.Refusal)
    assert (refusal.reason, refusal.to) == ("superseded", "1" * 16)
    twin.inc = 2
    assert len(twin.join("2" * 16)) == 1
    gate.now += 1.1
    assert first.send(msg.Heartbeat([], {})) == []
    assert [r.reason for r in gate.told(first, msg.Refusal)] == ["session"]


def test_who_lost_the_name_between_hello_and_inventory_is_told(gate: Gate) -> None:
    first, second = Peer(gate), Peer(gate, start="b" * 16)
    second.inc = 2
    first.greet()
    second.join("2" * 16)
    assert first.send(msg.Inventory([], [])) == [] and first.greet("3" * 16) is None
    assert [r.reason for r in gate.told(first, msg.Refusal)] == ["session", "superseded"]
    gate.now += LEASE_S + 1
    assert len(first.join("4" * 16)) == 1


def test_another_protocol_is_refused_and_visible(gate: Gate) -> None:
    peer = Peer(gate)
    peer.send(msg.Hello("1" * 16, "a" * 16, 1, proto_min=2, proto_max=3), joining=True)
    assert [r.reason for r in gate.told(peer, msg.Refusal)] == ["incompatible"]
    assert gate.pool.workers["w1"].state == "incompatible"


def test_another_master_of_the_fleet_raises_an_alarm(gate: Gate) -> None:
    for store_id, alarmed in (("store-1", False), ("store-2", True)):
        announce = msg.encode(msg.Header("announce", "x", "master"), msg.Announce(store_id))
        packet = seal(Unsigned(), "m:master", TOPICS.announce, announce)
        assert gate.gateway.receive(TOPICS.announce, packet, gate.now) is None
        assert ("another master" in gate.pool.alarm) is alarmed
    assert [p.topic for p in gate.gateway.take_packets()] == [TOPICS.announce]


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


# --- clients and what is large --------------------------------------------------------------------


def test_a_clients_request_comes_with_the_session_to_answer_on(gate: Gate) -> None:
    peer = Peer(gate, "c", "laptop")
    assert peer.send(msg.Listing("workers")) == []
    assert [r.reason for r in gate.told(peer, msg.Refusal)] == ["session"]
    peer.greet()
    (request,) = peer.send(msg.Listing("workers"))
    assert isinstance(request, Request) and request.id.startswith("laptop-")
    gate.packets += gate.gateway.to_client(request.channel, msg.Reply(request.id))
    assert gate.told(peer, msg.Reply) == [msg.Reply(request.id)]


@pytest.mark.parametrize("shuffled", [False, True])
def test_a_result_in_chunks_counts_once(gate: Gate, shuffled: bool) -> None:
    peer = Peer(gate)
    peer.join()
    big = msg.Result("g1-1", 1, "succeeded", {"output": "x" * 500_000})
    assert peer.packets(big) == [] and peer.packets(big) == [], "the chunks come one by one"
    assert gate.carry(peer, shuffled) == [ev.AttemptEnded("w1", big)]


def test_a_result_goes_on_in_another_session_where_it_was(gate: Gate) -> None:
    peer = Peer(gate)
    peer.join()
    big = msg.Result("g1-1", 1, "succeeded", {"output": "x" * 2_000_000})
    peer.packets(big)
    assert gate.carry(peer, rounds=3) == []
    (joined,) = peer.join("2" * 16)
    assert joined == ev.Joined("w1", peer.hello("2" * 16), msg.Inventory())
    assert peer.channel is not None
    peer.line.sender.moved(peer.channel)
    first = Reader(Unsigned()).read(peer.topic(), peer.line.due(gate.now)[0].payload)[2]
    assert isinstance(first, msg.Chunk) and first.i > 3
    assert peer.packets(big) == [], "said again, as a worker does in a new session"
    gate.now += 20.0
    assert gate.carry(peer) == [ev.AttemptEnded("w1", big)]


def test_a_large_assignment_that_comes_renews_its_lease_and_survives_a_reconnect(
    gate: Gate,
) -> None:
    peer = Peer(gate)
    peer.join()
    big = msg.Assign("g1-1", 2, 1_000, {"args": {"text": "x" * 2_000_000}})
    assert gate.gateway.to_worker("w1", big) == [] == gate.gateway.to_worker("w1", big)
    moves = gate.carry(peer, rounds=3)
    assert moves and set(moves) == {ev.AssignMoves("w1", "g1-1", 2)}
    (joined,) = peer.join("2" * 16)
    assert isinstance(joined, ev.Joined) and joined.coming == {("g1-1", 2)}
    gate.carry(peer)
    assert [message for _, message in peer.got] == [big]
    (joined,) = peer.join("3" * 16)
    assert isinstance(joined, ev.Joined) and joined.coming == frozenset()


def test_what_is_cancelled_or_for_another_start_is_not_sent_on(gate: Gate) -> None:
    peer, other = Peer(gate), Peer(gate, start="b" * 16)
    peer.join()
    gate.gateway.to_worker("w1", msg.Assign("g1-1", 1, 1, {"x": "y" * 100_000}))
    gate.gateway.to_worker("w1", msg.Assign("g2-1", 2, 1, {"x": "y" * 100_000}))
    gate.gateway.to_worker("w1", msg.Cancel("g1-1", 1))
    gate.gateway.to_worker("w1", msg.Cancel("g2-1", 1))
    gate.carry(peer, rounds=1)
    other.inc = 2
    (joined,) = other.join("2" * 16)
    assert isinstance(joined, ev.Joined) and joined.coming == frozenset()
    assert gate.gateway.due(gate.now) == [] and gate.gateway.wake_at() == float("inf")


def test_a_request_that_is_repeated_while_its_answer_comes_is_not_answered_twice(
    gate: Gate,
) -> None:
    peer = Peer(gate, "c", "laptop")
    peer.greet()
    (request,) = peer.send(msg.Get("g1"), id="laptop-x")
    assert isinstance(request, Request) and request.id == "laptop-x"
    reply = msg.Reply(request.id, {"text": "x" * 500_000})
    assert gate.gateway.to_client(request.channel, reply) == []
    assert peer.send(msg.Get("g1"), id="laptop-x") == []
    assert len(peer.send(msg.Get("g1"), id="laptop-y")) == 1
    gate.carry(peer, rounds=2)
    peer.greet("2" * 16)
    assert peer.send(msg.Get("g1"), id="laptop-x") == [], "from a new session it moves there"
    gate.carry(peer)
    assert [message for _, message in peer.got] == [reply]


def test_what_is_too_large_for_the_wire_never_raises(gate: Gate) -> None:
    worker, client = Peer(gate), Peer(gate, "c", "laptop")
    worker.join()
    client.greet()
    (request,) = client.send(msg.Get("g1"))
    assert isinstance(request, Request)
    huge = {"x": "y" * 34_000_000}
    assert gate.gateway.to_worker("w1", msg.Assign("g1-1", 1, 1, huge)) == []
    assert gate.gateway.to_client(request.channel, msg.Event("g1", "done", huge)) == []
    gate.packets += gate.gateway.to_client(request.channel, msg.Reply(request.id, huge))
    (reply,) = gate.told(client, msg.Reply)
    assert reply.re == request.id and reply.error is not None
    assert reply.error["code"] == "too_large" and "34,000," in reply.error["message"]


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
        if found is not None and not isinstance(found, (Request, Sliced, Step)):
            heard += 1
            scheduler.handle(found, gate.now)
        gate.now += 0.01
        gate.packets.clear()
    assert heard > 300
