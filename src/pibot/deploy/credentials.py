"""The master's and the person's credentials: kept while they fit together, else made anew.

Everything stays in memory; the plan puts it in place.
"""

from __future__ import annotations

from pathlib import Path
from typing import Dict, List, Mapping, NamedTuple, Optional

from pibot.deploy import layout
from pibot.deploy.certificates import Certificates
from pibot.deploy.facts import Facts
from pibot.deploy.person import Client, Person
from pibot.deploy.settle import Settled
from pibot.deploy.tree import NONE
from pibot.identities import Identities, fits
from pibot.mosquitto import passwd_text
from pibot.rights import acl_text
from pibot.topics import MASTER


class Access(NamedTuple):
    """What the files of a fleet with credentials have to say."""

    identities: str
    passwd: str
    acl: str
    master: Mapping[str, str]  # settings of the master
    client: Optional[Client]  # None: there is nothing to write
    notes: List[str]
    certificates: Optional[Certificates] = None  # None: the broker's are not ours


def prepare(facts: Facts, settled: Settled, certificates: Optional[Certificates]) -> Access:
    """What is there, and what is missing made; raise StoreError for a damaged identities.json."""
    known = _known(facts)
    own = _has_own_password(known, settled)
    master = _master(known, settled, own)
    person = Person(facts, known, settled, certificates.der if certificates else None)
    client = person.file(own)
    texts = (known.text(), passwd_text(known), acl_text(settled.fleet, known.special()))
    return Access(*texts, master, client, person.notes, certificates)


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
