"""`skills push` and `skills back`: the same to each worker, and what each says of it."""

from __future__ import annotations

import argparse
import base64
import hashlib
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Dict, List, Tuple

from pibot import messages as msg
from pibot.agent import packing
from pibot.agent.pushed import FAILED, SHOWN
from pibot.cli import present, skill_files
from pibot.cli.parser import settings
from pibot.cli.present import line
from pibot.errors import PibotError, UsageError

if TYPE_CHECKING:
    from pibot.roles.client import Fleet

PATIENCE_S = 60.0
REPEAT_S = 10.0  # a message to a worker may be lost with its session
_LOOK_S = 0.2
HEADER = ("WORKER", "DONE", "WHAT")


@dataclass
class One:
    """One worker on its way; `before` is what it said of this skill at the beginning."""

    name: str
    before: Dict[str, str]
    push: msg.Push
    send_at: float = 0.0
    said: str = ""
    done: bool = False
    over: bool = False

    def hear(self, pushed: Dict[str, Dict[str, str]]) -> None:
        """Look at what the worker says now."""
        now = pushed.get(self.push.name, {})
        version = now.get("version", "")
        ours = now.get("tried") == self.push.version[:SHOWN] and now != self.before
        if ours and now.get("state") == FAILED:
            self.over, self.said = True, now.get("why", "")
        elif (version == self.push.version[:SHOWN]) == bool(self.push.form):
            self.over = self.done = True
            self.said = version or "no version is left"


def run(options: argparse.Namespace) -> Tuple[Dict[str, Any], str]:
    """Push to each of the workers that are meant; the document has a row for each."""
    push = _wanted(options)
    found = settings(options)
    from pibot.roles.client import Fleet

    with Fleet.connect(found) as fleet:
        ways = _meant(fleet, options, push)
        until = time.monotonic() + PATIENCE_S
        while any(not one.over for one in ways) and time.monotonic() < until:
            _round(fleet, ways)
    for one in ways:
        one.said = one.said or "it did not say within a minute what became of it"
    rows = [{"worker_id": o.name, "done": o.done, "why": line(o.said, 300)} for o in ways]
    document = {"skill": push.name, "version": push.version, "workers": rows}
    table = [[str(r["worker_id"]), "✓" if r["done"] else "✗", str(r["why"])] for r in rows]
    return document, present.table(HEADER, table)


def _wanted(options: argparse.Namespace) -> msg.Push:
    if options.action == "back":
        if not packing.NAME.fullmatch(options.what):
            raise UsageError(f"{line(options.what, 60)!r} is no name of a skill")
        return msg.Push("", options.what)
    path = Path(options.what)
    name, form, data = packing.pack(path)
    checked = skill_files.tried(path)
    if not checked["fit"]:
        why = line(checked["problems"][0], 300)
        raise UsageError(f"{line(options.what, 100)} is not fit: {why}")
    sha256 = hashlib.sha256(data).hexdigest()
    return msg.Push("", name, form, sha256, base64.b64encode(data).decode())


def _meant(fleet: "Fleet", options: argparse.Namespace, push: msg.Push) -> List[One]:
    workers = fleet.get_status_summary()["workers"]
    names = [str(row["worker_id"]) for row in workers]
    if options.on and options.on not in names:
        raise UsageError(
            f"no worker is called {options.on!r}: known are {', '.join(names) or 'none yet'}"
        )
    if options.on:
        names = [options.on]
    elif options.tag:
        names = [str(row["worker_id"]) for row in workers if options.tag in row["tags"]]
    elif not options.all and len(names) != 1:
        raise UsageError("say to which workers: --on WORKER, --tag TAG or --all")
    if not names:
        raise UsageError("there is no such worker in the fleet")
    said = _pushed(fleet)
    return [_way(push, name, said.get(name, {}).get(push.name, {})) for name in names]


def _way(push: msg.Push, worker: str, before: Dict[str, str]) -> One:
    """To go back is to leave the version that is in use now: said twice, it is done once."""
    version = push.version or before.get("version", "")
    one = One(worker, before, replace(push, worker=worker, version=version))
    if not version:
        one.over, one.said = True, f"no skill {push.name} was pushed to it, or none is left"
    return one


def _pushed(fleet: "Fleet") -> Dict[str, Dict[str, Dict[str, str]]]:
    rows = fleet.ask(msg.Listing("updates"))["workers"]
    return {str(row["worker_id"]): row["pushed"] for row in rows}


def _round(fleet: "Fleet", ways: List[One]) -> None:
    """Say it (again) to those who have not answered, then look."""
    for one in ways:
        if one.over or time.monotonic() < one.send_at:
            continue
        try:
            fleet.ask(one.push)
            one.send_at = time.monotonic() + REPEAT_S
        except PibotError as error:
            one.over, one.said = True, str(error)
    said = _pushed(fleet)
    for one in ways:
        if not one.over:
            one.hear(said.get(one.name, {}))
    if any(not one.over for one in ways):
        time.sleep(_LOOK_S)
