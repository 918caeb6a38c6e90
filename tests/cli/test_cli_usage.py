"""Arguments and outcomes: what needs no fleet, or must fail before one is asked.

Each row is a start of the real program: exit status, standard output, standard error. An error is
one line on standard error that names what is wrong and what to do.
"""

from __future__ import annotations

import json
import re
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Dict, Iterator, List, Sequence

import pytest

import pibot
from fleet_processes import (
    ROOT,
    FleetProcesses,
    command,
    environment,
    free_port,
    program,
    wait_for,
)
from pibot.cli import COMMANDS

PLACEHOLDER = "your_actual_api_key_here"


@pytest.fixture
def env_file(tmp_path: Path) -> Path:
    path = tmp_path / "settings.env"
    path.touch(0o600)
    return path


def start(
    args: Sequence[str], stdin: bytes = b"", **env: str
) -> "subprocess.CompletedProcess[str]":
    done = subprocess.run(
        command(*args), env=environment(**env), input=stdin, capture_output=True, timeout=30
    )
    return subprocess.CompletedProcess(
        done.args, done.returncode, done.stdout.decode(), done.stderr.decode()
    )


def assert_one_line(text: str, *words: str) -> None:
    assert text.startswith("pibot: ") and text.count("\n") == 1 and text.endswith("\n"), text
    for word in words:
        assert word in text


@pytest.mark.parametrize("args", [["version"], ["version", "--json"]])
def test_an_output_that_is_full_is_one_line(args: List[str]) -> None:
    with open("/dev/full", "wb") as full:
        done = subprocess.run(
            command(*args), env=environment(), stdout=full, stderr=subprocess.PIPE, timeout=30
        )
    assert done.returncode == 1
    assert_one_line(done.stderr.decode(), "standard output", "no space left")


# --- wrong usage ---

WRONG = [
    (["stauts"], ["'stauts'", "did you mean `pibot.pyz status`?"]),
    (["frobnicate"], ["'frobnicate'", "`pibot.pyz --help`"]),
    (["--json"], ["--json must come after a command"]),
    (["--env-file", "x", "--role", "worker"], ["--role must come first", "--env-file"]),
    (["--port=1", "--role=worker"], ["--role must come first"]),
    (["--rolle", "master"], ["--rolle"]),
    (["status", "--nope"], ["--nope", "`pibot.pyz status --help`"]),
    (["status", "extra"], ["extra"]),
    (["status", "--watch", "--json"], ["--watch"]),
    (["run"], ["--skill NAME"]),
    (["run", ""], ["the goal is empty"]),
    (["run", "  \n"], ["the goal is empty"]),
    (["run", "-"], ["the goal is empty"]),
    (["run", "x" * 32_769], ["32,769 characters", "32,768"]),
    (["run", "hello", "--skill", "echo"], ["either a goal"]),
    (["run", "hello", "--args", "{}"], ["--args", "--skill"]),
    (["run", "hello", "--on", "worker-1", "--all"], ["--on", "--all"]),
    (["run", "hello", "--on", "worker-1", "--tag", "camera"], ["--on", "--tag"]),
    (["run", "hello", "--timeout", "soon"], ["--timeout", "soon"]),
    (["run", "hello", "--timeout", "nan"], ["--timeout", "604800"]),
    (["run", "hello", "--timeout", "0"], ["--timeout", "604800"]),
    (["run", "--skill", "echo", "--args", "{bad"], ["--args is not JSON", '{"text": "hello"}']),
    (["run", "--skill", "echo", "--args", "[1]"], ["--args is not JSON", "not an object"]),
    (["run", "--skill", "echo", "--args", '{"a": NaN}'], ["--args is not JSON"]),
    (["run", "--skill", "echo", "--args", '{"a": 1e999}'], ["--args is not JSON", "a number"]),
    (["run", "--skill", "echo", "--args", "[" * 50_000], ["--args is not JSON"]),
    (["show"], ["ID", "`pibot.pyz show --help`"]),
    (["show", "No Such"], ["'No Such'", "`pibot.pyz tasks`"]),
    (["cancel", "\x1b[31mred"], ["no id of a goal"]),
    (["retry", "a" * 300], ["no id of a goal"]),
    (["--role", "boss"], ["boss", "master"]),
    (["--role"], ["--role"]),
    (["--role=master", "--worker-id", "worker-1"], ["--worker-id", "worker"]),
    (["--role", "worker", "--worker-id", "Bad_Name"], ["WORKER_ID", "small letters"]),
    (["--role", "worker", "--worker-id", "master"], ["WORKER_ID", "reserved"]),
    (["--role", "worker", "--worker-id", ""], ["--worker-id is empty"]),
    (["--role", "worker", "--worker-id", "worker-1", "--port", "99999"], ["65535"]),
]


@pytest.mark.parametrize(("args", "words"), WRONG, ids=lambda value: " ".join(value)[:40])
def test_wrong_usage_is_one_line_and_status_2(
    args: List[str], words: List[str], env_file: Path
) -> None:
    done = start(args, PIBOT_STATE_DIR=str(env_file.parent))
    assert done.returncode == 2
    assert_one_line(done.stderr, *words)
    document = json.loads(done.stdout) if done.stdout else None
    assert (document is not None) == ("--json" in args)
    assert "\x1b" not in done.stderr


