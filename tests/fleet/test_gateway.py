"""The master's end of the wire: who is heard, who is refused, and that nothing hurts it."""

from __future__ import annotations

import pytest

from fleet.gate import Gate
from fleet.peers import TOPICS, Peer
from pibot import messages as msg
from pibot.fleet import events as ev
from pibot.fleet.gateway import REFUSALS, Incoming, Request, Step
from pibot.fleet.pool import MAX_WORKERS
from pibot.messages import LEASE_S, Message
from pibot.signing import Unsigned, seal
from pibot.wire import Reader


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
