"""`workers`, with real processes: a fleet with credentials, and one without."""

from __future__ import annotations

import json
import resource
import signal
import socket
import stat
import subprocess
import time
from pathlib import Path
from typing import Iterator, List

import pytest

from closed_fleet import ClosedFleet
from fleet_processes import (
    Finished,
    FleetProcesses,
    command,
    environment,
    free_port,
    wait_for,
)
from pibot import identities
from pibot.identities import Identities

OUT_S = 2.0


@pytest.fixture
def closed(tmp_path: Path) -> Iterator[ClosedFleet]:
    with ClosedFleet(tmp_path / "closed") as made:
        yield made


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FleetProcesses]:
    """An open fleet that has no workers."""
    with FleetProcesses(tmp_path_factory.mktemp("open")) as made:
        made.start_master()
        yield made


def left(fleet: FleetProcesses) -> List[str]:
    """The files that commands have left where they ran."""
    return sorted(p.name for p in fleet.folder.iterdir() if p.is_file() and p.name != "none.env")


def shell(fleet: FleetProcesses, goal: str, command: str) -> "subprocess.Popen[str]":
    return fleet.start("run", "--skill", "shell", "--args", json.dumps({"command": command}), goal)


# --- add ------------------------------------------------------------------------------------------


def test_add_makes_a_file_with_which_a_worker_joins(closed: ClosedFleet) -> None:
    done = closed.run("workers", "add", "worker-1", "--host", "127.0.0.1", json=False)
    path = closed.folder / "worker-1.env"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert "scp" in done.out and "sudo python3 pibot.pyz setup --role worker" in done.out
    assert "two files" in done.out and done.err == ""
    known = closed.settings("worker-1")
    assert known["WORKER_ID"] == known["MQTT_USERNAME"] == "worker-1"
    assert (known["PIBOT_FLEET"], known["MQTT_HOST"]) == ("home", "127.0.0.1")
    assert known["MQTT_PASSWORD"] not in done.out and known["PIBOT_KEY"] not in done.out
    assert closed.states() == {"worker-1": None}
    closed.start_enrolled("worker-1")
    closed.wait_idle(1)
    echo = closed.run("run", "--skill", "echo", "--args", '{"text": "hi"}', "--on", "worker-1")
    assert echo.document["answer"] == "hi"
    row = closed.run("workers", "list").document["workers"][0]
    assert row["state"] == "idle" and row["enrolled"].startswith("20") and row["version"]


def test_a_worker_that_was_renamed_by_hand_says_what_is_wrong(closed: ClosedFleet) -> None:
    closed.add("worker-1")
    worker = closed.start_enrolled("kitchen", closed.settings("worker-1"))
    words = "MQTT_USERNAME is not WORKER_ID: worker-1 is let in, but this worker is called kitchen"
    wait_for(lambda: words in worker.said(), 30, why=closed.logs)
    assert worker.alive and closed.states() == {"worker-1": None}, "nobody came as kitchen"


def test_a_fleet_of_services_is_started_as_such(closed: ClosedFleet) -> None:
    closed.kill("master", signal.SIGTERM)
    done = closed.run("status", json=False, check=3)
    assert "sudo systemctl start pibot-master" in done.err


def test_add_for_programs_prints_one_document_without_a_secret(closed: ClosedFleet) -> None:
    document = closed.add("worker-1")
    assert document == {
        "worker_id": "worker-1",
        "state": "added",
        "file": str(closed.folder / "worker-1.env"),
        "ca_file": None,
        "fleet": "home",
        "host": "127.0.0.1",
        "port": closed.port,
    }
    said = closed.processes["master"].said() + closed.processes["broker"].said()
    known = closed.settings("worker-1")
    assert known["MQTT_PASSWORD"] not in said and known["PIBOT_KEY"] not in said


