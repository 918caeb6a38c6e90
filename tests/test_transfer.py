"""Large bodies on a link that loses, doubles and reorders, between processes that come back.

Virtual time; one seed is one run.
"""

from __future__ import annotations

import heapq
import itertools
import random
from dataclasses import replace
from typing import Any, Callable, List, Tuple

import pytest

from pibot.errors import BadMessage
from pibot.messages import Chunk, ChunkAck, Hello
from pibot.session import Channel
from pibot.transfer import (
    FAIR_S,
    GIVE_UP_S,
    IDLE_S,
    KEEP_S,
    LINGER_S,
    PEER_BYTES,
    PEER_OPEN,
    REMEMBERED,
    SLICE_BYTES,
    TOTAL_BYTES,
    WHOLE_BYTES,
    WINDOW,
    Receiver,
    Sender,
    Subject,
)

RESULT = Subject(("result", "g1-1"), 1)


def session(number: int = 1, peer: str = "w1", start: str = "s") -> Channel:
    return Channel(peer, f"{number:016x}.{'b' * 16}", Hello("a" * 16, start))


def body(size: int, seed: int = 1) -> bytes:
    return random.Random(seed).randbytes(size)


class Link:
    """A sender and a receiver, and what is on its way between them."""

    def __init__(self, seed: int = 0, lossy: bool = True, bytes_s: float = 0.0) -> None:
        self.chance = random.Random(seed)
        self.lossy, self.bytes_s = lossy, bytes_s
        self.now = 0.0
        self.sender, self.receiver = Sender(self.chance.random), Receiver()
        self.sent: List[int] = []  # the numbers of the chunks that were sent
        self.delays: List[float] = []  # how long each chunk was on its way
        self.arrived: List[bytes] = []
        self._numbers = itertools.count(1)
        self._queue: List[Tuple[float, int, Callable[[], None]]] = []
        self._free_at = 0.0
        self.reconnect()

    def reconnect(self, start: str = "s") -> None:
        """A new session; what is on its way in the old one comes to nothing."""
        number = next(self._numbers)
        self.here, self.there = session(number, start=start), session(number, start=start)
        self.sender.moved(self.here)

    def restart_receiver(self) -> None:
        self.receiver = Receiver()
        self.reconnect()

    def begin(self, data: bytes, subject: Subject = RESULT, whole: str = "w1-7") -> bool:
        return self.sender.begin(self.here, subject, whole, data)

    def insist(self, data: bytes, seconds: float) -> None:
        """As who needs an answer: what is neither on its way nor answered is sent again."""
        end = self.now + seconds
        while self.now < end and not self.arrived:
            if not self.sender.has(self.here, RESULT):
                self.begin(data, whole=f"w1-{next(self._numbers)}")
            self.run(5.0, lambda: bool(self.arrived))

    def run(self, seconds: float, until: Callable[[], bool] = lambda: False) -> float:
        """Let time pass, at most so much, and return how long it took."""
        began, end = self.now, self.now + seconds
        self._send()
        while not until():
            at = min(self.sender.wake_at(), self._queue[0][0] if self._queue else end)
            if at >= end:
                self.now = end
                break
            self.now = max(self.now, at)
            while self._queue and self._queue[0][0] <= self.now:
                heapq.heappop(self._queue)[2]()
            self._send()
        return self.now - began

    def _send(self) -> None:
        for channel, chunk in self.sender.due(self.now):
            assert channel is self.here
            self.sent.append(chunk.i)
            self._post(lambda n, c=chunk: self._chunk(n, c), channel, len(chunk.data))
        for channel, ack in self.receiver.due(self.now):
            if channel is self.there:
                self._post(lambda n, a=ack: self._ack(n, a), channel, 0)

    def _post(self, deliver: Callable[[int], None], channel: Channel, size: int) -> None:
        n, ses, sent_at = channel.stamp(), channel.ses, self.now
        self._free_at = max(self._free_at, self.now) + (size / self.bytes_s if self.bytes_s else 0)
        copies = self.chance.choice([0, 1, 1, 1, 1, 1, 1, 2]) if self.lossy else 1
        for _ in range(copies):
            slow = self.lossy and self.chance.random() < 0.03
            delay = self.chance.uniform(0.0, 15.0 if slow else 0.05)

            def come() -> None:
                if ses == self.here.ses:
                    self.delays.append(self.now - sent_at)
                    deliver(n)

            heapq.heappush(self._queue, (self._free_at + delay, next(self._numbers), come))

    def _chunk(self, n: int, chunk: Chunk) -> None:
        if self.there.fresh(n):
            whole = self.receiver.take(self.there, chunk, self.now)
            self.arrived += [] if whole is None else [whole]

    def _ack(self, n: int, ack: ChunkAck) -> None:
        if self.here.fresh(n):
            self.sender.acked(self.here, n, ack, self.now)


