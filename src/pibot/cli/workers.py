"""`workers`: list them; add, rotate, remove, drain or resume one. Requests to the master."""

from __future__ import annotations

import argparse
import shlex
from typing import TYPE_CHECKING, Any, Dict, List, Mapping, Optional, Tuple

from pibot.cli import newcomer, present
from pibot.cli.parser import Interrupted, program, settings, with_json
from pibot.cli.present import duration, line
from pibot.cli.status import THERE
from pibot.config import Settings
from pibot.errors import EXIT_OK, Unreachable, UsageError
from pibot.identities import WORKER, Secret, check, identity, new_secret

if TYPE_CHECKING:
    from pibot.roles.client import Fleet

EXAMPLE = "pibot.pyz workers add worker-3"
ACTIONS = ("list", "add", "remove", "rotate", "drain", "resume")
HEADER = ("WORKER", "STATE", "ADDED", "VERSION", "TAGS", "HOST", "SEEN")
Said = Tuple[Dict[str, Any], str]  # for programs and for people
OPEN = (
    "this fleet has no credentials, and its broker serves this machine only: to have workers on "
    "other machines run `sudo python3 pibot.pyz setup --role master` first, and add them there"
)
HERE = "If the worker is this machine, `sudo pibot.pyz setup --role worker` here is enough."


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "action",
        choices=ACTIONS,
        metavar="|".join(ACTIONS),
        help="add: make credentials and write NAME.env here; rotate: make new ones; remove: end "
        "them, others take its tasks; drain: no new tasks; resume: tasks again",
    )
    parser.add_argument("worker", metavar="NAME", nargs="?", help="the worker; not with list")
    parser.add_argument(
        "--host",
        metavar="ADDRESS",
        help="with add and rotate: where the worker finds the broker; default this machine's "
        "address, if the broker runs here",
    )
    with_json(parser)


def run(options: argparse.Namespace) -> int:
    action, name = options.action, options.worker
    if (name is None) != (action == "list"):
        need = "takes no NAME" if name is not None else "needs the NAME of a worker"
        raise UsageError(f"`workers {action}` {need}: see `pibot.pyz workers --help`")
    if options.host is not None and action not in ("add", "rotate"):
        raise UsageError("--host goes with add and rotate only")
    if name is not None:
        check(WORKER, name)
    found = settings(options)
    if action == "list":
        document, text = _list(found)
    elif action in ("add", "rotate"):
        document, text = _give(found, action, name, options.host)
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


def _give(found: Settings, action: str, name: str, host: Optional[str]) -> Said:
    """Write the files, then have the master take what checks them."""
    if not (found.is_loopback_broker or found.tls):
        raise UsageError(
            f"the connection to {found.mqtt_host} is not encrypted, so others could read the new "
            "key: run this on the master's machine if it has the broker, use TLS (MQTT_CA_FILE), "
            "or make the worker's user and file by hand (docs/own-broker.md)"
        )
    from pibot.roles.client import Fleet  # now: it takes a while, and then files are there

    secret = new_secret(WORKER, name)
    address = newcomer.broker_address(found, host)
    with newcomer.written(found, secret, address) as files, Fleet.connect(found) as fleet:
        reply = _ask(fleet, action, secret)
        document = {
            "worker_id": name,
            "state": reply["state"],
            "file": str(files.env.absolute()),
            "ca_file": str(files.ca.absolute()) if files.ca else None,
            "fleet": found.fleet,
            "host": files.host,
            "port": found.mqtt_port,
        }
    if not reply["credentials"]:
        present.note(f"note: {OPEN}")
    return document, _next_steps(action, name, files, found.is_loopback_broker)


def _ask(fleet: Fleet, action: str, secret: Secret) -> Dict[str, Any]:
    from pibot import messages as msg

    kept = identity(secret)
    try:
        return fleet.ask(msg.Manage(action, secret.name, kept.password_line, kept.key))
    except Unreachable as error:
        raise Unreachable(f"{error}; {_in_doubt(secret.name)}") from None
    except KeyboardInterrupt:
        raise Interrupted(f"interrupted; {_in_doubt(secret.name)}") from None


def _in_doubt(name: str) -> str:
    return (
        f"whether the master took {name} is not known, and its file is removed: see `pibot.pyz "
        f"workers list`, and if {name} is there, `pibot.pyz workers rotate {name}`"
    )


def _next_steps(action: str, name: str, files: newcomer.Files, here: bool) -> str:
    pyz = str(program()) if program().suffix == ".pyz" else "pibot.pyz"
    names = [pyz, str(files.env), *([str(files.ca)] if files.ca else [])]
    done = "added" if action == "add" else "given new credentials; the old ones have ended"
    return "\n".join(
        [
            f"{name} is {done}. {files.env} has its password and key: it is a secret.",
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
