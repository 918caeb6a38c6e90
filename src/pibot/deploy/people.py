"""The people of this machine: who runs setup, and what PiBot has in their homes."""

from __future__ import annotations

import os
import pwd
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Dict, Iterable, List, Optional

from pibot.deploy import layout
from pibot.deploy.envfile import Source
from pibot.deploy.facts import Account
from pibot.deploy.tree import FOLDER, NONE, Entry, Tree
from pibot.errors import ConfigError, StoreError
from pibot.values import parse_env

FIRST, LAST = 1000, 59_999  # uids of people, as Debian has them
CACHE = "pibot.pyz_"  # how the program calls what it unpacks to ~/.shiv


@dataclass
class People:
    """What was found; in an image there is nobody."""

    me: Optional[Account] = None  # who can get a client file
    entries: Dict[str, Entry] = field(default_factory=dict)
    names: Dict[str, List[str]] = field(default_factory=dict)
    clients: Dict[str, Source] = field(default_factory=dict)
    caches: List[str] = field(default_factory=list)
    notes: List[str] = field(default_factory=list)


def find_people(tree: Tree, users: Iterable[Account]) -> People:
    """Look into the homes; whoever's home cannot be used is left out."""
    me = _who_runs_this()
    found = People(me)
    others = [user.home for user in users if user.uid == 0 or FIRST <= user.uid <= LAST]
    mine = ["/root", *([me.home] if me else [])]
    for home in dict.fromkeys((*others, *mine)):
        try:
            _look(tree, home, found)
            if home in mine:
                _look_for_caches(tree, f"{home}/.shiv", found)
        except (OSError, StoreError) as error:
            if me and home == me.home:
                found.notes.append(f"{me.name} gets no client file: {error}.")
                found.me = None
    return found


def _look(tree: Tree, home: str, found: People) -> None:
    if not home.strip("/") or tree.followed(home).kind != FOLDER:
        raise StoreError(f"the home {home!r} is no directory")
    path = f"{home}/{layout.CLIENT_FILE}"
    folder = path.rpartition("/")[0]
    above = folder.rpartition("/")[0]
    found.entries.update({one: tree.entry(one) for one in (above, folder, path)})
    found.names.update({one: tree.names(one) for one in (above, folder)})
    if found.entries[path].kind != NONE:
        found.clients[path] = Source(path, {})  # somebody's, if it cannot be read
        with suppress(ConfigError):
            found.clients[path] = Source(path, parse_env(found.entries[path].text, Path(path)))


def _look_for_caches(tree: Tree, folder: str, found: People) -> None:
    found.names[folder] = tree.names(folder)
    caches = [f"{folder}/{name}" for name in found.names[folder] if name.startswith(CACHE)]
    found.entries.update({one: tree.entry(one) for one in (folder, *caches)})
    found.caches += caches


def _who_runs_this() -> Optional[Account]:
    """The person behind sudo, if there is one, else the user that this process has."""
    with suppress(KeyError, ValueError):
        return _account(pwd.getpwnam(os.environ.get("SUDO_USER", "")))
    with suppress(KeyError):
        return _account(pwd.getpwuid(os.geteuid()))
    return None


def _account(found: pwd.struct_passwd) -> Account:
    return Account(found.pw_name, found.pw_uid, found.pw_gid, found.pw_dir, found.pw_shell)