def test_an_error_is_also_a_document_with_json() -> None:
    done = start(["run", "--json", "--skill", "echo", "--args", "{bad"])
    error = json.loads(done.stdout)["error"]
    assert error["code"] == "usage"
    assert done.stderr == f"pibot: {error['message']}\n"


def test_nothing_at_all_shows_the_commands() -> None:
    done = start([])
    assert done.returncode == 2
    assert done.stdout == "" and "pibot.pyz COMMAND" in done.stderr


def test_a_goal_of_a_megabyte_is_refused_at_once() -> None:
    done = start(["run", "-"], stdin=b"a" * 1_000_000)
    assert done.returncode == 2
    assert_one_line(done.stderr, "1,000,000 characters", "32,768")


# --- settings ---

SETTINGS = [
    (f"VOLC_API_KEY={PLACEHOLDER}", 0o600, ["VOLC_API_KEY", "line 1", "placeholder"]),
    ("PIBOT_SLOT=2", 0o600, ["PIBOT_SLOT", "perhaps PIBOT_SLOTS is meant"]),
    ("MQTT_PORT=lots", 0o600, ["MQTT_PORT", "whole number"]),
    ("MQTT_HOST=pi.local", 0o640, ["open to other users", "chmod 600"]),
    ("what is this", 0o600, ["line 1", "KEY=value"]),
]


@pytest.mark.parametrize(("text", "mode", "words"), SETTINGS)
@pytest.mark.parametrize("args", [["status"], ["--role", "master"], ["demo", "--once"]])
def test_bad_settings_are_one_line_and_status_2(
    args: List[str], text: str, mode: int, words: List[str], env_file: Path
) -> None:
    env_file.write_text(text)
    env_file.chmod(mode)
    done = start([*args, "--env-file", str(env_file)], PIBOT_STATE_DIR=str(env_file.parent))
    assert done.returncode == 2
    assert_one_line(done.stderr, *words)
    assert PLACEHOLDER not in done.stderr


def test_the_env_file_beside_the_program_counts(tmp_path: Path) -> None:
    copy = shutil.copy(program(), tmp_path / "pibot.pyz")
    (tmp_path / ".env").write_text("MQTT_PORT=0")
    (tmp_path / ".env").chmod(0o600)
    args = [sys.executable, str(copy), "status"]
    done = subprocess.run(args, env=environment(), capture_output=True, encoding="utf-8")
    assert done.returncode == 2
    assert_one_line(done.stderr, f"MQTT_PORT in {tmp_path / '.env'} line 1")


def test_a_missing_settings_file_is_named() -> None:
    done = start(["status", "--env-file", "/nowhere/x.env"])
    assert done.returncode == 2
    assert_one_line(done.stderr, "/nowhere/x.env")


# --- what needs no fleet ---


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help_with_an_example(name: str) -> None:
    done = start([name, "--help"])
    assert done.returncode == 0 and done.stderr == ""
    assert re.search(rf"example:\n  (sudo python3 )?pibot\.pyz {name}", done.stdout)


def test_help_lists_every_command_and_the_services() -> None:
    done = start(["--help"])
    assert done.returncode == 0
    for words in [*COMMANDS, "--role master", "--role worker --worker-id worker-1"]:
        assert words in done.stdout
    service = start(["--role", "worker", "--help"])
    assert service.returncode == 0 and "--worker-id" in service.stdout


def test_version() -> None:
    done = start(["version"])
    assert done.returncode == 0
    assert done.stdout.splitlines()[0] == f"pibot {pibot.__version__}"
    assert str(program()) in done.stdout
    assert json.loads(start(["version", "--json"]).stdout)["version"] == pibot.__version__
    assert start(["--version"]).stdout == done.stdout


def test_it_also_runs_as_a_module() -> None:
    args = [sys.executable, "-m", "pibot.cli", "version"]
    done = subprocess.run(
        args, env=environment(PYTHONPATH=str(ROOT / "src")), capture_output=True, encoding="utf-8"
    )
    assert done.returncode == 0 and done.stdout.startswith("pibot ")


@pytest.mark.parametrize("args", [["version"], ["--help"], ["run", "--help"], ["nope"]])
def test_what_needs_no_fleet_starts_light(args: List[str]) -> None:
    code = (
        "import sys; from pibot.cli import main\n"
        "try: main(sys.argv[1:])\n"
        "except SystemExit: pass\n"
        "heavy = {'paho', 'rich', 'openai', 'pydantic', 'asyncio', 'amqtt'}\n"
        "print(heavy & set(sys.modules), file=sys.stderr)"
    )
    env = environment(PYTHONPATH=str(ROOT / "src"))
    done = subprocess.run([sys.executable, "-c", code, *args], env=env, capture_output=True)
    assert done.stderr.decode().splitlines()[-1] == "set()"


