"""Which settings a role gets on this machine, before there are credentials for it.

Besides the facts, only the files that a setting names are looked at.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Dict, List, NamedTuple, Optional

from pibot import config
from pibot.config import is_loopback
from pibot.deploy import layout
from pibot.deploy.envfile import CONNECTION, IDENTITY, Merged, Source, is_for_a_worker, merge
from pibot.deploy.facts import Facts, Given, Wishes
from pibot.deploy.tree import NONE
from pibot.errors import ConfigError, UsageError
from pibot.identities import Identities
from pibot.values import Value, Values, parse_env

LOOPBACK = "127.0.0.1"
DEFAULT_FLEET = "home"
HIDDEN = ("/home", "/root", "/run/user")  # ProtectHome: no service of ours sees them
_FILES = ("PIBOT_SKILLS_DIR", "PIBOT_SOUL")
_FLEET = re.compile(r"^topic readwrite pibot/1/([a-z0-9][a-z0-9-]{0,31})/#$", re.MULTILINE)


class Settled(NamedTuple):
    """The settings of a role, without the credentials that are only made."""

    values: Dict[str, str]
    used: List[Given]  # what was brought along and is used
    notes: List[str]
    fleet: str
    broker: bool = False  # the Mosquitto of this machine is the fleet's
    credentials: bool = False  # the master has to have a password and a key
    ca: Optional[bytes] = None  # the certificate of the broker's authority, where it is a file
    update_key: str = ""  # a worker's, which the service never sees


class Checked(NamedTuple):
    notes: List[str]
    values: Dict[str, str]
    ca: Optional[bytes]


def installed(facts: Facts, role: str) -> Source:
    """What stands in /etc/pibot for a role."""
    path = layout.settings_file(role)
    return Source(path, parse_env(facts.entry(path).text, Path(path)))


def settle(facts: Facts, wishes: Wishes) -> Settled:
    """The settings of the role that is set up; raise ConfigError or UsageError."""
    return (_master if wishes.role == "master" else _worker)(facts, wishes)


# --- the master -----------------------------------------------------------------------------------


def _master(facts: Facts, wishes: Wishes) -> Settled:
    there = installed(facts, "master")
    beside = [g for g in facts.beside if Path(g.source.path).name in (".env", "master.env")]
    used = [g for g in (facts.named, *beside) if g]
    named = [facts.named.source] if facts.named else []
    sources = [*named, there, *(g.source for g in beside), *_old(facts)]
    merged = merge(sources, there.path)
    fleet = _fleet(wishes, merged, _fleet_before(facts))
    host = merged.values.get("MQTT_HOST")
    elsewhere = host is not None and not is_loopback(host.text.strip("[] "))
    broker = wishes.broker and not elsewhere
    for key in (*(CONNECTION if broker else ()), "PIBOT_KEY"):  # made here, never brought along
        merged.values.pop(key, None)
        if key in there.values:
            merged.values[key] = there.values[key]
    notes, values, ca = _checked(facts, "master", merged)
    values.pop("PIBOT_UPDATE_KEY", None)  # a worker's
    values["PIBOT_FLEET"] = fleet
    if broker:
        values = {**values, "MQTT_HOST": LOOPBACK, "MQTT_USERNAME": "master"}
    else:
        notes.append(_about_the_broker(values.get("MQTT_HOST")))
    return Settled(values, used, notes, fleet, broker, "MQTT_HOST" in values, ca)


def _fleet_before(facts: Facts) -> str:
    """The fleet whose records lie here, as --uninstall has left them: its workers wait for it."""
    found = _FLEET.search(facts.entry(f"{layout.STATE_BROKER}/acl").text)
    return found[1] if found else DEFAULT_FLEET


def _about_the_broker(host: Optional[str]) -> str:
    if host is None:
        return "Without Mosquitto, and without MQTT_HOST, this master serves this machine alone."
    return (
        f"The broker is {host} (MQTT_HOST): it has to know the users in {layout.STATE_BROKER}/"
        f"passwd, with the rights in {layout.STATE_BROKER}/acl. Mosquitto here is left alone."
    )


# --- a worker -------------------------------------------------------------------------------------


def _worker(facts: Facts, wishes: Wishes) -> Settled:
    there = installed(facts, "worker")
    about: List[str] = []
    brought = _brought(facts, there.text("WORKER_ID"), about)
    plain = [g for g in facts.beside if Path(g.source.path).name == ".env" and g != brought]
    used = [g for g in (brought, *plain) if g]
    strong = []
    if brought:  # a file that is named says all; one that was found, who the machine is
        strong.append(brought.source if facts.named else brought.source.only(IDENTITY))
    sources = [*strong, there, *(g.source for g in used), *_old(facts)]
    merged = merge(sources, there.path)
    fleet = _fleet(wishes, merged)
    notes, values, ca = _checked(facts, "worker", merged)
    if "MQTT_HOST" not in values and not _master_is_here_and_open(facts):
        raise ConfigError(_no_file(facts, values.get("WORKER_ID") or "worker-1"))
    if _is_of_the_master_here(facts, values):
        values["MQTT_HOST"] = LOOPBACK
        values.pop("PIBOT_CA", None)  # within the machine it goes without
        if there.text("MQTT_HOST") != LOOPBACK:
            notes.append(f"The master is on this machine: the worker finds it at {LOOPBACK}.")
    was = facts.old.found.worker_id if facts.old else None
    if was and values.get("WORKER_ID") != was:
        notes.append(f"The older service was called {was}; this worker has another name.")
    if wishes.fleet or "PIBOT_FLEET" in values:
        values["PIBOT_FLEET"] = fleet
    update_key = values.pop("PIBOT_UPDATE_KEY", "")
    return Settled(values, used, [*about, *notes], fleet, ca=ca, update_key=update_key)


def _brought(facts: Facts, mine: str, notes: List[str]) -> Optional[Given]:
    """The worker's file: what was named, or the one that was brought along for this worker."""
    if facts.named:
        return facts.named
    fitting = [given for given in facts.beside if is_for_a_worker(given.source)]
    special = [g for g in fitting if Path(g.source.path).name != ".env"] or fitting
    if mine:  # files for other machines may lie about as well
        others = [g for g in special if g.source.text("WORKER_ID") != mine]
        special = [g for g in special if g not in others]
        notes += [
            f"{path} is for another worker than {mine}: not used; to make this machine that one, "
            f"add --env-file {path}"
            for path in (g.source.path for g in others)
        ]
    if len(special) > 1:
        names = ", ".join(Path(given.source.path).name for given in special)
        raise UsageError(
            f"several files are for a worker ({names}): name this machine's, as in "
            f"--env-file {special[0].source.path}"
        )
    return special[0] if special else None


