"""Keys and passwords: strong enough, and nobody else's. None of them is ever shown."""

from __future__ import annotations

from collections import defaultdict
from typing import Dict, Iterator, List, Optional, Set

from pibot.config import Settings
from pibot.deploy import layout
from pibot.doctor.findings import Finding, fail, ok, warn
from pibot.doctor.settings import Subject
from pibot.doctor.surroundings import Surroundings
from pibot.errors import StoreError
from pibot.identities import Identities
from pibot.topics import MASTER, RESERVED, name_of_user

KEY_CHARS, PASSWORD_CHARS = 32, 16
MIN_DIFFERENT = 10  # 32 random hex digits have fewer once in 15,000 times


def own(here: Surroundings, subject: Subject) -> Iterator[Finding]:
    """What this role shows to the broker and signs with."""
    found = subject.settings
    if found is None:
        return
    if found.mqtt_password and _is_weak(found.mqtt_password, PASSWORD_CHARS):
        message = "MQTT_PASSWORD is short: somebody can find it by trying"
        longer = f"give this user a longer one at the broker, then: {subject.edit()}"
        yield warn("key", message, longer)
    if found.key and _is_weak(found.key, KEY_CHARS):
        message = "PIBOT_KEY is short, or a word: whoever hears the traffic can find it by trying"
        yield fail("key", message, renew(here, subject))
    elif found.key:
        yield ok("key", "messages are signed with a long random key")
    elif found.mqtt_password or not found.is_loopback_broker:
        message = "there is no PIBOT_KEY: nothing that is sent is signed"
        yield fail("key", message, renew(here, subject))


def _is_weak(secret: str, chars: int) -> bool:
    return len(secret) < chars or len(set(secret)) < MIN_DIFFERENT


def renew(here: Surroundings, subject: Subject) -> str:
    """What gives a role other credentials."""
    found = subject.settings
    name = found and (found.worker_id if subject.role == "worker" else found.client)
    if subject.role == "master":
        path = layout.settings_file("master")
        return f"sudo sed -i '/^PIBOT_KEY=/d' {path} && {here.setup('master')}"
    if subject.role == "worker":
        there = f"{here.setup('worker')} --env-file {name}.env"
        return f"on the master: pibot.pyz workers rotate {name}; bring the file here, then: {there}"
    return "on the master: pibot.pyz clients add NEW-NAME; bring the file here, and use it as .env"


# --- who has which ------------------------------------------------------------------------------


def shared(here: Surroundings, subjects: List[Subject]) -> Iterator[Finding]:
    """One key for several names: whoever steals it speaks for all of them."""
    text = here.read(layout.IDENTITIES) if "master" in here.roles else None
    known = Identities()
    if text is not None:
        try:
            known = Identities.parse(here.at(layout.IDENTITIES), text)
        except StoreError:
            pass  # the check of the users says so
    holders = _holders(known, subjects)
    together = [sorted(names) for names in holders.values() if len(names) > 1]
    for names in together:
        message = f"one PIBOT_KEY is shared by {', '.join(names[:8])}"
        again = next(name for name in names if name != RESERVED)
        fix = f"pibot.pyz workers rotate {again}, or clients add for a person; bring the file there"
        yield fail("shared keys", message, fix)
    yield from _one_for_all(known, subjects)
    if text is not None and not together:
        yield ok("shared keys", f"each of {len(known)} names has a key of its own")


def _holders(known: Identities, subjects: List[Subject]) -> Dict[str, Set[str]]:
    """The names that each key stands for."""
    found: Dict[str, Set[str]] = defaultdict(set)
    for one in known.users():
        found[one.key].add(one.name)
    for subject in subjects:
        if subject.settings and subject.settings.key:
            found[subject.settings.key].add(_name(subject.role, subject.settings))
    return found


def _name(role: str, settings: Settings) -> str:
    if role == "master":
        return RESERVED
    if role == "worker":
        return settings.worker_id
    return name_of_user(settings.mqtt_username or "") or "this client"


def _one_for_all(known: Identities, subjects: List[Subject]) -> Iterator[Finding]:
    """A master that has a key and gave nobody else one: the others can only have the same."""
    master: Optional[Settings] = next((s.settings for s in subjects if s.role == "master"), None)
    if master is None or not master.key or master.is_loopback_broker:
        return
    if len(known) == len(known.of_kind(MASTER)):
        message = "no worker and no client has a key of its own, so all share the master's"
        yield warn("shared keys", message, "pibot.pyz workers add NAME for each; bring the files")
