"""Damaged journals that a service has set aside: a sign that the disk or the power is bad."""

from __future__ import annotations

from shlex import quote
from typing import Iterator

from pibot import salvage
from pibot.config import SERVICES
from pibot.doctor.findings import Finding, warn
from pibot.doctor.settings import Subject
from pibot.doctor.surroundings import Surroundings


def set_aside(here: Surroundings, subject: Subject) -> Iterator[Finding]:
    if subject.settings is None or subject.role not in SERVICES:
        return
    name = "master" if subject.role == "master" else subject.settings.worker_id
    folder = subject.settings.state_dir / name
    found = salvage.kept(folder / "journal.db")
    if found:
        shown = here.shown(folder)
        said = f"a damaged journal was set aside in {shown}: {found[-1].name}; is the disk failing?"
        sudo = "sudo " if subject.is_service else ""
        yield warn("journal", said, f"{sudo}rm {quote(shown)}/journal.damaged-*")
