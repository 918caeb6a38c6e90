"""Trees that somebody hostile has made go away, and nothing else does."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Callable

import pytest

import pibot
from pibot.agent import trash

NOBODY = 65534


def deep(folder: Path) -> None:
    """Far deeper than a path can name, or a process can hold directories open."""
    fd = os.open(folder, os.O_RDONLY)
    for _ in range(3000):
        os.mkdir("d", dir_fd=fd)
        below = os.open("d", os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = below
    os.close(os.open("file", os.O_CREAT | os.O_WRONLY, dir_fd=fd))
    os.close(fd)


def locked(folder: Path) -> None:
    (folder / "a" / "b").mkdir(parents=True)
    (folder / "a" / "b" / "file").write_text("x")
    (folder / "a" / "b").chmod(0)
    (folder / "a").chmod(0o500)
    folder.chmod(0)


def linked(folder: Path) -> None:
    outside = folder.parent.parent / "outside"
    (folder / "link").symlink_to(outside)
    (folder / "file").symlink_to(outside / "file")
    (folder / "loop").symlink_to(folder)
    os.link(outside / "file", folder / "hard")


def special(folder: Path) -> None:
    os.mkfifo(folder / "fifo")
    server, fd = socket.socket(socket.AF_UNIX), os.open(folder, os.O_RDONLY)
    server.bind(f"/proc/self/fd/{fd}/socket")
    server.close()
    os.close(fd)
    for name in ("-rf", " ", "a\nb", "*", "\\", "\x1b[2J"):
        (folder / name).mkdir()
        (folder / name / name).touch()
    os.close(os.open(os.fsencode(folder) + b"/\xff\xfe", os.O_CREAT))


def many(folder: Path) -> None:
    for i in range(2500):
        (folder / f"{i}").touch()
    for i in range(1200):
        (folder / f"d{i}").mkdir()


def remove(folder: Path) -> None:
    trash.discard(folder / "tasks", "t1")
    trash.empty(folder / "tasks")


@pytest.mark.parametrize("make", [deep, locked, linked, special, many])
def test_a_hostile_tree(tmp_path: Path, make: Callable[[Path], None]) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "file").write_text("mine")
    (tmp_path / "tasks" / "t1").mkdir(parents=True)
    (tmp_path / "tasks" / "t2").mkdir()
    make(tmp_path / "tasks" / "t1")
    before = len(os.listdir("/proc/self/fd"))
    try:
        remove(tmp_path)
    finally:  # pytest itself cannot remove what is deep
        subprocess.run(["rm", "-rf", *(tmp_path / "tasks").glob(".gone/*"), tmp_path / "tasks/t1"])
    assert os.listdir(tmp_path / "tasks") == ["t2"]
    assert (tmp_path / "outside" / "file").read_text() == "mine"
    assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_an_ordinary_user_removes_what_it_locked(tmp_path: Path) -> None:
    (tmp_path / "tasks" / "t1").mkdir(parents=True)
    locked(tmp_path / "tasks" / "t1")
    for path in [tmp_path, *tmp_path.rglob("*")]:
        os.chown(path, NOBODY, NOBODY)
    code = f"""
import os, sys
os.chdir({str(tmp_path)!r})
from pathlib import Path
from pibot.agent import trash
os.setgroups([]); os.setgid({NOBODY}); os.setuid({NOBODY})
trash.discard(Path("tasks"), "t1")
trash.empty(Path("tasks"))
print(os.listdir("tasks"))
"""
    source = str(Path(pibot.__file__).parent.parent)
    env = {"PYTHONPATH": source, "PATH": "/usr/bin:/bin"}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, timeout=30)
    assert (done.stdout, done.stderr) == (b"[]\n", b"")


def test_what_was_left_by_a_power_cut_goes(tmp_path: Path) -> None:
    (tmp_path / trash.NAME / "x" / "y").mkdir(parents=True)
    (tmp_path / trash.NAME / "x" / "file").touch()
    trash.empty(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_link_in_place_of_the_trash_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "file").touch()
    (tmp_path / "tasks" / "t1").mkdir(parents=True)
    (tmp_path / "tasks" / trash.NAME).symlink_to(tmp_path / "outside")
    with pytest.raises(OSError):
        trash.discard(tmp_path / "tasks", "t1")
    trash.empty(tmp_path / "tasks")
    assert os.listdir(tmp_path / "outside") == ["file"]
    assert (tmp_path / "tasks" / "t1").is_dir()


MOUNTED = """
import ctypes, os
from pathlib import Path
from pibot.agent import trash
def mount(source, target):
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.mount(os.fsencode(source), os.fsencode(target), b"none", 4096, None) == 0  # bind
Path("outside").mkdir()
Path("outside/file").write_text("mine")
for place in ("tasks/t1/mount", "tasks/t1/a/b/mount"):
    Path(place).mkdir(parents=True)
    mount("outside", place)
trash.discard(Path("tasks"), "t1")
trash.empty(Path("tasks"))
print(os.listdir("outside"), os.listdir("tasks"))
"""


def test_a_mount_point_is_not_entered(tmp_path: Path) -> None:
    source = str(Path(pibot.__file__).parent.parent)
    words = ["unshare", "-Urm", sys.executable, "-c", MOUNTED]
    done = subprocess.run(
        words, env={"PYTHONPATH": source}, cwd=tmp_path, capture_output=True, timeout=30, text=True
    )
    if "unshare failed" in done.stderr:
        pytest.skip("this machine gives no user namespaces")
    assert (done.stdout, done.stderr) == ("['file'] ['.gone']\n", "")
