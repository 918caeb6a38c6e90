"""The versions of pushed skills on a worker: old or new, never broken."""

from __future__ import annotations

import base64
import hashlib
import json
import shutil
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any, Dict, List, Sequence

import pytest

from pibot.agent import packing
from pibot.agent.pushed import KEPT, LIST, SHOWN, Pushed
from pibot.messages import SkillFile

SKILL = (
    "from pibot.skills import skill\n@skill()\ndef {name}() -> str:\n    'Do.'\n    return {n}\n"
)
ROOT = Path(__file__).resolve().parents[2]


def text(name: str, n: object = 1) -> bytes:
    return SKILL.format(name=name, n=repr(str(n))).encode()


def message(name: str, data: bytes, form: str = packing.FILE, version: str = "") -> SkillFile:
    version = version or hashlib.sha256(data).hexdigest()
    return SkillFile(name, form, version, base64.b64encode(data).decode())


def back(name: str, data: bytes) -> SkillFile:
    return SkillFile(name, "", hashlib.sha256(data).hexdigest()[:SHOWN], "")


class Bench:
    def __init__(self, folder: Path) -> None:
        self.folder, self._news = folder, threading.Semaphore(0)
        self.pushed = Pushed(folder, self._news.release)

    def take(self, told: SkillFile, reserved: Sequence[str] = ()) -> Dict[str, str]:
        """What the master hears of this name when the push is over."""
        self.pushed.take(told, reserved)
        assert self.ended()
        return self.row(told.name)

    def ended(self) -> bool:
        """Wait for the end of a push."""
        return self._news.acquire(timeout=60)

    def row(self, name: str) -> Dict[str, str]:
        facts: Dict[str, Dict[str, Any]] = self.pushed.facts()
        return dict(facts["pushed"].get(name, {}))

    def says(self, name: str) -> List[str]:
        """What the skills of the version in use return."""
        (path,) = [p for p in self.pushed.sources() if p.stem == name]
        return [one.function() for one in self.pushed.read(path)[0]]

    def versions(self) -> List[str]:
        return sorted(path.name for path in self.folder.glob("*/*"))


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path / "skills")


def test_a_version_comes_and_goes(bench: Bench) -> None:
    one, two = text("lamp", 1), text("lamp", 2)
    assert bench.take(message("lamp", one))["state"] == "loaded"
    row = bench.take(message("lamp", two))
    assert (row["version"], row["n"]) == (hashlib.sha256(two).hexdigest()[:SHOWN], "2")
    assert bench.says("lamp") == ["2"]
    assert bench.take(back("lamp", two))["state"] == "loaded"
    assert bench.says("lamp") == ["1"]
    assert bench.take(back("lamp", one))["state"] == "gone"
    assert bench.pushed.sources() == []


def test_going_back_twice_is_one_step(bench: Bench) -> None:
    """The message may come again, when its answer was lost."""
    for n in range(3):
        bench.take(message("lamp", text("lamp", n)))
    bench.take(back("lamp", text("lamp", 2)))
    bench.take(back("lamp", text("lamp", 2)))
    assert bench.says("lamp") == ["1"]


def test_a_restart_finds_what_was_in_use(bench: Bench) -> None:
    bench.take(message("lamp", text("lamp", 1)))
    bench.take(message("lamp", text("lamp", 2)))
    again = Bench(bench.folder)
    assert again.says("lamp") == ["2"]
    assert again.row("lamp")["state"] == "loaded"


@pytest.mark.parametrize(
    ("told", "why"),
    [
        (message("lamp", b"1 / 0\n"), "ZeroDivisionError: division by zero (line 1)"),
        (message("lamp", b"def x(:\n"), "invalid syntax (line 1)"),
        (message("lamp", b"import os\nos._exit(0)\n"), "without a word"),
        (message("lamp", text("echo")), "echo: another skill has that name"),
        (message("lamp", text("lamp", 2), version="0" * 64), "its SHA-256 differs"),
        (message("lamp", text("lamp", 2), "tar"), "a form that this version does not know"),
        (message("lamp", b"PK", packing.FOLDER), "cannot be unpacked"),
        (message("lamp", b"\xff"), "lamp.py"),
        (SkillFile("lamp", "py", "0" * 64, "no base64"), "base64"),
    ],
)
def test_a_bad_version_leaves_the_old_one(bench: Bench, told: SkillFile, why: str) -> None:
    bench.take(message("lamp", text("lamp", 1)))
    before = bench.versions()
    row = bench.take(told, ["echo"])
    assert row["state"] == "failed"
    assert why.lower() in row["why"].lower()
    assert row["version"] == hashlib.sha256(text("lamp", 1)).hexdigest()[:SHOWN]
    assert (bench.says("lamp"), bench.versions()) == (["1"], before)
    assert bench.take(told, ["echo"])["n"] != row["n"]


def test_one_push_cannot_take_a_name_of_another(bench: Bench) -> None:
    bench.take(message("lamp", text("lamp")))
    row = bench.take(message("torch", text("lamp")))
    assert (row["state"], row["why"]) == (
        "failed",
        "lamp: another skill has that name; rename this one",
    )
    assert bench.take(message("torch", text("torch")))["state"] == "loaded"


