"""Files written with root's rights into directories of others: no link leads them astray.

What needs a second user runs as root only.
"""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path
from typing import Iterator

import pytest

from pibot.deploy.tree import FILE, FOLDER, LINK, NONE, OTHER, Entry, Tree
from pibot.errors import StoreError

ME = (os.getuid(), os.getgid())
THEM = (54_321, 54_321)
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="gives files to another user")


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    """An image; its links are never followed."""
    (tmp_path / "image").mkdir()
    return Tree(tmp_path / "image", owners=os.geteuid() == 0)


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    """A directory of another user on this machine, and beside it one of root's."""
    (tmp_path / "secret").write_text("root's own")
    (tmp_path / "secret").chmod(0o600)
    for folder in ("home", "home/theirs", "system"):
        (tmp_path / folder).mkdir()
    for folder in ("home", "home/theirs"):
        os.chown(tmp_path / folder, *THEM)
    yield tmp_path / "home"


def machine() -> Tree:
    return Tree(Path("/"), owners=True)


def status(path: Path) -> os.stat_result:
    return os.lstat(path)


def test_a_file_is_put_in_place_whole_with_mode_and_owner(tree: Tree) -> None:
    old_umask = os.umask(0o077)
    try:
        tree.write("/etc/pibot/master.env", b"A=1\n", 0o640, ME)
    finally:
        os.umask(old_umask)
    path = tree.root / "etc/pibot/master.env"
    assert path.read_bytes() == b"A=1\n" and stat.S_IMODE(status(path).st_mode) == 0o640
    assert stat.S_IMODE(status(path.parent).st_mode) == 0o755
    assert os.listdir(path.parent) == ["master.env"]
    assert tree.entry("/etc/pibot/master.env") == Entry(FILE, 0o640, *ME, b"A=1\n")


def test_what_a_killed_write_left_is_seen_and_written_over(tree: Tree) -> None:
    tree.write("/a/x", b"old", 0o600, ME)
    (tree.root / "a/.x.new").write_bytes(b"ne")
    assert tree.entry("/a/x").half and tree.entry("/a/x").content == b"old"
    tree.write("/a/x", b"new", 0o600, ME)
    assert tree.entry("/a/x") == Entry(FILE, 0o600, *ME, b"new")
    (tree.root / "a/.x.new").write_bytes(b"ne")
    tree.remove("/a/x")
    assert tree.names("/a") == []


def test_a_file_takes_the_place_of_a_link_and_not_of_what_it_names(tree: Tree) -> None:
    tree.write("/a/other", b"other", 0o600, ME)
    tree.link("/a/x", "other")
    assert tree.entry("/a/x").kind == LINK and tree.entry("/a/x").text == "other"
    tree.write("/a/x", b"new", 0o600, ME)
    assert tree.entry("/a/other").content == b"other"
    assert tree.entry("/a/x").content == b"new"


def test_an_image_cannot_lead_out_of_itself(tree: Tree, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "x").write_text("keep")
    (tree.root / "etc").symlink_to(outside)
    with pytest.raises(StoreError, match="'etc'"):
        tree.write("/etc/x", b"new", 0o600, ME)
    with pytest.raises(StoreError):
        tree.entry("/etc/x")
    with pytest.raises(StoreError):
        tree.remove("/etc/x")
    assert (outside / "x").read_text() == "keep"


def test_odd_things_are_not_read(tree: Tree) -> None:
    os.mkfifo(tree.root / "pipe")
    (tree.root / "big").write_bytes(b"x" * 8_000_001)
    assert tree.entry("/pipe").kind == OTHER
    assert tree.entry("/big").content == b""
    assert tree.entry("/none/at/all").kind == NONE
    assert tree.entry("/big/x").kind == NONE
    assert tree.names("/none") == []


def test_directories_are_removed_with_all_or_only_when_empty(tree: Tree, tmp_path: Path) -> None:
    keep = tmp_path / "keep"
    keep.mkdir()
    (keep / "x").touch()
    tree.write("/var/cache/pibot/a/b", b"", 0o600, ME)
    (tree.root / "var/cache/pibot/a/link").symlink_to(keep)
    tree.prune("/var/cache/pibot")
    assert tree.entry("/var/cache/pibot").kind == FOLDER
    tree.clear("/var/cache/pibot")
    tree.prune("/var/cache")
    assert tree.names("/var") == []
    assert os.listdir(keep) == ["x"]
    for again in (tree.clear, tree.prune, tree.remove):
        again("/var/cache/pibot")


def test_two_at_once_are_one_too_many(tree: Tree) -> None:
    lock, again = tree.locked("/run/x"), tree.locked("/run/x")
    with lock, pytest.raises(StoreError, match="another setup"), again:
        pass
    with tree.locked("/run/x"):
        assert tree.names("/") == []


