"""A loop's inbox: what it takes, in what order, and what it refuses."""

from __future__ import annotations

import select
import socket
import threading
import time
from typing import Iterator

import pytest

from pibot.mailbox import GROUP, LIMIT, LIMIT_BYTES, Mailbox


def wait(wait_s: float, wake: socket.socket) -> None:
    select.select([wake], [], [], wait_s)


@pytest.fixture
def box() -> Iterator[Mailbox]:
    one = Mailbox()
    one.open()
    yield one
    one.close()


def test_packets_come_in_order_and_in_groups(box: Mailbox) -> None:
    for i in range(GROUP + 1):
        assert box.offer(f"t/{i}", b"x")
    assert box.collect(0, wait) == [(f"t/{i}", b"x") for i in range(GROUP)]
    assert box.collect(0, wait) == [(f"t/{GROUP}", b"x")]


def test_too_many_packets_are_refused_but_never_what_must_not_be_lost(box: Mailbox) -> None:
    assert all(box.offer("t", b"") for _ in range(LIMIT))
    assert not box.offer("t", b"")
    box.put("an end")
    assert box.size() == LIMIT + 1
    box.collect(0, wait)
    assert box.offer("t", b"")


def test_large_packets_are_refused_before_they_fill_memory(box: Mailbox) -> None:
    payload = b"x" * 100_000
    taken = sum(box.offer("t", payload) for _ in range(1_000))
    assert taken == LIMIT_BYTES // len(payload)
    box.put("an end")
    while box.size():
        box.collect(0, wait)
    assert sum(box.offer("t", payload) for _ in range(1_000)) == taken


def test_a_put_ends_the_wait(box: Mailbox) -> None:
    threading.Timer(0.1, box.put, args=("now",)).start()
    begun = time.monotonic()
    assert box.collect(10, wait) == ["now"]
    assert time.monotonic() - begun < 5
