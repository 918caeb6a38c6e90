"""Runs the checks beside each other; one that breaks or hangs is a finding like any other."""

from __future__ import annotations

import queue
import threading
import time
from functools import partial
from pathlib import Path
from typing import Callable, Iterator, List, NamedTuple, Union

from pibot.agent.text import short
from pibot.deploy.layout import STATE
from pibot.doctor import (
    broker,
    certificates,
    fleet,
    machine,
    model,
    mosquitto,
    ports,
    sandbox,
    services,
    stores,
)
from pibot.doctor import settings as roles
from pibot.doctor.findings import FAIL, OK, Finding, Findings, fail
from pibot.doctor.settings import Subject
from pibot.doctor.surroundings import Surroundings

LIMIT_S = 14.0  # for all checks together, as they run at the same time
_END = object()


class Check(NamedTuple):
    """`name` is for when it breaks or hangs: its findings have names of their own."""

    name: str
    look: Callable[[], Findings]


def examine(checks: List[Check], limit_s: float = LIMIT_S) -> Iterator[Finding]:
    """All findings, in the order of the checks; each as soon as those before it are there."""
    until = time.monotonic() + limit_s
    running = [_Running(check) for check in checks]
    for one in running:
        yield from one.findings(until)


def checks_of(here: Surroundings) -> List[Check]:
    """What there is to look at on this machine."""
    found = roles.subjects(here)
    folders = [here.at(STATE) if here.roles else Path(here.environ.get("HOME") or "/")]
    looks: List[Check] = [
        Check("python", partial(machine.python, here)),
        Check("architecture", partial(machine.architecture, here)),
        Check("program", partial(roles.program, here)),
        Check("clock", partial(machine.clock, here)),
        Check("disk", partial(machine.disks, here, folders)),
        Check("temperature", partial(machine.temperature, here)),
        Check("power", partial(machine.throttling, here)),
    ]
    shell = any(s.settings and s.settings.permits.shell for s in found)
    if "worker" in here.roles or shell or (here.is_pi and not here.roles):
        looks.append(Check("sandbox", partial(sandbox.sandbox, here)))
    if here.roles or here.is_pi:
        looks.append(Check("memory cgroup", partial(sandbox.memory_cgroup, here)))
    looks.append(Check("units", partial(services.services, here)))
    if here.roles:
        looks.append(Check("certificates", partial(certificates.certificates, here)))
    if "master" in here.roles or any(_trusts_loopback(s) for s in found):
        looks.append(Check("mosquitto", partial(mosquitto.mosquitto, here)))
    spokesman = next((s for s in found[::-1] if s.settings), None)
    for subject in found:
        looks += _of_role(here, subject, subject is spokesman)
    return looks


def _trusts_loopback(subject: Subject) -> bool:
    return subject.settings is not None and subject.settings.is_loopback_broker


def _of_role(here: Surroundings, subject: Subject, asks_master: bool) -> List[Check]:
    """A role's own checks."""

    def check(name: str, look: Callable[[Surroundings, Subject], Findings]) -> Check:
        return of_role(here, subject, name, partial(look, here, subject))

    reach = check("broker", broker.broker)
    if asks_master:
        reach = Check("master", partial(_on_to_the_master, reach.look, here, subject))
    found = [
        check("settings", roles.settings),
        check("state directory", roles.state_directory),
        check("journal", stores.set_aside),
        reach,
        check("model", model.model),
    ]
    if subject.is_service or not here.roles:
        found.append(check("health", ports.health))
    return found


def of_role(here: Surroundings, subject: Subject, name: str, look: Callable[[], Findings]) -> Check:
    """A role's name stands before its checks, except on a machine without any."""
    role = f"{subject.role} " if here.roles else ""
    return Check(role + name, partial(_named, role, look))


def _named(role: str, look: Callable[[], Findings]) -> Findings:
    for finding in look():
        yield finding._replace(check=role + finding.check)


def _on_to_the_master(
    look: Callable[[], Findings], here: Surroundings, subject: Subject
) -> Findings:
    """Where the broker lets us in, the master is asked as well: any credentials may look."""
    last = None
    for last in look():
        yield last
    if last is not None and last.state == OK:
        yield from fleet.fleet(here, subject)


class _Running:
    """A check in a thread of its own, which nobody waits for beyond the limit."""

    def __init__(self, check: Check) -> None:
        self._check = check
        self._found: "queue.SimpleQueue[Union[Finding, object]]" = queue.SimpleQueue()
        threading.Thread(target=self._run, name=check.name, daemon=True).start()

    def _run(self) -> None:
        try:
            for finding in self._check.look():
                self._found.put(finding)
        except Exception as error:
            words = short(f"{type(error).__name__}: {error}", 200)
            told = "report this, with the output of: pibot.pyz version"
            self._found.put(fail(self._check.name, f"the check itself broke ({words})", told))
        self._found.put(_END)

    def findings(self, until: float) -> Iterator[Finding]:
        while True:
            try:
                found = self._found.get(timeout=max(0.0, until - time.monotonic()))
            except queue.Empty:
                late = "the check did not come to an end"
                yield Finding(self._check.name, FAIL, late, "run it again")
                return
            if not isinstance(found, Finding):
                return
            yield found
