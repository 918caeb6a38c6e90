"""Sessions: which message is new, who may speak, when a hello is said again."""

from __future__ import annotations

import itertools
from typing import Callable, List

import pytest

from pibot.messages import Header, Hello, Welcome
from pibot.session import (
    MAX_CHANNELS,
    MAX_HELLO_BYTES,
    MAX_OF_ONE,
    NAME_HELLO_BYTES,
    PATIENCE_MAX_S,
    PATIENCE_S,
    RETRY_S,
    WINDOW,
    Channel,
    Doubt,
    Guest,
    Host,
)

HELLO = Hello("0" * 16, "s")


def hello(i: int) -> Hello:
    return Hello(f"{i:016x}", "s")


def nonces() -> Callable[[], str]:
    count = itertools.count(1)
    return lambda: f"{next(count):016x}"


def channel() -> Channel:
    return Channel("w1", "a.b", HELLO)


def header(ses: str, n: int = 1, ep: int = 0) -> Header:
    return Header("bye", "x", "w1", ses, n, ep)


# --- the window -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "numbers, fresh",
    [
        ([1, 2, 3], [True, True, True]),
        ([1, 1, 2, 2, 1], [True, False, True, False, False]),
        ([3, 1, 2, 2, 3], [True, True, True, False, False]),
        ([1, WINDOW + 1, 2, 1], [True, True, True, False]),
        ([WINDOW + 2, 2, 1, 3], [True, False, False, True]),
        ([0], [False]),
        ([-1], [False]),
        ([5, -(2**52), 0, -5], [True, False, False, False]),
        ([2**52, 1, 2**52 - 1, 2**52], [True, False, True, False]),
        ([10**6, 2 * 10**6, 10**6], [True, True, False]),
    ],
)
def test_each_number_counts_once_within_the_window(numbers: List[int], fresh: List[bool]) -> None:
    one = channel()
    assert [one.fresh(n) for n in numbers] == fresh


def test_any_order_is_taken_once_each() -> None:
    one = channel()
    order = [(i * 7919) % 1000 + 1 for i in range(1000)]
    assert all(one.fresh(n) for n in order)
    assert not any(one.fresh(n) for n in order)


def test_the_window_takes_no_more_memory_after_any_number() -> None:
    one = channel()
    for n in (1, WINDOW, 10 * WINDOW, 2**53 - 1):
        one.fresh(n)
    assert one._seen.bit_length() <= WINDOW


def test_what_is_sent_is_numbered_from_one() -> None:
    one = channel()
    assert [one.stamp() for _ in range(3)] == [1, 2, 3]


# --- the host -------------------------------------------------------------------------------------


def test_a_message_belongs_to_the_session_of_its_own_sender_only() -> None:
    host = Host(nonces())
    one = host.open("w1", HELLO)
    assert one.ses == f"{HELLO.nonce}.{1:016x}"
    assert host.find("w1", header(one.ses)) is one
    assert host.find("w2", header(one.ses)) is None
    assert host.find("w1", header("")) is None
    assert host.find("w1", header(one.ses + "0")) is None


def test_a_new_hello_leaves_the_old_session_until_it_is_used() -> None:
    host = Host(nonces())
    old, new, other = host.open("w1", HELLO), host.open("w1", hello(2)), host.open("w2", HELLO)
    assert host.find("w1", header(old.ses)) is old
    host.close_others(new)
    assert host.find("w1", header(old.ses)) is None
    assert host.find("w1", header(new.ses)) is new and host.find("w2", header(other.ses)) is other


def test_the_session_unused_for_longest_goes_first_when_there_are_too_many() -> None:
    host = Host(nonces())
    first, second = host.open("a", HELLO), host.open("b", HELLO)
    assert host.find("b", header(second.ses)) is second
    assert host.find("a", header(first.ses)) is first
    for i in range(MAX_CHANNELS - 1):
        assert host.find(f"x{i}", header(host.open(f"x{i}", HELLO).ses))
    assert host.find("a", header(first.ses)) is first
    assert host.find("b", header(second.ses)) is None


