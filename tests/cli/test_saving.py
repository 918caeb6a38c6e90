"""`show --save`: files as they were shared, nothing overwritten, nothing outside, resumed."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import signal
import subprocess
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List

import pytest

from fleet_processes import FleetProcesses
from mqtt_proxy import MqttProxy
from pibot import config
from pibot.cli import saving
from pibot.roles.client import Fleet
from swapping import swapping

SKILL = '''
from __future__ import annotations
from pibot.skills import Context, skill

@skill(timeout_s=60)
def make(ctx: Context, paths: list[str], size: int = 5, text: str = "x") -> str:
    """Make files and share them."""
    for path in paths:
        (ctx.workspace / path).parent.mkdir(parents=True, exist_ok=True)
        (ctx.workspace / path).write_text(text * size)
        ctx.share(path)
    return "made"
'''


@pytest.fixture(scope="module")
def makers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FleetProcesses]:
    """Two workers with a skill that makes files."""
    folder = tmp_path_factory.mktemp("makers")
    (folder / "skills").mkdir()
    (folder / "skills" / "make.py").write_text(SKILL)
    with FleetProcesses(folder, env={"PIBOT_SKILLS_DIR": str(folder / "skills")}) as fleet:
        fleet.start_master()
        fleet.start_worker("worker-1")
        fleet.start_worker("worker-2")
        fleet.wait_idle(2)
        yield fleet


def make(fleet: FleetProcesses, *where: str, **args: Any) -> str:
    """Have files made; return the goal's id."""
    done = fleet.run("run", "--skill", "make", "--args", json.dumps(args), *where)
    assert done.document["state"] == "succeeded"
    return str(done.document["goal_id"])


def files_in(folder: Path) -> Dict[str, str]:
    return {str(p.relative_to(folder)): p.read_text() for p in folder.rglob("*") if p.is_file()}


def test_saving_twice(makers: FleetProcesses, tmp_path: Path) -> None:
    goal = make(makers, paths=["a.txt", "deep/er/b c.txt", "ü/门.txt"])
    for _ in range(2):
        done = makers.run("show", goal, "--save", str(tmp_path / "new" / "dir"))
        rows = done.document["files"]
        assert [(r["path"], r["size"], r["error"]) for r in rows] == [
            ("a.txt", 5, None),
            ("deep/er/b c.txt", 5, None),
            ("ü/门.txt", 5, None),
        ]
        assert rows[0]["file"] == str(tmp_path / "new" / "dir" / "a.txt")
    found = files_in(tmp_path / "new" / "dir")
    assert found == dict.fromkeys(["a.txt", "deep/er/b c.txt", "ü/门.txt"], "xxxxx")


def test_for_people(makers: FleetProcesses, tmp_path: Path) -> None:
    done = makers.run("run", "--skill", "make", "--args", '{"paths": ["a", "b"]}', json=False)
    goal = done.err.split()[0]
    line = f"files: a (5 bytes), b (5 bytes); get them with `pibot.pyz show {goal} --save DIR`"
    assert (done.out, done.err.splitlines()[-1]) == ("made\n", line)
    shown = makers.run("show", goal, json=False).out
    assert f"files\n  a (5 bytes)\n  b (5 bytes)\n  pibot.pyz show {goal} --save DIR\n" in shown
    saved = makers.run("show", goal, "--save", "here", json=False)
    assert (saved.out, saved.err) == ("✓ here/a (5 bytes)\n✓ here/b (5 bytes)\n", "")


def test_what_the_master_could_not_keep_is_not_offered(makers: FleetProcesses) -> None:
    kept = makers.folder / "master" / "state" / "master" / "artifacts"
    kept.mkdir(mode=0o700, exist_ok=True)
    kept.rename(kept.with_name("away"))
    kept.touch()
    try:
        done = makers.run("run", "--skill", "make", "--args", '{"paths": ["a"]}', json=False)
    finally:
        kept.unlink()
        kept.with_name("away").rename(kept)
    assert "files: a (the master cannot keep it: " in done.err and "--save" not in done.err


