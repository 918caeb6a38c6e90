"""Mosquitto as the fleet's door: is it closed, is it private, and does it know only our users?"""

from __future__ import annotations

from typing import Iterator, List, Set

from pibot.deploy import layout
from pibot.deploy.broker_files import check_acl
from pibot.doctor import mosquitto
from pibot.doctor.findings import Finding, fail, ok, warn
from pibot.doctor.mosquitto import Line
from pibot.doctor.surroundings import Surroundings
from pibot.errors import Refused, StoreError
from pibot.identities import Identities
from pibot.mosquitto import passwd_text

_RESTART = "sudo systemctl restart mosquitto"
_PLUGINS = ("plugin", "auth_plugin", "global_plugin")
_ACL = f"{layout.BROKER_FOLDER}/acl"
_PASSWD = f"{layout.BROKER_FOLDER}/passwd"


def listening(here: Surroundings) -> Iterator[Finding]:
    """Who gets in from the network, and what others there can read."""
    yield from (found for found in mosquitto.mosquitto(here) if found.check == "mosquitto")
    lines = mosquitto.read(here)
    encrypted = {line.listener for line in lines if line.key in ("certfile", "psk_hint")}
    for listener in mosquitto.listening(lines):
        if not listener.is_open:
            continue
        if listener.number in encrypted:
            yield ok("mosquitto", f"port {listener.port} speaks TLS")
        else:
            message = f"port {listener.port} is open to the network without TLS ({listener.file})"
            yield fail(
                "mosquitto",
                f"{message}: passwords can be read on the way",
                _close(here, listener.file),
            )


def _close(here: Surroundings, file: str) -> str:
    if file != layout.MOSQUITTO_CONF:
        return f"sudo nano {file} (127.0.0.1 behind the port, or a certfile) && {_RESTART}"
    first = "`pibot.pyz workers rotate` for each worker that has no PIBOT_CA yet, then: "
    return f"{first}sudo rm {file} && {here.setup('master')}"


def rights(here: Surroundings) -> Iterator[Finding]:
    """Whether everyone who is let in may do only what is theirs."""
    lines = mosquitto.read(here)
    found = _values(lines, "acl_file")
    is_open = any(listener.is_open for listener in mosquitto.listening(lines))
    if not found and not is_open:
        return  # for this machine alone, as Debian leaves it
    if not found and not any(_values(lines, key) for key in _PLUGINS):
        message = "Mosquitto has no acl_file: each of its users may read and write everything"
        yield fail("rights", message, here.setup("master"))
    for path in found:
        if path != _ACL:
            yield ok(
                "rights", f"{path} is your own: see docs/own-broker.md for what must stand there"
            )
            continue
        try:
            check_acl(here.read(path) or "")
        except Refused:
            message = f"{path} gives other rights than this pibot.pyz does"
            yield fail("rights", message, here.setup("master"))
        else:
            yield ok("rights", "each user may use only its own topics")


def users(here: Surroundings) -> Iterator[Finding]:
    """Mosquitto's users are those whom the master knows."""
    placed, known = here.read(_PASSWD), here.read(layout.IDENTITIES)
    if placed is None or known is None:
        return
    try:
        wanted = passwd_text(Identities.parse(here.at(layout.IDENTITIES), known))
    except StoreError as error:
        yield fail("users", str(error), "put a good copy in its place")
        return
    strangers = sorted(_names(placed) - _names(wanted))
    if strangers:
        message = f"Mosquitto lets in whom the master does not know: {', '.join(strangers[:8])}"
        yield fail("users", message, here.setup("master"))
    elif placed != wanted:
        message = "Mosquitto has other passwords than the master"
        yield warn("users", message, here.setup("master"))
    else:
        yield ok("users", f"Mosquitto lets in {len(_names(placed))} users: those of the master")


def _values(lines: List[Line], key: str) -> List[str]:
    return [line.value for line in lines if line.key == key]


def _names(passwd: str) -> Set[str]:
    return {line.partition(":")[0] for line in passwd.splitlines()}
