"""What has to be done to a machine so that a role runs on it. Pure.

Every step is first written down as if nothing were there. What the facts say is so already is then
left out: a second setup has nothing to do.
"""

from __future__ import annotations

import re
from typing import List, Mapping, NamedTuple, Optional

from pibot.deploy import layout, mosquitto
from pibot.deploy.accounts import check_user, user_steps
from pibot.deploy.certificates import Certificates
from pibot.deploy.credentials import Access
from pibot.deploy.envfile import edited
from pibot.deploy.facts import Facts, Old, Wishes
from pibot.deploy.needs import left_to_do, owner_ids
from pibot.deploy.services import Services
from pibot.deploy.settle import Settled, installed
from pibot.deploy.steps import (
    BY_PIBOT,
    FOR_BROKER,
    File,
    Folder,
    Give,
    Link,
    Mend,
    Program,
    Prune,
    Remove,
    Step,
    Twin,
)
from pibot.deploy.tree import FILE, FOLDER, NONE
from pibot.errors import ConfigError
from pibot.tls import BROKER_NAME

_WANTED_BY = re.compile(r"^WantedBy=(\S+)$", re.MULTILINE)
_NO_BROKER = (
    "or run it with --no-broker if another machine has the broker, or nobody else is to join"
)


class Texts(NamedTuple):
    """The files that come with the program."""

    units: Mapping[str, str]
    sysusers: str
    mosquitto: str


class Plan(NamedTuple):
    steps: List[Step]
    notes: List[str]


def install(
    facts: Facts, wishes: Wishes, settled: Settled, access: Optional[Access], texts: Texts
) -> Plan:
    """The steps that make this machine a master or a worker; raise ConfigError if it cannot be."""
    check_user(facts)
    if settled.broker:
        _check_broker(facts)
    steps = [
        *_takeover(facts),
        *user_steps(facts, texts.sysusers),
        *_program(facts, wishes.role),
        *_authority(access),
        *_state(facts, wishes.role),
        *(_credentials(access) if access else ()),
        *_settings(facts, wishes.role, settled, access),
        *(_broker(access, texts) if settled.broker and access else ()),
        *_units(wishes.role, settled, texts),
        *(_client(facts, access) if access else ()),
        *_mended(settled),
    ]
    todo = left_to_do(steps, facts)
    services = Services(facts, wishes.role, settled.broker, todo)
    notes = [*_notes(facts, settled), *settled.notes, *(access.notes if access else ())]
    if settled.broker and access:
        notes += _about_tls(access, texts)
    return Plan([*services.stopped(), *todo, *services.started()], notes)


# --- what stands in the way -----------------------------------------------------------------------


def _check_broker(facts: Facts) -> None:
    if facts.is_machine and not facts.mosquitto:
        raise ConfigError(
            f"there is no Mosquitto on this machine, and workers reach the master through it: run "
            f"`sudo apt install mosquitto` first, {_NO_BROKER}"
        )
    if facts.obstacle:
        raise ConfigError(
            f"Mosquitto has settings of your own here ({facts.obstacle}), which setup does not "
            "touch: move them away, or use --no-broker and add PiBot's users to them, as "
            "docs/own-broker.md tells"
        )


def _notes(facts: Facts, settled: Settled) -> List[str]:
    found = list(facts.notes)
    if facts.old:
        who = facts.old.found.user or "root"
        found.append(
            f"{facts.old.unit} was made by hand and runs {facts.old.found.program} as {who}: it "
            "is replaced, and its settings are taken over."
        )
    if settled.broker and not facts.mosquitto:
        found.append("Mosquitto is not in the image: install it there, and run this once more.")
    if not facts.may_give and not facts.is_machine:
        found.append("Only root can give files to others: all of them stay yours.")
    if facts.is_machine and not facts.systemd:
        found.append("systemd does not run here: nothing is started.")
    return found


