"""`status`: the fleet and a row for each worker; with --watch again and again."""

from __future__ import annotations

import argparse
import time
from typing import TYPE_CHECKING, Any, Dict, List

from pibot.cli import present
from pibot.cli.parser import settings, with_json
from pibot.cli.present import duration, line
from pibot.errors import EXIT_OK, Unreachable, UsageError

if TYPE_CHECKING:
    from pibot.roles.client import Fleet

EXAMPLE = "pibot.pyz status --watch"
WATCH_S = 2.0
HEADER = ("WORKER", "STATE", "TASKS", "TEMP", "LOAD", "MEM", "DISK", "SEEN", "NOTES")
THERE = ("idle", "busy", "draining")
STATES = (*THERE, "offline", "incompatible")
NEXT = """\
A worker of a fleet that `setup` has made: `pibot.pyz workers add worker-1`.
Of one without passwords, here: `pibot.pyz --role worker --worker-id worker-1`."""
_CLEAR = "\x1b[H\x1b[J"


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--watch", action="store_true", help="show it again every 2 seconds")
    with_json(parser)


def run(options: argparse.Namespace) -> int:
    if options.watch and options.json:
        raise UsageError("--json prints one document: leave out --watch")
    found = settings(options)
    from pibot.roles.client import Fleet

    with Fleet.connect(found) as fleet:
        if options.watch:
            watch(fleet)
        document = fleet.get_status_summary()
    if options.json:
        present.say_json(document)
    else:
        present.say(picture(document))
    return EXIT_OK


def watch(fleet: Fleet) -> None:
    """Show the fleet until Ctrl-C; a master that is away for a while does not end it."""
    while True:
        try:
            shown = picture(fleet.get_status_summary())
        except Unreachable as error:
            shown = f"pibot: {line(str(error))}"
        present.say((_CLEAR if present.is_terminal() else "") + shown)
        time.sleep(WATCH_S)


def picture(document: Dict[str, Any]) -> str:
    """The fleet as people read it."""
    rows, count = document["workers"], document["total"]
    states = [row["state"] for row in rows]
    parts = [f"{states.count(state)} {state}" for state in STATES if state in states]
    head = f"fleet {document['fleet']}: {count} worker{'' if count == 1 else 's'}"
    head += f" ({', '.join(parts)})" if parts else ""
    if not rows:
        return f"{line(head)}\n{NEXT}"
    alarms = [f"! {line(row['alarm'], 300)}" for row in [document, *rows] if row.get("alarm")]
    alarms += [
        present.paint(f"? {line(name)} waits for approval: see `pibot.pyz show {task}`", "yellow")
        for name in document.get("waiting") or []
        for task in [line(name.partition(":")[0])]
    ]
    table = present.table(HEADER, [_row(row) for row in rows])
    return "\n".join([line(head), table, *(present.paint(a, "yellow") for a in alarms)])


def _row(row: Dict[str, Any]) -> List[str]:
    cells = [
        row["worker_id"],
        row["state"],
        f"{len(row['current_tasks'])}/{row['slots']}",
        _number(row["cpu_temp_c"], " °C", 0),
        _number(row["load1"], "", 2),
        _number(row["mem_used_pct"], "%", 0),
        _number(row["disk_used_pct"], "%", 0),
        "now" if row["state"] in THERE else duration(row["last_seen_s"]),
        _notes(row),
    ]
    return [line(str(cell)) for cell in cells]


def _number(value: Any, unit: str, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}{unit}"


def _notes(row: Dict[str, Any]) -> str:
    parts = [*row["current_tasks"], *(f"#{tag}" for tag in row["tags"])]
    if row["throttled"]:
        parts.insert(0, "throttled")
    return " ".join(parts)
