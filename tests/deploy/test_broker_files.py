"""The broker's files: a real Mosquitto takes them; root takes nothing else from the master."""

from __future__ import annotations

import grp
import os
import queue
import signal
import ssl
import subprocess
from pathlib import Path
from typing import Callable, Iterator, List, Optional

import paho.mqtt.client as mqtt
import pytest

from deploy.made_up import FRESH
from fleet_processes import MOSQUITTO, free_port, is_open, wait_for
from pibot.deploy import broker_files, certificates
from pibot.errors import PibotError, Refused, StoreError
from pibot.identities import Identities, Secret
from pibot.mosquitto import passwd_text
from pibot.rights import Special, acl_text
from pibot.topics import CLIENT, MASTER, WORKER

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root places the broker's files")
FLEET = "home"


class Master:
    """What the master leaves in its state directory, and the users that it made."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.identities = Identities()
        self.secret = self.identities.add(MASTER, "master")
        folder.mkdir(mode=0o700)
        self.write()

    def write(self, name: str = "", text: str = "") -> None:
        """Write both files, or one with another text, and the mark behind them."""
        acl = acl_text(FLEET, self.identities.special())
        texts = {"passwd": passwd_text(self.identities), "acl": acl}
        for file in texts:
            beside = self.folder / f"{file}.new"
            beside.write_text(text if file == name else texts[file], encoding="utf-8")
            beside.replace(self.folder / file)
        (self.folder / broker_files.CHANGED).touch()


@pytest.fixture
def master(tmp_path: Path) -> Master:
    (tmp_path / "target").mkdir()
    return Master(tmp_path / "source")


def target(master: Master) -> Path:
    return master.folder.with_name("target")


def place(master: Master) -> bool:
    return broker_files.place(master.folder, target(master))


def everything(folder: Path) -> "dict[str, bytes]":
    return {path.name: path.read_bytes() for path in folder.iterdir()}


# --- placing ------------------------------------------------------------------------------------


def test_placed_for_mosquitto_to_read_and_only_when_changed(master: Master) -> None:
    assert place(master)
    assert set(everything(target(master))) == {"passwd", "acl"}
    for path in target(master).iterdir():
        status = path.stat()
        mosquitto = grp.getgrnam("mosquitto").gr_gid
        assert (status.st_uid, status.st_gid, status.st_mode & 0o7777) == (0, mosquitto, 0o640)
        assert path.read_bytes() == (master.folder / path.name).read_bytes()
    before = [path.stat().st_ino for path in sorted(target(master).iterdir())]
    assert not place(master)
    assert [path.stat().st_ino for path in sorted(target(master).iterdir())] == before
    master.identities.add(WORKER, "worker-1")
    master.write()
    assert place(master)
    assert "\nworker-1:$7$" in (target(master) / "passwd").read_text()


def test_the_mark_is_taken_so_that_the_path_unit_rests(master: Master) -> None:
    place(master)
    assert set(everything(master.folder)) == {"passwd", "acl"}


def test_a_wrong_mode_is_mended(master: Master) -> None:
    place(master)
    (target(master) / "passwd").chmod(0o644)
    assert place(master)
    assert (target(master) / "passwd").stat().st_mode & 0o777 == 0o640


def test_what_a_killed_run_left_is_taken_away(master: Master) -> None:
    """Also by `setup --uninstall`, which knows that name."""
    (target(master) / ".passwd.new").write_text("half of")
    assert place(master)
    assert set(everything(target(master))) == {"passwd", "acl"}


USER = "w1:$7$101$" + "A" * 16 + "$" + "B" * 86 + "=="
GOOD_ACL = acl_text(FLEET)
SPECIAL = [Special("w1.ab12", "w"), Special("w1.cd34", "w"), Special("tablet", "v")]


def test_what_is_good_about_the_bad_examples() -> None:
    broker_files.check_passwd(f"{USER}\n{USER.replace('w1', 'w1.ab12')}\n")
    broker_files.check_acl(GOOD_ACL)
    broker_files.check_acl(acl_text("other-fleet"))
    broker_files.check_acl(acl_text(FLEET, SPECIAL))
    broker_files.check_acl(acl_text(FLEET, SPECIAL[::-1]))


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("passwd", USER),
        ("passwd", f"{USER}\n\n"),
        ("passwd", f"{USER}\r\n"),
        ("passwd", f"{USER}\n{USER}\n"),
        ("passwd", f"{USER}\0\n"),
        ("passwd", f" {USER}\n"),
        ("passwd", f"{USER}\x0bx\n"),
        ("passwd", USER.replace("$7$", "$6$") + "\n"),
        ("passwd", USER.replace("$101$", "$99999999$") + "\n"),
        ("passwd", USER.replace("==", "") + "\n"),
        ("passwd", "w1:plain\n"),
        ("passwd", "# a comment\n"),
        ("passwd", USER.replace("w1", "W1") + "\n"),
        ("passwd", USER.replace("w1", "é") + "\n"),
        ("passwd", USER.replace("w1", "w" * 33) + "\n"),
        ("passwd", USER.replace("w1", "w1.abc") + "\n"),
        ("passwd", USER.replace("w1", "w1.ab12.ab12") + "\n"),
        ("acl", ""),
        ("acl", "topic readwrite #\n"),
        ("acl", GOOD_ACL + "user w1\ntopic readwrite #\n"),
        ("acl", GOOD_ACL + "pattern readwrite #\n"),
        ("acl", GOOD_ACL.replace("user master", "user w1")),
        ("acl", GOOD_ACL.replace("pibot/1/home/#", "pibot/1/other/#")),
        ("acl", GOOD_ACL.replace("/home/", "/Home/")),
        ("acl", GOOD_ACL.replace("/home/", "/+/")),
        ("acl", GOOD_ACL.replace("/home/", "/../")),
        ("acl", GOOD_ACL.rstrip("\n")),
        ("acl", acl_text(FLEET, [Special("w1", "w")])),
        ("acl", acl_text(FLEET, [Special("tablet.ab12", "v")])),
        ("acl", acl_text(FLEET, [Special("w1.abc", "w")])),
        ("acl", acl_text(FLEET, [SPECIAL[0], SPECIAL[0]])),
        ("acl", acl_text(FLEET, SPECIAL).replace("w/w1/cmd", "w/w2/cmd")),
        ("acl", acl_text(FLEET, SPECIAL).replace("deny", "readwrite")),
        ("acl", acl_text(FLEET, SPECIAL) + "topic readwrite #\n"),
        ("acl", acl_text(FLEET, SPECIAL) + "\nuser w1.ef56\ntopic readwrite #\n"),
    ],
)
def test_what_the_master_never_writes_is_refused(master: Master, name: str, text: str) -> None:
    place(master)
    before = everything(target(master))
    master.write(name, text)
    with pytest.raises(Refused):
        place(master)
    assert everything(target(master)) == before


def _link(path: Path) -> None:
    path.symlink_to("/etc/shadow")


def _large(path: Path) -> None:
    path.write_text((USER + "\n") * (broker_files.MAX_BYTES // len(USER)))


def _foreign(path: Path) -> None:
    path.write_text(f"{USER}\n")
    os.chown(path, 12345, 12345)


@pytest.mark.parametrize("make", [_link, _large, _foreign, os.mkfifo, Path.mkdir])
def test_a_trap_in_place_of_a_file(master: Master, make: Callable[[Path], None]) -> None:
    (master.folder / "passwd").unlink()
    make(master.folder / "passwd")
    with pytest.raises(PibotError, match="passwd"):
        place(master)
    assert everything(target(master)) == {}


def test_a_folder_that_is_a_link_or_not_there(master: Master, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(master.folder)
    for source in (tmp_path / "link", tmp_path / "none"):
        with pytest.raises(StoreError, match=source.name):
            broker_files.place(source, target(master))
    assert everything(target(master)) == {}


def test_a_target_that_is_not_there_is_named(master: Master) -> None:
    target(master).rmdir()
    with pytest.raises(StoreError, match="target"):
        place(master)


@pytest.mark.parametrize(
    ("script", "said"),
    [("exit 0", None), ("echo 'Unit not found' >&2; exit 5", "Unit not found"), (None, "No such")],
)
def test_the_reload(
    master: Master, monkeypatch: pytest.MonkeyPatch, script: Optional[str], said: Optional[str]
) -> None:
    """`systemctl` is a script here; the real one is asked in tests/system."""
    programs = master.folder.with_name("programs")
    programs.mkdir()
    asked = programs / "asked"
    if script is not None:
        (programs / "systemctl").write_text(f'#!/bin/sh\necho "$@" >> {asked}\n{script}\n')
        (programs / "systemctl").chmod(0o755)
    monkeypatch.setenv("PATH", str(programs))
    if said is None:
        broker_files.place_and_reload(master.folder, target(master))
        assert asked.read_text() == "try-reload-or-restart mosquitto.service\n"
    else:
        with pytest.raises(PibotError, match=f"{said}.*run `systemctl reload mosquitto`"):
            broker_files.place_and_reload(master.folder, target(master))
    assert set(everything(target(master))) == {"passwd", "acl"}


# --- a real Mosquitto ---------------------------------------------------------------------------


class Broker:
    """Mosquitto with our configuration; only paths and ports are this test's own."""

    def __init__(self, folder: Path) -> None:
        self.port, self.tls_port = free_port(), free_port()
        made = certificates.prepare(FRESH, FLEET)
        assert made
        for name, content in (("ca.crt", made.ca), ("server.crt", made.server)):
            (folder / name).write_bytes(content)
        (folder / "server.key").write_bytes(made.key)
        text = broker_files.mosquitto_conf()
        for ours, here in (
            (str(broker_files.TARGET), str(folder)),
            ("listener 1883 127.0.0.1\n", f"listener {self.port} 127.0.0.1\n"),
            ("listener 8883\n", f"listener {self.tls_port} 127.0.0.1\n"),
        ):
            assert ours in text
            text = text.replace(ours, here)
        conf = folder.with_name("mosquitto.conf")
        conf.write_text(f"user root\n{text}")
        self.popen = subprocess.Popen([MOSQUITTO, "-c", str(conf)], stderr=subprocess.PIPE)
        wait_for(lambda: is_open(self.port), what="the broker listens", why=self.said)

    def said(self) -> str:
        self.close()
        return self.popen.stderr.read().decode() if self.popen.stderr else ""

    def close(self) -> None:
        self.popen.terminate()
        self.popen.wait(10)


