"""Looks at a machine, or at an image below a prefix, and says what is there. Changes nothing."""

from __future__ import annotations

import filecmp
import os
import shutil
import socket
import stat
import subprocess
import time
import zipfile
import zlib
from ipaddress import ip_address
from pathlib import Path
from typing import Collection, Dict, Iterable, Iterator, List, Optional, Set

from pibot.deploy import layout, mosquitto
from pibot.deploy.broker_files import SYSTEMD, mosquitto_conf
from pibot.deploy.envfile import Source, is_for_a_worker
from pibot.deploy.facts import Account, Facts, Given, Old
from pibot.deploy.older import find_old
from pibot.deploy.people import People, find_people
from pibot.deploy.plan import Texts
from pibot.deploy.steps import Run, Step
from pibot.deploy.tree import NONE, Tree
from pibot.errors import ConfigError, UsageError
from pibot.values import read_env_file

ASK_S = 30.0
_BROKERS = ("/usr/sbin/mosquitto", "/usr/bin/mosquitto", "/usr/local/sbin/mosquitto")


def look(tree: Tree, role: Optional[str], program: Path, env_file: Optional[Path]) -> Facts:
    """Read all that a plan for a role depends on; without a role, all that a removal needs."""
    live = tree.is_machine
    systemd = live and os.path.isdir("/run/systemd/system")
    users = {account.name: account for account in read_users(tree)}
    people = find_people(tree, users.values()) if live else People()
    homes = {account.name: account.home for account in users.values()}
    old = find_old(tree, role, homes) if role else None
    links = list(_links(tree))
    folders = (*layout.OWN_FOLDERS, layout.SYSUSERS_FOLDER)
    known = [*layout.KNOWN, *links, *(() if live else layout.USER_FILES)]
    return Facts(
        root="" if live else str(tree.root),
        may_give=os.geteuid() == 0,
        systemd=systemd,
        sysusers=live and shutil.which("systemd-sysusers") is not None,
        now=time.strftime("%Y%m%d-%H%M%S"),
        program=str(program),
        same_program=_same(Path(f"{tree.root}{layout.PROGRAM}"), program),
        entries={**{path: tree.entry(path) for path in known}, **people.entries},
        names={**{folder: tree.names(folder) for folder in folders}, **people.names},
        users=users,
        groups=read_groups(tree),
        units=_states() if systemd else {},
        links=tuple(links),
        mosquitto=any(tree.entry(path).kind != NONE for path in _BROKERS),
        obstacle=mosquitto.obstacle(_broker_texts(tree)),
        person=people.me,
        notes=people.notes,
        clients=people.clients,
        caches=tuple(people.caches),
        beside=tuple(_brought(program, role, old, people.me)) if role else (),
        named=_given(env_file) if env_file else None,
        old=old,
        proven=_is_twin(*(Path(f"{tree.root}{path}") for path in (layout.PROGRAM, layout.PROVEN))),
        host=socket.gethostname() if live else tree.entry("/etc/hostname").text.strip(),
        addresses=tuple(_addresses()) if live else (),
    )


def _same(installed: Path, program: Path) -> bool:
    try:
        return filecmp.cmp(installed, program, shallow=False)
    except OSError:
        return False


def _is_twin(one: Path, other: Path) -> bool:
    try:
        return os.path.samefile(one, other)
    except OSError:
        return False


def read_texts(facts: Facts) -> Texts:
    """What this version of the program brings."""
    is_open = mosquitto.is_open(facts.entry(layout.MOSQUITTO_CONF).text)
    units = {unit: (SYSTEMD / unit).read_text("utf-8") for unit in layout.ALL_UNITS}
    return Texts(units, (SYSTEMD / "pibot.sysusers").read_text("utf-8"), mosquitto_conf(is_open))


def _addresses() -> List[str]:
    """The addresses of this machine, without loopback and those that are for one link only."""
    try:
        said = subprocess.run(["hostname", "-I"], capture_output=True, text=True, timeout=ASK_S)
    except (OSError, subprocess.TimeoutExpired):
        return []
    return [word for word in said.stdout.split() if _is_address(word)]


def _is_address(word: str) -> bool:
    try:
        return not ip_address(word).is_link_local
    except ValueError:
        return False


def check_program(facts: Facts) -> None:
    """Raise PibotError if what runs cannot be installed here, or could not run as a service."""
    program = Path(facts.program)
    if not facts.same_program and not _is_whole(program):
        raise UsageError(
            f"setup installs the pibot.pyz that runs it, and {program} is not one, or not a whole "
            "one: copy it anew, and run `sudo python3 pibot.pyz setup`"
        )
    if facts.is_machine and not _serves(layout.PYTHON):
        raise ConfigError(
            f"the services run with {layout.PYTHON}, which is not there or older than Python 3.9: "
            "run `sudo apt install python3`, or use a newer system"
        )


