"""`skills new|check|push|back`: what is written, what is said, how it ends."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any, Dict

import pytest

from fleet_processes import FleetProcesses, command, environment, program, wait_for

ESCAPES = "\x1b]0;pwned\x07\x1b[31m"


def ran(folder: Path, *args: str, check: int = 0) -> "subprocess.CompletedProcess[str]":
    done = subprocess.run(
        command("skills", *args),
        cwd=folder,
        env=environment(MQTT_HOST="127.0.0.1", MQTT_PORT="1"),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        encoding="utf-8",
        timeout=60,
    )
    assert done.returncode == check, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return done


def document(folder: Path, *args: str, check: int = 0) -> Dict[str, Any]:
    return dict(json.loads(ran(folder, *args, "--json", check=check).stdout))


def test_a_new_skill_passes_its_own_check(tmp_path: Path) -> None:
    assert document(tmp_path, "new", "garden_lamp")["files"] == [
        "garden_lamp.py",
        "test_garden_lamp.py",
    ]
    found = document(tmp_path, "check", "garden_lamp.py")
    assert (found["fit"], found["tests"], found["problems"]) == (True, 2, [])
    said = ran(tmp_path, "check", "garden_lamp.py").stdout
    assert "✓ garden_lamp: " in said and "    of: string" in said and "2 tests passed" in said


def test_the_program_may_be_named_from_where_one_is(tmp_path: Path) -> None:
    ran(tmp_path, "new", "garden_lamp")
    words = [sys.executable, os.path.relpath(program(), tmp_path), "skills", "check"]
    done = subprocess.run(
        [*words, "garden_lamp.py"], cwd=tmp_path, env=environment(), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("../lamp", "is no name of a skill"),
        ("Lamp", "is no name of a skill"),
        ("test_lamp", "is no name of a skill"),
        (f"a{ESCAPES}", "is no name of a skill"),
        ("echo", "is a built-in skill"),
        ("gpio_write", "is a built-in skill"),
        ("class", "means something to Python"),
        ("json", "means something to Python"),
    ],
)
def test_a_name_that_cannot_be_used_is_refused(tmp_path: Path, name: str, why: str) -> None:
    done = ran(tmp_path, "new", name, check=2)
    assert why in done.stderr and "\x1b" not in done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("there", ["lamp.py", "test_lamp.py"])
def test_nothing_is_replaced(tmp_path: Path, there: str) -> None:
    (tmp_path / there).write_text("mine")
    assert "is there already" in ran(tmp_path, "new", "lamp", check=2).stderr
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [(there, "mine")]


def test_what_is_wrong_is_said_with_its_place(tmp_path: Path) -> None:
    (tmp_path / "lamp.py").write_text("\n\ndef x(:\n")
    done = ran(tmp_path, "check", "lamp.py", check=1)
    assert done.stdout == "✗ lamp.py: invalid syntax (line 3)\n"
    assert document(tmp_path, "check", "lamp.py", check=1)["fit"] is False


def test_what_a_file_says_cannot_command_a_terminal(tmp_path: Path) -> None:
    (tmp_path / "lamp.py").write_text(f"raise ValueError({ESCAPES!r})\n")
    assert "\x1b" not in ran(tmp_path, "check", "lamp.py", check=1).stdout
    (tmp_path / "lamp.py").write_text(
        f"from pibot.skills import skill\n@skill()\ndef lamp() -> str:\n    {ESCAPES!r}\n"
    )
    done = ran(tmp_path, "check", "lamp.py")
    assert "\x1b" not in done.stdout and "\x07" not in done.stdout


@pytest.mark.parametrize(
    ("args", "why"),
    [
        (["new"], "needs a name"),
        (["check"], "needs a name"),
        (["push"], "needs a name"),
        (["list", "lamp"], "takes nothing more"),
        (["check", "lamp.py", "--on", "w"], "without --on"),
        (["new", "lamp", "--all"], "go with push and back only"),
        (["push", "lamp.py", "--on", "w", "--all"], "exclude each other"),
        (["check", "nowhere.py"], "cannot be read: no such file"),
        (["push", "nowhere.py"], "cannot be read: no such file"),
        (["back", "../lamp"], "is no name of a skill"),
    ],
)
def test_a_wrong_use_is_said(tmp_path: Path, args: "list[str]", why: str) -> None:
    assert why in ran(tmp_path, *args, check=2).stderr


def test_what_is_not_fit_is_not_sent(tmp_path: Path) -> None:
    """Said before anybody is connected to: there is no broker here."""
    (tmp_path / "lamp.py").write_text("import os\nos._exit(0)\n")
    assert "lamp.py is not fit: " in ran(tmp_path, "push", "lamp.py", check=2).stderr


def test_ctrl_c_leaves_nothing_behind(tmp_path: Path) -> None:
    (tmp_path / "lamp.py").write_text("import time\nopen({!r}, 'w')\ntime.sleep(600)\n".format(
        str(tmp_path / "begun")))  # fmt: skip
    child = subprocess.Popen(
        command("skills", "push", "lamp.py"), cwd=tmp_path, env=environment(),
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    try:
        wait_for((tmp_path / "begun").exists, what="the skill is tried")
        child.send_signal(signal.SIGINT)
        said, _ = child.communicate(timeout=20)
    finally:
        child.kill()
    assert (child.returncode, b"Traceback" in said) == (130, False)
    assert str(tmp_path).encode() not in _commands()


def _commands() -> bytes:
    """The command lines of all processes that run Python with -I."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            found.append(path.read_bytes())
        except OSError:
            pass
    return b"\n".join(one for one in found if b"pibot.agent" in one)


# --- with a fleet -------------------------------------------------------------------------------


def test_whom_it_is_for_has_to_be_said(fleet: FleetProcesses, tmp_path: Path) -> None:
    assert "skills new" not in fleet.run("skills", json=False).err
    skill = "from pibot.skills import skill\n@skill()\ndef torch() -> str:\n    'Do.'\n"
    path = tmp_path / "torch.py"
    path.write_text(skill)
    said = fleet.run("skills", "push", str(path), json=False, check=2).err
    assert "say to which workers: --on WORKER, --tag TAG or --all" in said
    said = fleet.run("skills", "push", str(path), "--on", "nobody", json=False, check=2).err
    assert "no worker is called 'nobody': known are worker-1, worker-2" in said
    said = fleet.run("skills", "push", str(path), "--tag", "none", json=False, check=2).err
    assert "there is no such worker" in said
    rows = fleet.run("skills", "back", "torch", "--all", check=1).document["workers"]
    assert [row["done"] for row in rows] == [False, False]
    assert all("no skill torch was pushed to it" in row["why"] for row in rows)


def test_a_skill_that_is_taken_already_is_refused_by_the_worker(
    fleet: FleetProcesses, tmp_path: Path
) -> None:
    """What only the worker knows comes back as its row, each time that it is tried."""
    text = "from pibot.skills import skill\n@skill()\ndef torch() -> str:\n    'Do.'\n"
    for name in ("torch", "light"):
        (tmp_path / f"{name}.py").write_text(text)
    fleet.run("skills", "push", str(tmp_path / "torch.py"), "--tag", "camera")
    for _ in range(2):
        done = fleet.run("skills", "push", str(tmp_path / "light.py"), "--on", "worker-1", check=1)
        (row,) = done.document["workers"]
        assert row["why"] == "torch: another skill has that name; rename this one"
    fleet.run("skills", "back", "torch", "--on", "worker-1")
