"""The connection to the broker, against brokers and networks that misbehave; real sockets."""

from __future__ import annotations

import os
import resource
import socket
import struct
import threading
import time
from typing import Any, Iterator, List, Tuple

import pytest

from fleet_processes import wait_for
from odd_broker import OddBroker
from pibot import outbox, transport
from pibot.transport import LastWill, Link, PahoTransport

PUBLISH, DISCONNECT = 3, 14


class Role:
    """A loop around a transport, as the roles have one; it runs in a thread."""

    def __init__(self, port: int, filters: Tuple[str, ...] = ("a/#", "b/#")) -> None:
        self.transport = PahoTransport(Link("127.0.0.1", port), "me", filters, LastWill("w", b"x"))
        self.states: List[Tuple[bool, str]] = []
        self.got: List[Tuple[str, bytes]] = []
        self.jobs: List[Any] = []
        self.failed: List[BaseException] = []
        self._reader, self._writer = socket.socketpair()
        self._reader.setblocking(False)
        self._over = False
        self.transport.start(
            self.on_message, lambda up, why: self.states.append((up, why)), self.wake
        )
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def on_message(self, topic: str, payload: bytes) -> None:
        self.got.append((topic, payload))

    def wake(self) -> None:
        self._writer.send(b"!")

    def do(self, job: Any) -> Any:
        """Run something in the loop's thread and return what it returns."""
        done: List[Any] = []
        self.jobs.append(lambda: done.append(job()))
        self.wake()
        return wait_for(lambda: done, 20, "the loop lives")[0]

    def up(self) -> bool:
        return bool(self.states) and self.states[-1][0]

    def _run(self) -> None:
        while not self._over:
            try:
                self.transport.poll(0.2, self._reader)
            except BaseException as error:
                self.failed.append(error)
                return
            while self.jobs:
                self.jobs.pop(0)()
            try:
                self._reader.recv(100)
            except BlockingIOError:
                pass
        self.transport.close()

    def close(self) -> None:
        self._over = True
        self.wake()
        self._thread.join(10)
        assert not self._thread.is_alive()
        assert not self.failed, self.failed


@pytest.fixture
def broker() -> Iterator[OddBroker]:
    with OddBroker() as odd:
        yield odd


@pytest.fixture
def role(broker: OddBroker, monkeypatch: pytest.MonkeyPatch) -> Iterator[Role]:
    monkeypatch.setattr(transport, "RETRY_S", (0.05,))
    monkeypatch.setattr(transport, "UP_S", 1.0)
    one = Role(broker.port)
    yield one
    one.close()


def test_renew_says_goodbye_and_comes_back_with_a_new_id(broker: OddBroker, role: Role) -> None:
    wait_for(role.up)
    role.do(role.transport.renew)
    wait_for(lambda: len(broker.connects) == 2 and role.up())
    assert broker.of_kind(DISCONNECT) == [b""], "no last will for who is alive"
    (_, first), (_, second) = broker.connects
    assert first.startswith(b"pb-me-") and second.startswith(b"pb-me-") and first != second
    assert "nobody answers" in role.states[1][1]


def test_what_was_under_way_does_not_reach_the_next_connection(
    broker: OddBroker, role: Role
) -> None:
    wait_for(role.up)
    assert role.do(lambda: role.transport.publish("t", b"old", 1))
    role.do(role.transport.renew)
    wait_for(lambda: len(broker.connects) == 2 and role.up())
    role.do(lambda: role.transport.publish("t", b"new", 1))
    wait_for(lambda: any(b"new" in body for body in broker.of_kind(PUBLISH)))
    assert sum(b"old" in body for body in broker.of_kind(PUBLISH)) == 1


def test_without_a_connection_nothing_is_kept(broker: OddBroker, role: Role) -> None:
    broker.suback = None
    role.do(role.transport.renew)
    wait_for(lambda: not role.up())
    assert role.do(lambda: role.transport.publish("t", b"lost")) is False
    broker.suback = b"\x01"
    wait_for(role.up)
    assert not any(b"lost" in body for body in broker.of_kind(PUBLISH))


