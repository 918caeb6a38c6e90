"""What the skills of services, timers and the journal have in common: systemctl, names of units."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Dict, List, Optional, Sequence

from pibot.permits import Available, Permits
from pibot.skills import Context, SkillError
from pibot.skills import _program as program

RUNNING = Path("/run/systemd/system")  # there while systemd is the machine's first process
LIMIT_S = 15.0
_KINDS = "service|socket|timer|mount|automount|swap|target|path|slice|scope|device"
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9:_.@-]{0,199}")  # no pattern, no path, no option
_KIND = re.compile(rf".+\.({_KINDS})")


def off(skill: str) -> Available:
    """Says that a skill is off where there is no systemd."""

    def why_not(permits: Permits) -> Optional[str]:
        if program.find("systemctl") and RUNNING.is_dir():
            return None
        return f"{skill} is off: this machine is not run by systemd"

    return why_not


def unit_name(text: str) -> str:
    """The full name of a unit; a service unless it says otherwise."""
    name = text.strip(" ")
    if not _NAME.fullmatch(name):
        raise SkillError(
            f"{text[:100]!r} is no name of a unit; write one name such as mosquitto.service"
        )
    return name if _KIND.fullmatch(name) else f"{name}.service"


def systemctl(ctx: Context, *words: str, limit_s: float = LIMIT_S) -> program.Printed:
    return program.run(ctx, [_found(), "--no-pager", "--no-ask-password", *words], limit_s)


def show(ctx: Context, names: Sequence[str], units: str) -> List[Dict[str, str]]:
    """Properties of the units that have such a name: a mapping for each."""
    printed = systemctl(ctx, "show", f"--property={','.join(names)}", "--", units)
    if printed.status:
        raise SkillError(f"systemd does not tell about {units}: {printed.said}")
    blocks = [block.splitlines() for block in printed.text.split("\n\n")]
    pairs = [[line.partition("=")[::2] for line in block if "=" in line] for block in blocks]
    return [dict(found) for found in pairs if found]


def number(text: str) -> Optional[int]:
    """A number that systemd tells; None for "[not set]", "infinity" and the largest one."""
    return int(text) if re.fullmatch(r"[0-9]{1,19}", text) else None


def _found() -> str:
    found = program.find("systemctl")
    if found is None:
        raise SkillError("systemctl is missing: this machine is not run by systemd")
    return found
