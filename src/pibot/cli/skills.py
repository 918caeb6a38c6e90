"""`skills`: what the workers can do, with the arguments and the sentences that call it."""

from __future__ import annotations

import argparse
from typing import Any, Dict, List

from pibot.cli import present
from pibot.cli.parser import settings, with_json
from pibot.cli.present import line
from pibot.errors import EXIT_OK, UsageError

EXAMPLE = "pibot.pyz skills --on worker-1"
HEADER = ("SKILL", "ON", "WHAT IT DOES")


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--on", metavar="WORKER", default="", help="of this worker only")
    with_json(parser)


def run(options: argparse.Namespace) -> int:
    found = settings(options)
    from pibot import messages as msg
    from pibot.roles.client import Fleet

    with Fleet.connect(found) as fleet:
        workers = [row["worker_id"] for row in fleet.get_status_summary()["workers"]]
        if options.on and options.on not in workers:
            known = ", ".join(workers) or "none yet"
            raise UsageError(f"no worker is called {options.on!r}: known are {known}")
        document = fleet.ask(msg.Listing(f"skills {options.on}".strip()))
    if options.json:
        present.say_json(document)
    elif document["skills"]:
        rows = [_row(skill, len(workers)) for skill in document["skills"]]
        present.say(present.table(HEADER, rows))
    else:
        present.say("no skill yet: no worker has joined the fleet")
    return EXIT_OK


def _row(skill: Dict[str, Any], workers: int) -> List[str]:
    signature = f"{skill['name']}({', '.join(map(str, skill.get('params') or []))})"
    there = skill["workers"]
    where = "all" if len(there) == workers and workers > 1 else ", ".join(there)
    return [line(signature, 60), line(where, 40), line(_about(skill))]


def _about(skill: Dict[str, Any]) -> str:
    words = [str(skill.get("description") or "")]
    if skill.get("sensitive"):
        words.append("(acts outside the workspace)")
    return " ".join(words)
