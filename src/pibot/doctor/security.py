"""`doctor --security`: how well this machine's PiBot is guarded, and what mends each gap."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Callable, Iterable, List

from pibot.doctor import certificates
from pibot.doctor import security_broker as broker
from pibot.doctor import security_keys as keys
from pibot.doctor import security_machine as machine
from pibot.doctor import security_settings as choices
from pibot.doctor import settings as roles
from pibot.doctor.findings import FAIL, WARN, Finding, Findings, warn
from pibot.doctor.runner import Check, of_role
from pibot.doctor.settings import Subject
from pibot.doctor.surroundings import Surroundings

BEST = 10.0
COSTS = {FAIL: 2.0, WARN: 0.5}


def score(found: Iterable[Finding]) -> float:
    """Points from 0 to 10: each failure takes two, each warning half a one."""
    return max(0.0, BEST - sum(COSTS.get(finding.state, 0.0) for finding in found))


def checks_of(here: Surroundings) -> List[Check]:
    """What there is to look at on this machine."""
    found = roles.subjects(here)
    looks: List[Check] = [Check("program", partial(roles.program, here))]

    def check(name: str, look: Callable[[], Findings]) -> None:
        looks.append(Check(name, partial(_as_far_as_seen, here, name, look)))

    if here.roles:
        check("user", partial(machine.user, here))
        check("files", partial(machine.files, here))
        check("units", partial(machine.units, here))
    if "master" in here.roles or any(s.settings and s.settings.is_loopback_broker for s in found):
        check("mosquitto", partial(broker.listening, here))
        check("rights", partial(broker.rights, here))
        check("users", partial(broker.users, here))
        check("certificates", partial(certificates.dates, here))
    for subject in found:
        looks += _of_role(here, subject)
    check("shared keys", partial(keys.shared, here, found))
    return looks


def _of_role(here: Surroundings, subject: Subject) -> List[Check]:
    parts = [("settings", choices.settings), ("connection", choices.connection), ("key", keys.own)]
    if subject.is_service:
        parts += [("approval", choices.approval), ("skills", choices.skills)]
        parts += [("ask", choices.ask), ("health", choices.health)]
    return [
        of_role(
            here, subject, name, partial(_as_far_as_seen, here, name, partial(look, here, subject))
        )
        for name, look in parts
    ]


def _as_far_as_seen(here: Surroundings, name: str, look: Callable[[], Findings]) -> Findings:
    """A check's findings, up to where this user may not look."""
    try:
        yield from look()
    except PermissionError as error:
        hidden = here.shown(Path(error.filename or "?"))
        yield warn(name, f"run it with sudo to see {hidden}", here.doctor_as_root)
