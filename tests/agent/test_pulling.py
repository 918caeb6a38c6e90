"""Pulling a program in virtual time: lost, doubled, reordered and wrong slices."""

from __future__ import annotations

import base64
import random
from typing import List

import pytest

from pibot.agent.pulling import RESEND_MAX_S, TRIES, WINDOW, Pull
from pibot.messages import FILE_SLICE_BYTES, FetchProgram, ProgramSlice

SHA = "ab" * 32
BODY = random.Random(1).randbytes(10 * FILE_SLICE_BYTES + 17)


def pull(have: int = 0) -> Pull:
    return Pull(SHA, len(BODY), have, 0.0, lambda: 0.5)


def answer(wanted: FetchProgram) -> ProgramSlice:
    raw = BODY[wanted.offset : wanted.offset + FILE_SLICE_BYTES]
    return ProgramSlice(SHA, wanted.offset, base64.b64encode(raw).decode())


@pytest.mark.parametrize("have", [0, 1, FILE_SLICE_BYTES, 5 * FILE_SLICE_BYTES + 3, len(BODY) - 1])
def test_everything_comes_from_where_it_was(have: int) -> None:
    one, got = pull(have), BODY[:have]
    wanted = one.due(0.0)
    while not one.done:
        assert len(wanted) <= WINDOW
        for part in map(answer, wanted):
            got += b"".join(one.came(part, 0.0))
        wanted = one.due(0.0)
    assert (got, one.have, wanted) == (BODY, len(BODY), [])


@pytest.mark.parametrize("seed", range(20))
def test_a_bad_network_delays_it_and_no_more(seed: int) -> None:
    chance, now, got = random.Random(seed), 0.0, b""
    one = pull()
    under_way: List[ProgramSlice] = []
    while not one.done:
        under_way += [answer(w) for w in one.due(now) if chance.random() < 0.6]
        under_way += [part for part in under_way if chance.random() < 0.1]
        chance.shuffle(under_way)
        if under_way:
            got += b"".join(one.came(under_way.pop(), now))
        else:
            now = max(now, one.wake_at())
        assert not one.hopeless
    assert got == BODY


def test_what_is_wrong_is_left_out() -> None:
    one = pull()
    first, *_ = one.due(0.0)
    good = answer(first)
    for part in (
        ProgramSlice("cd" * 32, good.offset, good.data),
        ProgramSlice(SHA, good.offset, good.data[:-4]),
        ProgramSlice(SHA, good.offset, "*" + good.data[1:]),
        ProgramSlice(SHA, good.offset, ""),
        ProgramSlice(SHA, 17, good.data),
        ProgramSlice(SHA, WINDOW * FILE_SLICE_BYTES, good.data),
        ProgramSlice(SHA, -1, good.data),
    ):
        assert list(one.came(part, 0.0)) == []
    assert b"".join(one.came(good, 0.0)) == BODY[:FILE_SLICE_BYTES]
    assert list(one.came(good, 0.0)) == []


def test_what_does_not_come_is_asked_for_again_and_at_last_given_up() -> None:
    one, now, asked = pull(), 0.0, 0
    pauses = []
    while not one.hopeless:
        assert len(one.due(now)) in (0, WINDOW)
        pauses.append(one.wake_at() - now)
        now, asked = one.wake_at(), asked + 1
    assert asked == TRIES + 1
    assert pauses[0] == 1.25 and max(pauses) == pauses[-1] == 1.25 * RESEND_MAX_S


def test_a_new_session_asks_at_once() -> None:
    one = pull()
    wanted = one.due(0.0)
    assert one.due(0.5) == []
    one.again(0.5)
    assert one.due(0.5) == wanted
