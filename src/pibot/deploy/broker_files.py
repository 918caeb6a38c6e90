"""The broker's files: its configuration, and what root puts in place for the master.

The master, which may write no system file, leaves what it wants in its state directory. This code
runs as root and trusts nothing there: a master that was taken over can add and remove users, and
do no more.
"""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path
from typing import List

from pibot.deploy import layout
from pibot.deploy.tree import FILE, Entry, Tree
from pibot.deploy.untrusted import Untrusted, untrusted
from pibot.errors import PibotError, Refused, StoreError
from pibot.rights import Special, acl_text
from pibot.topics import VIEWER, WORKER
from pibot.values import NAME

SYSTEMD = Path(__file__).with_name("systemd")  # the units and Mosquitto's configuration
SOURCE = Path(layout.STATE_BROKER)
TARGET = Path(layout.BROKER_FOLDER)
CHANGED = "changed"  # the mark that wakes pibot-broker.path
MAX_BYTES = 16_000_000  # 5 000 names that are all being rotated
RELOAD_S = 30.0
_USER = rf"{NAME.pattern}(?:\.[a-z0-9]{{4}})?"  # what follows a dot comes with a rotation
_LINE = re.compile(rf"({_USER}):\$7\$101\$[A-Za-z0-9+/]{{16}}\$[A-Za-z0-9+/]{{86}}==")
_SPECIAL = re.compile(rf"\n\nuser ({_USER})\ntopic (deny)?")
_FLEET = re.compile(rf" pibot/1/({NAME.pattern})/#$", re.MULTILINE)


def mosquitto_conf(is_open: bool = False) -> str:
    """The text of /etc/mosquitto/conf.d/pibot.conf; `is_open`: port 1883 is for the network, too.

    That is for workers that were added before there was TLS: nobody is cut off.
    """
    text = (SYSTEMD / "mosquitto-pibot.conf").read_text(encoding="utf-8")
    return text.replace("listener 1883 127.0.0.1\n", "listener 1883\n") if is_open else text


def place_and_reload(source: Path = SOURCE, target: Path = TARGET) -> None:
    """What pibot-broker.service does: place the files, and let a running Mosquitto read them."""
    place(source, target)
    command = ["systemctl", "try-reload-or-restart", layout.BROKER_UNIT]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=RELOAD_S)
        said = done.stderr.strip() if done.returncode else None
    except (OSError, subprocess.TimeoutExpired) as error:
        said = str(error)
    if said is not None:
        raise PibotError(
            f"The broker's users are in {target}, but Mosquitto has not read them ({said}): run "
            "`systemctl reload mosquitto`."
        )


def place(source: Path, target: Path) -> bool:
    """Check passwd and acl in `source` and put them into `target`; tell whether they are new.

    Raises Refused for what the master never writes, StoreError for what cannot be read or written.
    """
    try:
        with untrusted(source) as folder:
            folder.take_mark(CHANGED)  # before reading: what is written from now on makes a new one
            passwd, acl = (_read(folder, name) for name in ("passwd", "acl"))
        check_passwd(passwd)
        check_acl(acl)
        os.stat(target)  # setup makes it, with its mode
        changed = [_put(target / "passwd", passwd), _put(target / "acl", acl)]
    except OSError as error:
        raise StoreError(
            f"The broker's users could not be put into {target}: {error.filename or source}: "
            f"{error.strerror}."
        ) from None
    return any(changed)


def check_passwd(text: str) -> None:
    """Raise Refused unless each line is a user of PiBot's with a hash of 64 bytes."""
    users = set()
    for number, line in enumerate(_lines(text, "passwd"), 1):
        found = _LINE.fullmatch(line)
        if not found or found[1] in users:
            raise Refused(
                f"Line {number} of passwd is no user that PiBot makes: nothing is placed."
            )
        users.add(found[1])


def check_acl(text: str) -> None:
    """Raise Refused unless it is, to the letter, the rights that PiBot gives in one fleet."""
    fleet = _FLEET.search(text)
    special = [Special(u, VIEWER if deny else WORKER) for u, deny in _SPECIAL.findall(text)]
    fit = all((one.kind == VIEWER) != ("." in one.user) for one in special)
    fit = fit and len(set(special)) == len(special)
    if fleet is None or not fit or text != acl_text(fleet[1], special):
        raise Refused("The acl is not the one that this PiBot makes: restart pibot-master.")


def _lines(text: str, name: str) -> List[str]:
    if text and not text.endswith("\n"):
        raise Refused(f"{name} ends in the middle of a line: nothing is placed.")
    return text.split("\n")[:-1]


def _read(folder: Untrusted, name: str) -> str:
    data = folder.read(name, MAX_BYTES)
    if not data.isascii():
        raise Refused(f"{folder.path / name} is no file that PiBot makes: it is not taken.")
    return data.decode("ascii")


def _put(path: Path, text: str) -> bool:
    """Write a file for Mosquitto to read, whole or not at all; False if it is there already."""
    import grp

    try:
        group = grp.getgrnam(layout.BROKER).gr_gid
    except KeyError:
        raise PibotError(f"There is no group {layout.BROKER}: install Mosquitto.") from None
    tree, wanted = Tree(Path("/"), owners=True), Entry(FILE, 0o640, 0, group, text.encode("ascii"))
    if tree.entry(str(path)) == wanted:
        return False
    tree.write(str(path), wanted.content, wanted.mode, (wanted.uid, wanted.gid))
    return True
