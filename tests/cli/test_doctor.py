"""`doctor` as people run it: beside a real fleet, and with what goes wrong on real machines."""

from __future__ import annotations

import socket
import subprocess
import time
from pathlib import Path
from typing import Any, Dict, Iterator, List

import pytest

from fleet_processes import Finished, FleetProcesses, command, free_port
from model_server import MODEL, serving, status
from terminal import CTRL_C, Terminal

PASSWORD = "correct-horse-battery"
NASTY = "\x1b[2J\x1b]0;owned\x07 you \x9b31mare bad"


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FleetProcesses]:
    """A fleet whose broker wants a password."""
    env = {"MQTT_USERNAME": "laptop", "MQTT_PASSWORD": PASSWORD}
    env["PIBOT_HEALTH_PORT"] = str(free_port())  # another fleet may have the usual one
    folder = tmp_path_factory.mktemp("guarded")
    with FleetProcesses(folder, users={"laptop": PASSWORD}, env=env) as processes:
        processes.start_master()
        processes.start_worker("worker-1")
        processes.wait_idle(1)
        yield processes


def checks(done: Finished) -> Dict[str, Dict[str, Any]]:
    """The findings by their check, the worst of each; the document has the shape it must have."""
    found: Dict[str, Dict[str, Any]] = {}
    order = ["ok", "warn", "fail"]
    assert set(done.document) == {"ok", "checks"}
    for one in done.document["checks"]:
        assert set(one) == {"check", "state", "message", "fix"}
        assert (one["fix"] is None) == (one["state"] == "ok")
        known = found.setdefault(one["check"], one)
        if order.index(one["state"]) > order.index(known["state"]):
            found[one["check"]] = one
    states = {one["state"] for one in found.values()}
    assert done.document["ok"] is ("fail" not in states) is (done.status == 0)
    return found


def lonely(folder: Path, **env: str) -> FleetProcesses:
    """No broker, no master: only the command."""
    folder.mkdir(parents=True, exist_ok=True)
    more = {"PIBOT_HEALTH_PORT": str(free_port()), "HOME": str(folder), **env}
    return FleetProcesses(folder, broker="none", env=more)


# --- in order -----------------------------------------------------------------------------------


def test_a_fleet_in_order(guarded: FleetProcesses) -> None:
    done = guarded.run("doctor")
    found = checks(done)
    for name in ("python", "settings", "broker", "credentials", "master", "workers", "versions"):
        assert found[name]["state"] == "ok", found[name]
    assert PASSWORD not in done.out + done.err


def test_lines_in_a_pipe(guarded: FleetProcesses) -> None:
    done = guarded.run("doctor", json=False)
    lines = done.out.splitlines()
    assert [line for line in lines[:-1] if line.split()[0] not in ("ok", "warn", "mend:")] == []
    assert "ok   credentials: laptop is let in" in lines
    assert lines[-1].endswith(", 0 fail")
    assert "\x1b" not in done.out and done.err == ""


def test_lines_on_a_terminal(guarded: FleetProcesses, tmp_path: Path) -> None:
    env = {**guarded.env, "MQTT_PASSWORD": "wrong"}
    with Terminal(guarded.command("doctor"), env, tmp_path) as terminal:
        assert terminal.finish() == 1
    assert "\x1b[32m✓ ok  \x1b[0m" in terminal.seen and "\x1b[31m✗ fail\x1b[0m" in terminal.seen
    lines = terminal.plain.splitlines()
    assert "✗ fail credentials: the broker 127.0.0.1" in terminal.plain
    assert [line for line in lines if len(line) > 80 and "mend: " not in line] == []
    assert "       mend: check MQTT_USERNAME and MQTT_PASSWORD" in terminal.plain


# --- the broker ---------------------------------------------------------------------------------


def test_a_wrong_password(guarded: FleetProcesses) -> None:
    done = guarded.run("doctor", check=1, env={"MQTT_PASSWORD": "wrong-horse"})
    found = checks(done)
    assert (found["broker"]["state"], found["credentials"]["state"]) == ("ok", "fail")
    assert "refused the user name or password" in found["credentials"]["message"]
    assert "MQTT_PASSWORD" in found["credentials"]["fix"]
    assert "master" not in found and "wrong-horse" not in done.out + done.err


