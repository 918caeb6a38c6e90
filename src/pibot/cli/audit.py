"""`audit`: who decided what, and whether the master's log of it is as it was written."""

from __future__ import annotations

import argparse
import json
from typing import Any, Dict, List

from pibot.agent.text import visible
from pibot.cli import present
from pibot.cli.parser import settings, with_json
from pibot.cli.present import line, mark
from pibot.errors import EXIT_FAILED, EXIT_OK

EXAMPLE = "pibot.pyz audit"
HEADER = ("NO", "AT", "WHAT", "BY", "OF", "CALL")


def arguments(parser: argparse.ArgumentParser) -> None:
    with_json(parser)


def run(options: argparse.Namespace) -> int:
    found = settings(options)
    from pibot import messages as msg
    from pibot.roles.client import Fleet

    with Fleet.connect(found) as fleet:
        document = fleet.ask(msg.Listing("audit"))
    if options.json:
        present.say_json(document)
    else:
        present.say(picture(document))
    return EXIT_FAILED if document["problem"] else EXIT_OK


def picture(document: Dict[str, Any]) -> str:
    """The newest entries, and how the chain stands."""
    rows = [_row(entry) for entry in document["entries"]]
    lines = [present.table(HEADER, rows)] if rows else []
    if document["problem"]:
        return "\n".join([*lines, f"{mark(False)} {line(visible(document['problem']), 300)}"])
    if not rows:
        return "nothing was decided yet"
    last = document["entries"][-1]
    held = f"{document['total']} entries, the chain holds: {last['seq']} is {last['hash']}"
    return "\n".join([*lines, f"{mark(True)} {line(held, 300)}"])


def _row(entry: Dict[str, Any]) -> List[str]:
    of = entry.get("task") or entry.get("name") or ""
    where = f" on {entry['worker']}" if entry.get("worker") else ""
    call = f"{entry['skill']}({entry.get('args', '')})" if entry.get("skill") else ""
    cells = [entry.get("seq", "-"), entry.get("at", ""), entry.get("what", ""), entry.get("by", "")]
    return [line(visible(_text(cell)), 400) for cell in (*cells, f"{of}{where}", call)]


def _text(cell: Any) -> str:
    return cell if isinstance(cell, str) else json.dumps(cell)
