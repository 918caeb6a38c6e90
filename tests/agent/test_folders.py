"""Folders with a SKILL.md: their front matter, what is read of them, what is run."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path
from typing import Any, Dict

import pytest

from pibot.agent import folders, library
from pibot.agent.tools import Context, Result, Toolbox
from pibot.permits import Permits
from pibot.skills import _sandbox

NOTHING = Permits()


def made(folder: Path, text: str = "") -> Path:
    tea = folder / "green-tea"
    (tea / "scripts").mkdir(parents=True)
    said = "---\nname: green-tea\ndescription: Make green tea. Use it at five.\n---\nBoil water.\n"
    (tea / "SKILL.md").write_text(text or said)
    return tea


def call(folder: Path, workspace: Path, permits: Permits = NOTHING, **args: Any) -> Result:
    box, notes = library.load(folder, permits)
    assert "green_tea" in box.names, notes
    ctx = Context(workspace, threading.Event(), time.monotonic() + 60, "t:1", permits)
    return Toolbox(box.skills).call("green_tea", args, ctx)


@pytest.mark.parametrize(
    ("said", "fields"),
    [
        ("name: tea\ndescription: Make tea.", {"name": "tea", "description": "Make tea."}),
        ("name: \"tea\"\ndescription: 'It: hot'", {"name": "tea", "description": "It: hot"}),
        ("a: >\n  one\n  two\n\n  three", {"a": "one two three"}),
        ("a: |-\n  one\n  two", {"a": "one two"}),
        ("a: one\n  two", {"a": "one two"}),
        ("# words\n\nb: 1", {"b": "1"}),
        (
            "metadata:\n  author: x\n  version: 1\nb: 2",
            {"metadata": "author: x version: 1", "b": "2"},
        ),
        ("allowed-tools: a b", {"allowed-tools": "a b"}),
        ("url: http://x/y: z", {"url": "http://x/y: z"}),
        ("", {}),
    ],
)
def test_front_matter(said: str, fields: Dict[str, str]) -> None:
    assert folders.front_matter(f"---\n{said}\n---\nbody\n---\n") == fields
    assert folders.front_matter(f"---\n{said}\n---".replace("\n", "\r\n")) == fields


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "must begin with front matter"),
        ("name: x\n---\n", "must begin with front matter"),
        ("---\nname: x\n", "must begin with front matter"),
        ("---\nname x\n---\n", "line 2: is not `key: value`"),
        ("---\n- a\n---\n", "line 2: is not `key: value`"),
        ("---\n  name: x\n---\n", "line 2: is not `key: value`"),
        ("---\nname: other\ndescription: d\n---\n", "is not the folder's name"),
        ("---\nname: Green\ndescription: d\n---\n", "must be 1-64 of a-z, 0-9 and -"),
        ("---\nname: green-tea\n---\n", "description must have 1 to 1024 characters"),
        (f"---\nname: green-tea\ndescription: {'x' * 1025}\n---\n", "description must have"),
        ("x" * 70_000, "has more than 65,536 bytes"),
    ],
)
def test_what_is_wrong_is_said_and_the_rest_is_offered(tmp_path: Path, text: str, why: str) -> None:
    tea = made(tmp_path)
    (tea / "SKILL.md").write_text(text)
    box, notes = library.load(tmp_path, Permits())
    assert "green_tea" not in box.names
    (note,) = [one for one in notes if one.startswith("green-tea was left out: SKILL.md")]
    assert why in note


def test_it_is_read_step_by_step(tmp_path: Path) -> None:
    (made(tmp_path / "skills") / "more.md").write_text("80 °C", encoding="utf-8")
    done = call(tmp_path / "skills", tmp_path)
    assert done.success
    assert done.data["files"] == ["SKILL.md", "more.md"]
    assert "Boil water." in done.output and "more.md" in done.output
    assert call(tmp_path / "skills", tmp_path, file="more.md").data["text"] == "80 °C"


@pytest.mark.parametrize("file", ["../secret", "/etc/passwd", "missing.md", "scripts", ""])
def test_only_its_own_files_are_read(tmp_path: Path, file: str) -> None:
    made(tmp_path / "skills")
    (tmp_path / "skills" / "secret").write_text("canary")
    done = call(tmp_path / "skills", tmp_path, file=file)
    assert not done.success
    assert "canary" not in done.output


def test_a_bom_and_a_binary_file(tmp_path: Path) -> None:
    tea = made(tmp_path / "skills", "\ufeff---\nname: green-tea\ndescription: d\n---\n")
    (tea / "x.bin").write_bytes(b"\xff\xfe\x00")
    assert "not UTF-8" in call(tmp_path / "skills", tmp_path, file="x.bin").output


def test_a_folder_and_a_function_of_one_name(tmp_path: Path) -> None:
    made(tmp_path)
    (tmp_path / "a.py").write_text(
        "from pibot.skills import skill\n@skill()\ndef green_tea() -> str:\n    'Do.'\n"
    )
    _, notes = library.load(tmp_path, Permits())
    said = "green_tea of green-tea was left out: a.py has that name; rename the folder"
    assert said in notes


def test_links_and_pipes_in_it_are_refused(tmp_path: Path) -> None:
    tea = made(tmp_path)
    os.mkfifo(tea / "pipe")
    _, notes = library.load(tmp_path, Permits())
    said = "green-tea was left out: pipe: is not an ordinary file; links are not followed"
    assert said in notes


@pytest.mark.parametrize(
    "file", ["SKILL.md", "scripts", "../green-tea/scripts/hot.sh", "scripts/no"]
)
def test_only_scripts_are_run(tmp_path: Path, file: str) -> None:
    made(tmp_path / "skills")
    assert not call(tmp_path / "skills", tmp_path, action="run", file=file).success


@pytest.mark.skipif(_sandbox.problem() is not None, reason="there is no sandbox here")
def test_a_script_runs_in_the_sandbox(tmp_path: Path) -> None:
    script = "import os, sys\nprint('hot', sys.argv[1])\nprint(os.listdir('/ws'))\n"
    tea = made(tmp_path / "skills")
    (tea / "scripts" / "hot.py").write_text(script)
    workspace = tmp_path / "workspace"
    workspace.mkdir()
    (workspace / "cup").touch()
    for path in (tmp_path, tmp_path / "skills", tea, tea / "scripts", workspace):
        path.chmod(0o755)
    permits = Permits(shell=True)
    args = {"action": "run", "file": "scripts/hot.py", "args": ["milk"]}
    done = call(tmp_path / "skills", workspace, permits, **args)
    assert done.success, done.output
    assert "hot milk" in done.output and "['cup']" in done.output