def test_a_name_is_added_once_and_nothing_is_left_of_the_second(closed: ClosedFleet) -> None:
    closed.add("worker-1")
    (closed.folder / "worker-1.env").rename(closed.folder / "kept")
    again = closed.run("workers", "add", "worker-1", "--host", "pi", json=False, check=2)
    assert "workers rotate worker-1" in again.err and len(again.err.splitlines()) == 1
    assert left(closed) == ["kept"]
    taken = closed.run("workers", "add", "laptop", "--host", "pi", json=False, check=2)
    assert "name of a client" in taken.err and left(closed) == ["kept"]


def test_a_file_that_is_there_is_left_alone_and_the_master_not_asked(alone: FleetProcesses) -> None:
    path = alone.folder / "worker-7.env"
    path.write_text("mine")
    done = alone.run("workers", "add", "worker-7", "--host", "pi", json=False, check=2)
    assert f"{path} is there already" in done.err
    path.unlink()
    path.symlink_to("elsewhere")
    done = alone.run("workers", "add", "worker-7", "--host", "pi", json=False, check=2)
    assert "there already" in done.err and not (alone.folder / "elsewhere").exists()
    path.unlink()
    assert alone.run("workers", "list").document["workers"] == []


def test_without_a_master_nothing_is_left(alone: FleetProcesses) -> None:
    env = {"MQTT_PORT": str(free_port())}
    done = alone.run("workers", "add", "worker-1", "--host", "pi", env=env, check=3)
    assert done.document["error"]["code"] == "unreachable" and left(alone) == []


def test_ctrl_c_leaves_nothing(alone: FleetProcesses) -> None:
    alone.kill("master", signal.SIGSTOP)
    try:
        process = alone.start("workers", "add", "worker-1", "--host", "pi")
        alone.wait_for(lambda: left(alone) == ["worker-1.env"], what="the file is there")
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=30)
    finally:
        alone.kill("master", signal.SIGCONT)
    assert (process.returncode, said, left(alone)) == (130, "", [])
    assert alone.run("workers", "list").document["workers"] == []


def test_a_directory_that_takes_no_file_is_an_error_in_words(alone: FleetProcesses) -> None:
    done = subprocess.run(
        alone.command("workers", "add", "worker-1", "--host", "pi"),
        env=alone.env,
        cwd="/proc",
        capture_output=True,
        encoding="utf-8",
        timeout=60,
    )
    assert done.returncode == 2 and "/proc/worker-1.env cannot be written" in done.stderr
    assert alone.run("workers", "list").document["workers"] == []


def test_a_full_disk_leaves_nothing(alone: FleetProcesses) -> None:
    alone.run("workers", "list")  # what is unpacked at the first start is there
    done = subprocess.run(
        alone.command("workers", "add", "worker-1", "--host", "pi"),
        env={**alone.env, "PYTHONDONTWRITEBYTECODE": "1"},
        cwd=alone.folder,
        capture_output=True,
        encoding="utf-8",
        timeout=60,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0)),
    )
    assert done.returncode == 2 and "worker-1.env cannot be written" in done.stderr
    assert left(alone) == []
    assert alone.run("workers", "list").document["workers"] == []


@pytest.mark.parametrize(
    ("args", "words"),
    [
        ((), "required: list|add|remove|rotate|drain|resume: see `pibot.pyz workers --help`"),
        (("explode",), "invalid choice"),
        (("add",), "needs the NAME"),
        (("remove",), "needs the NAME"),
        (("list", "worker-1"), "takes no NAME"),
        (("add", "../x"), "is not a worker name"),
        (("add", "x/y"), "is not a worker name"),
        (("add", "Worker"), "is not a worker name"),
        (("add", "a" * 33), "is not a worker name"),
        (("add", "master"), "master's own name"),
        (("remove", "master"), "master's own name"),
        (("add", "w1", "--host", "mqtt://pi:1883"), "--host"),
        (("add", "w1", "--host", "a b"), "--host"),
        (("add", "w1", "--host", "x\nMQTT_HOST=evil"), "--host"),
        (("drain", "w1", "--host", "pi"), "--host goes with"),
        (("remove", "w1", "--now"), "--now goes with"),
        (("remove", "worker-9"), "no worker is called 'worker-9'"),
        (("drain", "worker-9"), "no worker is called 'worker-9'"),
        (("rotate", "worker-9", "--host", "pi"), "no worker is called 'worker-9'"),
    ],
)
def test_wrong_use_is_one_line_and_status_2(
    alone: FleetProcesses, args: "tuple[str, ...]", words: str
) -> None:
    done = alone.run("workers", *args, json=False, check=2)
    assert words in done.err and len(done.err.splitlines()) == 1
    assert left(alone) == []