def _about_tls(access: Access, texts: Texts) -> List[str]:
    found = []
    if access.certificates is None:
        found.append(
            f"The certificates in {layout.BROKER_FOLDER} are your own, and not for {BROKER_NAME}: "
            "a machine that comes over the network needs MQTT_CA_FILE, and a name that stands in "
            "them as MQTT_HOST."
        )
    if mosquitto.is_open(texts.mosquitto):
        found.append(
            "Port 1883 stays open to the network without TLS, for workers that were added before "
            "there was TLS. Once each has a new file (`workers rotate`), close it: remove "
            f"{layout.MOSQUITTO_CONF}, and run setup again."
        )
    return found


# --- files ----------------------------------------------------------------------------------------


def _takeover(facts: Facts) -> List[Step]:
    """Keep what an older deployment had, and take what starts it away."""
    steps: List[Step] = []
    if facts.old:
        unit = facts.old.unit.rpartition("/")[2]
        kept = layout.wanted("multi-user.target", unit)
        links = [link for link in facts.links if link.endswith(f"/{unit}") and link != kept]
        backup = _new_backup(facts)
        steps.append(Folder(f"keep the older service's files in {backup}", backup, 0o700))
        for path, content in facts.old.files:
            steps.append(File(f"keep a copy of {path}", backup + path, content, 0o600))
        steps += _drop_ins(facts.old)
        steps += [Remove(f"remove {link}", link) for link in links]
    return steps


def _new_backup(facts: Facts) -> str:
    """A directory that is not there yet: an interrupted setup may have left one."""
    taken = facts.names.get(layout.SETTINGS, [])
    names = [layout.BACKUP + facts.now + more for more in ("", *(f"-{n}" for n in range(2, 99)))]
    return next(name for name in names if name.rpartition("/")[2] not in taken)


def _drop_ins(old: Old) -> List[Step]:
    folder = f"{old.unit}.d"
    paths = [path for path, _ in old.files if path.startswith(f"{folder}/")]
    removed: List[Step] = [Remove(f"remove {path}", path) for path in paths]
    return [*removed, *([Prune(f"remove {folder}", folder)] if paths else [])]


def _program(facts: Facts, role: str) -> List[Step]:
    twin = Twin(f"keep it as {layout.PROVEN}, too, for updates", layout.PROVEN, layout.PROGRAM)
    return [
        Folder(f"make {layout.FOLDER}", layout.FOLDER),
        Program(f"copy {facts.program} to {layout.PROGRAM}", layout.PROGRAM, facts.program),
        *([twin] if role == "worker" else ()),
        Link("make pibot.pyz a command for everyone", layout.COMMAND, layout.PROGRAM),
    ]


def _authority(access: Optional[Access]) -> List[Step]:
    """The fleet's own, made now or left with the records; nobody but root ever reads its key."""
    folder = Folder(f"make {layout.SETTINGS}", layout.SETTINGS)
    made = access.certificates if access else None
    if made is None or not made.authority:
        return [folder]
    path, kept = layout.AUTHORITY, layout.AUTHORITY_KEPT
    return [
        folder,
        File(f"write {path}: the fleet's authority", path, made.authority, 0o600),
        Remove(f"remove {kept}", kept),
    ]


def _state(facts: Facts, role: str) -> List[Step]:
    """The state directory; one that an earlier setup left is given to the user of today."""
    there = facts.entry(layout.STATE)
    steps: List[Step] = []
    owner = owner_ids(BY_PIBOT, facts)[0]
    if facts.may_give and there.kind == FOLDER and owner != there.uid:
        steps.append(Give(f"give {layout.STATE} to {layout.USER}", layout.STATE, BY_PIBOT))
    for path in (layout.STATE, layout.CACHE, *([layout.STATE_UPDATE] if role == "worker" else ())):
        steps.append(Folder(f"make {path}, for the services alone", path, 0o700, BY_PIBOT))
    return steps