def test_a_denied_subscription_is_told_and_tried_again(
    broker: OddBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transport, "REFUSED_S", 0.05)
    broker.suback = b"\x80"
    role = Role(broker.port)
    wait_for(lambda: len(broker.connects) >= 3)
    assert not role.up() and "does not let whoever has no user name read" in role.states[-1][1]
    broker.suback = b"\x00"
    wait_for(role.up)
    role.close()


def test_an_old_protocol_is_never_fallen_back_to(
    broker: OddBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transport, "RETRY_S", (0.05,))
    broker.connack = 1
    role = Role(broker.port)
    wait_for(lambda: len(broker.connects) >= 3)
    role.close()
    assert {level for level, _ in broker.connects} == {4} and not role.up()


def test_who_never_confirms_a_subscription_is_left(broker: OddBroker, role: Role) -> None:
    broker.suback = None
    role.do(role.transport.renew)
    wait_for(lambda: len(broker.connects) >= 3)
    assert any("does not answer within" in why for _, why in role.states)


@pytest.mark.parametrize(
    "junk",
    [
        b"\x30\x04\xff\xffab",  # a topic longer than its packet
        b"\x32\x03\x00\x01a",  # no packet id
        b"\x30\x00",
        b"\x40\x01\x00",
        b"\x90\x00",
        b"\xff\xff\xff\xff\xff\xff",
        b"\x00\x00",
    ],
)
def test_bytes_that_are_no_mqtt_do_not_end_the_loop(
    broker: OddBroker, role: Role, junk: bytes
) -> None:
    wait_for(role.up)
    broker.then = junk
    role.do(role.transport.renew)
    wait_for(lambda: len(broker.connects) >= 2 and len(broker.of_kind(8)) >= 2)
    broker.then = b""
    role.do(role.transport.renew)
    wait_for(role.up)
    assert not role.failed


def test_an_exception_in_a_callback_does_not_end_the_loop(broker: OddBroker, role: Role) -> None:
    wait_for(role.up)

    def fail(topic: str, payload: bytes) -> None:
        raise RuntimeError("a bug")

    role.transport.start(fail, lambda up, why: role.states.append((up, why)), role.wake)
    broker.then = b"\x30\x05\x00\x01axy"
    role.do(role.transport.renew)
    wait_for(lambda: any("a bug" in why for _, why in role.states))
    broker.then = b""
    wait_for(role.up)


def test_too_large_packets_are_not_passed_on(broker: OddBroker, role: Role) -> None:
    wait_for(role.up)
    large, small = _publish(transport.PACKET_BYTES + 1), _publish(transport.PACKET_BYTES)
    broker.then = large + small
    role.do(role.transport.renew)
    wait_for(lambda: role.got)
    assert [len(payload) for _, payload in role.got] == [transport.PACKET_BYTES]


def _publish(size: int) -> bytes:
    left = size + 3
    length = bytes([left & 0x7F | 0x80, left >> 7 & 0x7F | 0x80, left >> 14])
    return b"\x30" + length + struct.pack("!H", 1) + b"a" + b"x" * size


def test_a_broker_that_does_not_read_fills_no_memory_and_blocks_nobody(
    broker: OddBroker, role: Role
) -> None:
    wait_for(role.up)
    broker.reads = False
    role.do(role.transport.renew)
    wait_for(lambda: len(broker.connects) == 2 and role.up())
    payload = b"x" * 60_000

    def burst() -> Tuple[int, float]:
        begun = time.monotonic()
        taken = sum(role.transport.publish("t", payload, 1) for _ in range(2_000))  # 120 MB
        return taken, time.monotonic() - begun

    taken, seconds = role.do(burst)
    assert taken * len(payload) < outbox.SURE_BYTES + 8_000_000 and taken > 100
    assert seconds < 5
    assert role.do(lambda: role.transport.publish("t", b"news", 0)), "news has a lane of its own"


def test_more_than_1024_descriptors(broker: OddBroker, monkeypatch: pytest.MonkeyPatch) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < 3_000:
        pytest.skip("this machine allows too few descriptors")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 3_000), hard))
    many = [socket.socket() for _ in range(1_100)]
    try:
        role = Role(broker.port)
        wait_for(role.up)
        assert max(int(name) for name in os.listdir("/proc/self/fd")) >= 1_024
        role.close()
    finally:
        for sock in many:
            sock.close()
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
