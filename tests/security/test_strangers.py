"""Who has no credentials, wrong ones, or those of yesterday, gets nothing and learns nothing."""

from __future__ import annotations

import socket
import ssl
import time
from pathlib import Path
from typing import Dict, Iterator, Tuple

import pytest

from closed_fleet import ClosedFleet
from fleet_processes import free_port, wait_for
from pibot import messages as msg
from security.certificates import Certificate
from security.false_broker import FalseBroker
from security.impostor import TOPICS, Impostor, will_topic
from security.intruder import Intruder
from security.siege import HONEST, STOLEN, Siege

REFUSED = 5  # not authorised
OUT_S = 2.0


class Walls(Siege):
    """A fleet with a second entrance, over TLS."""

    tls_port: int
    certificate: Certificate


@pytest.fixture(scope="module")
def closed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Walls]:
    folder = tmp_path_factory.mktemp("walls")
    certificate, port = Certificate(folder / "tls"), free_port()
    walls = Walls(ClosedFleet(folder, certificate.listener(port)))
    walls.tls_port, walls.certificate = port, certificate
    with walls.fleet, walls:
        yield walls


def credentials(siege: Siege, name: str) -> Tuple[str, str]:
    known = siege.fleet.settings(name)
    return known["MQTT_USERNAME"], known["MQTT_PASSWORD"]


def test_without_or_with_wrong_credentials_nobody_comes_in(siege: Walls) -> None:
    user, password = credentials(siege, "worker-1")
    _, other = credentials(siege, STOLEN)
    wrong = [("", ""), (user, ""), (user, other), (user, password[:-1]), ("master", password)]
    wrong += [(user.upper(), password), (f"{user} ", password), ("nobody", password)]
    wrong += [("+", password), ("#", password), ("%u", password), ("master", "")]
    with siege.broker() as tap:
        for name, secret in wrong:
            will = (will_topic("worker-1"), b"a will of a stranger")
            with Intruder(siege.fleet.port, name, secret, will) as stranger:
                assert stranger.code in (REFUSED, 4), (name, "came in")
                stranger.subscribe("#")
                stranger.publish(TOPICS.announce, b"a stranger's")
                assert stranger.hung_up() and stranger.heard == []
        assert tap.sync()
        assert not [p for _, p in tap.heard if b"stranger" in p]
    with Intruder(siege.fleet.port, user, password) as owner:
        assert owner.code == 0, "so the right ones would have served"


def test_plaintext_at_the_tls_port_and_tls_at_the_other_are_hung_up_on(siege: Walls) -> None:
    user, password = credentials(siege, STOLEN)
    with Intruder(siege.tls_port, user, password) as plain:
        assert plain.code is None and plain.hung_up()
        assert plain.subscribe("#") == [] and plain.heard == []
    context = siege.certificate.client()
    with pytest.raises((ssl.SSLError, OSError)):
        Intruder(siege.fleet.port, user, password, tls=context)
    with Intruder(siege.tls_port, tls=context) as nobody:
        assert nobody.code == REFUSED, "TLS is no entrance by itself"
    with Intruder(siege.tls_port, user, password, tls=context) as right:
        assert right.code == 0 and right.sync()


@pytest.mark.parametrize("speaks", ["plaintext", "tls"])
def test_who_takes_the_brokers_place_gets_no_password(
    siege: Walls, tmp_path: Path, speaks: str
) -> None:
    """He has the address, and at best a certificate of his own making."""
    theirs = Certificate(tmp_path / "theirs").server() if speaks == "tls" else None
    known = siege.fleet.settings(STOLEN)
    with FalseBroker(theirs) as there:
        known.update(MQTT_PORT=str(there.port), PIBOT_CA=siege.certificate.inline)
        caught = siege.fleet.start_worker(STOLEN, **known)
        wait_for(lambda: there.ended, what="it comes", why=siege.fleet.logs)
        assert caught.alive
        siege.fleet.kill(STOLEN, 15)
    del siege.fleet.processes[STOLEN]
    said = caught.said()
    assert known["MQTT_PASSWORD"].encode() not in there.heard and b"MQTT" not in there.heard
    assert known["MQTT_PASSWORD"] not in said and known["PIBOT_KEY"] not in said
    assert (there.heard == b"") == (speaks == "tls"), "in the clear it heard a TLS greeting"


def test_a_worker_comes_in_by_the_tls_port(siege: Walls) -> None:
    """So it was the false brokers' fault that nothing came of those."""
    known = siege.fleet.settings(STOLEN)
    known.update(MQTT_PORT=str(siege.tls_port), PIBOT_CA=siege.certificate.inline)
    siege.fleet.start_worker(STOLEN, **known)
    siege.fleet.wait_idle(3)
    assert siege.done("echo", STOLEN, text="over TLS") == "over TLS"
    siege.fleet.kill(STOLEN, 15)
    del siege.fleet.processes[STOLEN]
    siege.fleet.wait_idle(2)


