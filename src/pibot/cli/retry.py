"""`retry`: what did not succeed in a goal is done again, as new tasks."""

from __future__ import annotations

import argparse

from pibot.cli import present
from pibot.cli.checks import an_id
from pibot.cli.parser import settings, with_json
from pibot.errors import EXIT_OK

EXAMPLE = "pibot.pyz retry g0123456789ab"


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("id", metavar="ID", help="of a goal or a task, as `tasks` lists them")
    with_json(parser)


def run(options: argparse.Namespace) -> int:
    from pibot import messages as msg

    key = an_id(options.id)
    found = settings(options)
    from pibot.roles.client import Fleet

    with Fleet.connect(found) as fleet:
        document = fleet.ask(msg.Retry(key))
    if options.json:
        present.say_json(document)
    else:
        goal_id = document["goal_id"]
        present.say(f"{goal_id} runs again: follow it with `pibot.pyz show {goal_id} --follow`")
    return EXIT_OK
