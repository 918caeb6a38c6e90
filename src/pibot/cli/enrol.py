"""Gives a name its credentials: a file here, and what checks them to the master."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING, Any, Dict, NamedTuple, Optional

from pibot.cli import newcomer, present
from pibot.cli.parser import Interrupted
from pibot.config import Settings, is_loopback
from pibot.errors import Unreachable, UsageError
from pibot.identities import Secret, identity
from pibot.signing import hide
from pibot.topics import WORKER

if TYPE_CHECKING:
    from pibot.messages import Manage
    from pibot.roles.client import Fleet

_NONCE_BYTES = 16
_OPEN = (
    "this fleet has no credentials, and its broker serves this machine only: to have workers and "
    "clients on other machines run `sudo python3 pibot.pyz setup --role master` first, and add "
    "them there"
)
_PLAIN = (
    "{} goes without TLS, as the settings of this command do; where setup has made TLS, use those "
    "of a client, ~/.config/pibot/client.env"
)


class Given(NamedTuple):
    """What was written here, and what the master has said."""

    files: newcomer.Files
    reply: Dict[str, Any]
    place: Dict[str, Any]  # for programs: the files, and where the broker is


def give(
    found: Settings, action: str, secret: Secret, host: Optional[str], now: bool = False
) -> Given:
    """Write the files, then have the master take what checks them; raise PibotError."""
    from pibot.roles.client import Fleet  # now: it takes a while, and then files are there

    if not (found.key or found.tls or found.is_loopback_broker):
        raise UsageError(
            f"the connection to {found.mqtt_host} is not encrypted, and there is no PIBOT_KEY to "
            "hide the new keys with: use a client's file, or run this on the master's machine"
        )
    address = newcomer.broker_address(found, host)
    with newcomer.written(found, secret, address) as files, Fleet.connect(found) as fleet:
        reply = _ask(fleet, secret, _request(found, action, secret, now))
    if not reply["credentials"]:
        present.note(f"note: {_OPEN}")
    elif not (found.tls or is_loopback(files.host)):
        present.note(f"note: {_PLAIN.format(files.env)}")
    place = {
        "file": str(files.env.absolute()),
        "ca_file": str(files.ca.absolute()) if files.ca else None,
        "fleet": found.fleet,
        "host": files.host,
        "port": found.mqtt_port,
    }
    return Given(files, reply, place)


def _request(found: Settings, action: str, secret: Secret, now: bool) -> Manage:
    from pibot.messages import Manage

    kept = identity(secret)
    key, update_key = (_hidden(found, text) for text in (kept.key, kept.update_key))
    line, name = kept.password_line, kept.name
    return Manage(action, name, line, key, kept.kind, kept.suffix, update_key, now)


def _hidden(found: Settings, text: str) -> str:
    """A key as the master alone can read it; who does not sign has nothing to hide it with."""
    if not (found.key and text):
        return text
    return hide(found.key, text, secrets.token_bytes(_NONCE_BYTES))


def _ask(fleet: Fleet, secret: Secret, request: Manage) -> Dict[str, Any]:
    """Without an answer nobody knows whether the master has taken it."""
    command, name = "workers" if secret.kind == WORKER else "clients", secret.name
    again = f"workers rotate {name}" if secret.kind == WORKER else f"clients remove {name}"
    doubt = (
        f"whether the master took {name} is not known, and its file is removed: see `pibot.pyz "
        f"{command} list`, and if {name} is there, `pibot.pyz {again}`"
    )
    try:
        return fleet.ask(request)
    except Unreachable as error:
        raise Unreachable(f"{error}; {doubt}") from None
    except KeyboardInterrupt:
        raise Interrupted(f"interrupted; {doubt}") from None
