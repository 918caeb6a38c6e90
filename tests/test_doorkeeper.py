"""The embedded broker against clients that mean no good; real sockets, raw MQTT."""

from __future__ import annotations

import os
import random
import socket
import struct
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Iterator, List, Tuple

import pytest

from fleet_processes import free_port, wait_for
from security.intruder import packet
from security.intruder import text as string

if sys.version_info < (3, 10):
    pytest.skip("amqtt needs Python 3.10", allow_module_level=True)

from pibot import doorkeeper
from pibot.embedded import EmbeddedBroker

SOURCE = str(Path(doorkeeper.__file__).parents[1])
QUIET_S = 0.5  # what has not come by then does not come: what is measured takes milliseconds


def publish(topic: bytes, payload: bytes, qos: int = 0, retain: bool = False) -> bytes:
    number = b"\x00\x07" if qos else b""
    return packet(0x30 | qos << 1 | retain, string(topic) + number + payload)


class Raw:
    """A client that says exactly what it is told to say."""

    def __init__(self, port: int, name: bytes = b"", flags: int = 2, keepalive: int = 60) -> None:
        self.sock = socket.create_connection(("127.0.0.1", port), 10)
        self._buffer = b""
        if name:
            head = struct.pack("!BBH", 4, flags, keepalive)
            self.sock.sendall(packet(0x10, string(b"MQTT") + head + string(name)))
            assert self.next() == (0x20, b"\x00\x00")

    def subscribe(self, topic: bytes, qos: int = 0) -> int:
        self.sock.sendall(packet(0x82, b"\x00\x01" + string(topic) + bytes([qos])))
        kind, body = self.next()
        assert kind == 0x90
        return body[2]

    def next(self, seconds: float = 10.0) -> Tuple[int, bytes]:
        """The next packet: its first byte and its body; (0, b"") at the end or when none comes."""
        while not (size := doorkeeper.whole(bytearray(self._buffer))):
            self.sock.settimeout(seconds)
            try:
                data = self.sock.recv(65536)
            except socket.timeout:
                return 0, b""
            except OSError:
                return 0, b""
            if not data:
                return 0, b""
            self._buffer += data
        whole, self._buffer = self._buffer[:size], self._buffer[size:]
        return whole[0], whole[doorkeeper.after_header(whole) :]

    def message(self, seconds: float = 10.0) -> Tuple[bytes, bytes]:
        kind, body = self.next(seconds)
        if kind >> 4 != 3:
            return b"", b""
        topic, at = doorkeeper.text(body, 0)
        return topic, body[at + (2 if kind & 6 else 0) :]

    def ended(self) -> bool:
        while (got := self.next(10.0)) != (0, b""):
            assert got
        self.sock.settimeout(0.01)
        try:
            return self.sock.recv(1) == b""
        except socket.timeout:
            return False
        except OSError:
            return True

    def close(self) -> None:
        self.sock.close()


@pytest.fixture
def port() -> Iterator[int]:
    port = free_port()
    broker = EmbeddedBroker(port)
    broker.start()
    yield port
    broker.close()


def serves(port: int) -> None:
    """A round trip between two new clients."""
    hears, speaks = Raw(port, b"hears"), Raw(port, b"speaks")
    hears.subscribe(b"check/me", 1)
    speaks.sock.sendall(publish(b"check/me", b"yes", 1))
    assert hears.message() == (b"check/me", b"yes")
    hears.close()
    speaks.close()


@pytest.mark.parametrize("flags", [0, 2], ids=["persistent", "clean"])
def test_a_second_client_with_the_same_id_takes_over_and_hears(port: int, flags: int) -> None:
    first = Raw(port, b"twin", flags)
    first.subscribe(b"news/#")
    second = Raw(port, b"twin", flags)
    second.subscribe(b"news/#")
    assert first.ended(), "the older one is told that it is over"
    other = Raw(port, b"other")
    other.sock.sendall(publish(b"news/1", b"fresh"))
    assert second.message() == (b"news/1", b"fresh")


def test_retained_messages_are_shown_to_those_who_asked_for_them(port: int) -> None:
    owner = Raw(port, b"owner")
    owner.subscribe(b"view/#")
    owner.sock.sendall(publish(b"view/fleet", b"online", retain=True))
    assert owner.message() == (b"view/fleet", b"online")
    stranger = Raw(port, b"stranger")
    assert stranger.next(QUIET_S) == (0, b"")
    stranger.subscribe(b"other/#")
    assert stranger.next(QUIET_S) == (0, b"")
    stranger.subscribe(b"view/+")
    assert stranger.message() == (b"view/fleet", b"online")


def test_qos_2_is_granted_as_1(port: int) -> None:
    client = Raw(port, b"two")
    assert client.subscribe(b"a/b", 2) == 1
    client.sock.sendall(publish(b"a/b", b"x", 1))
    kinds = {client.next()[0] & 0xF6 for _ in range(2)}
    assert kinds == {0x40, 0x32}  # the PUBACK, and the message at QoS 1


def test_a_packet_over_the_limit_ends_its_connection_at_once(port: int) -> None:
    client = Raw(port, b"large")
    announced = packet(0x30, b"x" * (doorkeeper.PACKET_BYTES + 1))[:5]
    client.sock.sendall(announced)  # nothing but its header
    assert client.ended()
    serves(port)


def test_largest_packet_comes_through(port: int) -> None:
    client = Raw(port, b"large")
    client.subscribe(b"a/b")
    payload = b"x" * (doorkeeper.PACKET_BYTES - 10)
    client.sock.sendall(publish(b"a/b", payload))
    assert client.message() == (b"a/b", payload)


