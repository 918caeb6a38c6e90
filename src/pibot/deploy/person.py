"""The file with which the person who runs setup uses the fleet: kept while it serves. Pure."""

from __future__ import annotations

import base64
import re
from typing import Dict, List, NamedTuple, Optional

from pibot.deploy import layout
from pibot.deploy.envfile import Source, edited
from pibot.deploy.facts import Account, Facts
from pibot.deploy.settle import Settled
from pibot.identities import Identities, Secret, env_text
from pibot.topics import CLIENT, name_of_user
from pibot.values import NAME

_PORT, _TLS_PORT = 1883, 8883
_TRUST = ("MQTT_PORT", "MQTT_CA_FILE", "PIBOT_CA")  # how the broker is reached and trusted
_MADE_UP = (
    "{path} has a key for {name}, and a password that is made up: your broker has to know {name} "
    "with it, or put the user name and password that it knows in their place."
)


class Client(NamedTuple):
    path: str
    text: str
    name: str


class Person:
    """Whoever runs setup, as a client of the fleet; what is made for them is added to `known`."""

    def __init__(self, facts: Facts, known: Identities, settled: Settled, ca: Optional[bytes]):
        """`ca` is the certificate of the fleet's authority, if it has one."""
        self._facts, self._known, self._settled, self._ca = facts, known, settled, ca
        self.notes: List[str] = []

    def file(self, own: bool) -> Optional[Client]:
        """What is to be written; `own`: the broker's users are made by somebody else."""
        person = self._facts.person
        if person is None:
            return None
        path = f"{person.home}/{layout.CLIENT_FILE}"
        there = self._facts.clients.get(path)
        if there is None:
            secret = self._new(person, path)
            if own:
                self.notes.append(_MADE_UP.format(path=path, name=secret.name))
            return Client(path, self._text(secret), secret.name)
        if there.text("MQTT_HOST") != self._settled.values["MQTT_HOST"]:
            self.notes.append(f"{path} is for another fleet: it is left as it is.")
            return None
        if own:
            return self._with_key(there)
        if self._is_good(there):
            return self._with_trust(there)
        secret = self._new(person, path)
        return Client(path, self._text(secret), secret.name)

    def _is_good(self, there: Source) -> bool:
        found = self._known.admitted(there.text("MQTT_USERNAME"), there.text("MQTT_PASSWORD"))
        return (
            found is not None
            and found.kind == CLIENT
            and found.key == there.text("PIBOT_KEY")
            and there.text("PIBOT_FLEET") == self._settled.fleet
        )

    def _with_trust(self, there: Source) -> Optional[Client]:
        """The same credentials, with today's way to the broker of this machine."""
        wanted = {"PIBOT_CA": base64.b64encode(self._ca).decode()} if self._ca else {}
        now = {key: there.text(key) for key in _TRUST if there.text(key)}
        if not self._settled.broker or now == wanted:
            return None
        return self._changed(there, {**dict.fromkeys(_TRUST, ""), **wanted})

    def _with_key(self, there: Source) -> Optional[Client]:
        """The same user at somebody else's broker, with a key that the master knows."""
        name = name_of_user(there.text("MQTT_USERNAME"))
        found = self._known.get(name)
        if not NAME.fullmatch(name) or (found and found.kind != CLIENT):
            self.notes.append(
                f"{there.path} has a user name that no client can have ({name!r}): it gets no key, "
                "and the master will not listen to it."
            )
            return None
        if found and found.key == there.text("PIBOT_KEY"):
            return None
        secret = self._known.rotate(name) if found else self._known.add(CLIENT, name)
        return self._changed(there, {"PIBOT_KEY": secret.key})

    def _changed(self, there: Source, new: Dict[str, str]) -> Client:
        values = {**{key: there.text(key) for key in there.values}, **new}
        text = self._facts.entry(there.path).text
        name = there.text("MQTT_USERNAME")
        return Client(there.path, edited(text, {k: v for k, v in values.items() if v}), name)

    def _new(self, person: Account, path: str) -> Secret:
        """The person's login, or the next name like it that nobody else has."""
        others = {s.text("MQTT_USERNAME") for p, s in self._facts.clients.items() if p != path}
        number, base = 1, fit(person)
        while True:
            name = base if number == 1 else f"{base[:28]}-{number}"
            found = self._known.get(name)
            if found is None:
                return self._known.add(CLIENT, name)
            if found.kind == CLIENT and name not in others:
                said = f"The client {name} gets new credentials: copies of its old file end."
                self.notes.append(said)
                return self._known.rotate(name)
            number += 1

    def _text(self, secret: Secret) -> str:
        values = self._settled.values
        ca = self._ca or base64.b64decode(values.get("PIBOT_CA", ""))
        ca_file = layout.CA_FILE if self._settled.ca else None
        port = values.get("MQTT_PORT") if not self._settled.broker else None
        usual = _TLS_PORT if ca or ca_file else _PORT
        where = (self._settled.fleet, values["MQTT_HOST"], int(port or usual))
        return env_text(secret, *where, ca_file, ca)


def fit(person: Account) -> str:
    """A login as a client's name."""
    name = re.sub(r"[^a-z0-9]+", "-", person.name.lower()).strip("-")[:32].strip("-")
    return name if name and name != "master" else "user"
