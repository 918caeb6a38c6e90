"""What a role was told: is the way to the broker private, and who may make it do what?"""

from __future__ import annotations

import os
from pathlib import Path
from shlex import quote
from typing import Iterator

from pibot import broker
from pibot.config import is_loopback
from pibot.doctor.findings import Finding, fail, ok, warn
from pibot.doctor.security_keys import renew
from pibot.doctor.settings import Subject
from pibot.doctor.surroundings import Surroundings


def settings(here: Surroundings, subject: Subject) -> Iterator[Finding]:
    """Files that others can read are no settings at all."""
    if subject.problem:
        yield subject.problem


def connection(here: Surroundings, subject: Subject) -> Iterator[Finding]:
    found = subject.settings
    if found is None:
        return
    host = broker.locate(found)[0]
    if is_loopback(host):
        yield ok("connection", "the broker is on this machine")
    elif found.tls:
        yield ok(
            "connection", f"the connection to {host} is encrypted, and its broker proves itself"
        )
    else:
        message = f"the connection to {host} has no TLS: passwords and goals can be read on the way"
        own = f"give the broker TLS (docs/own-broker.md) and set MQTT_CA_FILE: {subject.edit()}"
        yield fail("connection", message, own if subject.role == "master" else renew(here, subject))


def approval(here: Surroundings, subject: Subject) -> Iterator[Finding]:
    found = subject.settings
    if found is None:
        return
    if found.approval == "never":
        message = "PIBOT_APPROVAL=never: what stands on a web page can make agents act, unasked"
        yield fail("approval", message, f"take the line out: {subject.edit()}")
    else:
        yield ok("approval", f"sensitive skills need a person's word ({found.approval})")


def skills(here: Surroundings, subject: Subject) -> Iterator[Finding]:
    """Whose code a worker runs."""
    found = subject.settings
    if found is None or subject.role != "worker":
        return
    if found.permits.shell and found.permits.shell_network:
        message = (
            "PIBOT_SHELL_NETWORK=1: commands of agents reach this network, and all its machines"
        )
        yield warn("skills", message, f"take the line out: {subject.edit()}")
    loose = _loose(here, found.skills_dir) if found.skills_dir else None
    if loose:
        message = f"{loose} can be changed by others, and the worker runs what stands there"
        yield fail("skills", message, f"sudo chmod go-w {quote(loose)}")
    elif not (found.permits.shell and found.permits.shell_network):
        shell = "commands run in a sandbox" if found.permits.shell else "no shell"
        yield ok("skills", f"{shell}, and no skill that others can change")


def _loose(here: Surroundings, folder: Path) -> str:
    """What others can change of a directory of skills, or of what leads to it."""
    place = here.at(os.fspath(folder))
    for path in (place, *sorted(place.rglob("*"))):
        if not path.is_symlink() and path.stat().st_mode & 0o022:
            return here.shown(path)
    for path in place.parents:
        mode = path.stat().st_mode
        if mode & 0o022 and not mode & 0o1000:  # in /tmp nobody renames what is another's
            return here.shown(path)
        if path == here.root:
            break
    return ""


def ask(here: Surroundings, subject: Subject) -> Iterator[Finding]:
    found = subject.settings
    if found is not None and subject.role == "master" and found.ask and found.mqtt_password:
        message = "PIBOT_ASK=1: who may write to the broker's topic `ask` gives goals without a key"
        yield warn("ask", message, f"take the line out, if nothing needs it: {subject.edit()}")


def health(here: Surroundings, subject: Subject) -> Iterator[Finding]:
    found = subject.settings
    if found is None:
        return
    who = "this machine alone" if is_loopback(found.health_host) else "whoever reaches this machine"
    yield ok("health", f"port {found.health_port} tells {who} the state, and nothing else")
