"""The master's and the person's credentials: kept while they fit together, else made anew.

Everything stays in memory; the plan puts it in place.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Dict, List, Mapping, NamedTuple, Optional

from pibot.deploy import layout
from pibot.deploy.envfile import Source
from pibot.deploy.facts import Account, Facts
from pibot.deploy.settle import Settled
from pibot.deploy.tree import NONE
from pibot.identities import (
    CLIENT,
    MASTER,
    Identities,
    Secret,
    acl_text,
    env_text,
    fits,
    passwd_text,
)

_PORT, _TLS_PORT = 1883, 8883


class Client(NamedTuple):
    """The file that lets the person who runs setup use the fleet."""

    path: str
    text: str
    name: str


class Access(NamedTuple):
    """What the files of a fleet with credentials have to say."""

    identities: str
    passwd: str
    acl: str
    master: Mapping[str, str]  # settings of the master
    client: Optional[Client]  # None: there is nothing to write
    notes: List[str]


def prepare(facts: Facts, settled: Settled) -> Access:
    """What is there, and what is missing made; raise StoreError for a damaged identities.json."""
    known = _known(facts)
    own = _has_own_password(known, settled)
    master = _master(known, settled, own)
    notes: List[str] = []
    client = None if own else _client(facts, known, settled, notes)
    return Access(known.text(), passwd_text(known), acl_text(settled.fleet), master, client, notes)


def _known(facts: Facts) -> Identities:
    there = facts.entry(layout.IDENTITIES)
    path = Path(layout.IDENTITIES)
    return Identities.parse(path, there.text) if there.kind != NONE else Identities()


def _has_own_password(known: Identities, settled: Settled) -> bool:
    """Whether the master is let in by a broker whose users somebody else makes."""
    return bool(settled.values.get("MQTT_PASSWORD")) and not (
        settled.broker or _is_known(known, settled)
    )


def _is_known(known: Identities, settled: Settled) -> bool:
    found, password = known.get("master"), settled.values.get("MQTT_PASSWORD", "")
    return found is not None and fits(found.password_line, password)


def _master(known: Identities, settled: Settled, own: bool) -> Dict[str, str]:
    """What is new in the master's settings; nothing if they are what is known of it."""
    found = known.get("master")
    if (
        found
        and found.key == settled.values.get("PIBOT_KEY")
        and (own or _is_known(known, settled))
    ):
        return {}
    secret = known.rotate("master") if found else known.add(MASTER, "master")
    if own:
        return {"PIBOT_KEY": secret.key}
    user = {"MQTT_USERNAME": secret.name, "MQTT_PASSWORD": secret.password}
    return {**user, "PIBOT_KEY": secret.key}


def _client(
    facts: Facts, known: Identities, settled: Settled, notes: List[str]
) -> Optional[Client]:
    if facts.person is None:
        return None
    path = f"{facts.person.home}/{layout.CLIENT_FILE}"
    there = facts.clients.get(path)
    if there is not None:
        if there.text("MQTT_HOST") != settled.values["MQTT_HOST"]:
            notes.append(f"{path} is for another fleet: it is left as it is.")
            return None
        if _is_good(there, known, settled.fleet):
            return None
    secret = _new_client(facts, known, path, notes)
    return Client(path, _client_text(secret, settled), secret.name)


def _is_good(there: Source, known: Identities, fleet: str) -> bool:
    found = known.get(there.text("MQTT_USERNAME"))
    return (
        found is not None
        and found.kind == CLIENT
        and found.key == there.text("PIBOT_KEY")
        and fits(found.password_line, there.text("MQTT_PASSWORD"))
        and there.text("PIBOT_FLEET") == fleet
    )


def _new_client(facts: Facts, known: Identities, path: str, notes: List[str]) -> Secret:
    """The person's login, or the next name like it that nobody else has."""
    assert facts.person is not None
    others = {s.text("MQTT_USERNAME") for p, s in facts.clients.items() if p != path}
    number, base = 1, fit(facts.person)
    while True:
        name = base if number == 1 else f"{base[:28]}-{number}"
        found = known.get(name)
        if found is None:
            return known.add(CLIENT, name)
        if found.kind == CLIENT and name not in others:
            notes.append(f"The client {name} gets new credentials: copies of its old file end.")
            return known.rotate(name)
        number += 1


def fit(person: Account) -> str:
    """A login as a client's name."""
    name = re.sub(r"[^a-z0-9]+", "-", person.name.lower()).strip("-")[:32].strip("-")
    return name if name and name != "master" else "user"


def _client_text(secret: Secret, settled: Settled) -> str:
    values = settled.values
    ca_file = layout.CA_FILE if settled.ca else None
    port = int(values.get("MQTT_PORT") or (_TLS_PORT if ca_file else _PORT))
    return env_text(secret, settled.fleet, values["MQTT_HOST"], port, ca_file)