def _credentials(access: Access) -> List[Step]:
    master, broker = layout.STATE_MASTER, layout.STATE_BROKER
    steps: List[Step] = [Folder(f"make {path}", path, 0o700, BY_PIBOT) for path in (master, broker)]
    files = [(layout.IDENTITIES, access.identities)]
    files += [(f"{broker}/passwd", access.passwd), (f"{broker}/acl", access.acl)]
    for path, text in files:
        steps.append(File(f"write {path}", path, text.encode(), 0o600, BY_PIBOT))
    return steps


def _settings(facts: Facts, role: str, settled: Settled, access: Optional[Access]) -> List[Step]:
    path = layout.settings_file(role)
    values = {**settled.values, **(access.master if access else {})}
    there = facts.entry(path)
    text = there.text if there.kind == FILE else _header(role)
    before = installed(facts, role)
    new = [key for key in values if before.text(key) != values[key]]
    who = f" ({values['WORKER_ID']})" if role == "worker" and "WORKER_ID" in values else ""
    said = f"write {path}{who}" + (f": {', '.join(new)}" if new else "")
    steps: List[Step] = []
    if settled.ca is not None:
        steps.append(File(f"write {layout.CA_FILE}", layout.CA_FILE, settled.ca))
    if settled.update_key:
        key = f"{settled.update_key}\n".encode()
        steps.append(File(f"write {layout.UPDATE_KEY}", layout.UPDATE_KEY, key, 0o600))
    return [*steps, File(said, path, edited(text, values).encode(), 0o600)]


def _header(role: str) -> str:
    return (
        f"# Settings of the PiBot {role} on this machine. After a change:\n"
        f"# sudo systemctl restart {layout.service(role)}\n"
    )


def _broker(access: Access, texts: Texts) -> List[Step]:
    folder, conf = layout.BROKER_FOLDER, layout.MOSQUITTO_CONF
    files = [(f"{folder}/passwd", access.passwd), (f"{folder}/acl", access.acl)]
    return [
        Folder(f"make {folder}", folder),
        *(File(f"write {p}", p, text.encode(), 0o640, FOR_BROKER) for p, text in files),
        *_certificates(access.certificates),
        File(f"write {conf}: who may use the broker", conf, texts.mosquitto.encode()),
    ]


def _certificates(made: Optional[Certificates]) -> List[Step]:
    if made is None or not made.authority:  # they are the user's own
        return []
    ca, server, key = layout.CERTIFICATES
    return [
        File(f"write {ca}", ca, made.ca),
        File(f"write {key}: the broker's own", key, made.key, 0o640, FOR_BROKER),
        File(f"write {server}", server, made.server),
    ]


def _units(role: str, settled: Settled, texts: Texts) -> List[Step]:
    steps: List[Step] = []
    for unit in (*(layout.UNITS["broker"] if settled.broker else ()), *layout.UNITS[role]):
        path, text = layout.unit_file(unit), texts.units[unit]
        steps.append(File(f"write {path}", path, text.encode()))
        for target in _WANTED_BY.findall(text):
            link = layout.wanted(target, unit)
            steps.append(Link(f"start {unit} with the machine", link, path))
    return steps


def _client(facts: Facts, access: Access) -> List[Step]:
    """The file of the person who runs setup; their own directories are left as they are."""
    if access.client is None or facts.person is None:
        return []
    path, owner = access.client.path, (facts.person.uid, facts.person.gid)
    above = [path.rpartition("/")[0].rpartition("/")[0], path.rpartition("/")[0]]
    missing = [folder for folder in above if facts.entry(folder).kind == NONE]
    said = f"write {path}, so that {facts.person.name} can use the fleet"
    return [
        *(Folder(f"make {folder}", folder, 0o700, owner) for folder in missing),
        File(said, path, access.client.text.encode(), 0o600, owner),
    ]


def _mended(settled: Settled) -> List[Step]:
    return [
        Mend(f"close {given.source.path} to others (chmod 600)", given.source.path, 0o600)
        for given in settled.used
        if given.mode & 0o077
    ]