def test_who_says_nothing_after_connecting_is_let_go(
    port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doorkeeper, "CONNECT_S", 0.3)
    assert Raw(port).ended()


def test_garbage_ends_one_connection_only(port: int) -> None:
    rng, before = random.Random(4), Raw(port, b"before")
    before.subscribe(b"a/b")
    hello = packet(0x10, string(b"MQTT") + b"\x04\x02\x00\x3c" + string(b"g"))
    for i in range(300):
        client = Raw(port)
        junk = rng.randbytes(rng.randrange(1, 200))
        client.sock.sendall(hello[: rng.randrange(len(hello))] + junk if i % 3 else hello + junk)
        client.close()
    before.sock.sendall(publish(b"a/b", b"still here"))
    assert before.message() == (b"a/b", b"still here")
    serves(port)


def test_a_crowd_of_neighbours_leaves_those_who_are_in_alone(port: int) -> None:
    served = Raw(port, b"served")
    served.subscribe(b"a/b")
    crowd = [socket.create_connection(("127.0.0.1", port)) for _ in range(400)]
    served.sock.sendall(publish(b"a/b", b"still here"))
    assert served.message() == (b"a/b", b"still here")
    for sock in crowd:
        sock.close()
    wait_for(lambda: _lets_in(port), 10, "there is room again")
    serves(port)


def _lets_in(port: int) -> bool:
    try:
        Raw(port, b"late").close()
        return True
    except (AssertionError, OSError):
        return False


def test_probes_are_nobody_elses_business(port: int) -> None:
    client = Raw(port, b"all")
    client.subscribe(b"#")
    count = 5 * doorkeeper.WINDOW
    data = b"".join(publish(b"a/b", b"%d" % i) for i in range(count))
    sender = threading.Thread(target=client.sock.sendall, args=(data,))
    sender.start()
    assert [client.message()[1] for _ in range(count)] == [b"%d" % i for i in range(count)]
    assert client.next(QUIET_S) == (0, b"")
    sender.join()


def test_a_flood_of_retained_messages_is_bounded() -> None:
    kept = doorkeeper.Retained()
    taken = [kept.takes(b"t/%d" % i, 100) for i in range(2 * doorkeeper.RETAINED)]
    assert sum(taken) == doorkeeper.RETAINED and taken[0] and not taken[-1]
    assert kept.takes(b"t/1", 200), "what is there may change"
    assert kept.takes(b"t/1", 0) and kept.takes(b"new", 10), "a cleared one makes room"
    large = doorkeeper.Retained()
    assert sum(large.takes(b"t/%d" % i, 250_000) for i in range(100)) == 67


def test_what_is_refused_leaves_what_was_retained_before() -> None:
    kept = doorkeeper.Retained()
    assert all(kept.takes(b"t/%d" % i, 100) for i in range(doorkeeper.RETAINED))
    for i in range(doorkeeper.RETAINED):
        assert not kept.takes(b"t/%d" % i, doorkeeper.RETAINED_BYTES)
    assert not kept.takes(b"one more", 100), "the broker still has all of them"
    assert kept.takes(b"t/1", 0) and kept.takes(b"one more", 100)


# --- memory, measured from outside ----------------------------------------------------------------

_ALONE = """
import sys
from pibot.embedded import EmbeddedBroker
broker = EmbeddedBroker(int(sys.argv[1]))
broker.start()
print("up", flush=True)
sys.stdin.readline()
"""


class Alone:
    """The embedded broker in a process of its own, whose memory can be read."""

    def __init__(self) -> None:
        self.port = free_port()
        self._process = subprocess.Popen(
            [sys.executable, "-c", _ALONE, str(self.port)],
            env={**os.environ, "PYTHONPATH": SOURCE},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == b"up\n"

    def resident_mb(self) -> float:
        pages = int(Path(f"/proc/{self._process.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / 1e6

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()


@pytest.fixture
def alone() -> Iterator[Alone]:
    broker = Alone()
    yield broker
    broker.close()


def flood(port: int, name: bytes, data: bytes, seconds: float) -> None:
    """Send the same packets again and again, as fast as the broker takes them."""
    client = Raw(port, name)
    client.sock.settimeout(seconds)
    until = time.monotonic() + seconds
    try:
        while time.monotonic() < until:
            client.sock.sendall(data)
    except OSError:  # it takes no more
        pass
    client.close()


@pytest.mark.parametrize("size, reads", [(50, True), (60_000, False)], ids=["small", "stalled"])
def test_floods_do_not_fill_its_memory(alone: Alone, size: int, reads: bool) -> None:
    watcher = Raw(alone.port, b"watcher")
    watcher.subscribe(b"flood/#", 0)
    serves(alone.port)
    before, peak = alone.resident_mb(), 0.0
    data = publish(b"flood/x", b"y" * size) * (1 + 100_000 // size)
    floods: List[threading.Thread] = [
        threading.Thread(target=flood, args=(alone.port, b"flood-%d" % i, data, 3.0))
        for i in range(4)
    ]
    for thread in floods:
        thread.start()
    while any(thread.is_alive() for thread in floods):
        peak = max(peak, alone.resident_mb())
        if reads:
            watcher.message(0.05)
        else:
            floods[0].join(0.05)
    for thread in floods:
        thread.join()
    assert peak - before < 32, f"from {before:.0f} to {peak:.0f} MB"
    serves(alone.port)
