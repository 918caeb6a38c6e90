"""The proxy does to a stream of packets what it says."""

from __future__ import annotations

import socket
import time
from typing import Iterator, List, Tuple

import pytest

from mqtt_proxy import MqttProxy

PUBLISH = b"\x32\x0a\x00\x03a/b\x00\x07xyz"  # QoS 1, id 7
REPEATED = b"\x30\x08\x00\x03a/bxyz"
PING = b"\xc0\x00"
Ends = Tuple[MqttProxy, socket.socket, socket.socket]


@pytest.fixture
def ends() -> Iterator[Ends]:
    """The proxy, a client's end, and the broker's end of one connection through it."""
    with (
        socket.create_server(("127.0.0.1", 0)) as broker,
        MqttProxy(broker.getsockname()[1]) as proxy,
        socket.create_connection(("127.0.0.1", proxy.port)) as client,
    ):
        accepted, _ = broker.accept()
        with accepted:
            for end in (client, accepted):
                end.settimeout(5)
            client.sendall(PING)  # then the proxy has both sides
            read(accepted, 2)
            yield proxy, client, accepted


def read(end: socket.socket, size: int) -> bytes:
    """So many bytes; fewer if the connection ends."""
    data = b""
    try:
        while len(data) < size and (more := end.recv(size - len(data))):
            data += more
    except ConnectionResetError:
        pass
    return data


def is_silent(end: socket.socket) -> bool:
    end.settimeout(0.2)
    try:
        return end.recv(1) is None
    except socket.timeout:
        return True
    finally:
        end.settimeout(5)


def test_packets_pass_both_ways_however_they_are_cut(ends: Ends) -> None:
    _, client, broker = ends
    for i in range(len(PUBLISH)):
        client.sendall(PUBLISH[i : i + 1])
    assert read(broker, len(PUBLISH)) == PUBLISH
    broker.sendall(PING + PUBLISH)
    assert read(client, len(PING + PUBLISH)) == PING + PUBLISH


def test_a_stall_keeps_what_it_holds_back(ends: Ends) -> None:
    proxy, client, broker = ends
    proxy.stall()
    client.sendall(PUBLISH)
    assert is_silent(broker)
    proxy.heal()
    assert read(broker, len(PUBLISH)) == PUBLISH


@pytest.mark.parametrize("way", ["up", "down"])
def test_a_blackhole_swallows_one_direction_and_the_connection_ends_with_it(
    ends: Ends, way: str
) -> None:
    proxy, client, broker = ends
    into, other = (client, broker) if way == "up" else (broker, client)
    proxy.blackhole(way)
    into.sendall(PUBLISH)
    assert is_silent(other)
    other.sendall(PING)
    assert read(into, 2) == PING
    proxy.heal()
    assert read(other, 1) == b"" and proxy.did["lost"] == 1


def test_a_cut_ends_both_sides(ends: Ends) -> None:
    proxy, client, broker = ends
    proxy.cut()
    assert read(client, 1) == b"" and read(broker, 1) == b""


def test_the_broker_of_held_clients_learns_of_their_end_when_they_are_released(ends: Ends) -> None:
    proxy, client, broker = ends
    proxy.hold()
    assert read(client, 1) == b"" and is_silent(broker)
    proxy.release()
    assert read(broker, 1) == b""


def test_a_slow_connection_takes_its_time(ends: Ends) -> None:
    proxy, client, broker = ends
    proxy.slow(bytes_s=100)
    began = time.monotonic()
    client.sendall(PUBLISH * 3)
    assert read(broker, 36) == PUBLISH * 3
    assert time.monotonic() - began > 0.3


def test_shuffled_messages_come_twice_and_late_and_nothing_else_does(ends: Ends) -> None:
    proxy, client, broker = ends
    proxy.shuffle(1.0)
    client.sendall(PUBLISH + PING)
    assert read(broker, 2) == PING
    came: List[bytes] = [read(broker, 1)]
    came[0] += read(broker, 11 if came[0] == PUBLISH[:1] else 9)
    came.append(read(broker, 10 if came[0] == PUBLISH else 12))
    assert sorted(came) == [REPEATED, PUBLISH]
