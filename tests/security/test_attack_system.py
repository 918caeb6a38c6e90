"""Attacks through the skills of services, the journal, the network and brokers.

systemctl and journalctl are scripts that note how they were called (tests/skills/system_machine);
sockets and processes are real, and so is what a broker of the attacker sends.
"""

from __future__ import annotations

import contextlib
import json
import socket
import threading
from pathlib import Path
from typing import Any, Dict, Iterator, List

import pytest

from security.hands import CANARY, Hands, left_running
from skills.pi_hardware import RAN, script
from skills.system_machine import ENTRIES, SystemMachine

LISTED = "mosquitto.service"


class Systemd:
    """A machine with systemd in the hands' directory; everybody may read it."""

    def __init__(self, hands: Hands) -> None:
        self.hands = hands
        self.machine = SystemMachine(hands.folder / "machine")
        (self.machine.root / RAN).touch()
        hands.give(self.machine.root / RAN)

    def call(self, skill: str, args: Dict[str, Any], **more: Any) -> Dict[str, Any]:
        return self.hands.call(skill, args, patch=self.machine.patches, **more)

    def verbs(self) -> List[str]:
        return [word for words in self.machine.asked() for word in words]


@pytest.fixture
def systemd(hands: Hands) -> Systemd:
    return Systemd(hands)


# --- units --------------------------------------------------------------------------------------

UNITS = {
    "an option": "--now",
    "another host": "-Hroot@evil.example",
    "an option with a value": "--root=/tmp/evil",
    "two units": "mosquitto.service ssh.service",
    "a tab": "mosquitto\tssh",
    "a newline": "mosquitto.service\nssh.service",
    "a path": "../../etc/evil.service",
    "an absolute path": "/etc/systemd/system/evil.service",
    "all of them": "*",
    "a pattern": "mosquitto*",
    "a set": "mosquitt[o]",
    "a zero byte": "mosquitto\0.service",
    "a letter that looks alike": "mosquittо.service",
    "a wide letter": "ｍosquitto",
    "an empty name": "",
    "too long": "a" * 5000,
    "a shell": "mosquitto;reboot",
    "a substitution": "$(reboot)",
    "an escape": "mosquitto\x1b[2J",
}


@pytest.mark.parametrize("unit", UNITS.values(), ids=UNITS.keys())
@pytest.mark.parametrize("skill", ["restart_service", "service_status", "service_logs"])
def test_what_is_no_name_of_a_unit_reaches_no_program(
    systemd: Systemd, skill: str, unit: str
) -> None:
    done = systemd.call(skill, {"unit": unit}, permits={"services": [LISTED]})
    assert not done["success"] and "unit" in done["output"]
    assert systemd.verbs() == []


UNLISTED = {
    "another service": "ssh",
    "another kind": "mosquitto.socket",
    "a template's instance": "mosquitto@x.service",
    "a longer name": "mosquitto.service.service",
    "another case": "Mosquitto.service",
    "the machine": "reboot.target",
    "pibot itself": "pibot-worker.service",
    "pibot itself, in short": "pibot-worker",
    "the master": "pibot-master",
}


@pytest.mark.parametrize("unit", UNLISTED.values(), ids=UNLISTED.keys())
def test_only_listed_units_are_restarted(systemd: Systemd, unit: str) -> None:
    services = [LISTED, "pibot-worker.service", "pibot-master.service"]
    done = systemd.call("restart_service", {"unit": unit}, permits={"services": services})
    assert not done["success"]
    assert "restart" not in systemd.verbs()


def test_a_listed_alias_restarts_nothing_else(systemd: Systemd) -> None:
    systemd.machine.systemctl(mosquitto={"Id": "ssh.service"})
    done = systemd.call("restart_service", {"unit": LISTED}, permits={"services": [LISTED]})
    assert not done["success"] and "another name of ssh.service" in done["output"]
    assert "restart" not in systemd.verbs()


def test_a_cancelled_restart_leaves_no_program(systemd: Systemd) -> None:
    marker = str(systemd.machine.root / "usr/bin/systemctl")
    script(systemd.machine, "systemctl", "time.sleep(300)")
    running = systemd.hands.begin(
        "service_status", {"unit": LISTED}, patch=systemd.machine.patches, time_s=30
    )
    running.cancel()
    assert not running.result()["success"]
    assert left_running(marker) == []


# --- the journal --------------------------------------------------------------------------------

WORDS = {
    "an option": "--flush",
    "rotation": "--vacuum-size=1",
    "a file": "--file=/etc/shadow",
    "a match": "_UID=0",
    "an expression": ".*",
    "a slow expression": "(a+)+$",
    "a shell": "$(reboot); `reboot`",
}


@pytest.mark.parametrize("words", WORDS.values(), ids=WORDS.keys())
def test_words_are_text_that_only_we_look_for(systemd: Systemd, words: str) -> None:
    done = systemd.call("journal_search", {"words": words})
    assert done["success"] and done["data"]["entries"] == []
    assert not any(words in word for word in systemd.verbs())


