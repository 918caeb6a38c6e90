"""Both ends of the wire: what is small goes at once, what is large in chunks, all of it once."""

from __future__ import annotations

import base64
import itertools
from typing import List

import pytest

from pibot.errors import BadMessage
from pibot.line import GuestLine, Line, Received, subject
from pibot.messages import (
    Assign,
    Bye,
    Chunk,
    ChunkAck,
    Header,
    Hello,
    Message,
    Progress,
    Reply,
    Result,
    Submit,
    Welcome,
    encode,
)
from pibot.session import Channel, Guest
from pibot.signing import Unsigned, seal
from pibot.transfer import SLICE_BYTES, WHOLE_BYTES, Subject
from pibot.wire import Packet, Reader, TooLarge, Writer

EVT, CMD = "pibot/1/home/w/w1/evt", "pibot/1/home/w/w1/cmd"


def result(size: int, att: int = 1) -> Result:
    return Result("g1-1", att, "succeeded", {"success": True, "output": "x" * size})


class Ends:
    """A worker's end and the master's; packets reach the other side when `carry` says so."""

    def __init__(self) -> None:
        self._nonces = (f"{i:016x}" for i in itertools.count(1))
        self.now = 1.0
        self.guest = Guest(lambda: next(self._nonces), lambda: 0.5)
        writer = Writer("w:w1", "w1", Unsigned())
        self.worker = GuestLine(writer, Unsigned(), EVT, [CMD], self.guest, lambda: 0.5)
        self.master = Line(Writer("m:master", "master", Unsigned()), lambda c: CMD, lambda: 0.5)
        self.heard: List[Received] = []  # by the worker
        self.got: List[Message] = []  # by the master, in chunks
        self.join()

    def join(self) -> None:
        hello = Hello(self.guest.hello_nonce(self.now), "start")
        welcome = Welcome(hello.nonce, next(self._nonces), "store", 5_000, 30_000)
        self.guest.welcomed(Header("welcome", "m", "master", ep=7), welcome, hello)
        self.channel = Channel("w1", f"{hello.nonce}.{welcome.nonce_m}", hello)
        self.master.sender.moved(self.channel)

    def carry(self, rounds: int = 60) -> List[Packet]:
        """Chunks and acknowledgements to and fro; return what the worker sent."""
        sent: List[Packet] = []
        for _ in range(rounds):
            self.now += 0.01
            mine = self.worker.due(self.now)
            for packet in mine:
                _, header, message = Reader(Unsigned()).read(packet.topic, packet.payload)
                assert (header.ses, packet.topic) == (self.channel.ses, EVT)
                if isinstance(message, ChunkAck):
                    self.master.sender.acked(self.channel, header.n, message, self.now)
                elif isinstance(message, Chunk):
                    whole = self.master.take(self.channel, header, message, self.now)
                    self.got += [] if whole is None else [whole[1]]
            for packet in self.master.due(self.now, 7):
                found = self.worker.receive(CMD, packet.payload, self.now)
                self.heard += [] if found is None else [found]
            sent += mine
        return sent


def test_what_is_small_goes_at_once_and_as_often_as_it_is_said() -> None:
    ends = Ends()
    for _ in range(2):
        (packet,) = ends.worker.send(EVT, result(10), qos=1)
        assert Reader(Unsigned()).read(EVT, packet.payload)[2] == result(10)
    assert ends.carry() == [] and ends.worker.wake_at() == float("inf")


@pytest.mark.parametrize("size", [60_000, 3 * SLICE_BYTES, 1_000_003])
def test_what_is_large_goes_in_packets_under_64_kib(size: int) -> None:
    ends = Ends()
    assert ends.worker.send(EVT, result(size)) == []
    sent = ends.carry()
    assert ends.got == [result(size)] and max(len(p.payload) for p in sent) < 65_000
    assert all(p.qos == 1 and not p.retain for p in sent)


def test_said_again_while_it_is_on_its_way_it_is_not_sent_twice() -> None:
    ends = Ends()
    sent = []
    for _ in range(20):
        assert ends.worker.send(EVT, result(500_000)) == []
        sent += ends.carry(1)
    assert ends.got == [result(500_000)] and len(sent) == 13


