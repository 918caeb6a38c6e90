"""The services' user, whom the files belong to, and what the units let the services do."""

from __future__ import annotations

import os
import re
from shlex import quote
from typing import Dict, Iterator, List, NamedTuple, Optional

from pibot.deploy import layout
from pibot.deploy.broker_files import SYSTEMD
from pibot.doctor.findings import Finding, fail, ok, warn
from pibot.doctor.surroundings import Surroundings

ANALYZE = "/usr/bin/systemd-analyze"
# Whoever is in one of these can become root, or reads what only root should.
POWERFUL = frozenset(
    ("root", "sudo", "wheel", "admin", "docker", "podman", "lxd", "incus", "libvirt", "disk")
    + ("shadow", "kmem", "mem", "netdev", "systemd-journal", "adm")
)
# What systemd may say at most of a unit's exposure, from 0 to 10; from 5 on it does not say "OK".
EXPOSURES = {"pibot-master.service": 1.5, "pibot-worker.service": 3.0}
NOT_OK = 5.0
_LAST_SYSTEM_UID = 999
_NO_SHELLS = ("/nologin", "/false")
_SUDOERS = re.compile(rf"^\s*(?:%?{layout.USER}|ALL)\s+\S+\s*=.*", re.MULTILINE)
_EXPOSURE = re.compile(r"Overall exposure level for \S+: (\d+\.\d)")


# --- the user -----------------------------------------------------------------------------------


def user(here: Surroundings) -> Iterator[Finding]:
    """Nobody's login, nobody's friend."""
    rows = _rows(here, "/etc/passwd", 7)
    mine = next((row for row in rows if row[0] == layout.USER), None)
    if mine is None:
        yield fail("user", f"there is no user {layout.USER}", here.setup(here.roles[0]))
        return
    faults = [*_login(here, mine), *_groups(here, mine[3]), *_sudo(here)]
    yield from faults
    if not faults:
        yield ok("user", f"{layout.USER} cannot log in and has no rights but its own")


def _login(here: Surroundings, row: List[str]) -> Iterator[Finding]:
    if not row[2].isdigit() or not 0 < int(row[2]) <= _LAST_SYSTEM_UID:
        message = f"{layout.USER} is no user for services (its number is {row[2]})"
        yield fail("user", message, here.setup(here.roles[0]))
    elif not row[6].endswith(_NO_SHELLS):
        lock = f"sudo usermod --shell /usr/sbin/nologin {layout.USER}"
        yield fail("user", f"{layout.USER} can log in (its shell is {row[6]})", lock)


def _groups(here: Surroundings, own: str) -> Iterator[Finding]:
    """Groups hold for all that the user runs; a unit's drop-in gives one to a service alone."""
    for name, _, number, members in _rows(here, "/etc/group", 4):
        if name == layout.USER or (layout.USER not in members.split(",") and number != own):
            continue
        leave = f"sudo gpasswd --delete {layout.USER} {quote(name)}"
        restart = " && ".join(f"sudo systemctl restart pibot-{role}" for role in here.roles)
        judge = fail if name in POWERFUL else warn
        message = f"{layout.USER} is in the group {name}"
        yield judge("user", message, f"{leave} && {restart}")


def _sudo(here: Surroundings) -> Iterator[Finding]:
    folder = "/etc/sudoers.d"
    try:
        names = sorted(os.listdir(here.at(folder)))
    except (FileNotFoundError, NotADirectoryError):
        names = []
    for path in ("/etc/sudoers", *(f"{folder}/{name}" for name in names)):
        if _SUDOERS.search(here.read(path) or ""):
            fix = f"take the line out: sudo visudo -f {quote(path)}"
            yield fail("user", f"{path} lets {layout.USER} run commands as root", fix)


def _rows(here: Surroundings, path: str, columns: int) -> List[List[str]]:
    rows = [line.split(":") for line in here.text(path).splitlines()]
    return [row for row in rows if len(row) == columns]


# --- files --------------------------------------------------------------------------------------


class Rule(NamedTuple):
    """Whose a file is to be, and which bits of its mode must not be set."""

    owner: str
    bits: int
    mode: str  # what mends it