# --- faults ---


@pytest.mark.parametrize("seed", range(40))
def test_it_arrives_whole_and_once_whatever_the_link_does(seed: int) -> None:
    link, data = Link(seed), body(1_000_000 + seed)
    link.insist(data, 900.0)
    link.run(KEEP_S + LINGER_S)
    assert link.arrived == [data]
    assert link.sender.wake_at() == float("inf") and not link.receiver._open


def test_on_a_good_link_every_chunk_is_sent_once() -> None:
    link, data = Link(lossy=False), body(16 * 1024 * 1024)
    link.begin(data)
    link.run(60.0, lambda: bool(link.arrived))
    assert link.arrived == [data] and link.sent == list(range(420))


@pytest.mark.parametrize("seed", range(20))
def test_after_a_reconnect_it_goes_on_where_the_receiver_is(seed: int) -> None:
    link, data = Link(seed, lossy=False), body(6_000_000)
    link.begin(data)
    link.run(1.0, lambda: len(link.sent) > 8)
    times = 0
    while not link.arrived and times < 30:
        link.run(link.chance.uniform(0.01, 0.1), lambda: bool(link.arrived))
        link.reconnect()
        times += 1
    link.run(30.0)
    assert link.arrived == [data] and times > 2
    assert link.sent.count(0) == 1, "it never begins again"
    assert len(link.sent) <= 150 + times * WINDOW, "what was in flight is all that is said again"


@pytest.mark.parametrize("seed", range(20))
def test_a_receiver_that_begins_anew_gets_all_of_it(seed: int) -> None:
    link, data = Link(seed), body(800_000)
    link.begin(data)
    link.run(1.0)
    link.restart_receiver()
    link.arrived.clear()
    link.insist(data, 900.0)
    link.run(KEEP_S)
    assert link.arrived == [data]


@pytest.mark.parametrize("seed", range(20))
def test_reconnects_and_restarts_on_a_lossy_link(seed: int) -> None:
    """At most once for each life of the receiver, and in the end it is there."""
    link, data = Link(seed), body(1_500_000)
    for _ in range(6):
        if not link.sender.has(link.here, RESULT):  # as who needs an answer does
            link.begin(data, whole=f"w1-{next(link._numbers)}")
        before = len(link.arrived)
        link.run(link.chance.uniform(0.5, 8.0))
        assert set(link.arrived) <= {data} and len(link.arrived) <= before + 1
        link.chance.choice([link.reconnect, link.restart_receiver])()
    link.arrived.clear()
    link.insist(data, 900.0)
    link.run(KEEP_S)
    assert link.arrived == [data]


def test_a_receiver_that_lost_what_it_had_in_mid_session_is_believed() -> None:
    link, data = Link(lossy=False), body(2_000_000)
    link.begin(data)
    link.run(10.0, lambda: len(link.sent) > 20)
    link.receiver = Receiver()
    link.run(60.0)
    assert link.arrived == [data] and link.sent.count(0) == 2


def test_nobody_answers_it_is_given_up_after_a_minute_with_growing_pauses() -> None:
    sender, now = Sender(lambda: 0.5), 0.0
    sender.begin(session(), RESULT, "w1-7", body(5_000_000))
    sent = 0
    while sender.wake_at() != float("inf"):
        now = max(now, sender.wake_at())
        assert sender.has(session(), RESULT)
        sent += len(sender.due(now))
        assert now < 2 * GIVE_UP_S
    assert now >= GIVE_UP_S and sent < 16 and not sender._queues


