"""What root does with a new program: real files, and a stand-in for systemctl on PATH."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any, Callable, Dict

import pytest

from pibot import manifest
from pibot.deploy.program import Places, place_and_restart
from pibot.errors import PibotError
from pibot.manifest import Manifest

KEY = "0f" * 32
OLD, NEW = b"the old program\n" * 99, b"the new program\n" * 100
SHA = hashlib.sha256(NEW).hexdigest()
BUILD = "cd" * 32
WANTED = Manifest("worker-1", SHA, len(NEW), "1.1.0", BUILD, 4, 1)
# Starts nothing, but tells what runs, and may say for the program that it is healthy.
SYSTEMCTL = """\
#!/bin/sh
echo "$1 $(head -c 7 {root}/opt/pibot/pibot.pyz)" >> {root}/calls
case "$1" in
  start) if [ -f {root}/works ]; then cp {root}/works {folder}/healthy; fi ;;
  show) cat {root}/restarts ;;
esac
"""


class Machine:
    def __init__(self, root: Path) -> None:
        self.root, self.places = root, Places(root)
        p = self.places
        for folder in (p.program.parent, p.settings.parent, p.folder, root / "bin"):
            folder.mkdir(parents=True)
        p.program.write_bytes(OLD)
        os.link(p.program, p.proven)
        p.key.write_text(KEY + "\n")
        p.settings.write_text("WORKER_ID=worker-1\n")
        (root / "restarts").write_text("0\n")
        (root / "works").write_text(BUILD)
        (root / "bin" / "systemctl").write_text(SYSTEMCTL.format(root=root, folder=p.folder))
        (root / "bin" / "systemctl").chmod(0o755)

    def want(self, wanted: Manifest = WANTED, key: str = KEY, program: bytes = NEW) -> None:
        """What the worker leaves for root."""
        text, folder = wanted.text(), self.places.folder
        signed = {"manifest": text, "mac": manifest.mac(key, text)}
        (folder / wanted.sha256).write_bytes(program)
        (folder / "manifest.json").write_text(json.dumps(signed))
        (folder / "wanted").touch()

    def run(self) -> str:
        """What pibot-update.service does; what it says when it fails."""
        try:
            place_and_restart(self.root)
        except PibotError as error:
            return str(error)
        return ""

    @property
    def outcome(self) -> Dict[str, Any]:
        path = self.places.folder / "outcome.json"
        return dict(json.loads(path.read_text())) if path.exists() else {}

    @property
    def calls(self) -> str:
        path = self.root / "calls"
        return path.read_text() if path.exists() else ""

    def runs(self, program: bytes) -> bool:
        """Whether it is what is started, under both names, and nothing is under way."""
        p = self.places
        left = [path.name for path in p.program.parent.iterdir()]
        assert sorted(left) == ["pibot.pyz", "proven.pyz"] and not p.attempt.exists()
        return p.program.read_bytes() == program and p.program.samefile(p.proven)


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    made = Machine(tmp_path / "machine")
    monkeypatch.setenv("PATH", f"{made.root / 'bin'}:{os.environ['PATH']}")
    return made


def test_a_good_program_stays(machine: Machine) -> None:
    machine.want()
    assert machine.run() == ""
    assert machine.runs(NEW) and machine.places.program.stat().st_mode & 0o777 == 0o755
    assert machine.outcome == {"serial": 4, "state": "done", "why": "", "last": 4}
    assert machine.calls.split("\n")[0] == "stop the new"
    assert machine.run() == "" and machine.run() == ""  # nothing is wanted any more
    machine.want()  # the same again: a mark that was made twice
    assert machine.run() == "" and machine.outcome["state"] == "done"


def test_one_that_is_not_healthy_in_time_goes(machine: Machine) -> None:
    (machine.root / "works").write_text("another build" * 4)
    machine.want()
    assert "did not reach the master within 1 s" in machine.run()
    assert machine.runs(OLD) and machine.calls.rstrip().endswith("restart the old")
    assert machine.outcome["state"] == "rolled_back"
    machine.want()
    machine.run()
    assert machine.outcome["state"] == "rolled_back" and machine.runs(OLD)  # a number counts once
    (machine.root / "works").write_text(BUILD)
    machine.want(replace(WANTED, serial=5))
    assert machine.run() == "" and machine.runs(NEW)


def test_one_that_ends_again_and_again_is_not_waited_for(machine: Machine) -> None:
    (machine.root / "works").unlink()
    script = machine.root / "bin" / "systemctl"
    counts = f"n=$(cat {machine.root}/restarts); echo $((n + 1)) > {machine.root}/restarts\n"
    script.write_text(script.read_text() + counts)
    machine.want(replace(WANTED, patience_s=900))
    assert "ended 3 times" in machine.run()
    assert machine.runs(OLD) and machine.outcome["state"] == "rolled_back"


def _forge(machine: Machine, **fields: Any) -> None:
    machine.want()
    path = machine.places.folder / "manifest.json"
    signed = json.loads(path.read_text())
    changed = {**json.loads(signed["manifest"]), **fields}
    path.write_text(json.dumps({**signed, "manifest": json.dumps(changed)}))


def _symlink(machine: Machine) -> None:
    machine.want()
    machine.root.joinpath("elsewhere").write_bytes(NEW)
    path = machine.places.folder / SHA
    path.unlink()
    path.symlink_to(machine.root / "elsewhere")


def _fifo(machine: Machine) -> None:
    machine.want()
    (machine.places.folder / SHA).unlink()
    os.mkfifo(machine.places.folder / SHA)


REFUSED: Dict[str, Callable[[Machine], object]] = {
    "not signed with the update key": lambda m: m.want(key="1e" * 32),
    "is not signed": lambda m: _forge(m, serial=99),
    "for worker-2, which is not this": lambda m: m.want(replace(WANTED, worker="worker-2")),
    "has number 3, and 4": lambda m: m.want(replace(WANTED, serial=3)),
    "not the one that the manifest names": lambda m: m.want(program=NEW[:-1]),
    "not the one that the manifest": lambda m: m.want(program=NEW + b"\n"),
    "not the one that": lambda m: m.want(program=NEW[:-1] + b"x"),
    "Too many levels|not taken": _symlink,
    "no file of the service": _fifo,
    "No such file": lambda m: (m.want(), (m.places.folder / SHA).unlink()),
    "master of this machine": lambda m: (m.want(), m.places.master.write_text("")),
    "has no update key": lambda m: (m.want(), m.places.key.unlink()),
}


@pytest.mark.parametrize("words", REFUSED)
def test_what_is_refused_changes_nothing(machine: Machine, words: str) -> None:
    machine.places.record.parent.mkdir(parents=True)
    machine.places.record.write_text('{"serial": 4, "state": "done"}')
    wanted = REFUSED[words]
    if "number 3" not in words:
        machine.places.record.write_text('{"serial": 3, "state": "done"}')
    wanted(machine)
    said = machine.run()
    assert any(word in said for word in words.split("|")), said
    assert machine.runs(OLD) and machine.calls == ""
    assert machine.outcome["state"] == "refused" and machine.outcome["why"] in said
    assert machine.run() == ""  # it was looked at once


@pytest.mark.parametrize("text", [b"", b"{", b"x" * 9_000, b'{"manifest":"{}","mac":""}'])
def test_what_is_no_manifest_is_refused(machine: Machine, text: bytes) -> None:
    machine.want()
    (machine.places.folder / "manifest.json").write_bytes(text)
    assert machine.run() != "" and machine.runs(OLD) and machine.run() == ""


def test_a_link_in_place_of_the_directory_is_not_followed(machine: Machine) -> None:
    machine.want()
    real = machine.root / "real"
    machine.places.folder.rename(real)
    machine.places.folder.symlink_to(real)
    assert machine.run() != "" and machine.runs(OLD) and (real / "wanted").exists()


# --- whatever ended it, it goes on ------------------------------------------------------------


def _attempt(machine: Machine, **fields: Any) -> None:
    machine.places.attempt.parent.mkdir(parents=True)
    text = json.dumps({"manifest": WANTED.text(), "state": "trying", "why": "", **fields})
    machine.places.attempt.write_text(text)


def _put_in_place(machine: Machine) -> None:
    machine.places.program.unlink()
    machine.places.program.write_bytes(NEW)
    machine.places.program.chmod(0o755)


@pytest.mark.parametrize("works", [True, False])
@pytest.mark.parametrize("swapped", [True, False])
def test_an_attempt_that_was_interrupted(machine: Machine, works: bool, swapped: bool) -> None:
    _attempt(machine)
    if swapped:
        _put_in_place(machine)
    else:
        machine.places.fresh.write_bytes(NEW)
    if not works:
        (machine.root / "works").unlink()
    assert (machine.run() == "") == works
    assert machine.runs(NEW if works else OLD)
    assert machine.outcome["state"] == ("done" if works else "rolled_back")


def test_one_that_was_healthy_already_is_not_started_again(machine: Machine) -> None:
    _attempt(machine)
    _put_in_place(machine)
    (machine.places.folder / "healthy").write_text(BUILD)
    assert machine.run() == "" and machine.runs(NEW) and machine.calls == ""


@pytest.mark.parametrize("returned", [True, False])
def test_a_verdict_stands(machine: Machine, returned: bool) -> None:
    _attempt(machine, state="rolled_back", why="it smells")
    if not returned:
        _put_in_place(machine)
    assert "it smells" in machine.run()
    assert machine.runs(OLD) and "restart the old" in machine.calls
    assert machine.outcome == {"serial": 4, "state": "rolled_back", "why": "it smells", "last": 4}


def test_what_a_copy_that_was_cut_short_left_is_no_program(machine: Machine) -> None:
    machine.places.fresh.write_bytes(NEW[:10])
    machine.want()
    assert machine.run() == "" and machine.runs(NEW)


def test_a_service_that_takes_its_directory_away_cannot_keep_it(machine: Machine) -> None:
    _attempt(machine)
    _put_in_place(machine)
    (machine.root / "works").unlink()
    machine.places.folder.rename(machine.root / "gone")
    assert "did not reach" in machine.run() and machine.runs(OLD)


def test_a_systemctl_that_fails_says_nothing_about_the_program(machine: Machine) -> None:
    script = machine.root / "bin" / "systemctl"
    mark = machine.root / "failed"
    once = f'[ "$1" = stop ] && [ ! -f {mark} ] && touch {mark} && exit 1'
    lines = script.read_text().split("\n")
    script.write_text("\n".join([lines[0], once, *lines[1:]]))
    machine.want()
    assert machine.run() == "" and machine.runs(NEW) and mark.exists()