def test_a_flood_of_hellos_ends_no_session_that_is_in_use() -> None:
    host = Host(nonces())
    live = host.open("w1", HELLO)
    assert host.find("w1", header(live.ses)) is live
    for i in range(2 * MAX_CHANNELS):
        host.open(f"x{i}", hello(i))
    for i in range(2 * MAX_OF_ONE):
        host.open("w1", hello(i + 1))
    assert host.find("w1", header(live.ses)) is live
    assert len(host._opened) <= MAX_CHANNELS and len(host._of) <= MAX_CHANNELS + 1


def test_large_hellos_do_not_fill_memory() -> None:
    host = Host(nonces())
    for i in range(200):
        last = host.open(f"x{i}", hello(i), MAX_HELLO_BYTES // 100)
    assert len(host._opened) == 100 and host._total <= MAX_HELLO_BYTES
    assert host.find("x199", header(last.ses)) is last
    for i in range(200):
        host.close(f"x{i}")
    assert host._total == 0 and not host._opened and not host._used and not host._of


def test_one_guest_cannot_push_the_others_out() -> None:
    host = Host(nonces())
    mine = host.open("a", HELLO)
    flood = [host.open("b", hello(i)) for i in range(2 * MAX_OF_ONE)]
    assert host.find("a", header(mine.ses)) is mine
    assert host.find("b", header(flood[-1].ses)) is flood[-1]
    assert len(host._opened) + len(host._used) == 1 + MAX_OF_ONE


def test_a_hello_that_is_repeated_opens_one_session() -> None:
    host = Host(nonces())
    one = host.open("w1", HELLO)
    assert host.open("w1", HELLO) is one and host.open("w2", HELLO) is not one
    host.close_others(host.open("w1", hello(2)))
    assert host.open("w1", HELLO) is not one, "a replay after its end brings nothing back"


# --- the guest ------------------------------------------------------------------------------------


def guest(jitter: float = 0.0) -> Guest:
    return Guest(nonces(), lambda: jitter)


def welcome(nonce: str, ep: int = 7) -> "tuple[Header, Welcome]":
    return Header("welcome", "x", "master", ep=ep), Welcome(nonce, "e" * 16, "store", 5000, 30000)


@pytest.mark.parametrize("jitter", [0.0, 0.5])
def test_hello_is_repeated_with_growing_jittered_pauses(jitter: float) -> None:
    one, now, pauses = guest(jitter), 10.0, []
    assert one.due(now)
    for _ in range(7):
        one.hello_nonce(now)
        at = one.wake_at()
        assert at is not None and not one.due(at - 0.001) and one.due(at)
        pauses.append(at - now)
        now = at
    grown = [*RETRY_S, RETRY_S[-1], RETRY_S[-1]]
    assert pauses == pytest.approx([p * (1 + 0.5 * jitter) for p in grown])


def test_a_welcome_to_any_open_hello_is_taken_once() -> None:
    one = guest()
    first, second = one.hello_nonce(0.0), one.hello_nonce(1.0)
    assert not one.welcomed(*welcome("f" * 16), HELLO) and one.channel is None
    assert one.welcomed(*welcome(first), HELLO)
    assert one.channel is not None and one.channel.ses == f"{first}.{'e' * 16}" and one.epoch == 7
    assert one.wake_at() is None and not one.due(1e9)
    assert not one.welcomed(*welcome(second, 8), HELLO) and one.epoch == 7
    assert not one.welcomed(*welcome(first, 8), HELLO), "a replayed welcome"


def test_only_the_last_four_hellos_may_be_answered() -> None:
    one = guest()
    said = [one.hello_nonce(float(i)) for i in range(6)]
    assert not one.welcomed(*welcome(said[1]), HELLO)
    assert one.welcomed(*welcome(said[2]), HELLO)


def test_a_guest_knows_which_hellos_were_its_own() -> None:
    one = guest()
    nonce = one.hello_nonce(0.0)
    assert one.asked(nonce) and not one.asked("") and not one.asked("f" * 16)
    one.welcomed(*welcome(nonce), HELLO)
    assert one.asked(nonce) and not one.asked("")
    one.channel = None
    assert not one.asked(nonce)


def test_messages_of_another_session_or_a_number_twice_are_refused() -> None:
    one = guest()
    assert not one.accepts(header("", 1))
    nonce = one.hello_nonce(0.0)
    one.welcomed(*welcome(nonce), HELLO)
    assert one.channel is not None
    ses = one.channel.ses
    assert [one.accepts(header(ses, n)) for n in (1, 1, 3, 2)] == [True, False, True, True]
    assert not one.accepts(header(f"{nonce}.{'d' * 16}", 9))
    one.again(5.0)
    assert one.accepts(header(ses, 4)), "a session lives until the next one is there"


@pytest.mark.parametrize(
    "waits_until, within_s, at",
    [(None, 0.0, 100.0), (None, 2.0, 101.0), (100.4, 2.0, 100.4), (105.0, 2.0, 101.0)],
)
def test_hello_again_never_later_than_it_was_due(
    waits_until: float, within_s: float, at: float
) -> None:
    one = guest(0.5)
    one._hello_at = waits_until
    one.again(100.0, within_s)
    assert one.wake_at() == at


def test_a_refused_guest_tries_slowly_and_has_no_session() -> None:
    one = guest()
    one.welcomed(*welcome(one.hello_nonce(0.0)), HELLO)
    one.later(10.0, 5.0)
    assert one.channel is None and one.wake_at() == 15.0


# --- a connection in doubt ------------------------------------------------------------------------


def waits(doubt: Doubt, now: float, count: int) -> List[float]:
    """How long each of the next connections is believed, when nobody ever answers."""
    found = []
    for _ in range(count):
        doubt.connected(now)
        waited = next(s for s in range(2 * int(PATIENCE_MAX_S)) if doubt.due(now + s))
        found.append(float(waited))
        now += waited
        doubt.lost()
    return found


def test_a_deaf_connection_is_doubted_again_and_again_but_ever_more_slowly() -> None:
    doubt = Doubt(lambda: 0.0)
    assert waits(doubt, 100.0, 7) == [30.0, 60.0, 120.0, 240.0, 480.0, 600.0, 600.0]


def test_a_deaf_connection_is_doubted_after_30_to_45_s() -> None:
    assert waits(Doubt(lambda: 0.0), 0.0, 1) == [30.0]
    assert waits(Doubt(lambda: 1.0), 0.0, 1) == [45.0]


def test_an_answer_ends_the_doubt() -> None:
    doubt = Doubt(lambda: 0.0)
    waits(doubt, 0.0, 4)
    doubt.connected(1000.0)
    doubt.heard(1001.0)
    assert not doubt.due(1001.0 + PATIENCE_S - 0.1) and doubt.due(1001.0 + PATIENCE_S)
    doubt.connected(2000.0)
    doubt.heard(2000.0)
    assert waits(doubt, 2001.0, 1) == [PATIENCE_S]


def test_without_a_connection_there_is_nothing_to_doubt() -> None:
    doubt = Doubt(lambda: 0.0)
    assert not doubt.due(1e9)
    doubt.connected(0.0)
    doubt.lost()
    assert not doubt.due(1e9)


def test_one_name_does_not_push_out_those_who_are_just_joining() -> None:
    nonces = (f"{i:016x}" for i in itertools.count())
    host = Host(lambda: next(nonces))
    good = host.open("worker-1", Hello(next(nonces), "s"), 10_000)
    for _ in range(200):  # a stolen worker-3 says hello with as many facts as fit into a packet
        host.open("worker-3", Hello(next(nonces), "x"), 60_000)
    assert host.find("worker-1", Header("inventory", "1", "worker-1", good.ses, 1)) is good
    assert host._total <= NAME_HELLO_BYTES and set(host._bytes) == {"worker-3"}
    host.close("worker-3")
    assert host._total == 0 and not host._bytes