@pytest.mark.parametrize("command", ["workers", "clients"])
def test_a_key_is_not_sent_where_others_can_read_it(alone: FleetProcesses, command: str) -> None:
    env = {"MQTT_HOST": "192.0.2.1", "MQTT_USERNAME": "laptop", "MQTT_PASSWORD": "x"}
    done = alone.run(command, "add", "somebody", env=env, json=False, check=2)
    assert "there is no PIBOT_KEY to hide" in done.err and left(alone) == []


def test_the_address_is_this_machines_or_must_be_said(alone: FleetProcesses) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        try:
            sock.connect(("192.0.2.1", 9))
            mine = sock.getsockname()[0]
        except OSError:
            mine = ""
    if mine:
        done = alone.run("workers", "add", "worker-3")
        assert done.document["host"] == mine
        (alone.folder / "worker-3.env").unlink()
        alone.run("workers", "remove", "worker-3")
    else:
        done = alone.run("workers", "add", "worker-3", json=False, check=2)
        assert "--host ADDRESS" in done.err


def test_without_a_network_the_address_must_be_said(alone: FleetProcesses) -> None:
    done = subprocess.run(
        ["unshare", "--net", "--", *alone.command("workers", "add", "worker-1")],
        env=alone.env,
        cwd=alone.folder,
        capture_output=True,
        encoding="utf-8",
        timeout=60,
    )
    if "unshare" in done.stderr:
        pytest.skip("a network of one's own needs root")
    assert done.returncode == 2 and "--host ADDRESS" in done.stderr and left(alone) == []


def test_in_an_open_fleet_a_note_says_what_it_is_good_for(alone: FleetProcesses) -> None:
    done = alone.run("workers", "add", "worker-1", "--host", "pi")
    assert done.document["worker_id"] == "worker-1"
    assert "setup --role master" in done.err and len(done.err.splitlines()) == 1
    table = alone.run("workers", "list", json=False).out.splitlines()
    assert table[0].split() == ["WORKER", "STATE", "ADDED", "VERSION", "TAGS", "HOST", "SEEN"]
    assert table[1].split()[:4] == ["worker-1", "not", "seen", "yet"]
    assert alone.run("status").document["total"] == 0
    assert alone.run("workers", "remove", "worker-1").document["state"] == "forgotten"
    (alone.folder / "worker-1.env").unlink()
    assert "workers add" in alone.run("workers", "list", json=False).out


