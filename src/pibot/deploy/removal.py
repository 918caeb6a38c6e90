"""What has to be done so that nothing of PiBot is left but its records. Pure.

Only what setup makes is removed. What else lies in its directories stays, and is named.
"""

from __future__ import annotations

from typing import Iterable, List, Sequence, Set

from pibot import config
from pibot.deploy import certificates, layout, mosquitto, previous
from pibot.deploy.accounts import is_service, without_user
from pibot.deploy.facts import Facts
from pibot.deploy.needs import left_to_do
from pibot.deploy.plan import Plan
from pibot.deploy.services import is_awake
from pibot.deploy.settle import installed
from pibot.deploy.steps import Clear, File, Folder, Prune, Remove, Run, Step, systemctl
from pibot.deploy.tree import FILE, FOLDER, LINK, NONE


def is_here(facts: Facts, role: str) -> bool:
    """Whether setup has made this machine one of that role, or has begun to."""
    unit = layout.service(role)
    is_unit = facts.entry(layout.unit_file(unit)).kind != NONE and _may_touch(facts, unit)
    return is_unit or facts.entry(layout.settings_file(role)).kind != NONE


def uninstall(facts: Facts, role: str) -> Plan:
    """The steps that take a role away, or with "" all; the last one takes what all shared."""
    roles = [role] if role else list(layout.ROLES)
    stays = [one for one in layout.ROLES if one not in roles and is_here(facts, one)]
    units = [unit for unit in _units(roles) if _may_touch(facts, unit)]
    files = [*_unit_files(facts, units), *_role_files(facts, roles)]
    if not stays:
        files += _shared(facts)
    todo = left_to_do(files, facts)
    gone = {getattr(step, "path", "") for step in todo}
    steps = [*_stopped(facts, units), *todo, *_reread(facts, gone)]
    if not stays:
        steps += [*_user(facts), *_last(facts)]
    return Plan(steps, _notes(facts, stays, gone))


# --- services -------------------------------------------------------------------------------------


def _units(roles: Iterable[str]) -> List[str]:
    names = [unit for role in roles for unit in layout.UNITS[role]]
    return [*names, *(layout.UNITS["broker"] if "master" in roles else ())]


def _may_touch(facts: Facts, unit: str) -> bool:
    """A unit of the same name may have been made by hand."""
    text = facts.entry(layout.unit_file(unit)).text
    roles = [role for role in layout.ROLES if layout.service(role) == unit]
    return not text or all(previous.is_ours(text, role) for role in roles)


def _stopped(facts: Facts, units: Sequence[str]) -> List[Step]:
    awake = [unit for unit in units if is_awake(facts, unit)]
    failed = [unit for unit in units if facts.units.get(unit) == "failed"]
    return [
        *(systemctl(f"stop {unit}", "stop", unit) for unit in awake),
        *(systemctl(f"forget the failure of {unit}", "reset-failed", unit) for unit in failed),
    ]


def _unit_files(facts: Facts, units: Sequence[str]) -> List[Step]:
    links = [link for link in facts.links if link.rpartition("/")[2] in units]
    paths = [*links, *map(layout.unit_file, units)]
    return [Remove(f"remove {path}", path) for path in paths]


def _reread(facts: Facts, gone: Set[str]) -> List[Step]:
    if not facts.systemd:
        return []
    steps: List[Step] = []
    if gone & {layout.unit_file(unit) for unit in layout.ALL_UNITS}:
        steps.append(systemctl("let systemd forget the units", "daemon-reload"))
    if layout.MOSQUITTO_CONF in gone and facts.units.get(layout.BROKER_UNIT) == "active":
        name = layout.BROKER_UNIT
        steps.append(systemctl(f"restart {name}, without PiBot's settings", "restart", name))
    return steps


# --- files ----------------------------------------------------------------------------------------


def _role_files(facts: Facts, roles: Sequence[str]) -> List[Step]:
    paths = [layout.settings_file(role) for role in roles]
    if "worker" in roles:
        paths += [layout.CA_FILE, layout.UPDATE_KEY, layout.PROVEN]
    if "master" in roles:
        paths += _certificates(facts)
        if mosquitto.is_ours(facts.entry(layout.MOSQUITTO_CONF).text):
            paths.append(layout.MOSQUITTO_CONF)
        paths += [f"{layout.BROKER_FOLDER}/{name}" for name in layout.BROKER_FILES]
        paths += _clients(facts)
    removed: List[Step] = [Remove(f"remove {path}", path) for path in paths]
    if "worker" in roles:
        removed.append(Clear(f"remove {layout.UPDATES}", layout.UPDATES))
    if "master" in roles:
        removed += _authority(facts)
        removed += _pruned(facts, [layout.BROKER_FOLDER], paths)
        for folder in _client_folders(facts):
            removed += _pruned(facts, [folder], paths)
            removed += _pruned(facts, [folder.rpartition("/")[0]], [folder])
    return removed


def _certificates(facts: Facts) -> List[str]:
    """Those that setup has made."""
    authority = certificates.kept_authority(facts)
    return [] if certificates.are_the_users(facts, authority) else list(layout.CERTIFICATES)