SINCE = {
    "an option": "--flush",
    "a second option": "1d --flush",
    "an overflow": "9" * 400 + "d",
    "the far future": "9999-12-31",
    "words": "yesterday && reboot",
    "an epoch": "@0",
    "a newline": "1d\n--flush",
}


@pytest.mark.parametrize("since", SINCE.values(), ids=SINCE.keys())
@pytest.mark.parametrize("skill", ["journal_search", "service_logs"])
def test_a_time_is_a_time(systemd: Systemd, skill: str, since: str) -> None:
    unit = {"unit": "ssh"} if skill == "service_logs" else {}
    done = systemd.call(skill, {"since": since, **unit})
    assert not done["success"] and "is no time" in done["output"]
    assert systemd.verbs() == []


HOSTILE: Dict[str, Any] = {
    "a terminal's orders": "\x1b]0;owned\x07\x1b[2J\x1b[31mred",
    "bytes that are no UTF-8": [255, 254, 27, 91, 50, 74],
    "a megabyte": "A" * 1_000_000,
    "right to left": "safe\u202eexe.txt",
    "many lines": "one\r\n2026-01-01 root: forged\r",
    "half a character": "\ud800",
    "an object": {"a": 1},
    "numbers out of range": [999999, -5],
    "a secret": f"password={CANARY}",
}


@pytest.mark.parametrize("message", HOSTILE.values(), ids=HOSTILE.keys())
def test_hostile_lines_are_shown_harmlessly(systemd: Systemd, message: Any) -> None:
    systemd.machine.journal([{**ENTRIES[0], "MESSAGE": message, "SYSLOG_IDENTIFIER": "x\x1b[2J"}])
    done = systemd.call("journal_search", {}, secrets=[CANARY])
    assert done["success"] and len(done["data"]["entries"]) == 1
    shown = done["output"] + str(done["data"]["entries"][0]["message"])
    assert not any(one in shown for one in "\x1b\x07\r\u202e\ud800")
    assert len(done["output"]) < 2000
    assert CANARY not in json.dumps(done)


def test_an_endless_journal_ends(systemd: Systemd) -> None:
    script(systemd.machine, "journalctl", "while True: out.write(b'{}' * 65536)")
    done = systemd.call("journal_search", {}, time_s=60)
    assert not done["success"] and "printed more than" in done["output"]


# --- processes ----------------------------------------------------------------------------------


def test_names_of_processes_are_harmless_and_words_are_not_shown(hands: Hands) -> None:
    root = hands.folder / "made"
    folder = root / "proc/4242"
    folder.mkdir(parents=True)
    words = ["R", *["0"] * 49]
    name = "a) R (b\x1b[2J"
    (folder / "stat").write_text(f"4242 ({name}) {' '.join(words)}")
    (folder / "cmdline").write_text(f"x\0--password={CANARY}")
    done = hands.call("processes", {}, patch={"pibot.skills.processes.ROOT": root})
    (found,) = done["data"]["processes"]
    assert found["name"] == "a) R (b"
    assert CANARY not in json.dumps(done) and "\x1b" not in done["output"]


# --- hosts --------------------------------------------------------------------------------------

HOSTS = {
    "not listed": "127.0.0.2",
    "a number": "2130706433",
    "a short address": "127.1",
    "an octal address": "0177.0.0.1",
    "an address in IPv6": "::ffff:127.0.0.1",
    "this machine": "0.0.0.0",
    "two hosts": "127.0.0.1 127.0.0.2",
    "lines": "127.0.0.1\r\nHost: evil",
    "a zero byte": "127.0.0.1\0.example",
    "an option": "-f127.0.0.1",
    "a user": "root@127.0.0.1",
    "a port in it": "127.0.0.1:22",
    "a listed name's neighbour": "evil-localhost",
}


@pytest.mark.parametrize("host", HOSTS.values(), ids=HOSTS.keys())
def test_no_port_of_an_unlisted_host_is_tried(hands: Hands, host: str) -> None:
    with _listener() as (port, came):
        permits = {"hosts": [f"localhost:{port}", "other.example"]}
        done = hands.call("check_port", {"host": host, "port": port}, permits=permits)
    assert not done["success"]
    assert came == []


PORTS: Dict[str, Any] = {"list": "22,23", "range": "1-65535", "zero": 0, "large": 65536, "-": -1}


@pytest.mark.parametrize("port", PORTS.values(), ids=PORTS.keys())
def test_a_port_is_one_number(hands: Hands, port: Any) -> None:
    done = hands.call(
        "check_port", {"host": "localhost", "port": port}, permits={"hosts": ["localhost"]}
    )
    assert not done["success"] and "port" in done["output"]