@as_root
def test_on_a_machine_the_lock_stays_when_something_went_wrong(tmp_path: Path) -> None:
    path = f"{tmp_path}/lock"
    with pytest.raises(KeyboardInterrupt), machine().locked(path):
        raise KeyboardInterrupt
    assert machine().entry(path).kind == FILE
    with machine().locked(path):
        pass
    assert machine().entry(path).kind == NONE


# --- directories of another user ------------------------------------------------------------------


@as_root
def test_files_in_a_home_belong_to_its_owner(home: Path) -> None:
    machine().folder(f"{home}/.config", 0o700, THEM)
    machine().write(f"{home}/.config/client.env", b"x", 0o600, THEM)
    for path in (home / ".config", home / ".config/client.env"):
        assert (status(path).st_uid, status(path).st_gid) == THEM


@as_root
def test_a_link_of_theirs_may_lead_to_what_is_theirs(home: Path) -> None:
    (home / ".config").symlink_to("theirs")
    os.chown(home / ".config", *THEM, follow_symlinks=False)
    machine().write(f"{home}/.config/client.env", b"x", 0o600, THEM)
    assert (home / "theirs/client.env").read_bytes() == b"x"


@as_root
@pytest.mark.parametrize("target", ["../system", "/etc", "../home/../system"])
def test_a_link_of_theirs_may_not_lead_to_what_is_not(home: Path, target: str) -> None:
    (home / ".config").symlink_to(target)
    os.chown(home / ".config", *THEM, follow_symlinks=False)
    path = f"{home}/.config/client.env"
    for act in (
        lambda: machine().write(path, b"x", 0o600, THEM),
        lambda: machine().folder(f"{home}/.config/pibot", 0o700, THEM),
        lambda: machine().link(path, "x"),
        lambda: machine().remove(path),
        lambda: machine().clear(f"{home}/.config/pibot"),
        lambda: machine().entry(path),
        lambda: machine().names(f"{home}/.config"),
    ):
        with pytest.raises(StoreError, match="is not followed"):
            act()
    assert list((home.parent / "system").iterdir()) == []


@as_root
def test_a_file_of_theirs_that_is_a_link_is_replaced_and_not_followed(home: Path) -> None:
    for name in ("client.env", ".client.env.new"):
        (home / name).symlink_to(home.parent / "secret")
    machine().write(f"{home}/client.env", b"x", 0o644, THEM)
    secret = home.parent / "secret"
    assert secret.read_text() == "root's own"
    assert (status(secret).st_uid, stat.S_IMODE(status(secret).st_mode)) == (0, 0o600)
    assert (home / "client.env").read_bytes() == b"x"


@as_root
def test_a_mode_is_not_mended_through_a_link(home: Path) -> None:
    (home / "w.env").symlink_to(home.parent / "secret")
    with pytest.raises(OSError):
        machine().mode(f"{home}/w.env", 0o644)
    assert stat.S_IMODE(status(home.parent / "secret").st_mode) == 0o600


@as_root
def test_giving_a_directory_away_gives_nothing_else(home: Path) -> None:
    secret = home.parent / "secret"
    (home / "link").symlink_to(secret)
    os.link(secret, home / "second-name")
    (home / "theirs/file").touch()
    machine().give(str(home), ME)
    assert status(home).st_uid == status(home / "theirs/file").st_uid == ME[0]
    machine().give(str(home), THEM)
    assert status(home / "theirs/file").st_uid == status(home / "link").st_uid == THEM[0]
    assert status(secret).st_uid == 0


MOMENTS = """
import os, sys
from pathlib import Path
from pibot.deploy.tree import Tree

home, event = Path(sys.argv[1]), sys.argv[2]
left = [event]

def race(name, _arguments):
    '''Its owner, right before root changes the thing.'''
    if name in left:
        left.clear()
        if event == "os.chmod":
            os.rmdir(home / "sub")
            os.symlink(home.parent / "secret", home / "sub")
        else:
            os.unlink(home / "file")
            os.link(home.parent / "secret", home / "file")

(home / "file").touch()
sys.addaudithook(race)
try:
    if event == "os.chmod":
        Tree(Path("/"), owners=True).write(f"{home}/sub/x", b"", 0o600, (0, 0))
    else:
        Tree(Path("/"), owners=True).give(str(home), (54_321, 54_321))
except OSError:
    pass
assert not left
"""


@as_root
@pytest.mark.parametrize("event", ["os.chmod", "os.chown"])
def test_what_is_swapped_at_the_last_moment_is_not_changed(home: Path, event: str) -> None:
    subprocess.run([sys.executable, "-c", MOMENTS, home, event], check=True)
    found = status(home.parent / "secret")
    assert (stat.S_IMODE(found.st_mode), found.st_uid) == (0o600, 0)


@as_root
def test_a_link_of_roots_is_followed(home: Path) -> None:
    real = home.parent / "system"
    (home.parent / "link").symlink_to(real)
    machine().write(f"{home.parent}/link/x", b"x", 0o600, ME)
    assert (real / "x").read_bytes() == b"x"
