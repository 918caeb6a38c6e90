"""Where skills come from: built-in ones, and the files of a machine's owner."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from pibot.agent import library
from pibot.agent.library import GROUPS, load
from pibot.agent.tools import Context, Toolbox
from pibot.fleet import phrases
from pibot.permits import Permits

# What of the built-in ones this machine has, and why not the others.
ALL, OFF = load(None, Permits())
BUILT_IN = ALL.names
ALWAYS = [
    *("echo", "get_time", "system_status", "list_files", "read_file", "write_file"),
    *("append_file", "search_files", "move_file", "delete_file", "share_file"),
    *("web_fetch", "web_download", "sqlite_query"),
]
GOOD = '''
from __future__ import annotations
from dataclasses import dataclass
from typing import Annotated
from pibot.skills import skill, Context, Output, SkillError
from pibot.skills.core import echo

@dataclass
class Lamp:
    on: bool = False

@skill(phrases=["lamp {colour}"])
def lamp(ctx: Context, colour: Annotated[str, "of the light"]) -> Output:
    """Light the lamp."""
    if colour == "black":
        raise SkillError("a lamp cannot be black")
    return Output({"lamp": repr(Lamp(True))}, f"the lamp is {colour}")
'''


def one_skill(name: str) -> str:
    return f'from pibot.skills import skill\n@skill()\ndef {name}() -> str:\n    "Do."\n'


def test_the_built_in_skills_are_there() -> None:
    assert [name for name in BUILT_IN if name in ALWAYS] == ALWAYS
    assert len(set(BUILT_IN)) == len(BUILT_IN)


def test_they_come_by_groups() -> None:
    groups = [one.group for one in ALL.skills]
    assert list(dict.fromkeys(groups)) == [name for name in GROUPS if name in groups]
    assert groups == sorted(groups, key=list(GROUPS).index)


def test_every_module_of_skills_is_in_a_group() -> None:
    listed = [name for names in GROUPS.values() for name in names]
    there = [
        path.stem
        for path in Path(library.__file__).parents[1].joinpath("skills").glob("[a-z]*.py")
        if "@skill(" in path.read_text("utf-8")
    ]
    assert sorted(listed) == sorted(there)


def test_each_skill_is_offered_or_said_to_be_off() -> None:
    everything = library.reserved(Toolbox([]))
    said = [note.split(" ", 1)[0].rstrip(":") for note in OFF]
    assert sorted([*BUILT_IN, *said]) == sorted(everything)


def test_the_shell_is_off_unless_allowed() -> None:
    assert "shell" not in BUILT_IN
    assert any(note.startswith("shell is off: set PIBOT_ALLOW_SHELL=1") for note in OFF)


def test_a_users_skill_is_offered_and_runs(tmp_path: Path) -> None:
    (tmp_path / "lamp.py").write_text(GOOD)
    toolbox, notes = load(tmp_path, Permits())
    assert (toolbox.names, notes) == ([*BUILT_IN, "lamp"], OFF)
    ctx = Context(tmp_path, threading.Event(), time.monotonic() + 10, "t:1")
    assert toolbox.call("lamp", {"colour": "red"}, ctx).data == {"lamp": "Lamp(on=True)"}
    assert toolbox.call("lamp", {"colour": "black"}, ctx).output == "a lamp cannot be black"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("def broken(:\n", "bad.py was left out: invalid syntax (line 1)"),
        ("import no_such_module\n", "bad.py was left out: ModuleNotFoundError: No module"),
        ("raise SystemExit(1)\n", "bad.py was left out: SystemExit: 1"),
        ("1 / 0\n", "bad.py was left out: ZeroDivisionError: division by zero"),
        ("x = 1\n", "bad.py was left out: it declares no skill"),
        (one_skill("lamp").replace("lamp()", "lamp(a)"), "bad.py was left out: TypeError"),
        ("\0", "bad.py was left out: "),
        (one_skill("echo"), "echo of bad.py was left out: a built-in skill has that name"),
        (one_skill("shell"), "shell of bad.py was left out: a built-in skill has that name"),
    ],
)
def test_a_broken_file_is_reported_in_a_line_and_left_out(
    tmp_path: Path, text: str, said: str
) -> None:
    (tmp_path / "bad.py").write_text(text)
    (tmp_path / "good.py").write_text(one_skill("good"))
    toolbox, notes = load(tmp_path, Permits())
    assert toolbox.names == [*BUILT_IN, "good"]
    (note,) = [one for one in notes if one not in OFF]
    assert note.startswith(said)
    assert "\n" not in note


def test_the_second_file_with_a_name_is_left_out(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text(one_skill("lamp"))
    (tmp_path / "b.py").write_text(one_skill("lamp"))
    _, notes = load(tmp_path, Permits())
    said = "lamp of b.py was left out: a.py has that name; rename the function"
    assert notes == [said, *OFF]


def test_a_skill_says_itself_that_it_cannot_be_had(tmp_path: Path) -> None:
    (tmp_path / "camera.py").write_text(
        one_skill("photo").replace("@skill()", '@skill(available=lambda shell: "photo: no camera")')
        + one_skill("film").replace("@skill()", "@skill(available=lambda shell: 1 / 0)")
    )
    toolbox, notes = load(tmp_path, Permits())
    assert toolbox.names == BUILT_IN
    assert notes == [
        *OFF,
        "photo: no camera",
        "film is off: its check failed: ZeroDivisionError: division by zero",
    ]


def test_other_files_are_not_touched(tmp_path: Path) -> None:
    (tmp_path / "_part.py").write_text("1 / 0")
    (tmp_path / "notes.txt").write_text("1 / 0")
    (tmp_path / "folder.py").mkdir()
    (tmp_path / "test_lamp.py").write_text("1 / 0")
    _, notes = load(tmp_path, Permits())
    assert notes == OFF


def test_a_directory_that_is_not_there_is_said(tmp_path: Path) -> None:
    _, notes = load(tmp_path / "nowhere", Permits())
    assert notes == [
        f"no skills were read from {tmp_path / 'nowhere'}: it is not a directory",
        *OFF,
    ]


def test_every_phrase_is_well_formed_and_fits_its_skill() -> None:
    toolbox, _ = load(None, Permits(shell=True))
    for one in toolbox.announce():
        for phrase in one["phrases"]:
            phrases.check(phrase)


@pytest.mark.parametrize(
    ("sentence", "skill", "args"),
    [
        ("What time is it?", "get_time", {}),
        ("time", "get_time", {}),
        ("what's the current time", "get_time", {}),
        ("现在几点了？", "get_time", {}),
        ("今天星期几", "get_time", {}),
        ("system status", "system_status", {}),
        ("show me the status please", "system_status", {}),
        ("系统状态怎么样", "system_status", {}),
        ("disk", "system_status", {"part": "disk"}),
        ("disk usage", "system_status", {"part": "disk"}),
        ("how much disk space is left?", "system_status", {"part": "disk"}),
        ("磁盘空间", "system_status", {"part": "disk"}),
        ("查看硬盘使用率", "system_status", {"part": "disk"}),
        ("磁盘还剩多少空间", "system_status", {"part": "disk"}),
        ("free memory", "system_status", {"part": "memory"}),
        ("内存还剩多少", "system_status", {"part": "memory"}),
        ("what is the CPU temperature", "system_status", {"part": "temperature"}),
        ("cpu温度是多少", "system_status", {"part": "temperature"}),
        ("load average", "system_status", {"part": "load"}),
        ("负载", "system_status", {"part": "load"}),
        ("uptime", "system_status", {"part": "uptime"}),
        ("运行时间", "system_status", {"part": "uptime"}),
        ("已经运行多久了", "system_status", {"part": "uptime"}),
        ("what is your ip address", "system_status", {"part": "network"}),
        ("IP地址", "system_status", {"part": "network"}),
        ("is anything throttled?", "system_status", {"part": "throttling"}),
        ("failed services", "system_status", {"part": "services"}),
        ("echo Hello World", "echo", {"text": "Hello World"}),
        ("list the files in docs", "list_files", {"path": "docs"}),
        ("列出文件", "list_files", {}),
        ("read file notes.txt", "read_file", {"path": "notes.txt"}),
        ("move file a.txt to b.txt", "move_file", {"source": "a.txt", "target": "b.txt"}),
        ("shell ls -l | wc", "shell", {"command": "ls -l | wc"}),
        ("$ uname -a", "shell", {"command": "uname -a"}),
        ("执行命令：ls", "shell", {"command": "ls"}),
        ("run a marathon", None, {}),
        ("tell me a story about disk space", None, {}),
        ("how long is the river", None, {}),
        ("shell", None, {}),
    ],
)
def test_natural_sentences_find_their_skill(sentence: str, skill: str, args: object) -> None:
    toolbox, _ = load(None, Permits(shell=True))
    found = phrases.match(sentence, toolbox.announce(), [])
    assert (found.skill, found.args) == (skill, args) if found else skill is None


def test_loading_is_light() -> None:
    code = (
        "import sys; from pibot.agent.library import load\n"
        "from pibot.permits import Permits; load(None, Permits())\n"
        "heavy = 'openai pydantic rich asyncio subprocess ssl http http.client "
        "urllib.request email'.split()\n"
        "print(*(name for name in heavy if name in sys.modules))"
    )
    loaded = subprocess.run(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        check=True,
        env={"PYTHONPATH": "src"},
        cwd=Path(__file__).parents[2],
    )
    assert loaded.stdout.decode().split() == []