def test_another_file_is_not_replaced(makers: FleetProcesses, tmp_path: Path) -> None:
    goal = make(makers, paths=["a.txt", "b.txt", "c.txt", "d/e.txt"])
    (tmp_path / "b.txt").write_text("mine")
    (tmp_path / "c.txt").symlink_to("nowhere")
    (tmp_path / "d").symlink_to(tmp_path.parent)
    done = makers.run("show", goal, "--save", str(tmp_path), json=False, check=1)
    assert done.out.splitlines() == [
        f"✓ {tmp_path}/a.txt (5 bytes)",
        "✗ b.txt: another file is there already: move it away, or choose another directory",
        "✗ c.txt: is a symbolic link; links are not followed",
        "✗ d/e.txt: is not a directory, or a link is on the way; links are not followed",
    ]
    assert (tmp_path / "b.txt").read_text() == "mine"
    assert not (tmp_path.parent / "e.txt").exists()


def test_two_tasks_with_one_path(makers: FleetProcesses, tmp_path: Path) -> None:
    goal = make(makers, "--all", paths=["a.txt"])
    makers.run("show", goal, "--save", str(tmp_path / "all"))
    assert set(files_in(tmp_path / "all")) == {f"{goal}-1/a.txt", f"{goal}-2/a.txt"}
    makers.run("show", f"{goal}-2", "--save", str(tmp_path / "one"))
    assert set(files_in(tmp_path / "one")) == {"a.txt"}


def test_nothing_to_save(makers: FleetProcesses, tmp_path: Path) -> None:
    goal = makers.run("run", "--skill", "echo", "--args", '{"text": "x"}').document["goal_id"]
    done = makers.run("show", goal, "--save", str(tmp_path / "x"), json=False, check=1)
    assert done.err == (f"pibot: there is nothing to save: no task of {goal} has shared a file\n")
    assert not (tmp_path / "x").exists()


