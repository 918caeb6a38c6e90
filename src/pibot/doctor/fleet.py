"""The fleet as the master sees it: is there one, who is missing, do the versions fit?"""

from __future__ import annotations

from typing import Any, Iterator, List, Mapping

import pibot
from pibot import broker as place
from pibot import messages as msg
from pibot.agent.text import short
from pibot.config import is_loopback
from pibot.doctor.findings import Finding, fail, ok, warn
from pibot.doctor.settings import Subject
from pibot.doctor.surroundings import Surroundings
from pibot.errors import PibotError, UsageError
from pibot.roles.client import Fleet

ANSWER_S = 4.0
Row = Mapping[str, Any]


def fleet(here: Surroundings, subject: Subject) -> Iterator[Finding]:
    """Ask the master, as a client does."""
    if subject.settings is None:
        return
    try:
        with Fleet.connect(subject.settings) as connected:
            document = connected.ask(msg.Listing("workers"), ANSWER_S)
    except UsageError as error:
        yield fail("master", short(str(error), 300), subject.edit())
        return
    except PibotError as error:
        yield subject.bad("master", short(str(error), 300), _start(here, subject))
        return
    yield ok("master", f"answers for the fleet {short(str(document['fleet']), 40)}")
    yield from judge(document)


def _start(here: Surroundings, subject: Subject) -> str:
    restart = "sudo systemctl restart pibot-master"
    if "master" in here.roles:
        return restart
    host = place.locate(subject.settings)[0] if subject.settings else ""
    return f"{here.pibot} --role master" if is_loopback(host) else f"on the master: {restart}"


def judge(document: Mapping[str, Any]) -> Iterator[Finding]:
    """What the master's own table says."""
    rows: List[Row] = document["workers"]
    if not rows:
        join = "on the master: pibot.pyz workers add worker-1"
        yield warn("workers", "no worker has joined the fleet yet", join)
        return
    yield from _alarms(document)
    for state, judged in (("offline", warn), ("incompatible", fail)):
        names = _names(row for row in rows if row["state"] == state)
        if names:
            yield judged("workers", f"{state}: {names}", "there: sudo pibot.pyz doctor")
    if not any(row["state"] in ("offline", "incompatible") for row in rows):
        yield ok("workers", f"there: {_names(iter(rows))}")
    yield _versions(rows)


def _alarms(document: Mapping[str, Any]) -> Iterator[Finding]:
    """Two masters in one fleet, or two machines with one name."""
    stop = "on one of them: sudo systemctl disable --now pibot-master"
    rename = "on the master: pibot.pyz workers add NEW-NAME; bring the file to one of them, and "
    rename += "there: sudo pibot.pyz setup --role worker --env-file NEW-NAME.env"
    for alarm, fix in [
        (document.get("alarm"), stop),
        *((row.get("alarm"), rename) for row in document["workers"]),
    ]:
        if alarm:
            yield fail("alarm", short(str(alarm), 300), fix)


def _versions(rows: List[Row]) -> Finding:
    """Small differences are meant to work together; of larger ones the user should know."""
    ours = _minor(pibot.__version__)
    others = [row for row in rows if row["version"] and _minor(row["version"]) != ours]
    if not others:
        return ok("versions", f"all run {ours}.x")
    names = ", ".join(f"{short(r['worker_id'], 40)} {short(r['version'], 20)}" for r in others[:8])
    upgrade = "copy this pibot.pyz there, and there: sudo python3 pibot.pyz setup --role worker"
    return warn("versions", f"this one is {pibot.__version__}, but {names}", upgrade)


def _minor(version: str) -> str:
    return ".".join(str(version).split(".")[:2])


def _names(rows: Iterator[Row]) -> str:
    names = [short(str(row["worker_id"]), 40) for row in rows]
    more = f" and {len(names) - 8} more" if len(names) > 8 else ""
    return ", ".join(names[:8]) + more
