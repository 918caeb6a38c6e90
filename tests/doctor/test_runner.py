"""Broker, fleet and model as they answer for real; and checks that break or hang."""

from __future__ import annotations

import os
import socket
import threading
import time
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List

import pytest

import pibot
from fleet_processes import FleetProcesses, free_port
from model_server import KEY, MODEL, ModelServer, Scripted, raw, serving, silent, status, text
from pibot import config
from pibot.agent.failures import EndpointError
from pibot.config import ModelSettings
from pibot.doctor import broker, fleet, model, runner
from pibot.doctor.findings import Finding, ok
from pibot.doctor.settings import Subject
from pibot.doctor.surroundings import Surroundings, within
from pibot.transport import Link
from recorded_machine import Machine

HERE = Surroundings(Path("/nowhere/pibot"), {})


def subject(role: str = "client", **environ: str) -> Subject:
    known = {"HOME": "/", **environ}
    return Subject(role, config.load(role, {}, known, None, Path("/nowhere/pibot.pyz")))


# --- the broker ---------------------------------------------------------------------------------


def test_the_broker_lets_in_who_knows_the_password(tmp_path: Path) -> None:
    with FleetProcesses(tmp_path, users={"laptop": "right"}) as processes:
        there = Link("127.0.0.1", processes.port, "laptop", "right")
        assert broker.enter(there) == ""
        wrong = broker.enter(there.__class__("127.0.0.1", processes.port, "laptop", "wrong"))
        nobody = broker.enter(Link("127.0.0.1", processes.port))
    assert "refused the user name or password" in wrong
    assert "none is set" in nobody and "without sudo" in nobody