def test_a_removed_worker_is_out_of_the_broker_and_of_the_master(siege: Walls) -> None:
    name = "worker-4"
    siege.fleet.add(name)
    with siege.stolen(name) as revoked, siege.broker() as tap:
        revoked.join()
        goal = siege.running("worker-1", 0.5)
        siege.asks.ask(msg.Manage("remove", name))
        began = time.monotonic()
        assert revoked.line.hung_up() and time.monotonic() - began < OUT_S
        with Intruder(siege.fleet.port, *credentials(siege, name)) as again:
            assert again.code == REFUSED
        # The broker may be on its side: the master hears it all the same, and takes nothing.
        keep_trying(revoked, tap, goal)
        siege.goes_on()
        tap.sync()
        told = [p for topic, p in tap.heard if topic == revoked.reads]
        assert not [p for p in told if b'"t":"welcome"' in p], "welcomed after its removal"
        assert name not in siege.workers()


def keep_trying(revoked: Impostor, broker: Intruder, goal: str) -> None:
    """All that a removed worker may say, brought to the master by its broker."""
    broker.heard.clear()
    done = {"success": True, "data": {}, "output": "forged"}
    hello = msg.Hello("1" * 16, "f" * 16, 99)
    for message, joining in [
        (hello, True),
        (msg.Inventory([[f"{goal}-1", 1]], []), False),
        (msg.Result(f"{goal}-1", 1, "succeeded", done), False),
        (msg.Declined(f"{goal}-1", 1, "no"), False),
        (msg.Heartbeat([[f"{goal}-1", 1]]), False),
        (msg.Bye(), False),
        (msg.Will(revoked.start), True),
    ]:
        body = revoked.body(message, joining)
        for name in (revoked.name, *HONEST):
            topic = TOPICS.worker(name, "evt")
            for kid in (revoked.kid, f"w:{name}"):
                broker.publish(topic, revoked.signed(topic, body, kid))
                broker.publish(topic, revoked.unsigned(body, kid))
    assert broker.sync()


# --- over HTTP ------------------------------------------------------------------------------------


def asked(port: int, *lines: str) -> Tuple[int, Dict[str, str], bytes]:
    """The status, the headers and the body of an answer to a request of just these lines."""
    with socket.create_connection(("127.0.0.1", port), 5) as sock:
        sock.sendall("".join(f"{line}\r\n" for line in (*lines, "Connection: close", "")).encode())
        answer = b"".join(iter(lambda: sock.recv(4096), b""))
    head, _, body = answer.partition(b"\r\n\r\n")
    status, *fields = head.decode("ascii").split("\r\n")
    pairs = (field.partition(": ") for field in fields)
    return int(status.split()[1]), {name.lower(): value for name, _, value in pairs}, body


@pytest.mark.parametrize("role", ["master", "worker-1"])
def test_pages_of_other_sites_learn_nothing_of_health(siege: Walls, role: str) -> None:
    """A name that points here, as in DNS rebinding; a form; a script of another site."""
    port = siege.fleet.processes[role].health_port
    get, here = "GET /health HTTP/1.1", f"Host: 127.0.0.1:{port}"
    for host in (
        "evil.example",
        f"evil.example:{port}",
        "localhost.evil.example",
        "127.0.0.1.nip.io",
    ):
        status, _, body = asked(port, get, f"Host: {host}")
        assert status == 421 and b"healthy" not in body, host
    assert asked(port, get)[0] == 400
    assert asked(port, get, here, "Host: evil.example")[0] == 400
    for method in ("POST", "PUT", "DELETE", "OPTIONS", "TRACE"):
        foreign = ("Origin: http://evil.example", "Sec-Fetch-Site: cross-site", "Content-Length: 0")
        status, headers, body = asked(port, f"{method} /health HTTP/1.1", here, *foreign)
        assert status in (403, 405) and b"healthy" not in body, method
        assert not [name for name in headers if name.startswith("access-control")]
    status, headers, body = asked(port, get, here, "Origin: http://evil.example")
    assert b"healthy" not in body or headers["cross-origin-resource-policy"] == "same-origin"
    assert not [name for name in headers if name.startswith("access-control")]
    assert asked(port, f"GET /health?token={siege.fleet.master.key} HTTP/1.1", here)[0] == 400
    assert siege.fleet.master.key not in siege.fleet.processes[role].said()
    status, headers, body = asked(port, get, here)
    assert status == 200 and b'"healthy"' in body and headers["cache-control"] == "no-store"