def _authority(facts: Facts) -> List[Step]:
    """The fleet's own stays with its records: the workers that trust it wait for it."""
    there, kept = facts.entry(layout.AUTHORITY), layout.AUTHORITY_KEPT
    has_records = facts.entry(layout.IDENTITIES).kind != NONE
    keep = File(f"keep the fleet's authority as {kept}", kept, there.content, 0o600)
    remove = Remove(f"remove {layout.AUTHORITY}", layout.AUTHORITY)
    return [*([keep] if there.kind == FILE and has_records else []), remove]


def _clients(facts: Facts) -> List[str]:
    """The files of people that are for the master of this machine."""
    host = installed(facts, "master").text("MQTT_HOST")
    hosts = {path: source.text("MQTT_HOST") for path, source in facts.clients.items()}
    whole = [p for p, h in hosts.items() if h and (h == host or config.is_loopback(h))]
    half = [p for p, e in facts.entries.items() if e.half and p.endswith(layout.CLIENT_FILE)]
    return [*whole, *half]


def _client_folders(facts: Facts) -> List[str]:
    name = layout.CLIENT_FILE.rpartition("/")[0]
    there = [path for path, entry in facts.entries.items() if entry.kind == FOLDER]
    return [path for path in there if path.endswith(f"/{name}")]


def _shared(facts: Facts) -> List[Step]:
    paths = [layout.SYSUSERS]
    settings = [
        layout.CA_FILE,
        layout.AUTHORITY,
        layout.UPDATE_KEY,
        *map(layout.settings_file, layout.ROLES),
    ]
    steps: List[Step] = [Remove(f"remove {path}", path) for path in paths]
    steps += _pruned(facts, [layout.SYSUSERS_FOLDER, layout.SETTINGS], [*paths, *settings])
    steps += [Clear(f"remove {path}", path) for path in layout.CACHES]
    if facts.entry(layout.STATE).kind == FOLDER:
        # The user goes: another one that gets his number must not get his records.
        steps.append(Folder(f"give {layout.STATE} to root", layout.STATE, 0o700))
    return steps


def _pruned(facts: Facts, folders: Sequence[str], removed: Sequence[str]) -> List[Step]:
    """The directories in which nothing else is."""
    return [
        Prune(f"remove {folder}", folder) for folder in folders if not _kept(facts, folder, removed)
    ]


def _kept(facts: Facts, folder: str, removed: Iterable[str]) -> List[str]:
    going = [path.rpartition("/")[2] for path in removed if path.rpartition("/")[0] == folder]
    going += [f".{name}.new" for name in going]  # what an interrupted write left
    return [name for name in facts.names.get(folder, []) if name not in going]


def _last(facts: Facts) -> List[Step]:
    """The program itself, from which this is running, and where it was unpacked."""
    steps: List[Step] = []
    command = facts.entry(layout.COMMAND)
    if command.half or (command.kind == LINK and command.text == layout.PROGRAM):
        steps.append(Remove(f"remove {layout.COMMAND}", layout.COMMAND))
    steps.append(Remove(f"remove {layout.PROGRAM}", layout.PROGRAM))
    steps += _pruned(facts, [layout.FOLDER], [layout.PROGRAM, layout.PROVEN])
    steps += [Clear(f"remove {path}", path) for path in facts.caches]
    steps += _pruned(
        facts, sorted({path.rpartition("/")[0] for path in facts.caches}), facts.caches
    )
    return left_to_do(steps, facts)


def _user(facts: Facts) -> List[Step]:
    said = f"remove the user {layout.USER}"
    if not facts.is_machine:
        return [
            File(f"{said} (in {path})", path, without_user(e.content), e.mode, (e.uid, e.gid))
            for path, e in ((p, facts.entry(p)) for p in layout.USER_FILES)
            if e.kind == FILE and without_user(e.content) != e.content
        ]
    if is_service(facts):
        return [Run(said, ("userdel", layout.USER))]
    if layout.USER in facts.groups and layout.USER not in facts.users:
        return [Run(f"remove the group {layout.USER}", ("groupdel", layout.USER))]
    return []


# --- what stays -----------------------------------------------------------------------------------


def _notes(facts: Facts, stays: Sequence[str], gone: Set[str]) -> List[str]:
    if stays:
        return [f"The {stays[0]} of this machine stays, and with it what both share."]
    notes = []
    if facts.entry(layout.STATE).kind == FOLDER:
        notes.append(
            f"{layout.STATE} stays: the fleet's records, which a later setup takes up again. It "
            f"belongs to root now; `sudo rm -r {layout.STATE}` removes it."
        )
    for folder in layout.OWN_FOLDERS:
        kept = _kept(facts, folder, gone | {layout.PROGRAM, layout.PROVEN})
        backups = [name for name in kept if f"{folder}/{name}".startswith(layout.BACKUP)]
        notes += [f"{folder}/{name} stays: it has what an older service used." for name in backups]
        others = [name for name in kept if name not in backups]
        if others:
            notes.append(f"{folder} stays, because it holds {', '.join(others)}.")
    return notes
