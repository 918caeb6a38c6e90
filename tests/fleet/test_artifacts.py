"""Shared files on the master's disk: whole or not at all, within bounds, under names of its own."""

from __future__ import annotations

import hashlib
import os
import stat
from pathlib import Path

import pytest

from pibot.errors import StoreError
from pibot.fleet.artifacts import Artifacts
from small_disk import small_disk


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def put(shelf: Artifacts, task: str, data: bytes) -> str:
    name = digest(data)
    shelf.prepare(task, {name: len(data)})
    assert shelf.begin(task, name, len(data)) == 0
    shelf.append(task, data)
    assert shelf.finish(task)
    return name


@pytest.fixture
def shelf(tmp_path: Path) -> Artifacts:
    return Artifacts(tmp_path / "artifacts")


def test_a_file_is_there_once_it_is_whole(shelf: Artifacts, tmp_path: Path) -> None:
    data = os.urandom(100_000)
    name = digest(data)
    shelf.prepare("g1-1", {name: len(data)})
    assert shelf.begin("g1-1", name, len(data)) == 0
    shelf.append("g1-1", data[:60_000])
    assert not shelf.has("g1-1", name)
    shelf.append("g1-1", data[60_000:])
    assert shelf.finish("g1-1") and shelf.has("g1-1", name)
    assert shelf.read("g1-1", name, 99_990, 40_000) == data[99_990:]
    assert shelf.read("g1-1", name, 100_000, 10) == shelf.read("g1-1", name, 10**15, 10) == b""
    folder = tmp_path / "artifacts" / "g1-1"
    assert [p.name for p in folder.iterdir()] == [name]
    modes = [stat.S_IMODE(p.stat().st_mode) for p in (folder.parent, folder, folder / name)]
    assert modes == [0o700, 0o700, 0o600]


def test_another_start_goes_on_with_a_part(tmp_path: Path) -> None:
    data = os.urandom(50_000)
    name = digest(data)
    first = Artifacts(tmp_path)
    first.prepare("g1-1", {name: len(data)})
    first.begin("g1-1", name, len(data))
    first.append("g1-1", data[:20_000])  # and then it is killed
    second = Artifacts(tmp_path)
    second.prepare("g1-1", {name: len(data)})
    assert second.begin("g1-1", name, len(data)) == 20_000
    assert second.begin("g1-1", name, len(data)) == 20_000
    second.append("g1-1", data[20_000:])
    assert second.finish("g1-1") and second.read("g1-1", name, 0, 99_999) == data


def test_what_is_not_what_it_should_be_is_not_kept(shelf: Artifacts) -> None:
    right = b"right"
    name = digest(right)
    shelf.prepare("g1-1", {name: 5})
    shelf.begin("g1-1", name, 5)
    shelf.append("g1-1", b"wrong")
    assert not shelf.finish("g1-1") and not shelf.has("g1-1", name)
    assert shelf.begin("g1-1", name, 5) == 0
    shelf.append("g1-1", right)
    assert shelf.finish("g1-1")


def test_a_part_that_is_too_long_begins_anew(tmp_path: Path) -> None:
    shelf, name = Artifacts(tmp_path), digest(b"abc")
    shelf.prepare("g1-1", {name: 3})
    (tmp_path / "g1-1" / f"{name}.part").write_bytes(b"abcd")
    assert shelf.begin("g1-1", name, 3) == 0


def test_what_an_earlier_attempt_left_goes(shelf: Artifacts, tmp_path: Path) -> None:
    old, data = put(shelf, "g1-1", b"old"), b"new"
    kept = put(shelf, "g2-1", b"other")
    shelf.prepare("g1-1", {digest(data): 3})
    assert not shelf.has("g1-1", old) and shelf.has("g2-1", kept)
    assert list((tmp_path / "artifacts" / "g1-1").iterdir()) == []


def test_beyond_the_limit_the_oldest_go(tmp_path: Path) -> None:
    shelf = Artifacts(tmp_path, limit_bytes=25_000)
    names = {task: put(shelf, task, os.urandom(10_000)) for task in ("g1-1", "g2-1", "g3-1")}
    assert [shelf.has(t, n) for t, n in names.items()] == [False, True, True]
    with pytest.raises(StoreError, match="this file is no longer kept"):
        shelf.read("g1-1", names["g1-1"], 0, 10)
    os.utime(tmp_path / "g2-1", (9e9, 9e9))  # the clock was wrong, or is: the order counts
    again = Artifacts(tmp_path, limit_bytes=25_000)
    put(again, "g4-1", os.urandom(10_000))
    assert (again.has("g2-1", names["g2-1"]), again.has("g3-1", names["g3-1"])) == (True, False)


def test_a_file_on_its_way_is_not_removed_for_another(tmp_path: Path) -> None:
    shelf, data = Artifacts(tmp_path, limit_bytes=25_000), os.urandom(10_000)
    shelf.prepare("g1-1", {digest(data): len(data)})
    shelf.begin("g1-1", digest(data), len(data))
    shelf.append("g1-1", data)
    with pytest.raises(StoreError, match="no room"):
        shelf.prepare("g2-1", {digest(b""): 20_000})
    assert shelf.finish("g1-1") and shelf.has("g1-1", digest(data))


def test_removing(shelf: Artifacts, tmp_path: Path) -> None:
    shelf.remove(["g1-1"])
    name = put(shelf, "g1-1", b"x")
    shelf.remove(["g7-1", "g1-1", "g1-1"])
    assert not shelf.has("g1-1", name) and list((tmp_path / "artifacts").iterdir()) == []


def test_another_start_removes_what_the_first_has_stored(tmp_path: Path) -> None:
    put(Artifacts(tmp_path), "g1-1", b"x")
    Artifacts(tmp_path).remove(["g1-1"])
    assert list(tmp_path.iterdir()) == []


def test_a_link_is_not_followed(shelf: Artifacts, tmp_path: Path) -> None:
    name = digest(b"x")
    shelf.prepare("g1-1", {name: 1})
    victim = tmp_path / "victim"
    victim.write_text("precious")
    (tmp_path / "artifacts" / "g1-1" / f"{name}.part").symlink_to(victim)
    with pytest.raises(StoreError, match="the master cannot keep it"):
        shelf.begin("g1-1", name, 1)
    (tmp_path / "artifacts" / "g1-1" / name).symlink_to(victim)
    with pytest.raises(StoreError, match="cannot be read"):
        shelf.read("g1-1", name, 0, 9)
    assert victim.read_text() == "precious"


def test_the_journals_room_is_left_alone(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", "4m") as disk:
        shelf = Artifacts(disk / "artifacts", spare_bytes=2 << 20)
        with pytest.raises(StoreError, match="the master has no room for it on its disk"):
            shelf.prepare("g1-1", {digest(b""): 3 << 20})
        shelf.prepare("g1-1", {digest(b""): 1 << 20})


def test_a_full_disk_is_said_in_words(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", "1m") as disk:
        shelf, name = Artifacts(disk / "artifacts", spare_bytes=0), digest(b"")
        shelf.prepare("g1-1", {name: 1_000})
        shelf.begin("g1-1", name, 4 << 20)
        with pytest.raises(StoreError, match="cannot keep it: no space left on device"):
            shelf.append("g1-1", bytes(2 << 20))
