"""How much a task may keep in its workspace: counted on the disk, in bounded time."""

from __future__ import annotations

import os
import time
from dataclasses import replace
from pathlib import Path

import pytest

from pibot.agent.library import declared
from pibot.agent.tools import Context, Result, Toolbox
from pibot.permits import Permits
from pibot.skills import SkillError, _usage, _workspace, file_ops
from pibot.skills._workspace import check_room, room

BOX = Toolbox(declared(file_ops))
MB = 1 << 20


@pytest.fixture
def small(ctx: Context, monkeypatch: pytest.MonkeyPatch) -> Context:
    """A workspace of 1 MB, on a disk that has room."""
    monkeypatch.setattr(_workspace, "SPARE_BYTES", 0)
    return replace(ctx, permits=Permits(workspace_mb=1))


def write(ctx: Context, path: str, size: int, name: str = "write_file") -> Result:
    return BOX.call(name, {"path": path, "content": "x" * size}, ctx)


def test_what_is_left(small: Context) -> None:
    assert room(small) == MB
    write(small, "a", 100_000)
    write(small, "deep/er/b", 100_000)
    assert MB - 260_000 < room(small) <= MB - 200_000


def test_writing_more_than_there_is_room_for(small: Context) -> None:
    assert write(small, "a", 900_000).success
    done = write(small, "new/b", 200_000)
    assert done.output.startswith("new/b: there is no room for 200,000 bytes more: the workspace ")
    assert done.output.endswith(
        "bytes of the 1,048,576 that PIBOT_WORKSPACE_MB gives a task; delete what is not needed"
    )
    assert os.listdir(small.workspace) == ["a"]
    assert not write(small, "a", 200_000, "append_file").success
    assert (small.workspace / "a").stat().st_size == 900_000


def test_replacing_takes_only_what_is_more(small: Context) -> None:
    assert write(small, "a", 900_000).success
    assert write(small, "a", 1_000_000).success
    assert not write(small, "a", 2_000_000).success
    assert write(small, "a", 10).success
    assert write(small, "b", 900_000).success


def test_a_full_one_can_be_put_in_order(small: Context) -> None:
    (small.workspace / "a").write_bytes(b"x" * 2 * MB)
    assert room(small) == 0
    move = BOX.call("move_file", {"source": "a", "target": "b"}, small)
    assert move.success
    made = BOX.call("move_file", {"source": "b", "target": "new/directory/a"}, small)
    assert "there is no room" in made.output and not (small.workspace / "new").exists()
    assert BOX.call("delete_file", {"path": "b"}, small).success
    assert room(small) == MB


def test_what_is_sparse_counts_as_it_lies_on_the_disk(small: Context) -> None:
    with (small.workspace / "sparse").open("wb") as file:
        file.truncate(1 << 40)
    assert room(small) > MB - 100_000
    assert not write(small, "sparse", 2_000_000).success  # it does not count as replaced


@pytest.mark.parametrize("kind", ["files", "directories", "links"])
def test_many_things_are_a_full_workspace(
    small: Context, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.setattr(_usage, "MAX_ENTRIES", 50)
    for i in range(50):
        path = small.workspace / f"{i}"
        if kind == "files":
            path.touch()
        elif kind == "directories":
            path.mkdir()
        else:
            path.symlink_to("/etc")
    assert room(small) > 0
    (small.workspace / "one more").touch()
    with pytest.raises(SkillError, match="x: there is no room for 1 bytes more: the workspace has"):
        check_room(small, "x", 1)
    check_room(small, "x", 0)


def test_a_deep_tree_is_a_full_workspace(small: Context) -> None:
    (small.workspace / ("d/" * (_usage.MAX_DEPTH + 1))).mkdir(parents=True)
    with pytest.raises(SkillError, match="the workspace is more than 100 directories deep"):
        check_room(small, "x", 1)


def test_counting_takes_bounded_time(small: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    (small.workspace / "a").touch()
    (small.workspace / "b").touch()
    monkeypatch.setattr(_usage, "_MEASURE_S", -1)
    with pytest.raises(SkillError, match="has too many files: more than 1"):
        check_room(small, "x", 1)


def test_twenty_thousand_files_are_counted_fast(small: Context) -> None:
    for i in range(200):
        folder = small.workspace / f"{i}"
        folder.mkdir()
        for j in range(100):
            (folder / f"{j}").touch()
    started = time.monotonic()
    assert room(small) == max(0, MB - 200 * 4096)
    assert time.monotonic() - started < 4


def test_links_count_but_not_what_is_behind(small: Context, tmp_path: Path) -> None:
    (tmp_path / "outside").write_bytes(b"x" * 2 * MB)
    (small.workspace / "link").symlink_to(tmp_path / "outside")
    (small.workspace / "way").symlink_to(tmp_path)
    assert room(small) > MB - 10_000


def test_the_disk_keeps_a_reserve(small: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_workspace, "SPARE_BYTES", 1 << 60)
    assert write(small, "a", 1).output == (
        "a: there is no room for 1 bytes more: this machine's disk has only 0 bytes to spare"
    )
    assert not (small.workspace / "a").exists()


def test_without_a_workspace_there_is_no_room(small: Context) -> None:
    small.workspace.rmdir()
    assert room(small) == 0