def test_the_ca_of_the_broker_goes_along(tmp_path: Path) -> None:
    ca = tmp_path / "ca.crt"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"]
        + ["-nodes", "-keyout", str(tmp_path / "key"), "-out", str(ca), "-days", "2"]
        + ["-subj", "/CN=pibot-test", "-addext", "subjectAltName=IP:127.0.0.1"],
        check=True,
        capture_output=True,
    )
    with FleetProcesses(tmp_path / "tls", broker="none") as fleet:
        tls_port = free_port()
        fleet.start_broker(
            f"listener {tls_port} 127.0.0.1",
            f"certfile {ca}",
            f"keyfile {tmp_path / 'key'}",
            "allow_anonymous true",
        )
        fleet.start_master()
        tls = {"MQTT_PORT": str(tls_port), "MQTT_CA_FILE": str(ca)}
        for name in ("worker-1", "worker-2"):
            done = fleet.run("workers", "add", name, "--host", "127.0.0.1", env=tls, json=False)
        assert "three files" in done.out and "pibot-ca.crt" in done.out
        assert left(fleet) == ["pibot-ca.crt", "worker-1.env", "worker-2.env"]
        assert (fleet.folder / "pibot-ca.crt").read_bytes() == ca.read_bytes()
        moved = tmp_path / "elsewhere"  # a worker's machine: three files side by side
        moved.mkdir()
        for file in left(fleet):
            (fleet.folder / file).rename(moved / file)
        seen = subprocess.run(
            command("status", "--json", "--env-file", str(moved / "worker-2.env")),
            env=environment(),
            capture_output=True,
            timeout=60,
        )
        assert json.loads(seen.stdout)["fleet"] == "home"
        (fleet.folder / "pibot-ca.crt").write_text("another one")
        refused = fleet.run(
            "workers", "add", "worker-3", "--host", "pi", env=tls, json=False, check=2
        )
        assert "pibot-ca.crt is there already" in refused.err
        assert left(fleet) == ["pibot-ca.crt"]


# --- remove and rotate ----------------------------------------------------------------------------


def test_a_removed_worker_is_out_within_two_seconds_and_its_task_goes_on_elsewhere(
    closed: ClosedFleet,
) -> None:
    for name in ("worker-1", "worker-2"):
        closed.add(name)
    first = closed.start_enrolled(
        "worker-1", {**closed.settings("worker-1"), "PIBOT_ALLOW_SHELL": "1"}
    )
    closed.wait_idle(1)
    goal = shell(closed, "--json", "sleep 30; echo first")
    closed.wait_for(lambda: closed.counts()["busy"] == 1, what="worker-1 works")
    closed.start_enrolled("worker-2", {**closed.settings("worker-2"), "PIBOT_ALLOW_SHELL": "1"})
    closed.wait_idle(1)

    done = closed.run("workers", "remove", "worker-1", json=False)
    answered = time.monotonic()
    assert "worker-1 is removed" in done.out
    others = closed.run("status").document["workers"]
    assert [(w["worker_id"], w["state"]) for w in others] == [("worker-2", "busy")]
    wait_for(lambda: "refused the user name or password" in first.said(), OUT_S, why=closed.logs)
    print(f"out after {time.monotonic() - answered:.2f} s")
    assert "worker-1 was removed from the fleet" in first.said()
    assert closed.states() == {"worker-2": "busy"}
    goal.send_signal(signal.SIGINT)
    goal.communicate(timeout=30)


def test_it_is_refused_by_broker_and_master_until_it_is_added_again(closed: ClosedFleet) -> None:
    closed.add("worker-1")
    old = closed.settings("worker-1")
    worker = closed.start_enrolled("worker-1")
    closed.wait_idle(1)
    closed.run("workers", "remove", "worker-1")
    closed.kill("master")
    closed.restart("master")
    closed.wait_for(lambda: closed.counts().get("total") == 0, what="the master is back")
    closed.kill("worker-1", signal.SIGTERM)
    worker.log.write_text("")
    closed.restart("worker-1")
    closed.wait_for(lambda: "refused the user name" in worker.said(), what="it is not let in")
    closed.kill("worker-1", signal.SIGTERM)
    (closed.folder / "worker-1.env").unlink()
    closed.add("worker-1")
    assert closed.settings("worker-1")["MQTT_PASSWORD"] != old["MQTT_PASSWORD"]
    closed.start_enrolled("worker-1")
    closed.wait_idle(1)


def test_a_master_killed_before_the_broker_had_the_files_makes_it_good(closed: ClosedFleet) -> None:
    old = (closed.state / "broker" / "passwd").read_bytes()
    closed.add("worker-1")
    closed.kill("master")
    (closed.state / "broker" / "passwd").write_bytes(old)
    (closed.placed / "passwd").write_bytes(old)
    closed.restart("master")
    closed.start_enrolled("worker-1")
    closed.wait_idle(1)
    assert b"\nworker-1:$7$" in (closed.placed / "passwd").read_bytes()


