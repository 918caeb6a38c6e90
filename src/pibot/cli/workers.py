"""`workers`: list them; add, rotate, remove, drain or resume one. Requests to the master."""

from __future__ import annotations

import argparse
import shlex
from typing import Any, Dict, List, Mapping, Optional, Tuple

from pibot.cli import enrol, present
from pibot.cli.parser import program, settings, with_json
from pibot.cli.present import duration, line
from pibot.cli.status import THERE
from pibot.config import Settings
from pibot.errors import EXIT_OK, UsageError
from pibot.identities import check, new_secret, new_suffix
from pibot.topics import WORKER

EXAMPLE = "pibot.pyz workers add worker-3"
ACTIONS = ("list", "add", "remove", "rotate", "drain", "resume")
HEADER = ("WORKER", "STATE", "ADDED", "VERSION", "TAGS", "HOST", "SEEN")
Said = Tuple[Dict[str, Any], str]  # for programs and for people
_DONE = {
    "added": "is added",
    "rotating": "gets new credentials; the old ones count until it has come with the new ones",
    "rotated": "has new credentials; the old ones have ended",
}
HERE = "If the worker is this machine, `sudo pibot.pyz setup --role worker` here is enough."


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "action",
        choices=ACTIONS,
        metavar="|".join(ACTIONS),
        help="add: make credentials and write NAME.env here; rotate: make new ones, the old ones "
        "count until the worker has come with them; remove: end them, others take its tasks; "
        "drain: no new tasks; resume: tasks again",
    )
    parser.add_argument("worker", metavar="NAME", nargs="?", help="the worker; not with list")
    parser.add_argument(
        "--host",
        metavar="ADDRESS",
        help="with add and rotate: where the worker finds the broker; default this machine's "
        "address, if the broker runs here",
    )
    parser.add_argument(
        "--now", action="store_true", help="with rotate: end the old credentials at once"
    )
    with_json(parser)


def run(options: argparse.Namespace) -> int:
    action, name = options.action, options.worker
    if (name is None) != (action == "list"):
        need = "takes no NAME" if name is not None else "needs the NAME of a worker"
        raise UsageError(f"`workers {action}` {need}: see `pibot.pyz workers --help`")
    if options.host is not None and action not in ("add", "rotate"):
        raise UsageError("--host goes with add and rotate only")
    if options.now and action != "rotate":
        raise UsageError("--now goes with rotate only")
    if name is not None:
        check(WORKER, name)
    found = settings(options)
    if action == "list":
        document, text = _list(found)
    elif action in ("add", "rotate"):
        document, text = _give(found, action, name, options.host, options.now)
    else:
        document, text = _decide(found, action, name)
    if options.json:
        present.say_json(document)
    else:
        present.say(text)
    return EXIT_OK


# --- list -----------------------------------------------------------------------------------------


def _list(found: Settings) -> Said:
    from pibot import messages as msg
    from pibot.roles.client import Fleet

    with Fleet.connect(found) as fleet:
        document = fleet.ask(msg.Listing("roster"))
    rows = document["workers"]
    for row in rows:
        row["address"] = found.machines.get(row["worker_id"])  # WORKER_1_IP and so on
    if not rows:
        return document, "no worker yet: `pibot.pyz workers add worker-1` makes one's credentials"
    return document, present.table(HEADER, [_row(row) for row in rows])


def _row(row: Mapping[str, Any]) -> List[str]:
    state = row["state"] or "not seen yet"
    if row["draining"] and state != "draining":
        state += ", draining"
    if row.get("rotating"):
        state += ", rotating"
    cells = [
        row["worker_id"],
        state,
        (row["enrolled"] or "-")[:10],
        row["version"] or "-",
        ",".join(row["tags"]) or "-",
        " ".join(filter(None, (row["host"], row["address"]))) or "-",
        "now" if row["state"] in THERE else duration(row["last_seen_s"]),
    ]
    return [line(str(cell)) for cell in cells]


# --- add and rotate -------------------------------------------------------------------------------


def _give(found: Settings, action: str, name: str, host: Optional[str], now: bool) -> Said:
    suffix = new_suffix() if action == "rotate" else ""
    given = enrol.give(found, action, new_secret(WORKER, name, suffix), host, now)
    document = {"worker_id": name, "state": given.reply["state"], **given.place}
    return document, _next_steps(name, given, found.is_loopback_broker)


def _next_steps(name: str, given: enrol.Given, here: bool) -> str:
    files, pyz = given.files, str(program()) if program().suffix == ".pyz" else "pibot.pyz"
    names = [pyz, str(files.env), *([str(files.ca)] if files.ca else [])]
    return "\n".join(
        [
            f"{name} {_DONE[given.reply['state']]}.",
            f"{files.env} has its password and keys: it is a secret.",
            f"It will look for the broker at {files.host}; --host says another address.",
            "",
            f"Copy these {'three' if files.ca else 'two'} files to the worker's machine:",
            f"  scp {' '.join(shlex.quote(n) for n in names)} USER@ADDRESS:",
            "and there:",
            "  sudo python3 pibot.pyz setup --role worker",
            *([HERE] if here else []),
        ]
    )


# --- remove, drain and resume ---------------------------------------------------------------------


def _decide(found: Settings, action: str, name: str) -> Said:
    from pibot import messages as msg
    from pibot.roles.client import Fleet

    with Fleet.connect(found) as fleet:
        reply = fleet.ask(msg.Manage(action, name))
    return reply, _said(name, reply)


def _said(name: str, reply: Mapping[str, Any]) -> str:
    state, tasks = reply["state"], reply.get("current_tasks", ())
    if state == "removed":
        return f"{name} is removed: its credentials have ended, and others take its tasks"
    if state == "forgotten":
        return f"{name} is forgotten; it comes back if it is started again"
    if state == "resumed":
        return f"{name} gets tasks again"
    still = f"; {', '.join(tasks)} will be finished" if tasks else ""
    return f"{name} gets no new tasks{still}"
