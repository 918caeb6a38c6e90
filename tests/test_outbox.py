"""What waits for a broker that does not read."""

from __future__ import annotations

from pibot import outbox
from pibot.outbox import COST, Out, Outbox


def out(number: int, qos: int, size: int = 0) -> Out:
    return Out(f"t/{number}", b"x" * size, qos, False)


def test_the_lanes_take_turns() -> None:
    box = Outbox()
    for i in range(4):
        box.add(out(i, 1))
    for i in range(4, 6):
        box.add(out(i, 0))
    assert len(box) == 6
    taken = [int(box.take().topic[2:]) for _ in range(6)]
    assert taken == [0, 4, 1, 5, 2, 3]
    assert not box


def test_of_what_is_repeated_the_newest_is_refused() -> None:
    box = Outbox()
    size = outbox.SURE_BYTES // 10 - COST
    assert [box.add(out(i, 1, size)) for i in range(12)] == [True] * 10 + [False] * 2
    assert box.take().topic == "t/0" and box.add(out(12, 1, size)) and not box.add(out(13, 1, 0))


def test_of_news_the_oldest_gives_way() -> None:
    box = Outbox()
    size = outbox.NEWS_BYTES // 10 - COST
    assert all(box.add(out(i, 0, size)) for i in range(25))
    assert len(box) == 10 and box.take().topic == "t/15"


def test_small_packets_are_bounded_too() -> None:
    box = Outbox()
    taken = sum(box.add(out(i, 1)) for i in range(outbox.SURE_BYTES // COST + 10))
    assert taken == outbox.SURE_BYTES // COST