def test_a_damaged_file_ends_the_start_with_one_sentence(closed: ClosedFleet) -> None:
    closed.kill("master")
    good = closed.identities.read_bytes()
    for damage, words in ((b"{", "is damaged"), (good, "chmod 600")):
        closed.identities.write_bytes(damage)
        closed.identities.chmod(0o644 if damage == good else 0o600)
        process = closed.restart("master")
        assert process.popen.wait(30) == 1
        said = [line for line in process.said().splitlines() if line.startswith("pibot: ")]
        assert len(said) == 1 and words in said[0] and "identities.json" in said[0]
        process.log.write_text("")


def test_a_master_with_a_new_password_lets_itself_in(closed: ClosedFleet) -> None:
    closed.kill("master")
    closed.master = identities.new_secret("m", "master")
    closed.start_master()
    assert Identities.load(closed.identities).get("laptop") is not None
    assert closed.run("status").document["total"] == 0


def test_an_open_fleet_forgets_a_worker_that_is_away(tmp_path: Path) -> None:
    with FleetProcesses(tmp_path / "open") as fleet:
        fleet.start_master()
        fleet.start_worker("worker-1")
        fleet.wait_idle(1)
        refused = fleet.run("workers", "remove", "worker-1", json=False, check=1)
        assert "worker-1 is online" in refused.err
        fleet.kill("worker-1", signal.SIGTERM)
        fleet.wait_for(lambda: fleet.counts()["offline"] == 1, what="worker-1 is offline")
        assert "forgotten" in fleet.run("workers", "remove", "worker-1", json=False).out
        assert fleet.run("status").document["total"] == 0
        fleet.kill("master", signal.SIGTERM)
        fleet.restart("master")
        fleet.wait_for(lambda: fleet.counts().get("total") == 0, what="the master is back")
        fleet.restart("worker-1")
        fleet.wait_idle(1)


# --- drain and resume -----------------------------------------------------------------------------


def test_a_drained_worker_finishes_and_gets_nothing_new_over_restarts(tmp_path: Path) -> None:
    with FleetProcesses(tmp_path / "open") as fleet:
        fleet.start_master()
        fleet.start_worker("worker-1", PIBOT_ALLOW_SHELL="1")
        fleet.wait_idle(1)
        running = shell(fleet, "--json", "sleep 1; echo done")
        fleet.wait_for(lambda: fleet.counts()["busy"] == 1, what="it works")
        drained = fleet.run("workers", "drain", "worker-1").document
        assert drained["state"] == "draining" and len(drained["current_tasks"]) == 1
        said, _ = running.communicate(timeout=30)
        assert json.loads(said)["state"] == "succeeded"
        fleet.kill("master")
        fleet.kill("worker-1")
        fleet.restart("master")
        fleet.restart("worker-1")
        fleet.wait_for(lambda: _state(fleet) == "draining", what="it is back")
        head, _, row = fleet.run("status", json=False).out.splitlines()
        assert head == "fleet home: 1 worker (1 draining)" and "  now" in row
        checked = fleet.run("selftest").document["checks"][0]
        assert (checked["ok"], checked["detail"]) == (None, "is draining: not tried")
        waiting = fleet.run("run", "--skill", "echo", "--args", '{"text": "hi"}', "--detach")
        assert fleet.run("health").document["healthy"] is True
        assert fleet.run("tasks").document["goals"][0]["tasks"][0]["state"] == "queued"
        assert "tasks again" in fleet.run("workers", "resume", "worker-1", json=False).out
        done = fleet.run("show", waiting.document["goal_id"], "--follow")
        assert done.document["state"] == "succeeded"


def _state(fleet: FleetProcesses) -> str:
    found: Finished = fleet.run("status", check=None)
    rows = (found.document or {}).get("workers") or [{"state": ""}]
    return str(rows[0]["state"])
