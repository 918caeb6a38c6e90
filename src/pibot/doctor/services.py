"""The services as systemd sees them."""

from __future__ import annotations

import re
from typing import Dict, Iterator, List

from pibot.agent.text import short
from pibot.deploy import layout
from pibot.deploy.layout import PROGRAM, ROLES
from pibot.doctor.findings import Finding, fail, ok, warn
from pibot.doctor.surroundings import Surroundings

SYSTEMCTL = "/usr/bin/systemctl"
BROKER_UNITS = layout.UNITS["broker"]
_SHOWN = "LoadState,ActiveState,SubState,Result,UnitFileState,NeedDaemonReload"
_UNIT_FOLDERS = (layout.UNITS_FOLDER, "/lib/systemd/system", "/usr/lib/systemd/system")
_INTERPRETER = re.compile(r"(.*/)?(python[0-9.]*|bash|sh|env)$")


def services(here: Surroundings) -> Iterator[Finding]:
    """Each unit of ours, and what stands in its place."""
    for role in ROLES:
        yield from _foreign(here, role)
    units = _units(here)
    if not units:
        return
    said = here.ask(SYSTEMCTL, "is-system-running")
    if said is None or said.out.strip() in ("", "offline", "unknown"):
        look = "start the machine with systemd"
        yield warn("units", "systemd does not run here: the services cannot be looked at", look)
        return
    for unit in units:
        yield _state(here, unit)


def _foreign(here: Surroundings, role: str) -> Iterator[Finding]:
    """A unit of that name that starts something else, such as an older, hand-made one."""
    name = layout.service(role)
    text = next((t for t in (here.text(f"{f}/{name}") for f in _UNIT_FOLDERS) if t), "")
    if not text or PROGRAM in text:
        return
    start = re.search(r"^ExecStart=[-@:+!]*(.*)$", text, re.MULTILINE)
    what = short(_program(start[1].split() if start else []), 80)
    yield fail("units", f"{name} starts another program ({what})", here.setup(role))


def _program(command: List[str]) -> str:
    """The script or program of a command, without its arguments: they may hold secrets."""
    words = [word for word in command if not word.startswith("-") and "=" not in word]
    if len(words) > 1 and _INTERPRETER.match(words[0]):
        return words[1]
    return words[0] if words else "none"


def _units(here: Surroundings) -> List[str]:
    units = [layout.service(role) for role in here.roles if not _is_foreign(here, role)]
    if "master" in here.roles:
        if here.at(layout.unit_file(BROKER_UNITS[0])).exists():
            units += BROKER_UNITS
        if here.at(layout.MOSQUITTO_CONF).exists():
            units.append(layout.BROKER_UNIT)
    return units


def _is_foreign(here: Surroundings, role: str) -> bool:
    return any(True for _ in _foreign(here, role))


def _state(here: Surroundings, unit: str) -> Finding:
    said = here.ask(SYSTEMCTL, "show", unit, "-p", _SHOWN)
    if said is None or said.status:
        return warn("units", f"systemd says nothing of {unit}", f"systemctl status {unit}")
    rows = (line.partition("=")[::2] for line in said.out.splitlines())
    return judge(unit, dict(rows), _setup(here, unit))


def judge(unit: str, state: Dict[str, str], setup: str) -> Finding:
    """A unit by what `systemctl show` tells of it; the broker's service runs only when woken."""
    name = unit[: -len(".service")] if unit.endswith(".service") else unit
    active, result = state.get("ActiveState", ""), short(state.get("Result", ""), 40)
    restart = f"sudo systemctl restart {name}"
    if unit in BROKER_UNITS:  # after too many starts in vain a restart alone changes nothing
        path, placing = BROKER_UNITS
        restart = f"sudo systemctl reset-failed {placing} && sudo systemctl restart {path}"
    look = f"{restart}; sudo journalctl -u {name} -n 20 --no-pager"
    woken = unit == BROKER_UNITS[1]
    if state.get("LoadState") == "masked":
        return fail("units", f"{name} is masked", f"sudo systemctl unmask --now {name}")
    if state.get("LoadState") != "loaded":
        load = short(state.get("LoadState", ""), 40)
        return fail("units", f"{name} is not installed ({load})", setup)
    if active == "failed" or (active == "activating" and result not in ("", "success")):
        return fail("units", f"{name} has failed ({result})", look)
    if active == "inactive" and not woken:
        return fail("units", f"{name} does not run", f"sudo systemctl enable --now {name}")
    if state.get("NeedDaemonReload") == "yes":
        again = f"sudo systemctl daemon-reload && sudo systemctl restart {name}"
        return warn("units", f"{name} runs with an older unit file", again)
    if state.get("UnitFileState") == "disabled":
        enable = f"sudo systemctl enable {name}"
        return warn("units", f"{name} does not start with the machine", enable)
    return ok("units", f"{name} is {'ready' if woken else short(active, 20)}")


def _setup(here: Surroundings, unit: str) -> str:
    if unit == layout.BROKER_UNIT:
        return "sudo apt install mosquitto"
    return here.setup("worker" if unit == layout.service("worker") else "master")
