"""The embedded broker in a fleet with credentials: who comes in, and who is sent away."""

from __future__ import annotations

import struct
import sys
from pathlib import Path
from typing import Iterator, List

import pytest

from fleet_processes import free_port, wait_for
from mqtt_party import Party
from pibot.admission import Admission
from pibot.identities import Identities, Secret, identity, new_secret

if sys.version_info < (3, 10):
    pytest.skip("amqtt needs Python 3.10", allow_module_level=True)

from pibot.embedded import EmbeddedBroker
from test_doorkeeper import Raw, packet, publish, string

ROOT = "pibot/1/home/"
CONNACK, REFUSED = 0x20, b"\x00\x05"
OUT_S = 2.0


class Closed:
    """An embedded broker and the file of its users."""

    def __init__(self, folder: Path) -> None:
        self.path, self.port, self.made = folder / "identities.json", free_port(), Identities()
        self.secrets = {
            name: self.made.add(kind, name)
            for kind, name in (("m", "master"), ("w", "worker-1"), ("w", "worker-2"))
        }
        self.made.save(self.path)
        self.broker = EmbeddedBroker(self.port, Admission(self.path, "home"))
        self.broker.start()
        self._parties: List[Party] = []

    def change(self) -> None:
        self.made.save(self.path)
        self.broker.review()

    def join(self, secret: Secret) -> Party:
        self._parties.append(Party(self.port, secret.user, secret.password))
        return self._parties[-1]

    def close(self) -> None:
        for party in self._parties:
            party.close()
        self.broker.close()


@pytest.fixture
def closed(tmp_path: Path) -> Iterator[Closed]:
    made = Closed(tmp_path)
    yield made
    made.close()


def entered(closed: Closed, name: str) -> Raw:
    """A client that was let in and says exactly what it is told to say."""
    secret, raw = closed.secrets[name], Raw(closed.port)
    who = string(b"raw") + string(secret.user.encode()) + string(secret.password.encode())
    raw.sock.sendall(packet(0x10, string(b"MQTT") + struct.pack("!BBH", 4, 0xC2, 60) + who))
    assert raw.next() == (CONNACK, b"\x00\x00")
    return raw


def connect(port: int, *parts: bytes, flags: int = 0x02) -> "tuple[int, bytes]":
    """Say CONNECT with these strings in its payload; what the broker answers."""
    raw = Raw(port)
    head = string(b"MQTT") + struct.pack("!BBH", 4, flags, 60)
    raw.sock.sendall(packet(0x10, head + b"".join(map(string, parts))))
    return raw.next()


def test_nobody_comes_in_without_the_right_password(closed: Closed) -> None:
    user, password = b"worker-1", closed.secrets["worker-1"].password.encode()
    good = 0xC2
    assert connect(closed.port, b"id", user, password, flags=good) == (CONNACK, b"\x00\x00")
    for wrong in (
        connect(closed.port, b"id"),
        connect(closed.port, b"id", user, flags=0x82),
        connect(closed.port, b"id", user, b"", flags=good),
        connect(closed.port, b"id", user, password + b"x", flags=good),
        connect(closed.port, b"id", b"worker-2", password, flags=good),
        connect(closed.port, b"id", b"worker-1.ab12", password, flags=good),
        connect(closed.port, b"id", b"nobody", password, flags=good),
        connect(closed.port, b"id", b"", b"", flags=good),
    ):
        assert wrong == (CONNACK, REFUSED)


def test_a_will_that_may_not_be_written_lets_nobody_in(closed: Closed) -> None:
    secret = closed.secrets["worker-1"]
    own, other = f"{ROOT}w/worker-1/will".encode(), f"{ROOT}w/worker-2/will".encode()
    who = (secret.user.encode(), secret.password.encode())
    assert connect(closed.port, b"a", own, b"x", *who, flags=0xC6) == (CONNACK, b"\x00\x00")
    assert connect(closed.port, b"b", other, b"x", *who, flags=0xC6) == (CONNACK, REFUSED)
    assert connect(closed.port, b"c", b"x", b"x", *who, flags=0xE6) == (CONNACK, REFUSED)


def test_whose_credentials_end_is_out_at_once_and_others_stay(closed: Closed) -> None:
    master, one, two = (closed.join(s) for s in closed.secrets.values())
    closed.made.remove("worker-1")
    closed.change()
    assert one.gone.wait(OUT_S), "still in after 2 s"
    assert not closed.join(closed.secrets["worker-1"]).is_in
    two.subscribe(f"{ROOT}w/worker-2/cmd")
    master.publish(f"{ROOT}w/worker-2/cmd")
    assert two.hear() == f"{ROOT}w/worker-2/cmd" and not master.gone.is_set()


def test_a_rotation_lets_both_in_and_then_one(closed: Closed) -> None:
    old, new = closed.secrets["worker-1"], new_secret("w", "worker-1", "ab12")
    before = closed.join(old)
    closed.made.follow(identity(new))
    closed.change()
    wait_for(lambda: closed.join(new).is_in, what="the new user is let in")
    assert closed.join(old).is_in and not before.gone.is_set()
    closed.made.promote("worker-1")
    closed.change()
    assert before.gone.wait(OUT_S)
    assert closed.join(new).is_in and not closed.join(old).is_in


def test_a_damaged_file_changes_nothing(closed: Closed, caplog: pytest.LogCaptureFixture) -> None:
    party = closed.join(closed.secrets["worker-1"])
    closed.path.write_text("{")
    closed.broker.review()
    wait_for(lambda: "users stay as they are" in caplog.text, what="the log says so")
    assert closed.join(closed.secrets["worker-2"]).is_in and not party.gone.is_set()


def test_a_taken_name_does_not_throw_out_who_has_the_password(closed: Closed) -> None:
    """An id is taken over by whoever comes in with it; not by whoever is refused."""
    raw = entered(closed, "worker-1")
    assert connect(closed.port, b"raw") == (CONNACK, REFUSED)
    raw.sock.sendall(b"\xc0\x00")
    assert raw.next() == (0xD0, b"")


def test_who_floods_what_is_denied_does_not_keep_others_waiting(closed: Closed) -> None:
    master, raw = closed.join(closed.secrets["master"]), entered(closed, "worker-1")
    master.subscribe(f"{ROOT}w/#")
    denied = publish(f"{ROOT}w/worker-2/evt".encode(), b"x" * 100)
    raw.sock.sendall(denied * 20_000)
    other = closed.join(closed.secrets["worker-2"])
    other.publish(f"{ROOT}w/worker-2/hb")
    assert master.hear() == f"{ROOT}w/worker-2/hb", "and nothing of the flood"
    raw.sock.sendall(publish(f"{ROOT}w/worker-1/evt".encode(), b"x", qos=1))
    assert raw.next() == (0x40, b"\x00\x07")


def test_qos_2_where_nothing_may_be_published_ends_the_connection(closed: Closed) -> None:
    raw = entered(closed, "worker-1")
    raw.sock.sendall(publish(b"x", b"x", qos=2))
    assert raw.next() == (0, b"")