_SECRET = Rule(layout.ROOT, 0o077, "600")
_SECRET_FOLDER = Rule(layout.ROOT, 0o077, "700")  # root's own: what it unpacks, it runs
_BROKERS = Rule(layout.ROOT, 0o037, "640")  # Mosquitto reads it by its group
_PROGRAM = Rule(layout.ROOT, 0o022, "go-w")
_RECORD = Rule(layout.USER, 0o077, "go=")
_SERVER_KEY = layout.CERTIFICATES[2]
RULES: Dict[str, Rule] = {
    **{layout.settings_file(role): _SECRET for role in layout.ROLES},
    **dict.fromkeys((layout.AUTHORITY, layout.AUTHORITY_KEPT, layout.UPDATE_KEY), _SECRET),
    **{f"{layout.BROKER_FOLDER}/{name}": _BROKERS for name in layout.BROKER_FILES},
    _SERVER_KEY: _BROKERS,
    **dict.fromkeys((layout.STATE, layout.STATE_MASTER, layout.STATE_BROKER), _RECORD),
    layout.IDENTITIES: _RECORD,
    **dict.fromkeys((layout.UPDATES, *layout.CACHES[1:]), _SECRET_FOLDER),
    **dict.fromkeys((layout.FOLDER, layout.PROVEN, layout.SETTINGS), _PROGRAM),
    **dict.fromkeys((layout.CA_FILE, layout.BROKER_FOLDER, layout.MOSQUITTO_CONF), _PROGRAM),
    **dict.fromkeys(layout.CERTIFICATES[:2], _PROGRAM),
    **{layout.unit_file(unit): _PROGRAM for unit in layout.ALL_UNITS},
}


def files(here: Surroundings) -> Iterator[Finding]:
    """Secrets that others can read, and programs that others can change."""
    rows = _rows(here, "/etc/passwd", 7)
    owners = {layout.ROOT: 0, **{row[0]: int(row[2]) for row in rows if row[2].isdigit()}}
    seen, faults, hidden = 0, 0, []
    for path, rule in RULES.items():
        try:
            status = here.at(path).stat()
        except (FileNotFoundError, NotADirectoryError):
            continue
        except PermissionError:
            hidden.append(os.path.dirname(path))
            continue
        seen += 1
        why = _wrong(status, rule, owners)
        if why:
            faults += 1
            fix = f"sudo chown {rule.owner} {quote(path)} && sudo chmod {rule.mode} {quote(path)}"
            yield fail("files", f"{path} {why}", fix)
    if hidden:
        message = f"run it with sudo to see what lies in {', '.join(dict.fromkeys(hidden))}"
        yield warn("files", message, here.doctor_as_root)
    if not faults:
        yield ok("files", f"{seen} files and directories have the right owners and modes")


def _wrong(status: os.stat_result, rule: Rule, owners: Dict[str, int]) -> Optional[str]:
    if status.st_uid != owners.get(rule.owner):
        return f"does not belong to {rule.owner}"
    if not status.st_mode & rule.bits:
        return None
    return "can be changed by others" if status.st_mode & 0o022 else "can be read by others"


# --- units --------------------------------------------------------------------------------------


def units(here: Surroundings) -> Iterator[Finding]:
    """Our own, unchanged, and as tight as they are meant to be."""
    for unit in layout.ALL_UNITS:
        text = here.read(layout.unit_file(unit))
        if text is None:
            continue
        role = next((r for r in here.roles if unit in layout.UNITS[r]), here.roles[0])
        if text != (SYSTEMD / unit).read_text("utf-8"):
            message = f"{unit} is not the one that this pibot.pyz brings"
            yield warn("units", message, here.setup(role))
        else:
            yield ok("units", f"{unit} is as setup made it")
        yield from _exposure(here, unit)


def _exposure(here: Surroundings, unit: str) -> Iterator[Finding]:
    """How much systemd sees exposed, with all drop-ins; older ones cannot say it of a file.

    Where systemd does not run, its tool would leave a directory of its own behind.
    """
    most = EXPOSURES.get(unit)
    if most is None or not here.at("/run/systemd/system").is_dir():
        return
    command = (ANALYZE, "security", "--offline=true", f"--root={here.root}", "--no-pager", unit)
    said = here.ask(*command)
    found = _EXPOSURE.search(said.out) if said else None
    if found is None:
        return
    exposure = float(found[1])
    if exposure <= most:
        yield ok("units", f"{unit} has an exposure of {exposure:g}, and {most:g} are allowed")
        return
    judge = fail if exposure >= NOT_OK else warn
    message = f"{unit} has an exposure of {exposure:g}, more than {most:g}: drop-ins loosen it"
    yield judge("units", message, f"systemctl cat {unit}; systemctl edit {unit}")
