"""Attacks by what a path says: no text leads a file skill out of the workspace."""

from __future__ import annotations

import sqlite3
import subprocess
from contextlib import closing

import pytest

from security.hands import Hands
from security.reach import ACTIONS, act, lay_out, target

# {outside}, {workspace} and {name} are the directories and the secret.
LEAVING = [
    pytest.param("{outside}/{name}", id="absolute"),
    pytest.param("//{outside}/{name}", id="absolute-with-two-slashes"),
    pytest.param("/{outside}/./{name}", id="absolute-with-a-dot"),
    pytest.param("../outside/{name}", id="dot-dot"),
    pytest.param("./.././outside/{name}", id="dot-dot-between-dots"),
    pytest.param("no/such/../../../outside/{name}", id="dot-dot-after-what-is-not-there"),
    pytest.param("mine.txt/../../outside/{name}", id="dot-dot-after-a-file"),
    pytest.param("{workspace}/../outside/{name}", id="absolute-then-dot-dot"),
    pytest.param("{workspace}/no/../../outside/{name}", id="absolute-then-two-dot-dots"),
    pytest.param("{workspace}-beside/{name}", id="begins-like-the-workspace"),
    pytest.param("../" * 500 + "{outside}/{name}", id="five-hundred-dot-dots"),
    pytest.param("a/" * 2000 + "../" * 2001 + "outside/{name}", id="longer-than-a-path-may-be"),
    pytest.param("a/" * 3000 + "{name}", id="three-thousand-directories-deep"),
    pytest.param("x" * 5000, id="a-name-of-five-thousand"),
    pytest.param("../outside/{name}\0.txt", id="zero-byte-at-the-end"),
    pytest.param("\0../outside/{name}", id="zero-byte-at-the-beginning"),
    pytest.param("/proc/self/cwd/../outside/{name}", id="proc-cwd"),
    pytest.param("/proc/self/root{outside}/{name}", id="proc-root"),
    pytest.param("/proc/self/fd/0", id="proc-fd"),
    pytest.param("/proc/self/environ", id="proc-environ"),
    pytest.param("/proc/thread-self/../self/environ", id="proc-thread"),
    pytest.param("/dev/fd/0", id="dev-fd"),
    pytest.param("/dev/zero", id="device"),
    pytest.param("/", id="the-root"),
    pytest.param("..", id="the-directory-above"),
]


# Nothing makes these special: they are ordinary names, inside.
LOOKING = [
    pytest.param("%2e%2e/outside/{name}", id="percent-encoded"),
    pytest.param("..%2foutside%2f{name}", id="percent-encoded-slashes"),
    pytest.param("%252e%252e%252foutside/{name}", id="percent-encoded-twice"),
    pytest.param("..\\outside\\{name}", id="backslashes"),
    pytest.param("....//outside/{name}", id="dots-that-a-filter-would-halve"),
    pytest.param("․․/outside/{name}", id="one-dot-leaders"),
    pytest.param("．．／outside／{name}", id="full-width"),
    pytest.param("‥/outside/{name}", id="two-dot-leader"),
    pytest.param("..∕outside∕{name}", id="division-slash"),
    pytest.param("..\u200b/outside/{name}", id="zero-width-space"),
    pytest.param("\u202e../outside/{name}", id="right-to-left"),
    pytest.param(" ../outside/{name}", id="blank-before-dot-dot"),
    pytest.param("..\t/../outside/{name}", id="tab-after-dot-dot"),
    pytest.param("~/../outside/{name}", id="home"),
    pytest.param("$HOME/../outside/{name}", id="variable"),
    pytest.param("file://{outside}/{name}", id="file-url"),
]


def spelled(hands: Hands, path: str, action: str) -> str:
    at = {"outside": hands.outside, "workspace": hands.workspace, "name": target(action)}
    return path.format(**at)


@pytest.mark.parametrize("path", LEAVING)
def test_a_path_that_leaves_is_refused(hands: Hands, path: str) -> None:
    lay_out(hands)
    for action in ACTIONS:
        done = act(hands, action, spelled(hands, path, action))
        assert not done["success"], action
    assert (hands.workspace / "mine.txt").read_text() == "mine"
    assert len(list(hands.workspace.iterdir())) == 1


@pytest.mark.parametrize("path", LOOKING)
def test_a_path_that_looks_like_it_stays_inside(hands: Hands, path: str) -> None:
    lay_out(hands)
    for action in ACTIONS:
        act(hands, action, spelled(hands, path, action))
    assert sorted(one.name for one in hands.folder.iterdir()) == ["outside", "workspace"]


@pytest.mark.parametrize("name", ["read_file", "write_file", "list_files"])
def test_the_ways_to_its_own_files_are_free(hands: Hands, name: str) -> None:
    """The guard of all of the above: what is refused there is not refused because of the frame."""
    lay_out(hands)
    args = {"path": "." if name == "list_files" else "mine.txt"}
    done = hands.call(name, {**args, "content": "x"} if name == "write_file" else args)
    assert done["success"], done


HIDDEN_FROM_OTHERS = """
import ctypes, sys, threading, time
from pathlib import Path
from pibot.skills import Context, file_ops, sqlite_query
assert ctypes.CDLL(None).prctl(4, 0, 0, 0, 0) == 0  # PR_SET_DUMPABLE: as the services do
ctx = Context(Path(sys.argv[1]), threading.Event(), time.monotonic() + 20, "k")
file_ops.write_file(ctx, "new/file", "hello")
print(file_ops.read_file(ctx, "new/file").text)
print(sqlite_query.sqlite_query(ctx, "a.db", "SELECT a FROM t").data["rows"])
"""


def test_a_process_that_lets_nobody_look_into_it_can_walk(hands: Hands) -> None:
    """The steps use /proc/self, which such a process does not own."""
    with closing(sqlite3.connect(hands.workspace / "a.db")) as made, made:
        made.execute("CREATE TABLE t(a)")
    hands.give(hands.workspace / "a.db")
    done = subprocess.run(
        [*hands.process.become, hands.process.python, "-c", HIDDEN_FROM_OTHERS, hands.workspace],
        env={"PYTHONPATH": str(hands.process.home)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.stdout, done.stderr) == ("hello\n[]\n", "")