@pytest.fixture
def black_hole() -> Iterator[int]:
    """A port that takes connections and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def test_a_black_hole_is_no_broker(black_hole: int) -> None:
    began = time.monotonic()
    said = broker.enter(Link("127.0.0.1", black_hole), 1.0)
    assert said == f"127.0.0.1:{black_hole} takes connections but does not answer as a broker"
    assert time.monotonic() - began < 5


@pytest.mark.parametrize(
    ("role", "word"),
    [
        ("master", "sudo pibot.pyz setup --role master"),
        (
            "worker",
            "on the master: pibot.pyz workers rotate worker-1 (add, if it was removed); bring",
        ),
        ("client", "check MQTT_USERNAME and MQTT_PASSWORD"),
    ],
)
def test_what_mends_refused_credentials(tmp_path: Path, role: str, word: str) -> None:
    with FleetProcesses(tmp_path, users={"laptop": "right"}) as processes:
        env = {"MQTT_HOST": "127.0.0.1", "MQTT_PORT": str(processes.port)}
        env.update(MQTT_USERNAME="laptop", MQTT_PASSWORD="wrong", WORKER_ID="worker-1")
        found = list(broker.broker(HERE, subject(role, **env)))
    assert [(f.check, f.state) for f in found] == [("broker", "ok"), ("credentials", "fail")]
    assert str(found[1].fix).startswith(word)


def test_a_worker_with_the_user_name_of_another_one(tmp_path: Path) -> None:
    with FleetProcesses(tmp_path, users={"worker-1": "right"}) as processes:
        env = {"MQTT_HOST": "127.0.0.1", "MQTT_PORT": str(processes.port)}
        env.update(MQTT_USERNAME="worker-1", MQTT_PASSWORD="right", WORKER_ID="kitchen")
        found = list(broker.broker(HERE, subject("worker", **env)))
    assert [(f.check, f.state) for f in found] == [("broker", "ok"), ("credentials", "warn")]
    assert "worker-1 may not speak for kitchen" in found[1].message
    assert "pibot.pyz workers add kitchen;" in str(found[1].fix)


@pytest.mark.parametrize(
    "said", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"\xff" * 1000, b"\x20\x01\x00", b"\x90\x00"]
)
def test_what_talks_otherwise_is_no_broker(said: bytes) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        threading.Thread(target=lambda: server.accept()[0].sendall(said), daemon=True).start()
        why = broker.enter(Link("127.0.0.1", server.getsockname()[1]), 2.0)
    assert "takes connections but does not answer as a broker" in why


def test_a_name_that_nobody_knows() -> None:
    (found,) = broker.broker(HERE, subject(MQTT_HOST="no-such-host.invalid"))
    assert found.state == "fail" and "no-such-host.invalid" in found.message


def test_a_broker_that_has_moved() -> None:
    port = str(free_port())
    (found,) = broker.broker(HERE, subject("worker", MQTT_HOST="0.0.0.0", MQTT_PORT=port))
    assert found.state == "fail" and "set MQTT_HOST: sudo nano /etc/pibot/worker" in str(found.fix)


def test_a_broker_that_is_off(machine: Machine) -> None:
    env = {"MQTT_HOST": "127.0.0.1", "MQTT_PORT": str(free_port())}
    (found,) = broker.broker(HERE, subject(**env))
    assert found.state == "fail" and "no broker listens" in found.message
    machine.role("master")
    (found,) = broker.broker(machine.here(), subject("master", **env))
    assert found.fix == "sudo systemctl restart pibot-master"
    machine.file("/usr/sbin/mosquitto")
    (found,) = broker.broker(machine.here(), subject("master", **env))
    assert found.fix == "sudo systemctl restart mosquitto"


# --- the fleet ----------------------------------------------------------------------------------


def row(name: str, state: str = "idle", version: str = pibot.__version__, **more: Any) -> Any:
    return {"worker_id": name, "state": state, "version": version, **more}


def judged(*rows: Any, **more: Any) -> Dict[str, List[Finding]]:
    found: Dict[str, List[Finding]] = {}
    for finding in fleet.judge({"workers": list(rows), **more}):
        found.setdefault(finding.check, []).append(finding)
    return found


def test_a_fleet_in_order() -> None:
    found = judged(row("worker-1"), row("worker-2", "busy"))
    assert {f.state for rows in found.values() for f in rows} == {"ok"}


def test_a_fleet_without_workers() -> None:
    (found,) = judged()["workers"]
    assert found.state == "warn" and "pibot.pyz workers add worker-1" in str(found.fix)


def test_missing_workers() -> None:
    found = judged(row("a"), row("b", "offline"), row("c", "incompatible"))["workers"]
    assert [(f.state, f.message) for f in found] == [
        ("warn", "offline: b"), ("fail", "incompatible: c"),
    ]  # fmt: skip
    (many,) = judged(*(row(f"w{i}", "offline") for i in range(50)))["workers"]
    assert many.message.endswith("w7 and 42 more")


@pytest.mark.parametrize(
    ("change", "state"),
    [("major", "warn"), ("minor", "warn"), ("patch", "ok"), ("unknown", "ok")],
)
def test_versions_across_the_fleet(change: str, state: str) -> None:
    major, minor, patch = (int(part) for part in pibot.__version__.split(".")[:3])
    versions = {
        "major": f"{major + 1}.{minor}.{patch}",
        "minor": f"{major}.{minor + 1}.{patch}",
        "patch": f"{major}.{minor}.{patch + 1}",
        "unknown": None,
    }
    (found,) = judged(row("worker-1"), row("worker-2", version=versions[change]))["versions"]  # type: ignore[arg-type]
    assert found.state == state
    assert ("worker-2" in found.message) == (state == "warn")


def test_two_machines_with_one_name() -> None:
    alarm = "the name worker-1 belongs to \x1b[2Jpi-a and pi-b"
    (found,) = judged(row("worker-1", alarm=alarm))["alarm"]
    assert found.state == "fail" and "\x1b" not in found.message
    assert "workers add NEW-NAME" in str(found.fix) and "--env-file NEW-NAME.env" in str(found.fix)


def test_two_masters() -> None:
    (found,) = judged(row("worker-1"), alarm="another master is there")["alarm"]
    assert found.state == "fail" and "pibot-master" in str(found.fix)


# --- the model ----------------------------------------------------------------------------------


def settings(server: ModelServer, key: str = KEY, name: str = MODEL) -> ModelSettings:
    return ModelSettings(key, server.url, name)


def test_one_token_is_asked_for() -> None:
    with serving() as server:
        model.ask(settings(server))
    (request,) = server.requests
    assert request["max_tokens"] == 1 and "stream" not in request


@pytest.mark.parametrize(
    ("reply", "words"),
    [
        (status(429, "slow down"), "slow down"),
        (status(500, "boom"), "boom"),
        (status(400, "Insufficient Balance"), "no credit"),
        (raw(b"<html>hello</html>", "text/html"), "not a chat completion"),
        (raw(b"[" * 200_000), "not a chat completion"),
        (status(400, "\x1b]0;owned\x07\x1b[2Jbad \x9b31m " + KEY), "bad 31m [key]"),
        (silent(30), "failed (timed out)"),
    ],
)
def test_an_endpoint_that_refuses(reply: Scripted, words: str) -> None:
    with serving(lambda request: reply) as server, pytest.raises(EndpointError) as caught:
        model.ask(settings(server), 1.0)
    said = str(caught.value)
    assert words in said and KEY not in said
    assert not any(ord(c) < 32 or 127 <= ord(c) < 160 for c in said)


def test_a_wrong_key_and_a_wrong_model() -> None:
    with serving() as server:
        with pytest.raises(EndpointError, match="refused the key"):
            model.ask(settings(server, key="sk-wrong"))
        with pytest.raises(EndpointError, match="refused the model"):
            model.ask(settings(server, name="gpt-0"))


def test_a_model_that_counts_otherwise_has_taken_the_key() -> None:
    said = "Unsupported parameter: 'max_tokens' is not supported with this model."
    with serving(lambda request: status(400, said)) as server:
        model.ask(settings(server))
        assert len(server.requests) == 1, "it is not asked once more"


def test_an_endpoint_that_is_off() -> None:
    off = ModelSettings(KEY, f"http://127.0.0.1:{free_port()}/v1", MODEL)
    with pytest.raises(EndpointError, match="failed .*Connection refused"):
        model.ask(off)


def test_no_request_without_online() -> None:
    with serving() as server:
        env = {"OPENAI_API_KEY": KEY, "OPENAI_BASE_URL": server.url, "OPENAI_MODEL": MODEL}
        (found,) = model.model(HERE, subject(**env))
        assert (found.state, server.requests) == ("ok", [])
        online = Surroundings(HERE.program, {}, online=True)
        (found,) = model.model(online, subject(**env))
        assert (found.state, len(server.requests)) == ("ok", 1)


def test_a_service_without_a_model() -> None:
    (found,) = model.model(HERE, subject("worker"))
    assert found.state == "warn" and "sudo nano /etc/pibot/worker.env" in str(found.fix)
    assert list(model.model(HERE, subject("client"))) == []


# --- the runner ---------------------------------------------------------------------------------


def examined(*looks: Callable[[], Any], limit_s: float = 5.0) -> List[Finding]:
    made = [runner.Check(f"check {i}", look) for i, look in enumerate(looks)]
    return list(runner.examine(made, limit_s))


def all_of(here: Surroundings) -> List[Finding]:
    return list(runner.examine(runner.checks_of(here)))


def broken() -> Iterator[Finding]:
    yield ok("half", "so far so good")
    raise RuntimeError("\x1b[2Jboom")


def endless() -> Iterator[Finding]:
    yield ok("before", "it began well")
    time.sleep(60)


def test_a_check_that_breaks_stops_no_other() -> None:
    found = examined(broken, lambda: [ok("last", "fine")])
    assert [(f.check, f.state) for f in found] == [
        ("half", "ok"), ("check 0", "fail"), ("last", "ok"),
    ]  # fmt: skip
    assert "RuntimeError: boom" in found[1].message


def test_a_check_that_hangs_is_left() -> None:
    began = time.monotonic()
    found = examined(endless, endless, lambda: [ok("last", "fine")], limit_s=0.5)
    assert [f.state for f in found] == ["ok", "fail", "ok", "fail", "ok"]
    assert time.monotonic() - began < 5


def test_findings_of_services_name_their_role(machine: Machine) -> None:
    env = f"MQTT_HOST=127.0.0.1\nMQTT_PORT={free_port()}\nPIBOT_HEALTH_PORT={free_port()}\n"
    machine.role("worker", env)
    names = [f.check for f in all_of(machine.here())]
    assert {"worker settings", "worker broker", "worker health", "worker model"} <= set(names)
    assert {"python", "sandbox", "memory cgroup"} <= set(names)


def test_a_recorded_pi_before_setup(machine: Machine) -> None:
    machine.pi()
    machine.file("/sys/class/thermal/thermal_zone0/temp", "86200\n")
    machine.file("/sys/class/thermal/thermal_zone0/type", "cpu-thermal\n")
    machine.file("/sys/devices/platform/soc/soc:firmware/get_throttled", "50005\n")
    machine.file("/sys/fs/cgroup/cgroup.controllers", "cpuset cpu io pids\n")
    machine.file("/boot/firmware/cmdline.txt", "console=tty1\n")
    machine.file("/proc/mounts", "/dev/mmcblk0p2 / ext4 ro,noatime 0 0\n")
    found = {f.check: f for f in all_of(machine.here(now=lambda: 0.0)) if f.state != "ok"}
    states = {name: f.state for name, f in found.items() if name not in ("broker", "health")}
    assert states == {
        "clock": "fail", "disk": "fail", "temperature": "fail", "power": "fail",
        "sandbox": "warn", "memory cgroup": "warn",
    }  # fmt: skip
    assert all(f.fix for f in found.values())


# --- waiting ------------------------------------------------------------------------------------


def test_within() -> None:
    assert within(5, lambda: text("x").text) == "x"
    with pytest.raises(ZeroDivisionError):
        within(5, lambda: 1 // 0)
    forever = threading.Event()
    with pytest.raises(TimeoutError):
        within(0.1, forever.wait)
    forever.set()


def test_a_program_that_hangs_is_ended(machine: Machine) -> None:
    machine.script("/usr/bin/slow", f"echo $$ > {machine.root}/pid; exec sleep 60")
    assert machine.here().ask("/usr/bin/slow", limit_s=0.5) is None
    pid = int((machine.root / "pid").read_text())
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