def _master_is_here_and_open(facts: Facts) -> bool:
    """Whether the master of this machine serves a broker that asks nobody for a password."""
    master = installed(facts, "master")
    return bool(master.values) and not master.text("MQTT_HOST")


def _is_of_the_master_here(facts: Facts, values: Dict[str, str]) -> bool:
    """Whether this machine's master made the worker's password, and has its broker here.

    Such a worker needs no network, whatever address the others use and how often it changes.
    """
    host, there = installed(facts, "master").text("MQTT_HOST"), facts.entry(layout.IDENTITIES)
    if not is_loopback(host) or "MQTT_CA_FILE" in values or there.kind == NONE:
        return False
    known = Identities.parse(Path(layout.IDENTITIES), there.text)
    user, password = values.get("MQTT_USERNAME", ""), values.get("MQTT_PASSWORD", "")
    return known.admitted(user, password) is not None


def _no_file(facts: Facts, name: str) -> str:
    if installed(facts, "master").values:
        return (
            f"this machine has no worker's credentials yet: run `pibot.pyz workers add {name}`, "
            f"then, in the same directory, `sudo pibot.pyz setup --role worker`"
        )
    return (
        f"there is no worker's file beside {facts.program}: run `pibot.pyz workers add {name}` on "
        f"the master, copy the {name}.env that it writes here, and run this again"
    )


# --- both -----------------------------------------------------------------------------------------


def _old(facts: Facts) -> List[Source]:
    return list(facts.old.sources) if facts.old else []


def _fleet(wishes: Wishes, merged: Merged, default: str = DEFAULT_FLEET) -> str:
    value = merged.values.get("PIBOT_FLEET")
    if value is None:
        return wishes.fleet or default
    if wishes.fleet and wishes.fleet != value.text.strip():
        raise UsageError(
            f"--fleet {wishes.fleet}: PIBOT_FLEET {value.place} says {value.text.strip()!r}; "
            "change it there, and on every other machine of the fleet"
        )
    return value.text.strip()


def _checked(facts: Facts, role: str, merged: Merged) -> Checked:
    """What config makes of the settings; what an older deployment had wrong is left out."""
    found, notes = dict(merged.values), list(merged.notes)
    environ = {"STATE_DIRECTORY": layout.STATE}
    while True:
        try:
            checked = config.settings_of(role, Values({}, {}, _visible(facts, found)), environ)
            break
        except ConfigError as error:
            blamed = next((k for k in merged.lenient if _blames(error, k, found)), None)
            if blamed is None:
                raise
            notes.append(f"{error} It is left out.")
            del found[blamed]
    values = {key: value.text.strip() for key, value in found.items()}
    values.update({key: _place(key, found) for key in _FILES if key in found})
    if checked.mqtt_ca_file is None:
        return Checked(notes, values, None)
    values["MQTT_CA_FILE"] = layout.CA_FILE
    return Checked(notes, values, _certificate(checked.mqtt_ca_file, found))


def _blames(error: ConfigError, key: str, found: Dict[str, Value]) -> bool:
    return key in found and str(error).startswith(f"{key} {found[key].place} ")


def _visible(facts: Facts, found: Dict[str, Value]) -> Dict[str, Value]:
    """What an image names lies in the image: it is looked for there, or not at all."""
    if facts.is_machine:
        return found
    seen = {key: value for key, value in found.items() if key not in _FILES}
    ca = seen.get("MQTT_CA_FILE")
    if ca and ca.text.strip() == layout.CA_FILE:
        seen["MQTT_CA_FILE"] = ca._replace(text=f"{facts.root}{layout.CA_FILE}")
    return seen


def _place(key: str, found: Dict[str, Value]) -> str:
    """A path that means the same in /etc/pibot, and that the service can see."""
    values = Values({}, {}, found)
    path = str(values.path(key))
    brought = found[key].folder != Path(layout.SETTINGS)
    if brought and path.startswith(tuple(f"{folder}/" for folder in HIDDEN)):
        raise values.error(key, f"names {path}, which a service cannot see; move it to /etc/pibot")
    return path


def _certificate(path: Path, found: Dict[str, Value]) -> bytes:
    values = Values({}, {}, found)
    try:
        content = path.read_bytes()
    except OSError as error:
        raise values.error("MQTT_CA_FILE", f"cannot be read: {error.strerror}") from None
    if b"-----BEGIN CERTIFICATE-----" not in content:
        raise values.error("MQTT_CA_FILE", f"names {path}, which is no certificate (PEM)")
    return content
