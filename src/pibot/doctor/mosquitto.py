"""Mosquitto's own settings on this machine: open to anybody, doubled, or behind a firewall."""

from __future__ import annotations

import os
import re
from typing import Iterator, List, NamedTuple

from pibot.config import is_loopback
from pibot.deploy.layout import MOSQUITTO
from pibot.doctor.findings import Finding, fail, ok, warn
from pibot.doctor.surroundings import Surroundings

UFW = "/usr/sbin/ufw"
_RESTART = "sudo systemctl restart mosquitto"
_ONCE = ("password_file", "acl_file")


class Line(NamedTuple):
    """A setting and the file it stands in; `listener` counts those before it, 0 is none yet."""

    file: str
    key: str
    value: str
    listener: int


class Listener(NamedTuple):
    number: int
    file: str
    port: str
    host: str  # "" is every address

    @property
    def is_open(self) -> bool:
        return self.port != "0" and not (self.host and is_loopback(self.host))

    def collides(self, other: Listener) -> bool:
        everywhere = {"", "0.0.0.0", "::"} & {self.host, other.host}
        return self.port == other.port != "0" and bool(everywhere or self.host == other.host)


def mosquitto(here: Surroundings) -> Iterator[Finding]:
    """Faults that Mosquitto would not tell, or that keep it from starting."""
    lines = read(here)
    if not lines:
        return
    listeners = listening(lines)
    faults = [*_doubles(lines, listeners), *_anonymous(lines, listeners)]
    yield from faults
    if not faults:
        yield ok("mosquitto", "nobody gets in from elsewhere without a password")
    ports = sorted({listener.port for listener in listeners if listener.is_open})
    yield from _firewall(here, ports)


def read(here: Surroundings) -> List[Line]:
    """All settings, in the order in which Mosquitto reads them."""
    found: List[Line] = []
    listener = 0
    files = [MOSQUITTO]
    while files:
        file = files.pop(0)
        for words in (line.split(None, 1) for line in here.text(file).splitlines()):
            if len(words) < 2 or words[0].startswith("#"):
                continue
            key, value = words[0], words[1].strip()
            if key == "include_dir":
                files += _included(here, value)
                continue
            listener += key == "listener"
            found.append(Line(file, key, value, listener))
    return found


def _included(here: Surroundings, folder: str) -> List[str]:
    try:
        names = sorted(os.listdir(here.at(folder)))
    except OSError:
        return []
    return [f"{folder.rstrip('/')}/{name}" for name in names if name.endswith(".conf")]


def listening(lines: List[Line]) -> List[Listener]:
    """All that are opened, whoever may use them."""
    found = []
    for line in lines:
        port, _, host = line.value.partition(" ")
        if line.key == "listener":
            found.append(Listener(line.listener, line.file, port, host.strip()))
        elif line.key == "port":  # an older way to open one
            bound = [other.value for other in lines if other.key == "bind_address"]
            found.append(Listener(0, line.file, port, bound[-1] if bound else ""))
    return found


def _doubles(lines: List[Line], listeners: List[Listener]) -> Iterator[Finding]:
    """Mosquitto ends at once with two of them, and only its log says why."""
    for i, one in enumerate(listeners):
        first = next((other for other in listeners[:i] if other.collides(one)), None)
        if first:
            yield _doubled(f"listener {one.port}", first.file, one.file)
    if _per_listener(lines):
        return
    for key in _ONCE:
        files = [line.file for line in lines if line.key == key]
        if len(files) > 1:
            yield _doubled(key, files[0], files[1])


def _doubled(what: str, first: str, second: str) -> Finding:
    ours = "pibot.conf"
    other = first if second.endswith(ours) else second
    where = f"twice in {first}" if first == second else f"in {first} and in {second}"
    fix = f"take it out: sudo nano {other} && {_RESTART}"
    return fail("mosquitto", f"{what} stands {where}: Mosquitto does not start", fix)


def _anonymous(lines: List[Line], listeners: List[Listener]) -> Iterator[Finding]:
    """Whether somebody on the network gets in without a password."""
    said = [line for line in lines if line.key == "allow_anonymous"]
    if _per_listener(lines):
        pairs = [(x, [line for line in said if line.listener == x.number]) for x in listeners]
    else:  # wherever it stands it holds for all, and the last one wins
        pairs = [(x, said) for x in listeners]
    for listener, words in pairs:
        if listener.is_open and words and words[-1].value == "true":
            file = words[-1].file
            fix = f"sudo sed -i 's/^allow_anonymous true/allow_anonymous false/' {file}"
            message = f"anybody on the network gets in without a password on port {listener.port}"
            yield fail("mosquitto", f"{message} ({file})", f"{fix} && {_RESTART}")


def _per_listener(lines: List[Line]) -> bool:
    said = [line.value for line in lines if line.key == "per_listener_settings"]
    return said[-1:] == ["true"]


# --- the firewall -------------------------------------------------------------------------------


def _firewall(here: Surroundings, ports: List[str]) -> Iterator[Finding]:
    if not ports or not re.search(r"^ENABLED=yes", here.text("/etc/ufw/ufw.conf"), re.MULTILINE):
        return
    if not here.is_root:
        yield warn("firewall", "ufw is on: run it with sudo to see its rules", here.doctor_as_root)
        return
    said = here.ask(UFW, "status")
    if said is None or "Status: active" not in said.out:
        return
    for port in ports:
        if _is_allowed(said.out, port):
            yield ok("firewall", f"ufw lets port {port} through")
        else:
            fix = f"sudo ufw allow {port}/tcp"
            yield warn("firewall", f"ufw has no rule that lets port {port} through", fix)


def _is_allowed(status: str, port: str) -> bool:
    rules = [line.split() for line in status.splitlines()]
    wanted = (port, f"{port}/tcp", "Anywhere")
    return any("ALLOW" in r and r[0] in wanted for r in rules if r)
