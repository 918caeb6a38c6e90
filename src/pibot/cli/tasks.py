"""`tasks`: the latest goals, the newest first, each with its tasks."""

from __future__ import annotations

import argparse
from typing import Any, Dict, List

from pibot.cli import present
from pibot.cli.parser import settings, with_json
from pibot.cli.present import line
from pibot.errors import EXIT_OK

EXAMPLE = "pibot.pyz tasks"
HEADER = ("ID", "STATE", "WORKER", "TIME", "WHAT")


def arguments(parser: argparse.ArgumentParser) -> None:
    with_json(parser)


def run(options: argparse.Namespace) -> int:
    found = settings(options)
    from pibot import messages as msg
    from pibot.roles.client import Fleet

    with Fleet.connect(found) as fleet:
        document = fleet.ask(msg.Listing("tasks"))
    if options.json:
        present.say_json(document)
    elif document["goals"]:
        rows = [row for goal in document["goals"] for row in _rows(goal)]
        present.say(present.table(HEADER, rows))
    else:
        present.say('no goal yet: try `pibot.pyz run "system status of all workers"`')
    return EXIT_OK


def _rows(goal: Dict[str, Any]) -> List[List[str]]:
    time = present.duration(goal["seconds"]) if goal["seconds"] else "-"
    first = [goal["goal_id"], goal["state"], "", time, line(goal["goal"])]
    tasks = [
        [f"  {t['task_id']}", t["state"], t["worker_id"] or "", "", line(t["what"])]
        for t in goal["tasks"]
    ]
    return [[line(first[0]), *first[1:]], *tasks]
