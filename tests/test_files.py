"""Private files: whole or not at all, and for nobody else's eyes."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest

import pibot
from pibot.files import create_private, write_private


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_a_new_file_is_private_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        create_private(tmp_path / "a", "grüße\n")
        write_private(tmp_path / "b", "x")
    finally:
        os.umask(before)
    assert (tmp_path / "a").read_text("utf-8") == "grüße\n"
    assert [mode(p) for p in tmp_path.iterdir()] == [0o600, 0o600]


@pytest.mark.parametrize("what", ["file", "link", "dangling link", "directory"])
def test_nothing_that_is_there_is_written_over(tmp_path: Path, what: str) -> None:
    path, other = tmp_path / "a", tmp_path / "other"
    if what == "directory":
        path.mkdir()
    elif what == "file":
        path.write_text("mine")
    else:
        path.symlink_to(other)
    if what == "link":
        other.write_text("mine")
    with pytest.raises(FileExistsError):
        create_private(path, "x")
    assert other.exists() == (what == "link") and not (other.exists() and other.read_text() == "x")


def test_a_link_is_replaced_and_not_followed(tmp_path: Path) -> None:
    path, other = tmp_path / "a", tmp_path / "other"
    other.write_text("mine")
    path.symlink_to(other)
    path.with_name("a.new").symlink_to(other)
    write_private(path, "x")
    assert (other.read_text(), path.read_text(), path.is_symlink()) == ("mine", "x", False)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a", "other"]


def test_what_cannot_be_encoded_leaves_nothing(tmp_path: Path) -> None:
    write_private(tmp_path / "a", "old")
    for write in (create_private, write_private):
        with pytest.raises(UnicodeEncodeError):
            write(tmp_path / ("a" if write is write_private else "b"), "\ud800")
    assert [p.name for p in tmp_path.iterdir()] == ["a"]
    assert (tmp_path / "a").read_text() == "old"


def test_killed_at_any_moment_the_file_is_the_old_or_the_new_one(tmp_path: Path) -> None:
    code = (
        "import itertools, pathlib, sys\n"
        "from pibot.files import write_private\n"
        "for i in itertools.count():\n"
        "    write_private(pathlib.Path(sys.argv[1]), f'{i}\\n' * 5_000)\n"
        "    print(i, flush=True)\n"
    )
    env = {**os.environ, "PYTHONPATH": str(Path(pibot.__file__).parents[1])}
    path = tmp_path / "a"
    for _ in range(5):
        args = [sys.executable, "-c", code, str(path)]
        with subprocess.Popen(args, env=env, stdout=subprocess.PIPE) as writer:
            assert writer.stdout is not None
            for _ in range(3):
                writer.stdout.readline()
            writer.send_signal(signal.SIGKILL)
        lines = path.read_text().splitlines()
        assert len(lines) == 5_000 and len(set(lines)) == 1