@pytest.fixture
def broker(master: Master) -> Iterator[Broker]:
    place(master)
    made = Broker(target(master))
    yield made
    made.close()


class Guest:
    """A client of the broker, which does not come back by itself."""

    def __init__(self, port: int, secret: Optional[Secret] = None, ca: Optional[Path] = None):
        self.news: "queue.Queue[str]" = queue.Queue()
        self.paho = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, reconnect_on_failure=False)
        if secret:
            self.paho.username_pw_set(secret.name, secret.password)
        if ca:
            self.paho.tls_set(str(ca), tls_version=ssl.PROTOCOL_TLS_CLIENT)
        self.paho.on_connect = lambda c, u, f, reason, p: self.news.put(str(reason))
        self.paho.on_disconnect = lambda *_: self.news.put("gone")
        self.paho.connect("127.0.0.1", port)
        self.paho.loop_start()

    def hears(self, seconds: float = 10.0) -> str:
        return self.news.get(timeout=seconds)

    def close(self) -> None:
        self.paho.disconnect()
        self.paho.loop_stop()


@pytest.fixture
def guests() -> Iterator[List[Guest]]:
    made: List[Guest] = []
    yield made
    for guest in made:
        guest.close()


def test_nobody_comes_in_without_a_password(
    broker: Broker, master: Master, guests: List[Guest]
) -> None:
    wrong = master.secret._replace(password="wrong")
    guests += [Guest(broker.port, secret) for secret in (None, wrong, master.secret)]
    assert [guest.hears() for guest in guests] == ["Not authorized", "Not authorized", "Success"]