def test_the_broker_is_down(tmp_path: Path) -> None:
    with lonely(tmp_path) as nobody:
        found = checks(nobody.run("doctor", check=1))
    assert found["broker"]["state"] == "fail" and "no broker" in found["broker"]["message"]


def test_the_master_is_down(tmp_path: Path) -> None:
    with FleetProcesses(tmp_path) as broker_only:
        env = {"PIBOT_HEALTH_PORT": str(free_port())}
        found = checks(broker_only.run("doctor", check=1, env=env))
    assert (found["broker"]["state"], found["master"]["state"]) == ("ok", "fail")
    assert "no master" in found["master"]["message"]


def test_a_black_hole(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as hole, lonely(tmp_path) as nobody:
        began = time.monotonic()
        env = {"MQTT_PORT": str(hole.getsockname()[1])}
        found = checks(nobody.run("doctor", check=1, env=env))
        assert time.monotonic() - began < 15
    assert "does not answer as a broker" in found["credentials"]["message"]


def test_two_machines_with_one_name(tmp_path: Path) -> None:
    env = {"PIBOT_HEALTH_PORT": str(free_port())}
    with FleetProcesses(tmp_path, env=env) as twins:
        twins.start_master()
        twins.start_worker("worker-1")
        twins.wait_idle(1)
        twins.start_worker("worker-1", process="copied-card")
        twins.wait_for(
            lambda: [w for w in twins.run("status").document["workers"] if w.get("alarm")],
            what="an alarm",
        )
        found = checks(twins.run("doctor", check=1))
    assert found["alarm"]["state"] == "fail" and "worker-1" in found["alarm"]["message"]
    assert "workers add NEW-NAME" in found["alarm"]["fix"]


# --- security -----------------------------------------------------------------------------------


def test_how_well_a_client_is_guarded(guarded: FleetProcesses) -> None:
    done = guarded.run("doctor", "--security", check=1)
    assert set(done.document) == {"ok", "score", "checks"}
    (fault,) = [one for one in done.document["checks"] if one["state"] == "fail"]
    assert fault["message"] == "there is no PIBOT_KEY: nothing that is sent is signed"
    assert fault["fix"] and done.document["score"] == 8.0
    key = "0123456789abcdef" * 4
    better = guarded.run("doctor", "--security", env={"PIBOT_KEY": key}, json=False)
    assert better.out.splitlines()[-1].startswith("score 10 of 10, ")
    said = done.out + done.err + better.out + better.err
    assert PASSWORD not in said and key not in said


# --- settings -----------------------------------------------------------------------------------


def with_file(tmp_path: Path, text: str, mode: int = 0o600, *args: str) -> Finished:
    """Run doctor with a settings file of its own."""
    import json

    env_file = tmp_path / "my.env"
    env_file.write_text(text, encoding="utf-8")
    env_file.chmod(mode)
    with lonely(tmp_path / "home") as nobody:
        done = subprocess.run(
            command("doctor", "--json", "--env-file", str(env_file), *args),
            env=nobody.env,
            capture_output=True,
            encoding="utf-8",
            cwd=tmp_path,
            timeout=60,
        )
    assert done.stderr == ""
    return Finished(done.returncode, done.stdout, done.stderr, json.loads(done.stdout))


def test_settings_that_others_can_read(tmp_path: Path) -> None:
    found = checks(with_file(tmp_path, f"MQTT_PASSWORD={PASSWORD}\n", 0o644))
    assert found["settings"]["state"] == "fail"
    assert found["settings"]["fix"] == f"chmod 600 {tmp_path / 'my.env'}"


def test_a_placeholder(tmp_path: Path) -> None:
    found = checks(with_file(tmp_path, "VOLC_API_KEY=your_actual_api_key_here\n"))
    said = f"VOLC_API_KEY in {tmp_path / 'my.env'} line 1 is still a placeholder"
    assert found["settings"]["message"].startswith(said)
    assert found["settings"]["fix"] == f"nano {tmp_path / 'my.env'}"


def test_bad_settings_do_not_hide_the_rest(tmp_path: Path) -> None:
    found = checks(with_file(tmp_path, "PIBOT_SLOTS=many\n"))
    assert found["settings"]["state"] == "fail"
    assert {"python", "clock", "disk"} <= set(found)


def test_a_settings_file_that_nobody_ever_writes_to(tmp_path: Path) -> None:
    import os

    pipe = tmp_path / "pipe"
    os.mkfifo(pipe, 0o600)
    with lonely(tmp_path / "home") as nobody:
        args = command("doctor", "--env-file", str(pipe))
        done = subprocess.run(
            args, env=nobody.env, capture_output=True, encoding="utf-8", timeout=30
        )
    assert done.returncode == 1 and done.stderr == ""
    assert "no answer within 3 s" in done.stdout


# --- the model ----------------------------------------------------------------------------------


def asked(tmp_path: Path, key: str, url: str, *args: str) -> Finished:
    text = f"OPENAI_API_KEY={key}\nOPENAI_BASE_URL={url}\nOPENAI_MODEL={MODEL}\n"
    return with_file(tmp_path, text, 0o600, *args)


def test_the_model_is_asked_online_only(tmp_path: Path) -> None:
    with serving() as server:
        offline = checks(asked(tmp_path, "sk-wrong", server.url))["model"]
        assert (offline["state"], server.requests) == ("ok", [])
        online = checks(asked(tmp_path, server.key, server.url, "--online"))["model"]
        assert online["state"] == "ok" and len(server.requests) == 1


def test_a_wrong_key(tmp_path: Path) -> None:
    with serving() as server:
        done = asked(tmp_path, "sk-wrong-0123456789", server.url, "--online")
    found = checks(done)["model"]
    assert found["state"] == "fail" and "Incorrect API key provided." in found["message"]
    assert "sk-wrong" not in done.out


def test_a_hostile_endpoint_does_not_reach_the_terminal(tmp_path: Path) -> None:
    key = "sk-secret-0123456789"
    with serving(lambda request: status(400, f"{NASTY} {key}")) as server:
        server.key = key
        env_file = tmp_path / "my.env"
        env_file.touch(0o600)
        env_file.write_text(
            f"OPENAI_API_KEY={key}\nOPENAI_BASE_URL={server.url}\nOPENAI_MODEL={MODEL}\n"
        )
        with lonely(tmp_path / "home") as nobody:
            args = command("doctor", "--online", "--env-file", str(env_file))
            with Terminal(args, nobody.env, tmp_path) as terminal:
                assert terminal.finish() == 1
    assert "you 31mare bad [key]" in " ".join(terminal.plain.split())
    raw = ["\x1b[2J", "\x1b]", "\x07", "\x9b", key]
    assert [bad for bad in raw if bad in terminal.seen] == []


# --- the port -----------------------------------------------------------------------------------


def test_another_program_on_the_port(guarded: FleetProcesses) -> None:
    with socket.create_server(("127.0.0.1", 0)) as stranger:
        port = stranger.getsockname()[1]
        done = guarded.run("doctor", check=1, env={"PIBOT_HEALTH_PORT": str(port)})
    found = checks(done)["health"]
    assert found["message"].startswith(f"port {port} is held by ")
    assert f"sudo ss -ltnp 'sport = :{port}'" in found["fix"]


def test_the_workers_own_port(guarded: FleetProcesses) -> None:
    port = guarded.processes["worker-1"].health_port
    found = checks(guarded.run("doctor", env={"PIBOT_HEALTH_PORT": str(port)}))
    assert found["health"]["message"] == f"worker-1 is healthy on port {port}"


# --- ends and arguments ---------------------------------------------------------------------------


def test_ctrl_c_ends_it_at_once(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as hole, lonely(tmp_path) as nobody:
        env = {**nobody.env, "MQTT_PORT": str(hole.getsockname()[1])}
        with Terminal(nobody.command("doctor"), env, tmp_path) as terminal:
            terminal.expect("takes connections")
            terminal.send(CTRL_C)
            assert terminal.finish() == 130
    assert "Traceback" not in terminal.plain


@pytest.mark.parametrize("args", [["--offline"], ["now"], ["--online=yes"]])
def test_wrong_usage(tmp_path: Path, args: List[str]) -> None:
    with lonely(tmp_path) as nobody:
        done = nobody.run("doctor", *args, check=2, json=False)
    assert "pibot.pyz doctor --help" in done.err
