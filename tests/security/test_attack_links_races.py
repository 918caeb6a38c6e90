"""Attacks by what lies in the workspace: links, special files, mounts, and things that change."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import time
from pathlib import Path
from typing import Callable, Dict

import pytest

from security.hands import CANARY, Hands
from security.reach import ACTIONS, HIDDEN, act, check, lay_out, target
from swapping import swapping

RACE_S = 0.07
BRIEF = {"pibot.skills.sqlite_query.TIME_S": 0.3}  # SQLite itself waits for whoever opens a FIFO
Trap = Callable[[Hands, str], str]  # (the hands, the secret's name) → the path that is asked for


def link(where: str, to: str, path: str) -> Trap:
    """A symbolic link in the workspace, and the path that goes through it."""

    def lay(hands: Hands, name: str) -> str:
        made = hands.workspace / where
        made.parent.mkdir(parents=True, exist_ok=True)
        at = {"outside": hands.outside, "workspace": hands.workspace, "name": name}
        made.symlink_to(to.format(**at))
        hands.give(made.parent, made)
        return path.format(**at)

    return lay


def chain(hands: Hands, name: str) -> str:
    for i in range(10):
        (hands.workspace / f"{i}").symlink_to(f"{i + 1}")
    (hands.workspace / "10").symlink_to(hands.outside / name)
    return "0"


def loop(hands: Hands, name: str) -> str:
    (hands.workspace / "a").symlink_to("b")
    (hands.workspace / "b").symlink_to("a")
    return "a"


def fifo(hands: Hands, name: str) -> str:
    os.mkfifo(hands.workspace / "fifo", 0o666)
    hands.give(hands.workspace / "fifo")
    return "fifo"


def unix_socket(hands: Hands, name: str) -> str:
    server, fd = socket.socket(socket.AF_UNIX), os.open(hands.workspace, os.O_RDONLY)
    server.bind(f"/proc/self/fd/{fd}/socket")
    server.close()
    os.close(fd)
    return "socket"


def device(hands: Hands, name: str) -> str:
    if os.geteuid() != 0:
        pytest.skip("only root makes devices")
    try:
        os.mknod(hands.workspace / "zero", 0o20666, os.makedev(1, 5))
    except PermissionError:
        pytest.skip("no devices can be made here")
    return "zero"


LINKS: Dict[str, Trap] = {
    "link-to-a-file": link("l", "{outside}/{name}", "l"),
    "relative-link-to-a-file": link("l", "../outside/{name}", "l"),
    "link-to-a-directory": link("l", "{outside}", "l/{name}"),
    "relative-link-to-a-directory": link("l", "../outside", "l/{name}"),
    "link-to-a-directory-itself": link("l", "{outside}", "l"),
    "link-to-a-directory-with-a-slash": link("l", "{outside}", "l/"),
    "link-to-a-directory-with-a-dot": link("l", "{outside}", "l/."),
    "link-to-the-directory-above": link("l", "..", "l/outside/{name}"),
    "link-to-the-root": link("l", "/", "l{outside}/{name}"),
    "link-to-where-nothing-is-yet": link("l", "{outside}/new", "l"),
    "link-to-a-directory-that-is-not-yet": link("l", "{outside}/new", "l/{name}"),
    "link-deep-below": link("a/b/c/l", "../../../../outside", "a/b/c/l/{name}"),
    "link-in-the-middle": link("a/l", "{outside}", "a/l/../l/{name}"),
    "link-by-its-absolute-path": link("l", "{outside}", "{workspace}/l/{name}"),
    "magic-link-to-the-root": link("l", "/proc/self/root", "l{outside}/{name}"),
    "magic-link-to-the-working-directory": link("l", "/proc/self/cwd", "l/hands_program.py"),
    "magic-link-to-a-descriptor": link("l", "/proc/self/fd/0", "l"),
    "link-to-the-environment": link("l", "/proc/self/environ", "l"),
    "link-to-a-device": link("l", "/dev/zero", "l"),
    "chain-of-links": chain,
    "loop-of-links": loop,
}
OTHERS: Dict[str, Trap] = {"fifo": fifo, "socket": unix_socket, "device": device}
OPENING = ["read", "write", "append", "share", "query"]


@pytest.mark.parametrize("trap", LINKS.values(), ids=list(LINKS))
def test_no_link_is_followed(hands: Hands, trap: Trap) -> None:
    for action in ACTIONS:
        for one in list(hands.workspace.iterdir()):
            _remove(one)
        (hands.outside / "canary.db").unlink(missing_ok=True)
        lay_out(hands)
        done = act(hands, action, trap(hands, target(action)))
        # What is done to a link itself, inside, harms nobody; all else is refused.
        is_to_the_link = action in ("move-from", "delete")
        assert not done["success"] or is_to_the_link, (action, done)


@pytest.mark.parametrize("action", ACTIONS)
def test_dot_dot_after_a_link_is_the_directory_it_lies_in(hands: Hands, action: str) -> None:
    lay_out(hands)
    (hands.workspace / "l").symlink_to(hands.outside / "..")
    act(hands, action, f"l/../outside/{target(action)}")
    assert sorted(one.name for one in hands.folder.iterdir()) == ["outside", "workspace"]


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        for one in path.iterdir():
            _remove(one)
        path.rmdir()
    else:
        path.unlink()


@pytest.mark.parametrize("action", OPENING)
@pytest.mark.parametrize("trap", OTHERS.values(), ids=list(OTHERS))
def test_nothing_but_files_is_opened(hands: Hands, trap: Trap, action: str) -> None:
    lay_out(hands)
    path = trap(hands, "")
    mode = (hands.workspace / path).lstat().st_mode
    done = act(hands, action, path)
    assert not done["success"] and "is not an ordinary file" in done["output"]
    assert (hands.workspace / path).lstat().st_mode == mode


def test_a_reader_of_a_fifo_is_told_nothing(hands: Hands) -> None:
    lay_out(hands)
    path = hands.workspace / fifo(hands, "")
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    try:
        for action in ("write", "append"):
            assert not act(hands, action, "fifo")["success"]
        assert os.read(reader, 100) == b""
    finally:
        os.close(reader)


@pytest.mark.parametrize("action", OPENING)
def test_a_hard_link_is_not_opened(hands: Hands, action: str) -> None:
    lay_out(hands)
    os.link(hands.outside / target(action), hands.workspace / "hard")
    hands.outside_is_now()
    done = act(hands, action, "hard")
    assert not done["success"] and "hard link" in done["output"]


def test_a_search_looks_into_no_links(hands: Hands) -> None:
    lay_out(hands)
    os.link(hands.canary, hands.workspace / "hard")
    (hands.workspace / "soft").symlink_to(hands.canary)
    (hands.workspace / "way").symlink_to(hands.outside)
    hands.outside_is_now()
    done = hands.call("search_files", {"pattern": CANARY[:10]})
    check(hands, done)
    assert done["data"]["lines"] == [] and done["data"]["names"] == []


@pytest.mark.parametrize("action", ["list", "read", "write", "append", "move-to", "delete"])
def test_a_directory_without_rights_is_named(hands: Hands, action: str) -> None:
    lay_out(hands)
    folder = hands.workspace / "locked"
    folder.mkdir()
    (folder / "file").write_text("x")
    hands.give(folder, folder / "file")
    folder.chmod(0)
    done = act(hands, action, "locked" if action == "list" else "locked/file")
    folder.chmod(0o700)
    if not hands.is_root:
        assert not done["success"]
        assert "permission denied" in done["output"] or "looked into" in done["output"]
        assert (folder / "file").read_text() == "x"


# --- what changes meanwhile ------------------------------------------------------------------


def directory_and_link(hands: Hands, name: str) -> str:
    (hands.workspace / "way").mkdir()
    (hands.workspace / "other").symlink_to(hands.outside)
    return f"way/{name}"


def file_and_link(hands: Hands, name: str) -> str:
    (hands.workspace / "way").write_text("mine")
    (hands.workspace / "other").symlink_to(hands.outside / name)
    return "way"


def file_and_hard_link(hands: Hands, name: str) -> str:
    (hands.workspace / "way").write_text("mine")
    os.link(hands.outside / name, hands.workspace / "other")
    hands.outside_is_now()
    return "way"


def file_and_fifo(hands: Hands, name: str) -> str:
    (hands.workspace / "way").write_text("mine")
    os.mkfifo(hands.workspace / "other")
    return "way"


DIRECTORY_RACES = [pytest.param(directory_and_link, a, id=f"directory-link-{a}") for a in ACTIONS]
FILE_RACES = [
    pytest.param(make, a, id=f"{make.__name__.replace('_and_', '-').replace('_', '-')}-{a}")
    for make in (file_and_link, file_and_hard_link, file_and_fifo)
    for a in OPENING
]


@pytest.mark.parametrize(("make", "action"), [*DIRECTORY_RACES, *FILE_RACES])
def test_what_is_swapped_meanwhile_leads_nowhere(hands: Hands, make: Trap, action: str) -> None:
    lay_out(hands)
    path = make(hands, target(action))
    mine = [hands.workspace / "way", hands.workspace / "other"]
    hands.give(*(one for one in mine if one.lstat().st_nlink == 1 or one.is_dir()))
    skill, args = ACTIONS[action]
    ends = time.monotonic() + RACE_S
    with swapping(*mine) as swaps:
        while time.monotonic() < ends:
            done = hands.call(skill, args(path), time_s=10, patch=BRIEF)
            assert CANARY not in json.dumps(done)
            assert done["took_s"] < 5
    assert swaps[0] > 10
    assert hands.is_outside_unchanged()


@pytest.mark.parametrize("action", ["read", "search", "share"])
def test_a_file_that_grows_while_it_is_read_is_bounded(hands: Hands, action: str) -> None:
    lay_out(hands)
    (hands.workspace / "growing").touch()
    hands.give(hands.workspace / "growing")
    words = ["sh", "-c", "while :; do echo 0123456789; done >> growing"]
    grower = subprocess.Popen(words, cwd=hands.workspace)
    try:
        for _ in range(5):
            done = act(hands, action, "." if action == "search" else "growing")
            assert len(json.dumps(done)) < 5_000_000
    finally:
        grower.kill()
        grower.wait()


# --- mounts ----------------------------------------------------------------------------------

MOUNTED = """
import ctypes, json, os, sys, threading, time
from pathlib import Path
from pibot.agent import library
from pibot.agent.tools import Context
from pibot.permits import Permits

