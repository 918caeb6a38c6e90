"""Packets and chunks: what is large arrives whole or not at all, in bounded memory."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any, List, Optional

import pytest

from pibot.errors import BadMessage
from pibot.messages import Chunk, Header, Hello, Message, Progress
from pibot.session import Channel
from pibot.signing import Unsigned
from pibot.wire import (
    ASSEMBLING_BYTES,
    PACKET_BYTES,
    SLICE_BYTES,
    WHOLE_BYTES,
    Reader,
    TooLarge,
    Writer,
    slices,
)

TOPIC = "pibot/1/home/w/w1/evt"


def writer(name: str = "w1") -> Writer:
    return Writer(f"w:{name}", name, Unsigned())


def session(name: str = "w1") -> Channel:
    return Channel(name, f"{'a' * 16}.{'b' * 16}", Hello("a" * 16, "s"))


def message(size: int, letter: str = "x") -> Progress:
    return Progress("g1-1", 1, {"text": letter * size})


def read_all(reader: Reader, packets: List[bytes], topic: str = TOPIC) -> List[Message]:
    """The messages that came out whole."""
    done: List[Message] = []
    for packet in packets:
        _, header, found = reader.read(topic, packet)
        if not isinstance(found, Chunk):
            done.append(found)
        else:
            whole = reader.join(topic, header, found)
            done += [whole[1]] if whole else []
    return done


def test_a_small_message_is_one_packet_with_its_header() -> None:
    (packet,) = writer().packets(TOPIC, message(5), session(), epoch=3)
    kid, header, found = Reader(Unsigned()).read(TOPIC, packet)
    assert kid == "w:w1" and found == message(5)
    assert header == Header("progress", "w1-1", "w1", f"{'a' * 16}.{'b' * 16}", 1, 3)


@pytest.mark.parametrize("size", [PACKET_BYTES, 3 * SLICE_BYTES, 1_000_003])
def test_a_large_message_travels_in_packets_under_64_kib(size: int) -> None:
    packets = writer().packets(TOPIC, message(size), session())
    assert len(packets) > 1 and max(map(len, packets)) < 65_000
    assert read_all(Reader(Unsigned()), packets) == [message(size)]


@pytest.mark.parametrize("seed", range(3))
def test_chunks_in_any_order_and_twice(seed: int) -> None:
    packets = writer().packets(TOPIC, message(300_000), session())
    source = random.Random(seed)
    mixed = packets[:-1] * 2
    source.shuffle(mixed)
    assert read_all(Reader(Unsigned()), [*mixed, packets[-1]]) == [message(300_000)]


def test_every_chunk_and_the_whole_have_numbers_of_their_own() -> None:
    channel = session()
    one = writer()
    reader = Reader(Unsigned())
    heads = [reader.read(TOPIC, p)[1] for p in one.packets(TOPIC, message(100_000), channel)]
    numbers = [h.n for h in heads]
    assert numbers == [2, 3, 4] and channel.sent == 4, "1 is the whole message's own"
    assert one.last_id == "w1-1" and {h.id for h in heads} == {"w1-2", "w1-3", "w1-4"}


def test_interleaved_senders_and_sessions_do_not_mix() -> None:
    reader = Reader(Unsigned())
    letters = "abcdefghijklmnopqrstuvwxyz"  # more at once than a small fleet has workers
    streams = [writer().packets(f"t/{c}", message(100_000, c), session()) for c in letters]
    done = []
    for step in zip(*streams):
        for letter, packet in zip(letters, step):
            done += read_all(reader, [packet], f"t/{letter}")
    assert done == [message(100_000, c) for c in letters]


def test_sixteen_megabytes() -> None:
    packets = writer().packets(TOPIC, message(16 * 1024 * 1024), session())
    (found,) = read_all(Reader(Unsigned()), packets)
    assert found == message(16 * 1024 * 1024)


def test_what_is_over_the_limit_is_refused_here_with_its_size() -> None:
    with pytest.raises(TooLarge, match=r"progress message has 33,554,\d+ bytes.*33,554,432"):
        writer().packets(TOPIC, message(WHOLE_BYTES), session())


def chunks(size: int = 100_000) -> "tuple[List[Chunk], Header]":
    reader = Reader(Unsigned())
    found = [reader.read(TOPIC, p) for p in writer().packets(TOPIC, message(size), session())]
    return [c for _, _, c in found if isinstance(c, Chunk)], found[0][1]


@pytest.mark.parametrize(
    "change",
    [
        {"i": -1},
        {"i": 3},
        {"of": 2},
        {"of": 4},
        {"of": 0},
        {"size": 0},
        {"size": -5},
        {"size": WHOLE_BYTES + 1, "of": 839},
        {"data": "x" * 60_000},
        {"data": "abc"},
        {"data": "é==="},
        {"data": "ab\n=="},
        {"sha256": "x"},
        {"whole": "w" * 65},
    ],
)
def test_a_chunk_whose_numbers_do_not_fit_is_refused(change: Any) -> None:
    parts, header = chunks()
    with pytest.raises(BadMessage, match="chunk"):
        Reader(Unsigned()).join(TOPIC, header, replace(parts[0], **change))


@pytest.mark.parametrize("change", [{"sha256": "0" * 64}, {"data": "AAAA"}])
def test_chunks_that_are_not_the_whole_are_refused(change: Any) -> None:
    parts, header = chunks()
    reader = Reader(Unsigned())
    if "sha256" in change:
        parts = [replace(p, **change) for p in parts]
    else:
        parts[1] = replace(parts[1], **change)
    assert [reader.join(TOPIC, header, p) for p in parts[:-1]] == [None, None]
    with pytest.raises(BadMessage, match="do not fit together"):
        reader.join(TOPIC, header, parts[-1])
    assert reader._held == 0 and not reader._open


def test_chunks_that_tell_different_sizes_are_different_messages() -> None:
    """The number of a far chunk of one claim must not complete a short one of another."""
    reader, header = Reader(Unsigned()), chunks()[1]
    parts = list(slices("m", b"x" * 6 * SLICE_BYTES))
    short = list(slices("m", b"x" * 2 * SLICE_BYTES))
    assert reader.join(TOPIC, header, parts[5]) is None
    assert reader.join(TOPIC, header, replace(short[0], sha256=parts[0].sha256)) is None


def test_a_whole_that_is_no_message_is_refused() -> None:
    reader, header = Reader(Unsigned()), chunks()[1]
    (only,) = slices("m", b'{"v":1')
    with pytest.raises(BadMessage):
        reader.join(TOPIC, header, only)


def test_memory_is_bounded_whoever_begins_whatever() -> None:
    reader, header = Reader(Unsigned()), chunks()[1]
    part = next(slices("m", b"x" * WHOLE_BYTES))
    for i in range(4_000):
        reader.join(f"t/{i}", header, replace(part, i=i % part.of))
    assert reader._held <= ASSEMBLING_BYTES
    assert sum(len(d) for p in reader._open.values() for d in p.values()) <= ASSEMBLING_BYTES
    tiny = replace(part, data="")
    for i in range(100_000):
        reader.join(TOPIC, header, replace(tiny, whole=str(i)))
    assert len(reader._open) <= ASSEMBLING_BYTES / 1_000


def test_of_two_of_the_largest_at_once_one_arrives_and_the_other_is_sent_again() -> None:
    size = WHOLE_BYTES - 1_000
    reader = Reader(Unsigned())
    streams = [writer().packets(f"t/{c}", message(size, c), session()) for c in "ab"]
    done: List[Message] = []
    for step in zip(*streams):
        for letter, packet in zip("ab", step):
            done += read_all(reader, [packet], f"t/{letter}")
    assert [len(m.step["text"]) for m in done if isinstance(m, Progress)] == [size]


@pytest.mark.parametrize(
    "payload, why",
    [(b"x" * 130_000, "130000 bytes"), (b"", "envelope"), (b"\xff" * 50, "envelope")],
)
def test_what_is_no_packet_is_refused(payload: bytes, why: str) -> None:
    with pytest.raises(BadMessage, match=why):
        Reader(Unsigned()).read(TOPIC, payload)


def test_nothing_but_bad_messages_on_fuzzed_packets() -> None:
    source = random.Random(7)
    packets = writer().packets(TOPIC, message(50_000), session())
    packets += writer().packets(TOPIC, message(130_000), session())
    reader, refused = Reader(Unsigned()), 0
    for _ in range(3_000):
        data = bytearray(source.choice(packets))
        for _ in range(source.randint(1, 3)):
            at = source.randrange(min(len(data), source.choice([400, len(data)])))
            data[at] = source.choice(b'0129{}[]",:-e\\\xffz')
        header: Optional[Header] = None
        try:
            _, header, found = reader.read(TOPIC, bytes(data))
            if isinstance(found, Chunk):
                reader.join(TOPIC, header, found)
        except BadMessage:
            refused += 1
    assert 0 < refused < 3_000