def _is_whole(program: Path) -> bool:
    try:
        with zipfile.ZipFile(program) as archive:
            return archive.testzip() is None
    except (OSError, zipfile.BadZipFile, zlib.error):
        return False


def _serves(python: str) -> bool:
    code = "import sys; sys.exit(sys.version_info < (3, 9))"
    try:
        return subprocess.run([python, "-I", "-c", code], timeout=ASK_S).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False


# --- users ----------------------------------------------------------------------------------------


def read_users(tree: Tree) -> Iterator[Account]:
    for name, _, uid, gid, _, home, shell in _rows(tree, "/etc/passwd", 7):
        if uid.isdigit() and gid.isdigit():
            yield Account(name, int(uid), int(gid), home, shell)


def read_groups(tree: Tree) -> Dict[str, int]:
    rows = _rows(tree, "/etc/group", 4)
    return {name: int(gid) for name, _, gid, _ in rows if gid.isdigit()}


def _rows(tree: Tree, path: str, columns: int) -> Iterator[List[str]]:
    for line in tree.entry(path).text.splitlines():
        cells = line.split(":")
        if len(cells) == columns:
            yield cells


# --- services -------------------------------------------------------------------------------------


def _states() -> Dict[str, str]:
    """systemd's word for the state of each unit that concerns us."""
    units = [*layout.ALL_UNITS, layout.BROKER_UNIT]
    said = subprocess.run(
        ["systemctl", "is-active", *units], stdout=subprocess.PIPE, text=True, timeout=ASK_S
    )
    return dict(zip(units, said.stdout.split("\n")))


def asleep(steps: Iterable[Step]) -> List[str]:
    """The services that these steps have started and that do not run."""
    commands = [step.command for step in steps if isinstance(step, Run)]
    started = [c[-1] for c in commands if c[:2] == ("systemctl", "restart")]
    states = _states()
    return [unit for unit in started if states.get(unit) not in ("active", "activating")]


def _links(tree: Tree) -> Iterator[str]:
    """What starts our units together with something else."""
    for folder in tree.names(layout.UNITS_FOLDER):
        if folder.endswith((".wants", ".requires")):
            for unit in tree.names(f"{layout.UNITS_FOLDER}/{folder}"):
                if unit in layout.ALL_UNITS:
                    yield f"{layout.UNITS_FOLDER}/{folder}/{unit}"


def _broker_texts(tree: Tree) -> Dict[str, str]:
    """The configuration of Mosquitto without our own file."""
    main = tree.followed(layout.MOSQUITTO)
    if main.kind == NONE:
        return {}
    texts = {layout.MOSQUITTO: main.text}
    for folder in mosquitto.included(main.text):
        for name in tree.names(folder):
            if name.endswith(".conf"):
                texts[f"{folder}/{name}"] = tree.followed(f"{folder}/{name}").text
    if mosquitto.is_ours(texts.get(layout.MOSQUITTO_CONF, "")):
        del texts[layout.MOSQUITTO_CONF]
    return texts


# --- settings that were brought along -------------------------------------------------------------


def _brought(
    program: Path, role: str, old: Optional[Old], person: Optional[Account]
) -> Iterator[Given]:
    """What lies beside the program; for the installed one, a worker's file where the person is."""
    used_before = [path for path, _ in old.files] if old else []
    trusted = {0, os.geteuid(), program.stat().st_uid, *([person.uid] if person else [])}
    if program.resolve() != Path(layout.PROGRAM):
        yield from _in(program.resolve().parent, used_before, trusted)
    elif role == "worker":
        found = _in(Path.cwd(), used_before, trusted)
        yield from (given for given in found if Path(given.source.path).name != ".env")


def _in(folder: Path, used_before: Collection[str], trusted: Set[int]) -> Iterator[Given]:
    """The files of settings in a directory; whatever else is called so is left alone.

    What an older service used is not something that was brought along, unless it was filled anew.
    """
    is_shared = folder.stat().st_mode & stat.S_IWOTH
    for path in sorted(path for path in folder.glob("*.env") if path.is_file()):
        is_old = str(path) in used_before
        if is_shared and path.lstat().st_uid not in trusted:
            raise ConfigError(
                f"{path} belongs to another user, and everybody may put files there: copy "
                "pibot.pyz, and that file if it is right, to a directory of your own"
            )
        try:
            given = _given(path)
        except ConfigError:
            if path.name == ".env" and not is_old:
                raise
            continue
        if not is_old or is_for_a_worker(given.source):
            yield given


def _given(path: Path) -> Given:
    path = Path(os.path.abspath(path))
    values = read_env_file(path, private=False)
    return Given(Source(str(path), values), stat.S_IMODE(path.stat().st_mode))