workspace, outside, name, skill, args = sys.argv[1:]
libc = ctypes.CDLL(None, use_errno=True)
for source, target in ((outside, f"{workspace}/mount"), (f"{outside}/{name}", f"{workspace}/file")):
    done = libc.mount(os.fsencode(source), os.fsencode(target), b"none", 4096, None)  # a bind mount
    assert done == 0, os.strerror(ctypes.get_errno())
ctx = Context(Path(workspace), threading.Event(), time.monotonic() + 20, "k")
print(json.dumps(library.load(None, Permits())[0].call(skill, json.loads(args), ctx).to_json()))
"""


@pytest.mark.parametrize("path", ["mount", "file"])
@pytest.mark.parametrize("action", [a for a in ACTIONS if a != "share"])
def test_no_mount_is_entered(hands: Hands, action: str, path: str) -> None:
    lay_out(hands)
    (hands.workspace / "mount").mkdir()
    (hands.workspace / "file").touch()
    hands.give(hands.workspace / "mount", hands.workspace / "file")
    name = target(action)
    skill, args = ACTIONS[action]
    asked = json.dumps(args(f"mount/{name}" if path == "mount" else "file"))
    if action in ("list", "search"):
        asked = json.dumps(args("mount" if path == "mount" else "."))
    places = [str(hands.workspace), str(hands.outside), name]
    system = shutil.which("python3", path="/usr/bin:/usr/local/bin")  # not in a private directory
    python = system or hands.process.python
    done = subprocess.run(
        [*hands.process.become, "unshare", "-Urm", python, "-c", MOUNTED] + [*places, skill, asked],
        env={"PYTHONPATH": str(hands.process.home), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    if "unshare" in done.stderr and not done.stdout:
        pytest.skip("this machine gives no user namespaces")
    answer = json.loads(done.stdout)
    assert CANARY not in done.stdout and HIDDEN not in done.stdout
    assert hands.is_outside_unchanged()
    is_of_the_workspace = path == "file" and action in ("list", "search")
    assert answer["success"] is is_of_the_workspace, answer