def test_a_file_is_loaded_once_whatever_else_is_pushed(bench: Bench, tmp_path: Path) -> None:
    """One that opens a device as it is loaded could not do so a second time."""
    log = tmp_path / "loads"
    noisy = text("lamp") + f"open({str(log)!r}, 'a').write('x')\n".encode()
    bench.take(message("lamp", noisy))
    loads = log.read_text()
    bench.take(message("torch", text("torch")))
    bench.take(message("lamp", noisy))
    for path in bench.pushed.sources():
        bench.pushed.read(path)
    assert log.read_text() == loads == "xx"  # in its trial, and here


def test_what_only_the_worker_cannot_load_is_not_taken(bench: Bench) -> None:
    there = b"import sys\nassert 'pytest' not in sys.modules, 'not here'\n" + text("lamp")
    row = bench.take(message("lamp", there))
    assert (row["state"], row["why"]) == ("failed", "AssertionError: not here (line 2)")
    assert bench.versions() == []


def test_the_last_versions_are_kept_and_no_more(bench: Bench) -> None:
    texts = [text("lamp", n) for n in range(KEPT + 2)]
    for one in texts:
        bench.take(message("lamp", one))
    kept = sorted(hashlib.sha256(one).hexdigest() for one in texts[-KEPT:])
    assert bench.versions() == kept


def test_what_a_power_cut_has_left_goes_with_the_next_push(bench: Bench) -> None:
    for name in ("0" * 64, f"{'1' * 64}.part"):
        (bench.folder / "lamp" / name).mkdir(parents=True)
    bench.take(message("lamp", text("lamp")))
    assert bench.versions() == [hashlib.sha256(text("lamp")).hexdigest()]


@pytest.mark.parametrize("damage", [b"\0" * 20, b"[]", b'{"lamp": 7, "../x": ["a"]}'])
def test_a_damaged_list_leaves_skills_out_and_nothing_else(bench: Bench, damage: bytes) -> None:
    bench.take(message("lamp", text("lamp")))
    (bench.folder / LIST).write_bytes(damage)
    again = Bench(bench.folder)
    assert again.pushed.sources() == []
    assert again.take(message("lamp", text("lamp")))["state"] == "loaded"


def test_a_version_that_has_gone_from_the_disk_is_taken_again(bench: Bench) -> None:
    bench.take(message("lamp", text("lamp")))
    shutil.rmtree(bench.folder / "lamp")
    again = Bench(bench.folder)
    assert again.pushed.sources() == []
    assert again.take(message("lamp", text("lamp")))["state"] == "loaded"
    assert again.says("lamp") == ["1"]


def test_a_disk_that_takes_nothing_is_said(bench: Bench) -> None:
    bench.take(message("lamp", text("lamp", 1)))
    (bench.folder / "torch").write_text("in the way")
    row = bench.take(message("torch", text("torch")))
    assert (row["state"], "it could not be written here" in row["why"]) == ("failed", True)
    assert bench.says("lamp") == ["1"]


def test_the_facts_stay_small(bench: Bench) -> None:
    for n in range(40):
        bench.take(message(f"a{n}", b"x" * 2_000_000))
    assert len(json.dumps(bench.pushed.facts())) < 12_000


KILLED = """
import os, sys, threading
sys.path[:0] = {path!r}
import agent.test_pushed as t
from pathlib import Path
from pibot.agent import pushed
stop = int(sys.argv[2])
count = 0
def traced(frame, event, arg):
    global count
    if frame.f_code.co_filename == pushed.__file__ and event == "line":
        count += 1
        if count == stop:
            os.kill(os.getpid(), 9)
    return traced
bench = t.Bench(Path(sys.argv[1]))
threading.settrace(traced)
print(bench.take(t.message("lamp", t.text("lamp", 2)))["state"], count)
"""


def pushed_and_killed(folder: Path, stop: int) -> "subprocess.CompletedProcess[str]":
    code = KILLED.format(path=[str(ROOT / "src"), str(ROOT / "tests")])
    words = [sys.executable, "-c", code, str(folder), str(stop)]
    return subprocess.run(words, capture_output=True, text=True, timeout=60)


def test_a_kill_at_any_line_leaves_the_old_version_or_the_new_one(
    bench: Bench, tmp_path: Path
) -> None:
    bench.take(message("lamp", text("lamp", 1)))
    shutil.copytree(bench.folder, tmp_path / "whole")
    state, lines = pushed_and_killed(tmp_path / "whole", 0).stdout.split()
    assert state == "loaded"
    found = set()
    for part in (0.1, 0.5, 0.65, 0.75, 0.85, 0.97):
        home = tmp_path / str(part)
        shutil.copytree(bench.folder, home)
        assert pushed_and_killed(home, int(int(lines) * part)).returncode == -9
        again = Bench(home)
        found.add(again.says("lamp")[0])
        again.take(message("torch", text("torch")))
        assert not [name for name in again.versions() if name.endswith(".part")]
    assert found == {"1", "2"}


def test_a_push_that_is_at_work_is_not_begun_again(bench: Bench, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    wait = f"import os, time\nwhile not os.path.exists({str(gate)!r}): time.sleep(0.01)\n"
    slow = message("lamp", wait.encode() + text("lamp"))
    for _ in range(5):
        bench.pushed.take(slow, ())
    gate.touch()
    row = bench.take(message("torch", text("torch")))
    if row == {}:  # the lamp's end came first; now the torch's comes
        assert bench.ended()
    assert (bench.row("lamp")["n"], bench.row("torch")["n"]) == ("1", "2")
