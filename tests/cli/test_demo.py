"""The demo: a whole fleet on this machine, and nothing of it left afterwards."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path
from typing import Dict, List

import pytest

from fleet_processes import ROOT, command, environment, program, wait_for
from model_server import is_answer, is_plan, plan, serving, text
from pibot.cli.children import Children
from pibot.errors import PibotError
from terminal import CTRL_C, CTRL_D, Terminal


@pytest.fixture
def env(tmp_path: Path) -> Dict[str, str]:
    """Settings of a user whose own fleet must not be disturbed, and a directory of one's own."""
    program()
    return environment(
        TMPDIR=str(tmp_path),
        PIBOT_FLEET="mine",
        PIBOT_STATE_DIR=str(tmp_path / "mine"),
        MQTT_HOST="192.0.2.1",
        MQTT_USERNAME="me",
        MQTT_PASSWORD="secret",
        WORKER_1_IP="192.0.2.2",
    )


@pytest.fixture
def demo(tmp_path: Path) -> List[str]:
    nothing = tmp_path / "nothing.env"
    nothing.touch(0o600)
    return command("demo", "--env-file", str(nothing))


def left_over(folder: Path) -> List[str]:
    return [path.name for path in folder.iterdir() if path.name.startswith("pibot-demo-")]


def started_by(pid: int) -> List[int]:
    """The processes that this one has started and that still run."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                state, parent = (entry / "stat").read_text().rpartition(")")[2].split()[:2]
            except OSError:
                continue
            if int(parent) == pid and state != "Z":
                found.append(int(entry.name))
    return found


def gone(pids: List[int]) -> bool:
    return all(_state(pid) in ("", "Z") for pid in pids)


def _state(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return ""


def test_once_runs_the_samples_and_leaves_nothing(
    demo: List[str], env: Dict[str, str], tmp_path: Path
) -> None:
    done = subprocess.run(
        [*demo, "--once"], env=env, capture_output=True, encoding="utf-8", timeout=90
    )
    assert done.returncode == 0, done.stderr
    assert "fleet demo: 2 workers (2 idle)" in done.stdout
    assert "> what time is it\nIt is " in done.stdout
    assert "worker-1: cpu:" in done.stdout and "worker-2: cpu:" in done.stdout
    assert done.stdout.count("No API key is set") == 1
    assert "worker-1: disk:" in done.stdout and "worker-2: disk:" in done.stdout
    assert left_over(tmp_path) == [] and not (tmp_path / "mine").exists()


def test_without_a_terminal_it_ends_by_itself_and_uses_the_model_that_is_set(
    demo: List[str], env: Dict[str, str]
) -> None:
    tasks = [
        {"id": "a", "goal": "say one", "worker": "worker-1"},
        {"id": "b", "goal": "say two", "worker": "worker-2"},
    ]
    with serving() as model:
        model.on(is_plan, plan({"route": "plan", "answer": None, "tasks": tasks}))
        model.on(is_answer, text("worker-2 has more to spare."))
        env.update(OPENAI_API_KEY=model.key, OPENAI_BASE_URL=model.url, OPENAI_MODEL=model.model)
        done = subprocess.run(demo, env=env, input="", capture_output=True, encoding="utf-8")
        assert done.returncode == 0, done.stderr + done.stdout
        assert done.stdout.endswith("worker-2 has more to spare.\n")
        assert "No API key" not in done.stdout
        env["OPENAI_API_KEY"] = "sk-wrong"
        failed = subprocess.run(demo, env=env, input="", capture_output=True, encoding="utf-8")
    assert failed.returncode == 1
    (said,) = [line for line in failed.stderr.splitlines() if line.startswith("pibot: ")]
    assert "Incorrect API key" in said and "sk-wrong" not in failed.stderr


def test_on_a_terminal_it_stays_until_one_leaves(
    demo: List[str], env: Dict[str, str], tmp_path: Path
) -> None:
    with Terminal(demo, env, tmp_path) as terminal:
        terminal.expect("fleet demo: 2 workers (2 idle)")
        terminal.expect("Your turn: type a goal.")
        terminal.expect("> ")
        terminal.send("echo from the prompt\r")
        terminal.expect("from the prompt\n✓ g")
        terminal.expect("> ")  # before that, the terminal itself would swallow the key
        terminal.send(CTRL_D)
        assert terminal.finish() == 0
    assert left_over(tmp_path) == []


@pytest.mark.parametrize(
    ("number", "status"),
    [(signal.SIGTERM, 143), (signal.SIGHUP, 129), (signal.SIGKILL, -9)],
)
def test_its_children_never_outlive_it(
    number: int, status: int, demo: List[str], env: Dict[str, str], tmp_path: Path
) -> None:
    with Terminal(demo, env, tmp_path) as terminal:
        terminal.expect("Your turn: type a goal.")
        started = wait_for(
            lambda: len(found := started_by(terminal.process.pid)) == 3 and found, what="children"
        )
        os.kill(terminal.process.pid, number)
        assert terminal.finish() == status
        wait_for(lambda: gone(list(started)), what=f"{started} are gone")
        assert "Traceback" not in terminal.plain
    if number != signal.SIGKILL:
        assert left_over(tmp_path) == []


def test_ctrl_c_while_it_starts_ends_it(
    demo: List[str], env: Dict[str, str], tmp_path: Path
) -> None:
    with Terminal(demo, env, tmp_path) as terminal:
        terminal.expect("Starting worker-2")
        started = started_by(terminal.process.pid)
        terminal.send(CTRL_C)
        assert terminal.finish() == 130
        assert started and gone(started)
        assert "pibot:" not in terminal.plain
    assert left_over(tmp_path) == []


def test_what_a_child_says_is_what_the_demo_says(tmp_path: Path) -> None:
    children = Children(tmp_path, environment(PYTHONPATH=str(ROOT / "src")))
    try:
        children.start("worker-1", "--role", "worker", "--worker-id", "No_Name")
        with pytest.raises(PibotError, match="^WORKER_ID on the command line must be") as caught:
            wait_for(lambda: children.check())
        assert caught.value.exit_status == 2
    finally:
        children.close()