def test_a_reader_that_leaves_is_no_error() -> None:
    with subprocess.Popen(
        command("--help"), env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""


def test_text_that_the_locale_lacks_does_not_break_it() -> None:
    done = start(["--help"], PYTHONUTF8="0", LC_ALL="C", PYTHONIOENCODING="latin-1")
    assert done.returncode == 0


# --- nobody there, nobody lets us in ---


@pytest.fixture(scope="module")
def unreachable(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Dict[str, "subprocess.CompletedProcess[str]"]]:
    """What `status --json` says of three fleets that cannot be reached, asked at once."""
    wrong = {"MQTT_USERNAME": "someone", "MQTT_PASSWORD": "wrong"}
    with (
        FleetProcesses(tmp_path_factory.mktemp("open")) as without_master,
        FleetProcesses(
            tmp_path_factory.mktemp("closed"), users={"someone": "right"}, env=wrong
        ) as closed,
    ):
        asked = {
            "broker": without_master.start("status", "--json", env={"MQTT_PORT": str(free_port())}),
            "master": without_master.start("status", "--json"),
            "password": closed.start("status", "--json"),
        }
        found = {}
        for name, process in asked.items():
            out, err = process.communicate(timeout=30)
            found[name] = subprocess.CompletedProcess("", process.returncode, out, err)
        yield found


@pytest.mark.parametrize(
    ("who", "words"),
    [
        ("broker", ["no broker answers at 127.0.0.1:", "MQTT_HOST"]),
        ("master", ["no master of the fleet 'home'", "pibot.pyz --role master"]),
        ("password", ["refused the user name or password", "MQTT_PASSWORD"]),
    ],
)
def test_unreachable_is_one_line_and_status_3(
    who: str, words: List[str], unreachable: Dict[str, "subprocess.CompletedProcess[str]"]
) -> None:
    done = unreachable[who]
    assert done.returncode == 3
    assert_one_line(done.stderr, *words)
    assert json.loads(done.stdout)["error"]["code"] == "unreachable"


# --- services ---


@pytest.mark.parametrize("role", ["master", "worker"])
def test_a_port_in_use_is_one_line_and_status_2(role: str, tmp_path: Path, env_file: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        done = start(
            ["--role", role, "--port", port, "--env-file", str(env_file)],
            PIBOT_STATE_DIR=str(tmp_path / "state"),
            PIBOT_HEALTH_HOST="127.0.0.1",
            MQTT_HOST="127.0.0.1",
            MQTT_PORT=str(free_port()),
        )
    assert done.returncode == 2
    said = [line for line in done.stderr.splitlines() if line.startswith("pibot: ")]
    assert len(said) == 1 and f"Port {port} is in use" in said[0] and "--port" in said[0]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_services_end_cleanly_when_they_are_told(number: int, tmp_path: Path) -> None:
    with FleetProcesses(tmp_path) as fleet:
        fleet.start_master()
        fleet.start_worker("worker-1")
        fleet.wait_idle(1)
        assert fleet.kill("worker-1", number) == 0
        assert fleet.kill("master", number) == 0
        assert "Traceback" not in fleet.logs()


def test_a_service_that_is_told_to_end_while_it_starts_ends_cleanly(tmp_path: Path) -> None:
    with FleetProcesses(tmp_path, broker="none") as fleet:
        worker = fleet.start_worker("worker-1")
        wait_for(lambda: _catches(worker.popen.pid, signal.SIGTERM), what="it has a handler")
        assert fleet.kill("worker-1", signal.SIGTERM) in (0, 128 + signal.SIGTERM)
        assert "Traceback" not in worker.said()


def test_nohup_stays_in_force(tmp_path: Path) -> None:
    with FleetProcesses(tmp_path) as fleet:
        args = ["nohup", *command("--role", "worker", "--port", str(free_port()))]
        env = {**fleet.env, "PIBOT_STATE_DIR": str(tmp_path)}
        silent = subprocess.DEVNULL
        with subprocess.Popen(args, env=env, stdout=silent, stderr=silent) as worker:
            try:
                wait_for(lambda: _catches(worker.pid, signal.SIGTERM), what="it has a handler")
                assert not _catches(worker.pid, signal.SIGHUP)
            finally:
                worker.terminate()


def _catches(pid: int, number: int) -> bool:
    with open(f"/proc/{pid}/status") as file:
        caught = next(line for line in file if line.startswith("SigCgt:"))
    return bool(int(caught.split()[1], 16) >> (number - 1) & 1)


def test_two_workers_with_one_name_are_told_apart(tmp_path: Path) -> None:
    with FleetProcesses(tmp_path) as fleet:
        fleet.start_master()
        fleet.start_worker("worker-1")
        fleet.wait_idle(1)
        twin = fleet.start_worker("worker-1", process="twin")
        fleet.wait_for(lambda: "worker-1 belongs to" in twin.said(), what="the twin is told")
        assert fleet.run("status").document["total"] == 1
        health = fleet.run("health", json=False)
        assert health.out.startswith("✓ worker-1 idle (alarm: two machines use the name worker-1")
