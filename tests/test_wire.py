"""Packets: header and envelope, and what is no packet."""

from __future__ import annotations

import random

import pytest

from pibot.errors import BadMessage
from pibot.messages import Header, Hello, Progress
from pibot.session import Channel
from pibot.signing import Unsigned
from pibot.wire import PACKET_BYTES, Reader, TooLarge, Writer

TOPIC = "pibot/1/home/w/w1/evt"


def writer() -> Writer:
    return Writer("w:w1", "w1", Unsigned())


def session() -> Channel:
    return Channel("master", f"{'a' * 16}.{'b' * 16}", Hello("a" * 16, "s"))


def message(size: int) -> Progress:
    return Progress("g1-1", 1, {"text": "x" * size})


def test_a_message_is_one_packet_with_its_header() -> None:
    packet = writer().packet(TOPIC, message(5), session(), epoch=3)
    kid, header, found = Reader(Unsigned()).read(TOPIC, packet)
    assert kid == "w:w1" and found == message(5)
    assert header == Header("progress", "w1-1", "w1", f"{'a' * 16}.{'b' * 16}", 1, 3)


def test_numbers_and_ids_count_up_and_a_given_id_is_kept() -> None:
    one, channel, reader = writer(), session(), Reader(Unsigned())
    bodies = [one.body(message(5), channel, id=i) for i in ("", "mine", "")]
    heads = [reader.read(TOPIC, one.seal(TOPIC, b))[1] for b in bodies]
    assert [(h.id, h.n) for h in heads] == [("w1-1", 1), ("mine", 2), ("w1-2", 3)]
    outside = reader.read(TOPIC, one.packet(TOPIC, message(5)))[1]
    assert (outside.ses, outside.n) == ("", 0)


def test_a_packet_stays_under_64_kib_or_is_refused_with_its_size() -> None:
    room = PACKET_BYTES - len(writer().body(message(0), session()))
    assert len(writer().packet(TOPIC, message(room), session())) < 65_000
    with pytest.raises(TooLarge, match="progress message has 60,001 bytes, more than the 60,000"):
        writer().packet(TOPIC, message(room + 1), session())


@pytest.mark.parametrize(
    "payload, why",
    [(b"x" * 130_000, "130000 bytes"), (b"", "envelope"), (b"\xff" * 50, "envelope")],
)
def test_what_is_no_packet_is_refused(payload: bytes, why: str) -> None:
    with pytest.raises(BadMessage, match=why):
        Reader(Unsigned()).read(TOPIC, payload)


def test_nothing_but_bad_messages_on_fuzzed_packets() -> None:
    source, reader, refused = random.Random(7), Reader(Unsigned()), 0
    packet = writer().packet(TOPIC, message(50_000), session())
    for _ in range(3_000):
        data = bytearray(packet)
        for _ in range(source.randint(1, 3)):
            at = source.randrange(min(len(data), source.choice([400, len(data)])))
            data[at] = source.choice(b'0129{}[]",:-e\\\xffz')
        try:
            reader.read(TOPIC, bytes(data))
        except BadMessage:
            refused += 1
    assert 0 < refused < 3_000