def test_a_long_time_without_a_session_is_not_silence_of_the_receiver() -> None:
    link, data = Link(lossy=False), body(2_000_000)
    link.begin(data)
    link.run(10.0, lambda: len(link.sent) > 20)
    link.now += 1.5 * GIVE_UP_S
    link.reconnect()
    link.run(10.0)
    assert link.arrived == [data] and link.sent.count(0) == 1


def test_on_a_slow_link_others_do_not_wait_long_behind_the_chunks() -> None:
    link = Link(lossy=False, bytes_s=20_000.0)
    link.begin(body(2_000_000))
    link.run(600.0, lambda: bool(link.arrived))
    assert link.arrived and len(link.sent) <= 60, "patience: hardly anything is said twice"
    late = link.delays[len(link.delays) // 2 :]
    assert max(late) < 10.0, "a heartbeat's lease is 30 s"


# --- what is the same transfer ---


def test_said_again_it_is_the_same_until_some_time_after_it_has_come() -> None:
    link, data = Link(lossy=False), body(100_000)
    link.begin(data)
    assert link.sender.has(link.here, RESULT)
    link.run(5.0, lambda: bool(link.arrived))
    link.run(1.0)
    assert link.sender.has(link.here, RESULT) and not link.sender.under_way(link.here)
    link.run(LINGER_S)
    assert not link.sender.has(link.here, RESULT)
    link.begin(data, whole="w1-8")
    link.run(5.0)
    assert link.arrived == [data, data], "the application did not answer: it is delivered again"


def test_what_has_come_is_not_waited_for_in_another_session() -> None:
    link = Link(lossy=False)
    link.begin(body(100_000))
    link.run(1.0)
    assert link.arrived and link.sender.has(link.here, RESULT)
    link.reconnect()
    assert not link.sender.has(link.here, RESULT), "its receiver may have lost it"


def test_chunks_that_come_after_the_end_are_acknowledged_and_nothing_else() -> None:
    link, data = Link(lossy=False), body(100_000)
    for chunk in chunks() * 3:
        link.arrived += filter(None, [link.receiver.take(link.there, chunk, 0.0)])
    link.reconnect()
    assert link.receiver.take(link.there, chunks()[1], 1.0) is None
    acks = link.receiver.due(1.0)
    assert link.arrived == [data]
    assert acks[-1] == (link.there, ChunkAck("w1-7", 3))


def test_a_higher_attempt_takes_the_place_of_a_lower_one_and_never_the_other_way() -> None:
    link = Link(lossy=False)
    link.begin(body(300_000, 1), Subject(RESULT.name, 2))
    assert link.sender.has(link.here, Subject(RESULT.name, 1))
    assert not link.sender.has(link.here, Subject(RESULT.name, 3))
    link.begin(body(300_000, 3), Subject(RESULT.name, 3), "w1-8")
    link.run(10.0)
    assert link.arrived == [body(300_000, 3)]


def test_what_nobody_needs_any_more_is_not_sent_on() -> None:
    sender = Sender(lambda: 0.5)
    for i in range(3):
        sender.begin(session(), Subject(("result", f"g{i}-1"), 2), f"w1-{i}", body(100_000))
    sender.withdraw(session(), ("result", "g0-1"))
    sender.withdraw(session(), ("result", "g1-1"), 1)
    assert [s.name[1] for s in sender.under_way(session())] == ["g1-1", "g2-1"]
    sender.forget("w1", "s")
    assert len(sender.under_way(session())) == 2
    sender.forget("w1", "another start")
    assert sender.under_way(session()) == [] and sender.due(0.0) == []


def test_to_one_process_one_after_the_other_to_several_at_once() -> None:
    sender = Sender(lambda: 0.5)
    for peer in ("w1", "w2"):
        for i in range(2):
            sender.begin(session(peer=peer), Subject((f"{i}",)), f"{peer}-{i}", body(4_000_000))
    assert {c.whole for _, c in sender.due(0.0)} == {"w1-0", "w2-0"}


# --- hostile ---


def chunks(size: int = 100_000, whole: str = "w1-7", peer: str = "w1") -> List[Chunk]:
    """All chunks of a body."""
    sender, here = Sender(lambda: 0.5), session(peer=peer)
    sender.begin(here, RESULT, whole, body(size))
    found: List[Chunk] = []
    while sender.under_way(here):
        found += [chunk for _, chunk in sender.due(0.0)]
        sender.acked(here, len(found), ChunkAck(whole, len(found)), 0.0)
    return found


@pytest.mark.parametrize(
    "change",
    [
        *({"i": -1}, {"i": 3}, {"of": 2}, {"of": 4}, {"of": 0}, {"size": 0}, {"size": -5}),
        {"size": WHOLE_BYTES + 1, "of": 839},
        *({"data": "x" * 60_000}, {"data": "abc"}, {"data": "é==="}, {"data": "ab\n=="}),
        *({"data": ""}, {"data": "AAAA"}, {"sha256": "x"}, {"whole": "w" * 65}),
    ],
)
def test_a_chunk_whose_numbers_do_not_fit_is_refused(change: Any) -> None:
    receiver = Receiver()
    with pytest.raises(BadMessage, match="chunk"):
        receiver.take(session(), replace(chunks()[0], **change), 0.0)
    assert not receiver._open and receiver.due(0.0) == []


def test_chunks_that_tell_different_sizes_are_different_bodies() -> None:
    receiver, long, short = Receiver(), chunks(160_000), chunks(80_000)
    assert receiver.take(session(), long[3], 0.0) is None
    assert receiver.take(session(), replace(short[0], sha256=long[0].sha256), 0.0) is None
    assert [one.have for one in receiver._open.values()] == [0, 1]


def test_chunks_that_are_not_the_whole_are_refused_and_asked_for_again() -> None:
    receiver, parts = Receiver(), chunks()
    for part in parts[:-1]:
        receiver.take(session(), replace(part, sha256="0" * 64), 0.0)
    with pytest.raises(BadMessage, match="do not fit together"):
        receiver.take(session(), replace(parts[-1], sha256="0" * 64), 0.0)
    assert [ack for _, ack in receiver.due(0.0)] == [ChunkAck("w1-7", 0)]
    assert not receiver._open


def test_acknowledgements_that_lie_end_nothing_but_their_own_transfer() -> None:
    sender, here, now = Sender(lambda: 0.5), session(), 0.0
    sender.begin(here, RESULT, "w1-7", body(1_000_000))
    sender.due(now)
    for n, have in enumerate((-1, 26, 2**52, -(2**52)), 1):
        assert sender.acked(here, n, ChunkAck("w1-7", have), now) is None
    assert sender.acked(here, 5, ChunkAck("w1-8", 3), now) is None
    assert sender.acked(session(2), 6, ChunkAck("w1-7", 3), now) is None
    assert sender.acked(session(peer="w2"), 7, ChunkAck("w1-7", 3), now) is None
    assert sender.acked(here, 8, ChunkAck("w1-7", 3), now) == RESULT
    assert sender.acked(here, 7, ChunkAck("w1-7", 9), now) is None, "older than the last"
    sent = 0
    for n in range(9, 10_000):  # forwards and backwards for ever
        sender.acked(here, n, ChunkAck("w1-7", 5 + n % 2), now)
        sent += len(sender.due(now))
    assert sent < 400 and not sender.under_way(here)


def test_unfinished_bodies_are_bounded_and_the_idle_ones_make_room() -> None:
    receiver = Receiver()
    held = lambda: sum(one.size for one in receiver._open.values())  # noqa: E731
    part = replace(chunks()[0], size=WHOLE_BYTES, of=-(-WHOLE_BYTES // SLICE_BYTES))
    for i in range(50):
        receiver.take(session(peer=f"w{i}"), replace(part, i=i), 0.0)
        receiver.take(session(peer="w0"), replace(part, whole=f"x{i}"), 0.0)
    assert held() == TOTAL_BYTES and len(receiver._open) == 2
    mine = chunks(5_000_000, peer="w9")
    assert receiver.take(session(peer="w9"), mine[0], IDLE_S - 0.1) is None
    assert receiver.due(0.0) == [] or "w1-7" not in receiver._open
    receiver.take(session(peer="w1"), replace(part, i=3), IDLE_S - 0.1)  # this one moves
    assert receiver.take(session(peer="w9"), mine[0], IDLE_S) is None
    assert sorted(one.peer[0] for one in receiver._open.values()) == ["w1", "w9"]
    receiver.due(IDLE_S + KEEP_S)
    assert not receiver._open


def test_who_moves_too_slowly_gives_way_in_the_end_but_only_when_others_need_it() -> None:
    receiver, now = Receiver(), 0.0
    part = replace(chunks()[0], size=WHOLE_BYTES, of=-(-WHOLE_BYTES // SLICE_BYTES))
    mine, i = chunks(5_000_000, peer="w9")[0], 0
    while "w9" not in {one.peer[0] for one in receiver._open.values()}:
        for peer in ("w1", "w2"):
            receiver.take(session(peer=peer), replace(part, i=i), now)
        now, i = now + IDLE_S / 2, i + 1
        if i > 5:
            receiver.take(session(peer="w9"), mine, now)
        assert now < 3 * FAIR_S
    assert now > FAIR_S and len(receiver._open) == 2


def test_one_process_does_not_fill_the_memory_alone() -> None:
    receiver = Receiver()
    for i, part in enumerate(chunks(1_000_000) * 4):
        for whole in range(10):
            receiver.take(session(), replace(part, whole=f"{i}.{whole}"), i / 10)
            held = sum(one.size for one in receiver._open.values())
            assert held <= PEER_BYTES < TOTAL_BYTES


def test_a_name_with_many_processes_has_the_room_of_one() -> None:
    receiver, part = Receiver(lambda name: 3_000_000), chunks(1_000_000)[0]
    for i in range(50):  # each time another process, which never goes on
        receiver.take(session(start=f"s{i}"), replace(part, whole=str(i)), i * IDLE_S)
        assert sum(one.size for one in receiver._open.values()) <= 3_000_000
    assert receiver.take(session(peer="w2"), part, 250.0) is None and len(receiver._open) > 3


def test_of_one_name_only_a_few_move_at_once() -> None:
    receiver, part = Receiver(), chunks(40_001)[0]
    for i in range(1_000):
        receiver.take(session(), replace(part, whole=str(i)), 0.0)
    assert len(receiver._open) == PEER_OPEN
    receiver.take(session(peer="w2"), part, 0.0)
    assert len(receiver._open) == PEER_OPEN + 1


def test_a_flood_of_whole_bodies_is_not_remembered() -> None:
    receiver, (only,) = Receiver(), chunks(10)
    for i in range(REMEMBERED + 500):
        assert receiver.take(session(), replace(only, whole=str(i)), 0.0) == body(10)
        receiver.due(0.0)
    assert len(receiver._come) == REMEMBERED and not receiver._open


def test_what_goes_out_is_bounded_and_the_dead_make_room() -> None:
    sender = Sender(lambda: 0.5)
    large = bytes(WHOLE_BYTES)
    assert sender.begin(session(peer="c1"), RESULT, "m-1", large)
    assert not sender.begin(session(peer="c1"), Subject(("reply", "2")), "m-2", b"x")
    assert sender.begin(session(peer="c2"), RESULT, "m-3", large)
    assert not sender.begin(session(peer="c3"), RESULT, "m-4", b"x"), "said again, it gets its turn"
    for now in (0.0, IDLE_S):
        sender.due(now)
        sender.acked(session(peer="c2"), 1, ChunkAck("m-3", 1), now)
    assert sender.begin(session(peer="c3"), RESULT, "m-5", b"x")
    assert sender.under_way(session(peer="c1")) == []
