"""The commands against a real fleet: a broker, a master without a model, two workers."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any, Dict, List

import pytest

from fleet_processes import ROOT, FleetProcesses
from pibot.health import HealthServer
from terminal import CTRL_C, CTRL_D, Terminal

ROW_KEYS = {
    "worker_id", "state", "current_tasks", "slots", "tags", "skills", "version", "last_seen_s",
    "cpu_temp_c", "load1", "mem_used_pct", "disk_used_pct", "throttled",
}  # fmt: skip
RUN_KEYS = {"goal_id", "state", "answer", "tasks", "usage", "seconds"}
TASK_KEYS = {"task_id", "worker_id", "state", "attempt", "result", "error"}
NASTY = "a\x1b[31mred\x1b]0;title\x07 \x9b2Jb\u202ec"


def echo(text: str) -> List[str]:
    return ["run", "--skill", "echo", "--args", json.dumps({"text": text})]


def shell(command: str) -> List[str]:
    return ["run", "--skill", "shell", "--args", json.dumps({"command": command})]


# --- status, health, skills ---


def test_status(fleet: FleetProcesses) -> None:
    document = fleet.run("status").document
    assert set(document) == {"fleet", "epoch", "total", "idle", "busy", "offline", "workers"}
    assert (document["fleet"], document["total"]) == ("home", 2)
    first, second = document["workers"]
    assert set(first) == set(second) == ROW_KEYS
    assert first["tags"] == ["camera"] and "echo" in first["skills"]

    table = fleet.run("status", json=False)
    head, header, one, two = table.out.splitlines()
    assert head == "fleet home: 2 workers (2 idle)"
    assert header.split()[:3] == ["WORKER", "STATE", "TASKS"]
    assert one.split()[:3] == ["worker-1", "idle", "0/1"] and two.startswith("worker-2")
    assert "\x1b" not in table.out and table.err == ""


def test_status_watch_goes_on_until_ctrl_c(fleet: FleetProcesses, tmp_path: Path) -> None:
    with Terminal(fleet.command("status", "--watch"), fleet.env, tmp_path) as terminal:
        terminal.expect("fleet home: 2 workers")
        terminal.expect("fleet home: 2 workers")
        terminal.send(CTRL_C)
        assert terminal.finish() == 130
    assert "Traceback" not in terminal.plain


def test_status_in_a_pipe_starts_light(fleet: FleetProcesses) -> None:
    code = (
        "import sys; from pibot.cli import main; main(['status'])\n"
        "print({'rich', 'openai', 'asyncio'} & set(sys.modules))"
    )
    env = {**fleet.env, "PYTHONPATH": str(ROOT / "src")}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True)
    assert done.stdout.decode().splitlines()[-1] == "set()"


def test_health(fleet: FleetProcesses) -> None:
    done = fleet.run("health", json=False)
    assert done.out.splitlines() == ["✓ worker-1 idle", "✓ worker-2 idle"]
    document = fleet.run("health").document
    assert document["healthy"] is True
    assert [row["worker_id"] for row in document["workers"]] == ["worker-1", "worker-2"]


def test_health_also_asks_the_machines_that_are_configured(fleet: FleetProcesses) -> None:
    healthy: Dict[str, Any] = {"status": "healthy", "worker_id": "kitchen", "current_task": None}
    cut_off = {**healthy, "status": "degraded", "worker_id": "attic", "reason": "no master"}
    servers = [
        HealthServer("127.0.0.71", 5000, lambda: (200, healthy)),
        HealthServer("127.0.0.72", 5000, lambda: (503, cut_off)),
    ]
    env = {"WORKER_1_IP": "127.0.0.71", "WORKER_2_IP": "127.0.0.72", "WORKER_3_IP": "127.0.0.73"}
    try:
        for server in servers:
            server.start()
        one = fleet.run("health", json=False, env={"WORKER_1_IP": "127.0.0.71"})
        all_three = fleet.run("health", json=False, env=env, check=1)
    finally:
        for server in servers:
            server.close()
    assert one.out.splitlines()[2:] == ["✓ kitchen 127.0.0.71:5000 says healthy"]
    assert all_three.out.splitlines()[2:] == [
        "✓ kitchen 127.0.0.71:5000 says healthy",
        "✗ attic 127.0.0.72:5000 says degraded: no master",
        "✗ worker-3 127.0.0.73:5000 does not answer: Connection refused",
    ]


def test_skills(fleet: FleetProcesses) -> None:
    skills = {skill["name"]: skill for skill in fleet.run("skills").document["skills"]}
    assert skills["echo"]["workers"] == ["worker-1", "worker-2"]
    assert skills["echo"]["params"] == ["text"]
    table = fleet.run("skills", json=False).out
    assert "echo(text)" in table and "Return the text unchanged." in table
    of_one = fleet.run("skills", "--on", "worker-2").document["skills"]
    assert {tuple(skill["workers"]) for skill in of_one} == {("worker-2",)}
    unknown = fleet.run("skills", "--on", "worker-9", json=False, check=2)
    assert unknown.err == "pibot: no worker is called 'worker-9': known are worker-1, worker-2\n"


# --- run ---


def test_a_skill_gives_its_result_and_nothing_else_on_standard_output(
    fleet: FleetProcesses,
) -> None:
    document = fleet.run(*echo("hello"), "--on", "worker-2").document
    assert set(document) == RUN_KEYS and document["state"] == "succeeded"
    (task,) = document["tasks"]
    assert set(task) == TASK_KEYS and task["worker_id"] == "worker-2"
    assert task["result"] == {"success": True, "data": {"text": "hello"}, "output": "hello"}
    plain = fleet.run(*echo("hello"), json=False)
    assert plain.out == "hello\n"
    assert " succeeded on worker-" in plain.err


def test_progress_lines_tell_what_goes_on(fleet: FleetProcesses) -> None:
    done = fleet.run(*shell("echo first; echo second"), json=False)
    assert done.out == "first\nsecond\n"
    lines = done.err.splitlines()
    goal_id = lines[0].split()[0]
    assert lines[0] == f"{goal_id} submitted"
    assert f"{goal_id}-1 worker-1: first" in lines
    assert lines[-1] == f"{goal_id}-1 succeeded on worker-1: shell"


def test_a_goal_in_words(fleet: FleetProcesses) -> None:
    done = fleet.run("run", "what", "time", "is", "it", json=False)
    assert done.out.startswith("It is ") and done.out.count("\n") == 1
    read = fleet.run("run", "-", stdin="disk space on worker-2\n").document
    assert [task["worker_id"] for task in read["tasks"]] == ["worker-2"]


def test_all_has_a_row_for_each_and_fails_with_one(fleet: FleetProcesses) -> None:
    both = fleet.run(*echo("hi"), "--all", json=False)
    assert both.out == "worker-1: hi\nworker-2: hi\n"
    tagged = fleet.run(*echo("hi"), "--all", "--tag", "camera").document
    assert [task["worker_id"] for task in tagged["tasks"]] == ["worker-1"]
    # Only worker-1 allows the shell.
    document = fleet.run(*shell("echo hi"), "--all", check=1).document
    states = {task["worker_id"]: task["state"] for task in document["tasks"]}
    assert states == {"worker-1": "succeeded", "worker-2": "failed"}
    assert document["state"] == "failed"
    plain = fleet.run(*shell("echo hi"), "--all", json=False, check=1)
    assert "shell on worker-1: hi" in plain.out and "shell on worker-2: failed" in plain.out


FAILING = [
    (["run", "hello", "--on", "nobody"], 2, "no worker is called 'nobody': known are worker-1"),
    (["run", "--skill", "dance"], 2, "does not have the skill 'dance': known are"),
    (["run", "--skill", "echo", "--args", '{"txt": "a"}'], 1, "there is no such argument"),
    (["run", "build me a house of files"], 1, "no model is configured"),
    (shell("echo broken; exit 3"), 1, "the command ended with status 3: broken"),
    ([*shell("sleep 30"), "--timeout", "1"], 4, "timed out: not finished within 1 s"),
    (["show", "g0"], 2, "no goal or task is called 'g0': see `pibot.pyz tasks`"),
    (["cancel", "g0"], 2, "no goal or task is called 'g0'"),
    (["retry", "g0"], 2, "no goal or task is called 'g0'"),
]


@pytest.mark.parametrize(("args", "status", "words"), FAILING, ids=lambda v: str(v)[:40])
def test_what_cannot_be_done_is_one_line(
    args: List[str], status: int, words: str, fleet: FleetProcesses
) -> None:
    done = fleet.run(*args, json=False, check=status)
    said = [line for line in done.err.splitlines() if line.startswith("pibot: ")]
    assert len(said) == 1 and words in said[0] and done.err.splitlines()[-1] == said[0]
    assert done.out == ""
    as_json = fleet.run(*args, check=status)
    assert as_json.err.count("\n") == 1 and words in as_json.err
    assert ("error" in as_json.document) == (status == 2)


def test_detach_gives_an_id_to_show_and_follow(fleet: FleetProcesses) -> None:
    detached = fleet.run(*shell("sleep 0.5; echo done"), "--detach").document
    assert set(detached) == {"goal_id", "state"}
    followed = fleet.run("show", detached["goal_id"], "--follow").document
    assert set(followed) == RUN_KEYS and followed["answer"] == "done"
    plain = fleet.run(*echo("x"), "--detach", json=False)
    assert f"pibot.pyz show {plain.out.strip()}" in plain.err


def test_ctrl_c_leaves_the_goal_running_and_says_how_to_go_on(fleet: FleetProcesses) -> None:
    running = fleet.start(*shell("sleep 60"))
    assert running.stderr is not None
    lines = iter(running.stderr.readline, "")
    task_id = next(line.split()[0] for line in lines if " running on worker-1" in line)
    goal_id = task_id.rpartition("-")[0]
    running.send_signal(signal.SIGINT)
    out, err = running.communicate(timeout=10)
    assert running.returncode == 130 and out == ""
    assert err == (
        f"pibot: goal {goal_id} goes on: follow it with `pibot.pyz show {goal_id} --follow`, "
        f"stop it with `pibot.pyz cancel {goal_id}`\n"
    )
    assert fleet.run("show", goal_id).document["document"]["state"] == "running"
    assert "is being stopped" in fleet.run("cancel", goal_id, json=False).out
    followed = fleet.run("show", goal_id, "--follow", json=False, check=1)
    assert f"goal {goal_id} was cancelled" in followed.err
    fleet.run("cancel", goal_id)  # once more changes nothing
    fleet.wait_idle(2)
    over = fleet.run(*echo("x")).document["goal_id"]
    refused = fleet.run("cancel", over, json=False, check=1)
    assert refused.err == f"pibot: {over} is over already (succeeded)\n"


# --- tasks, show, retry ---


def test_tasks_and_show(fleet: FleetProcesses) -> None:
    goal_id = fleet.run(*shell("echo shown; exit 4"), check=1).document["goal_id"]
    listed = fleet.run("tasks").document["goals"][0]
    assert listed["goal_id"] == goal_id and listed["state"] == "failed"
    table = fleet.run("tasks", json=False).out.splitlines()
    assert table[0].split() == ["ID", "STATE", "WORKER", "TIME", "WHAT"]
    assert table[1].split()[:2] == [goal_id, "failed"]
    assert table[2].split()[:3] == [f"{goal_id}-1", "failed", "worker-1"]

    shown = fleet.run("show", f"{goal_id}-1").document
    assert set(shown["document"]) == RUN_KEYS
    assert [a["attempt"] for a in shown["attempts"]] == [1]
    text = fleet.run("show", goal_id, json=False).out
    assert text.startswith(f"goal {goal_id} failed\n")
    assert f"✗ {goal_id}-1 attempt 1 on worker-1: failed" in text and "shown" in text


def test_retry(fleet: FleetProcesses) -> None:
    marker = fleet.folder / "marker"
    goal_id = fleet.run(*shell(f"test -e {marker} && echo there"), check=1).document["goal_id"]
    refused = fleet.run("retry", fleet.run(*echo("x")).document["goal_id"], json=False, check=1)
    assert "has succeeded" in refused.err
    again = fleet.run("retry", goal_id, json=False)
    assert again.out.endswith(f"`pibot.pyz show {goal_id} --follow`\n")
    fleet.run("show", goal_id, "--follow", json=False, check=1)
    assert len(fleet.run("show", goal_id).document["document"]["tasks"]) == 2


# --- selftest, chat ---


def test_selftest(fleet: FleetProcesses) -> None:
    done = fleet.run("selftest", json=False)
    assert [line.split(" (")[0] for line in done.out.splitlines()] == [
        "✓ worker-1: echo came back",
        "✓ worker-2: echo came back",
        "- plan: no model is configured: not tried",
    ]
    document = fleet.run("selftest").document
    assert document["ok"] is True
    assert [check["ok"] for check in document["checks"]] == [True, True, None]


def test_chat_reads_a_pipe(fleet: FleetProcesses) -> None:
    done = fleet.run("chat", json=False, stdin="\nwhat time is it\n/status\n/quit\nnever\n")
    first, second, *_ = done.out.splitlines()
    assert first.startswith("It is ") and second == "fleet home: 2 workers (2 idle)"
    assert "never" not in done.out + done.err
    failed = fleet.run("chat", json=False, stdin="build me a house of files\n", check=1)
    assert "no model is configured" in failed.err


def test_chat_on_a_terminal(fleet: FleetProcesses, tmp_path: Path) -> None:
    args = fleet.command("chat")
    with Terminal(args, fleet.env, tmp_path) as terminal:
        terminal.expect("Ctrl-D leaves")
        terminal.expect("> ")
        terminal.insist(CTRL_C, "(Ctrl-D leaves)")
        terminal.send("/help\r")
        terminal.expect("Ctrl-C stops waiting")
        terminal.send("echo hello there\r")
        terminal.expect("hello there\n✓ g")
        terminal.expect("> ")
        terminal.send(CTRL_D)
        assert terminal.finish() == 0


# --- terminals ---


def test_run_on_a_terminal_shows_progress_and_puts_the_cursor_back(
    fleet: FleetProcesses, tmp_path: Path
) -> None:
    args = fleet.command(*shell("echo almost; sleep 0.5; echo done"))
    with Terminal(args, fleet.env, tmp_path) as terminal:
        terminal.expect("worker-1 shell almost")
        terminal.expect("almost\ndone\n✓ g")
        assert terminal.finish() == 0
    assert terminal.seen.rindex("\x1b[?25h") > terminal.seen.rindex("\x1b[?25l")


def test_ctrl_c_on_a_terminal_puts_the_cursor_back(fleet: FleetProcesses, tmp_path: Path) -> None:
    with Terminal(fleet.command(*shell("sleep 60")), fleet.env, tmp_path) as terminal:
        terminal.expect("worker-1 shell")
        terminal.send(CTRL_C)
        terminal.expect("goes on: follow it with")
        assert terminal.finish() == 130
    assert terminal.seen.rindex("\x1b[?25h") > terminal.seen.rindex("\x1b[?25l")
    goal_id = fleet.run("tasks").document["goals"][0]["goal_id"]
    fleet.run("cancel", goal_id)
    fleet.wait_idle(2)


def test_status_fits_a_terminal(fleet: FleetProcesses, tmp_path: Path) -> None:
    with Terminal(fleet.command("skills"), fleet.env, tmp_path) as terminal:
        assert terminal.finish() == 0
    assert max(len(line) for line in terminal.plain.splitlines()) <= 80
    assert "\x1b[1m" in terminal.seen
    with Terminal(fleet.command("skills"), {**fleet.env, "NO_COLOR": "1"}, tmp_path) as terminal:
        assert terminal.finish() == 0
    assert "\x1b" not in terminal.seen


def test_control_characters_never_arrive_raw(fleet: FleetProcesses, tmp_path: Path) -> None:
    for args in (echo(NASTY), ["run", "--on", NASTY, "hello"], ["run", NASTY]):
        for extra in ([], ["--json"]):
            done = fleet.run(*args, *extra, json=False, check=None)
            for character in "\x1b\x07\x9b\u202e":
                assert character not in done.out + done.err, args
    with Terminal(fleet.command(*echo(NASTY)), fleet.env, tmp_path) as terminal:
        assert terminal.finish() == 0
    assert "\x1b[31m" not in terminal.seen and "title" not in terminal.seen


# --- workers that are not there ---


def test_a_fleet_without_workers_says_so(tmp_path: Path) -> None:
    with FleetProcesses(tmp_path) as empty:
        empty.start_master()
        assert "--role worker --worker-id worker-1" in empty.run("status", json=False).out
        assert empty.run("status").document["workers"] == []
        assert "no worker has joined" in empty.run("health", json=False).err
        assert "no skill yet" in empty.run("skills", json=False).out
        assert "no goal yet" in empty.run("tasks", json=False).out
        (check,) = empty.run("selftest", check=1).document["checks"]
        assert (check["name"], check["ok"]) == ("workers", False)


def test_a_dead_worker_is_a_cross(tmp_path: Path) -> None:
    with FleetProcesses(tmp_path) as fleet:
        fleet.start_master()
        fleet.start_worker("worker-1")
        fleet.start_worker("worker-2")
        fleet.wait_idle(2)
        fleet.kill("worker-2")
        fleet.wait_for(lambda: fleet.counts().get("offline") == 1, what="worker-2 is offline")
        health = fleet.run("health", json=False, check=1).out.splitlines()
        assert health[0] == "✓ worker-1 idle"
        assert health[1].startswith("✗ worker-2 offline, last seen ")
        assert fleet.run("health", check=1).document["healthy"] is False
        tested = fleet.run("selftest", json=False, check=1).out.splitlines()
        assert tested[1] == "✗ worker-2: is offline"
        status = fleet.run("status", json=False).out.splitlines()
        assert status[0] == "fleet home: 2 workers (1 idle, 1 offline)"