def test_another_port_of_a_listed_host_is_not_tried(hands: Hands) -> None:
    with _listener() as (port, came):
        permits = {"hosts": ["127.0.0.1:1"]}
        done = hands.call("check_port", {"host": "127.0.0.1", "port": port}, permits=permits)
    assert not done["success"] and came == []


# --- brokers ------------------------------------------------------------------------------------

FILTERS = {
    "everything": "#",
    "every first level": "+/lamp",
    "the broker's own": "$SYS/#",
    "the fleet's own": "pibot/1/home/#",
    "the fleet's own, shared": "$share/g/pibot/#",
    "shared": "$share/g/home/#",
    "above": "home",
    "beside": "homes/lamp",
    "a broken wildcard": "home/#/lamp",
    "a wildcard in a word": "home/la+mp",
    "a zero byte": "home/\0",
    "a newline": "home/a\nb",
    "too long": "home/" + "a" * 70_000,
    "an empty one": "",
    "an empty first level": "/home/lamp",
}


@pytest.mark.parametrize("skill", ["mqtt_read", "mqtt_publish"])
@pytest.mark.parametrize("topic", FILTERS.values(), ids=FILTERS.keys())
def test_other_topics_reach_no_broker(hands: Hands, skill: str, topic: str) -> None:
    payload = {"payload": "x"} if skill == "mqtt_publish" else {"seconds": 1}
    with _listener() as (port, came):
        permits = {"mqtt_topics": ["home/+/#"], "mqtt_url": f"mqtt://u:{CANARY}@127.0.0.1:{port}"}
        done = hands.call(skill, {"topic": topic, **payload}, permits=permits)
    assert not done["success"] and came == []
    assert CANARY not in json.dumps(done)


CONNACK = b"\x20\x02\x00\x00"
BROKERS = {
    "refuses": b"\x20\x02\x00\x05",
    "speaks HTTP": b"HTTP/1.1 400 Bad Request\r\n\r\n",
    "ends": b"",
    "sends a huge message": CONNACK + b"\x30\xff\xff\xff\x7f\x00\x01a" + b"x" * 100_000,
    "sends a length that has no end": CONNACK + b"\x30\xff\xff\xff\xff\xff",
    "sends a topic that is no UTF-8": CONNACK + b"\x30\x05\x00\x02\xff\xfex",
    "acknowledges something else": CONNACK + b"\x90\x03\x00\x63\x80",
}


@pytest.mark.parametrize("says", BROKERS.values(), ids=BROKERS.keys())
def test_a_hostile_broker_ends_the_call_with_a_reason(hands: Hands, says: bytes) -> None:
    with _listener(says) as (port, _):
        permits = {"mqtt_topics": ["home/#"], "mqtt_url": f"mqtt://u:{CANARY}@127.0.0.1:{port}"}
        done = hands.call("mqtt_read", {"topic": "home/x", "seconds": 1}, permits=permits)
    assert not done["success"] and "broker" in done["output"]
    assert CANARY not in json.dumps(done) and "Traceback" not in done["output"]
    assert done["took_s"] < 20


def test_a_payload_with_a_secret_is_not_sent(hands: Hands) -> None:
    with _listener() as (port, came):
        permits = {"mqtt_topics": ["home/#"], "mqtt_url": f"mqtt://127.0.0.1:{port}"}
        args = {"topic": "home/x", "payload": f"the key is {CANARY}"}
        done = hands.call("mqtt_publish", args, permits=permits, secrets=[CANARY])
    assert not done["success"] and came == []


@contextlib.contextmanager
def _listener(says: bytes = b"") -> "Iterator[tuple[int, List[object]]]":
    """A server that notes who came, says something, and hangs up at the second word."""
    came: List[object] = []
    server = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        with contextlib.suppress(OSError):
            while True:
                sock, address = server.accept()
                came.append(address)
                with sock, contextlib.suppress(OSError):
                    sock.settimeout(0.5)
                    sock.recv(1000)
                    sock.sendall(says)
                    sock.recv(1000)

    threading.Thread(target=serve, daemon=True).start()
    try:
        yield server.getsockname()[1], came
    finally:
        server.shutdown(socket.SHUT_RDWR)
        server.close()


def test_the_frame_would_see_a_call(hands: Hands, tmp_path: Path) -> None:
    """What the cases above count on: a permitted call does reach a program, a port."""
    made = Systemd(hands)
    assert made.call("service_status", {"unit": LISTED})["success"] and made.verbs()
    with _listener() as (port, came):
        permits = {"hosts": [f"127.0.0.1:{port}"]}
        assert hands.call("check_port", {"host": "127.0.0.1", "port": port}, permits=permits)[
            "data"
        ]["open"]
        permits = {"mqtt_topics": ["home/#"], "mqtt_url": f"mqtt://127.0.0.1:{port}"}
        hands.call("mqtt_read", {"topic": "home/x"}, permits=permits)
    assert len(came) == 2