def test_in_a_new_session_it_goes_on_and_comes_as_a_message_of_that_session() -> None:
    ends = Ends()
    big = Assign("g1-1", 1, 1_000, {"args": "x" * 2_000_000})
    assert ends.master.send(CMD, big, ends.channel, 7) == []
    ends.carry(4)
    ends.join()
    ends.worker.due(ends.now)
    ends.carry()
    (found,) = ends.heard
    assert found.message == big and found.whole
    assert (found.header.src, found.header.ses) == ("master", ends.channel.ses)


def test_16_mib_both_ways_at_once() -> None:
    ends = Ends()
    size = 16 * 1024 * 1024
    reply = Reply("w1-1", {"text": "y" * size})
    ends.worker.send(EVT, result(size))
    ends.master.send(CMD, reply, ends.channel, 7)
    ends.carry(80)
    assert ends.got == [result(size)] and [f.message for f in ends.heard] == [reply]


def test_a_request_keeps_its_id_in_chunks_and_when_it_is_sent_anew() -> None:
    ends = Ends()
    submit = Submit("g1", skill="echo", args={"text": "x" * 100_000})
    ends.worker.send(EVT, submit, id="c-1")
    chunks = []
    for packet in ends.carry():
        message = Reader(Unsigned()).read(EVT, packet.payload)[2]
        chunks += [message] if isinstance(message, Chunk) else []
    assert ends.got == [submit] and {c.whole for c in chunks} == {"w1-1"}
    assert b'"id":"c-1"' in base64.b64decode(chunks[0].data)


def test_what_is_withdrawn_goes_no_further() -> None:
    ends = Ends()
    ends.worker.send(EVT, result(2_000_000))
    ends.carry(2)
    ends.worker.withdraw(("result", "g1-1"))
    assert ends.carry() == [] and ends.got == []


def test_without_a_session_nothing_is_sent_and_nothing_taken() -> None:
    ends = Ends()
    ends.worker.send(EVT, result(100_000))
    ends.master.send(CMD, Reply("w1-1", {"x": "y" * 100_000}), ends.channel)
    (chunk, *_) = ends.master.due(ends.now)
    ends.guest.channel = None
    assert ends.worker.due(ends.now) == [] and ends.worker.wake_at() == float("inf")
    assert ends.worker.receive(CMD, chunk.payload, ends.now) is None
    ends.join()
    assert ends.worker.receive(CMD, chunk.payload, ends.now) is None, "of another session"


@pytest.mark.parametrize(
    "message, joining, size, limit",
    [
        (result(WHOLE_BYTES), False, r"33,554,\d+", "33,554,432"),
        (result(100_000), True, r"100,\d+", "60,000"),
        (Progress("g1-1", 1, {"text": "x" * 100_000}), False, r"100,\d+", "60,000"),
    ],
)
def test_what_may_not_be_sent_is_refused_here_with_its_size(
    message: Message, joining: bool, size: str, limit: str
) -> None:
    with pytest.raises(
        TooLarge, match=f"{message.t} message has {size} bytes, more than the {limit}"
    ):
        Ends().worker.send(EVT, message, joining=joining)


@pytest.mark.parametrize(
    "inner, why",
    [
        (encode(Header("result", "x", "w2"), result(5)), "result of w2 in chunks of w1"),
        (encode(Header("bye", "x", "w1"), Bye()), "bye of w1"),
        (encode(Header("hello", "x", "w1"), Hello("a" * 16, "s")), "hello of w1"),
        (encode(Header("chunk_ack", "x", "w1"), ChunkAck("x", 1)), "chunk_ack of w1"),
        (b'{"v":1', "not JSON"),
    ],
)
def test_what_may_not_come_in_chunks_is_refused_once(inner: bytes, why: str) -> None:
    ends = Ends()
    ends.worker._line.sender.begin(ends.guest.channel or ends.channel, subject_of(), "w1-9", inner)
    with pytest.raises(BadMessage, match=why):
        ends.carry()
    ends.carry()
    assert ends.got == [] and not ends.worker._line.sender.under_way(ends.channel)


def subject_of() -> Subject:
    found = subject(result(1))
    assert found is not None
    return found


def test_strangers_are_not_the_master() -> None:
    ends = Ends()
    payload = seal(Unsigned(), "w:w2", CMD, encode(Header("bye", "x", "w2"), Bye()))
    with pytest.raises(BadMessage, match="w:w2 is not the master"):
        ends.worker.receive(CMD, payload, ends.now)
