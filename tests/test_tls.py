"""TLS to a real Mosquitto: who is trusted, and what is said when nobody is."""

from __future__ import annotations

import os
import queue
import socket
import ssl
import subprocess
import threading
import time
from pathlib import Path
from typing import Iterator, List

import pytest

from deploy.made_up import FRESH
from fleet_processes import MOSQUITTO, free_port, is_open, wait_for
from pibot import tls, transport
from pibot.deploy import certificates
from pibot.deploy.certificates import Certificates
from pibot.doctor.broker import enter
from pibot.mailbox import Mailbox
from pibot.transport import Link


def made() -> Certificates:
    found = certificates.prepare(FRESH, "home")
    assert found
    return found


class Broker:
    """Mosquitto with certificates: one port with TLS, one without."""

    def __init__(self, folder: Path, found: Certificates) -> None:
        folder.mkdir()
        self.certificates, self.ca_file = found, folder / "ca.crt"
        self.port, self.plain = free_port(), free_port()
        files = (("ca.crt", found.ca), ("server.crt", found.server), ("server.key", found.key))
        for name, content in files:
            (folder / name).write_bytes(content)
        lines = [f"listener {self.plain}", f"listener {self.port}", "allow_anonymous true"]
        lines += [f"certfile {folder}/server.crt", f"keyfile {folder}/server.key"]
        lines += ["tls_version tlsv1.2", *(["user root"] if os.geteuid() == 0 else [])]
        (folder / "mosquitto.conf").write_text("\n".join([*lines, ""]))
        command = [MOSQUITTO, "-c", str(folder / "mosquitto.conf")]
        self._popen = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        wait_for(lambda: is_open(self.port), what="the broker listens")

    def close(self) -> None:
        self._popen.terminate()
        self._popen.wait(10)

    def link(self, host: str = "127.0.0.1", port: int = 0) -> Link:
        """As PIBOT_CA makes it."""
        return Link(host, port or self.port, ca=self.certificates.der)

    def link_by_file(self, host: str) -> Link:
        """As MQTT_CA_FILE makes it."""
        return Link(host, self.port, ca_file=str(self.ca_file))


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    started = Broker(tmp_path_factory.mktemp("tls") / "broker", made())
    yield started
    started.close()


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.2", "localhost"])
def test_the_fleets_own_broker_is_trusted_at_any_address(broker: Broker, host: str) -> None:
    assert enter(broker.link(host)) == ""


def test_with_a_file_the_name_counts(broker: Broker) -> None:
    assert enter(broker.link_by_file("127.0.0.1")) == ""
    assert enter(broker.link_by_file("localhost")) == ""
    said = enter(broker.link_by_file("127.0.0.2"))
    assert "is for another name: set MQTT_HOST to a name that stands in it" in said


def test_another_authority_is_not_trusted(broker: Broker, tmp_path: Path) -> None:
    """The broker of another fleet, or of this one after its authority was lost."""
    other = made()
    said = enter(Link("127.0.0.1", broker.port, ca=other.der))
    assert "cannot be trusted, as PIBOT_CA does not vouch for it" in said
    (tmp_path / "ca.crt").write_bytes(other.ca)
    said = enter(Link("127.0.0.1", broker.port, ca_file=str(tmp_path / "ca.crt")))
    assert f"{tmp_path}/ca.crt (MQTT_CA_FILE) does not vouch for it" in said


DATES = [
    ("UNTIL", "20200101000000Z", "has expired, if this machine's clock is right"),
    ("FROM", "20900101000000Z", "not valid yet: this machine's clock is wrong"),
]


@pytest.mark.parametrize(("which", "date", "words"), DATES)
def test_dates_count(
    which: str, date: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(certificates, which, date)
    started = Broker(tmp_path / "broker", made())
    try:
        assert words in enter(started.link())
    finally:
        started.close()


def test_a_fleet_whose_name_is_a_broker_of_somebody_else_is_told(broker: Broker) -> None:
    """Signed by the same authority, for another name: only who has its key could do that."""
    with pytest.raises(ssl.SSLCertVerificationError) as caught:
        ca = broker.certificates.der
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.load_verify_locations(cadata=ca)
        with socket.create_connection(("127.0.0.1", broker.port)) as sock:
            context.wrap_socket(sock, server_hostname="other.example")
    assert "is not the broker of this fleet" in tls.why_not(caught.value, "b:1", None)


# --- the wrong port -------------------------------------------------------------------------------


def test_a_port_without_tls_is_named(broker: Broker) -> None:
    assert "is MQTT_PORT the port with TLS?" in enter(broker.link(port=broker.plain))


def test_a_port_with_tls_says_what_a_plain_client_lacks(broker: Broker) -> None:
    said = enter(Link("127.0.0.1", broker.port))
    assert "if it wants TLS, PIBOT_CA or MQTT_CA_FILE is missing" in said


def test_a_closed_port_is_named(broker: Broker) -> None:
    assert "no broker answers at" in enter(broker.link(port=free_port()))


# --- old versions of TLS --------------------------------------------------------------------------

deprecated = pytest.mark.filterwarnings("ignore::DeprecationWarning")


def old(kind: "ssl._SSLMethod") -> ssl.SSLContext:
    """A side that speaks TLS 1.1 and nothing newer."""
    context = ssl.SSLContext(kind)
    context.set_ciphers("DEFAULT@SECLEVEL=0")
    context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_1
    return context


@deprecated
def test_an_old_client_is_refused(broker: Broker) -> None:
    context = old(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    sock = socket.create_connection(("127.0.0.1", broker.port))
    with sock, pytest.raises((ssl.SSLError, ConnectionError)):
        context.wrap_socket(sock)


@deprecated
def test_an_old_server_is_refused(broker: Broker, tmp_path: Path) -> None:
    serves = old(ssl.PROTOCOL_TLS_SERVER)
    (tmp_path / "both").write_bytes(broker.certificates.server + broker.certificates.key)
    serves.load_cert_chain(tmp_path / "both")
    heard: "queue.Queue[bool]" = queue.Queue()
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve() -> None:
            sock, _ = listening.accept()
            with sock:
                try:
                    serves.wrap_socket(sock, server_side=True)
                    heard.put(True)
                except OSError:
                    heard.put(False)

        thread = threading.Thread(target=serve)
        thread.start()
        said = enter(broker.link(port=listening.getsockname()[1]))
        thread.join()
    assert heard.get(timeout=5) is False and "does not speak TLS as it should" in said


# --- again and again ------------------------------------------------------------------------------


def test_who_is_not_trusted_is_asked_again_without_haste(
    broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A wrong clock or authority lasts: fifty machines must not greet a Pi all the time."""
    monkeypatch.setattr(transport, "REFUSED_S", 1.0)
    refused: List[float] = []
    mailbox = Mailbox()
    mailbox.open()
    guest = transport.PahoTransport(Link("127.0.0.1", broker.port, ca=made().der), "x", [])
    guest.start(lambda *_: None, lambda *_: refused.append(time.monotonic()), mailbox.wake)
    try:
        wait_for(lambda: mailbox.collect(0.05, guest.poll) or len(refused) == 3, what="three times")
    finally:
        guest.close()
        mailbox.close()
    first, second, third = refused
    assert second - first >= 1.0 and third - second >= 1.0