def test_a_directory_that_cannot_be(makers: FleetProcesses, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    goal = make(makers, paths=["a"])
    place = tmp_path / "file" / "below"
    done = makers.run("show", goal, "--save", str(place), json=False, check=1)
    assert done.err.startswith(f"pibot: {place} cannot be made: ")


def test_saving_and_following_at_once_is_refused(makers: FleetProcesses) -> None:
    done = makers.run("show", "g1", "--save", "", json=False, check=2)
    assert "name of a directory" in done.err
    done = makers.run("show", "g1", "--save", "x", "--follow", json=False, check=2)
    assert "do one after the other" in done.err


def test_what_is_no_longer_kept(makers: FleetProcesses, tmp_path: Path) -> None:
    goal = make(makers, paths=["a", "b"], text="gone")
    for found in makers.folder.glob(f"master/state/master/artifacts/{goal}-1/*"):
        found.unlink()
    shown = makers.run("show", goal, json=False).out
    assert "a (no longer kept: newer files needed the room)" in shown
    done = makers.run("show", goal, "--save", str(tmp_path), check=1).document
    assert {f["error"] for f in done["files"]} == {"no longer kept: newer files needed the room"}


def test_a_file_of_the_master_that_is_damaged(makers: FleetProcesses, tmp_path: Path) -> None:
    goal = make(makers, paths=["a"], text="whole")
    (found,) = makers.folder.glob(f"master/state/master/artifacts/{goal}-1/*")
    found.write_text("y" * 25)
    done = makers.run("show", goal, "--save", str(tmp_path), check=1).document
    assert "its SHA-256 differs" in done["files"][0]["error"]
    assert not (tmp_path / "a").exists()
    found.write_text("short")
    done = makers.run("show", goal, "--save", str(tmp_path), check=1).document
    assert "has less of it" in done["files"][0]["error"]


def test_two_at_once_do_not_spoil_each_other(makers: FleetProcesses, tmp_path: Path) -> None:
    goal = make(makers, paths=["a"])
    (sha256,) = [f["sha256"] for f in makers.run("show", goal).document["artifacts"]]
    part = tmp_path / saving.PARTS / sha256
    part.parent.mkdir()
    with part.open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        done = makers.run("show", goal, "--save", str(tmp_path), json=False, check=1)
    assert done.out == "✗ a: another pibot is saving it here at this moment\n"
    makers.run("show", goal, "--save", str(tmp_path))
    assert files_in(tmp_path) == {"a": "xxxxx"}


@pytest.mark.parametrize("has_links", [True, False])
def test_a_file_that_appears_meanwhile_is_not_replaced(
    makers: FleetProcesses, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, has_links: bool
) -> None:
    if not has_links:  # as on a memory stick
        monkeypatch.setattr(os, "link", _no_links)
    goal = make(makers, paths=["a"])
    files = makers.run("show", goal).document["artifacts"]
    settings = config.load("client", {}, makers.env, makers.folder / "none.env", tmp_path)
    with Fleet.connect(settings) as fleet:
        mine = tmp_path / "to" / "a"
        (saved,) = saving.save(fleet, files, mine.parent, lambda *_: _write(mine))
        assert saved.error == "another file has come there meanwhile: move it away"
        assert mine.read_text() == "mine"
        mine.unlink()
        (saved,) = saving.save(fleet, files, mine.parent, lambda *_: None)  # it has come already
        assert saved.error is None and mine.read_text() == "xxxxx"
    assert os.listdir(mine.parent) == ["a"]


def _write(path: Path) -> None:
    path.write_text("mine")


def _no_links(*_: object, **__: object) -> None:
    raise PermissionError(errno.EPERM, "Operation not permitted")


@pytest.mark.parametrize("make_it", [Path.touch, lambda path: path.symlink_to("nowhere")])
def test_what_stands_where_the_parts_go_is_named(
    makers: FleetProcesses, tmp_path: Path, make_it: Callable[[Path], None]
) -> None:
    goal = make(makers, paths=["a"])
    make_it(tmp_path / saving.PARTS)
    done = makers.run("show", goal, "--save", str(tmp_path), json=False, check=1)
    assert done.out.startswith(f"✗ a: {saving.PARTS}: is not a directory")


def test_after_ctrl_c_it_goes_on(makers: FleetProcesses, tmp_path: Path) -> None:
    goal = make(makers, paths=["a"], size=30_000_000)
    spied = tmp_path / "spied"
    topic = ["-p", str(makers.port), "-t", "pibot/1/home/c/+/req"]
    with spied.open("wb") as out:
        spy = subprocess.Popen(["mosquitto_sub", *topic], stdout=out)
    parts = tmp_path / "to" / saving.PARTS
    with MqttProxy(makers.port) as way:
        way.slow(2_000_000)
        env = {"MQTT_PORT": str(way.port)}
        saver = makers.start("show", goal, "--save", str(tmp_path / "to"), env=env)
        part = makers.wait_for(lambda: list(parts.glob("*")) if parts.is_dir() else [])[0]
        makers.wait_for(lambda: part.stat().st_size > 1_000_000, what="1 MB")
        saver.send_signal(signal.SIGINT)
        _, err = saver.communicate(timeout=30)
    assert saver.returncode == 130
    assert err == "pibot: what has come is kept: the same command goes on with it\n"
    there = part.stat().st_size
    assert 1_000_000 < there < 30_000_000
    said = spied.stat().st_size
    makers.run("show", goal, "--save", str(tmp_path / "to"))
    assert (tmp_path / "to" / "a").read_text() == "x" * 30_000_000
    assert os.listdir(tmp_path / "to") == ["a"]
    asked = offsets(makers, spied, said, 30_000_000)
    spy.kill()
    spy.wait()
    assert asked[0] == there


def offsets(fleet: FleetProcesses, spied: Path, start: int, size: int) -> List[int]:
    """What was asked for after `start`, once all of it has been seen."""

    def seen() -> List[int]:
        lines = spied.read_bytes()[start:].decode().splitlines()
        bodies = [json.loads(line)["body"] for line in lines if line.endswith("}}")]
        found = [body["offset"] for body in bodies if body["t"] == "fetch"]
        return found if found and found[-1] > size - 40_001 else []

    return fleet.wait_for(seen)


def connected(fleet: FleetProcesses, folder: Path) -> Fleet:
    return Fleet.connect(config.load("client", {}, fleet.env, fleet.folder / "none.env", folder))


@pytest.fixture(scope="module")
def a_file(makers: FleetProcesses) -> Dict[str, Any]:
    """What the master says of a file that was shared."""
    (file,) = makers.run("show", make(makers, paths=["a"])).document["artifacts"]
    return dict(file)


@pytest.mark.parametrize(
    "lie",
    [
        *({"size": -1}, {"size": 0}, {"size": 4}, {"size": 6}, {"size": 10**15}, {"size": "many"}),
        *({"sha256": "0" * 64}, {"sha256": "A" * 64}, {"sha256": "../" * 20}, {"sha256": ""}),
        *({"path": "b"}, {"path": "../a"}, {"task_id": "g0-1"}),
    ],
    ids=str,
)
def test_a_master_that_lies_saves_nothing(
    makers: FleetProcesses, a_file: Dict[str, Any], tmp_path: Path, lie: Dict[str, Any]
) -> None:
    with connected(makers, tmp_path) as fleet:
        (saved,) = saving.save(fleet, [{**a_file, **lie}], tmp_path / "to", lambda *_: None)
    assert saved.error
    whole = [path for path in (tmp_path / "to").iterdir() if path.name != saving.PARTS]
    assert whole == [] and list(tmp_path.iterdir()) == [tmp_path / "to"]


def test_a_directory_that_turns_into_a_link_is_not_followed(
    makers: FleetProcesses, tmp_path: Path
) -> None:
    """Somebody exchanges a directory on the way and a link, over and over, while files come."""
    names = [f"way/{i}" for i in range(60)]
    goal = make(makers, paths=names)
    files = makers.run("show", goal).document["artifacts"]
    to, outside = tmp_path / "to", tmp_path / "outside"
    (to / "way").mkdir(parents=True)
    outside.mkdir()
    (to / "other").symlink_to(outside)
    with connected(makers, tmp_path) as fleet, swapping(to / "way", to / "other") as swaps:
        done = saving.save(fleet, files, to, lambda *_: None)
    assert swaps[0] > 0 and len(done) == 60
    assert list(outside.iterdir()) == []


def test_a_part_with_a_second_name_is_not_written(makers: FleetProcesses, tmp_path: Path) -> None:
    """In a directory that others can write, the part may be somebody's trap."""
    goal = make(makers, paths=["a"])
    (sha256,) = [f["sha256"] for f in makers.run("show", goal).document["artifacts"]]
    (tmp_path / "mine").write_text("mine")
    (tmp_path / "to" / saving.PARTS).mkdir(parents=True)
    os.link(tmp_path / "mine", tmp_path / "to" / saving.PARTS / sha256)
    done = makers.run("show", goal, "--save", str(tmp_path / "to"), json=False, check=1)
    assert "hard link" in done.out
    assert (tmp_path / "mine").read_text() == "mine"


def test_a_copy_with_a_second_name_counts_as_saved(makers: FleetProcesses, tmp_path: Path) -> None:
    """As backups make them."""
    goal = make(makers, paths=["a"])
    (tmp_path / "backup").write_text("xxxxx")
    (tmp_path / "to").mkdir()
    os.link(tmp_path / "backup", tmp_path / "to" / "a")
    assert makers.run("show", goal, "--save", str(tmp_path / "to")).status == 0
    assert (tmp_path / "to" / "a").samefile(tmp_path / "backup")


@pytest.mark.parametrize(
    "path",
    [
        *("../x", "/etc/x", "a/../../x", "a//b", ".", "", "a\nb", "a\x1b[31mb", "\u202egpj.a"),
        *(f"{saving.PARTS}/x", saving.PARTS, "n" * 300, "a/" * 30 + "a"),
    ],
)
def test_hostile_names_are_refused_before_anything_is_asked(path: str, tmp_path: Path) -> None:
    file = {"task_id": "g1-1", "path": path, "size": 1, "sha256": "0" * 64, "error": None}
    fleet = Fleet(config.load("client", {}, {}, None, tmp_path))  # not connected
    (saved,) = saving.save(fleet, [file], tmp_path / "dir", lambda *_: None)
    assert saved.error is not None and saved.error.startswith("its name is not taken: ")
    assert list((tmp_path / "dir").iterdir()) == []
    assert list(tmp_path.iterdir()) == [tmp_path / "dir"]