def test_a_removed_user_is_out_within_two_seconds_and_others_stay(
    broker: Broker, master: Master, guests: List[Guest]
) -> None:
    removed = master.identities.add(WORKER, "worker-1")
    stays, rotated = (master.identities.add(CLIENT, name) for name in ("laptop", "phone"))
    master.write()
    assert place(master)
    broker.popen.send_signal(signal.SIGHUP)
    for secret in (removed, rotated, stays):
        wait_for(lambda s=secret: _enters(broker, s, guests), what=f"{secret.name} is let in")
    in_removed, in_rotated, in_stays = guests[-3:]
    master.identities.remove("worker-1")
    master.identities.rotate("phone")
    master.write()
    assert place(master)
    broker.popen.send_signal(signal.SIGHUP)
    assert in_removed.hears(2.0) == "gone"
    assert in_rotated.hears(2.0) == "gone"
    guests.append(Guest(broker.port, removed))
    assert guests[-1].hears() == "Not authorized"
    assert in_stays.news.empty()


def _enters(broker: Broker, secret: Secret, guests: List[Guest]) -> bool:
    guest = Guest(broker.port, secret)
    if guest.hears() == "Success":
        guests.append(guest)
        return True
    guest.close()
    return False


def test_packets_of_pibots_size_pass_and_larger_ones_do_not(
    broker: Broker, master: Master, guests: List[Guest]
) -> None:
    guests.append(Guest(broker.port, master.secret))
    assert guests[0].hears() == "Success"
    topic = f"pibot/1/{FLEET}/w/{'w' * 32}/cmd"
    guests[0].paho.publish(topic, b"x" * 65_000, qos=1).wait_for_publish(10)
    assert guests[0].news.empty()
    guests[0].paho.publish(topic, b"x" * 70_000, qos=0)
    assert guests[0].hears() == "gone"


def test_tls_for_the_network_and_a_plain_listener_for_this_machine(
    broker: Broker, master: Master, guests: List[Guest]
) -> None:
    guests.append(Guest(broker.tls_port, master.secret, target(master) / "ca.crt"))
    guests.append(Guest(broker.port, master.secret))
    assert [guest.hears() for guest in guests] == ["Success", "Success"]
