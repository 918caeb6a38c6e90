"""`show`: a goal with its answer, tasks, files, and every attempt with its trace; saves files."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Dict, List

from pibot.cli import asking, present
from pibot.cli.checks import an_id
from pibot.cli.parser import Interrupted, settings, with_json
from pibot.cli.present import indented, line, mark, paint
from pibot.cli.progress import step_line
from pibot.errors import EXIT_FAILED, EXIT_OK, Refused, UsageError
from pibot.fleet.records import TERMINAL

if TYPE_CHECKING:
    from pibot.roles.client import Fleet

EXAMPLE = """\
pibot.pyz show g0123456789ab
  pibot.pyz show g0123456789ab --save ./results"""


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("id", metavar="ID", help="of a goal or a task, as `tasks` lists them")
    parser.add_argument("--follow", action="store_true", help="wait for its end, as `run` does")
    parser.add_argument("--save", metavar="DIR", help="download the files that its tasks shared")
    with_json(parser)


def run(options: argparse.Namespace) -> int:
    key = an_id(options.id)
    if options.follow and options.save is not None:
        raise UsageError("--follow waits and --save downloads: do one after the other")
    if options.save == "":
        raise UsageError("--save needs the name of a directory; . is this one")
    found = settings(options)
    from pibot import messages as msg
    from pibot.roles.client import Fleet

    with Fleet.connect(found) as fleet:
        shown = fleet.ask(msg.Get(key))
        if options.save is not None:
            return _save(fleet, shown, key, Path(options.save), options.json)
        if options.follow:
            return _follow(fleet, shown["document"]["goal_id"], options.json)
    if options.json:
        present.say_json(shown)
    else:
        present.say("\n".join(picture(shown)))
    return EXIT_OK


def _follow(fleet: Fleet, goal_id: str, as_json: bool) -> int:
    from pibot.cli import goals

    outcome = goals.follow(fleet, goal_id, quiet=as_json)
    if not as_json:
        return goals.tell(outcome)
    present.say_json(outcome.document)
    return goals.status_of(outcome.document)


def _save(fleet: Fleet, shown: Dict[str, Any], key: str, folder: Path, as_json: bool) -> int:
    """Download the files of a goal, or those of the one task that was named."""
    from pibot.cli import saving

    goal_id = shown["document"]["goal_id"]
    files = [f for f in shown["artifacts"] if key in (goal_id, f["task_id"])]
    if not files:
        yet = "" if shown["document"]["state"] in TERMINAL else " yet"
        raise Refused(f"there is nothing to save: no task of {key} has shared a file{yet}")
    try:
        saved = saving.save(fleet, files, folder, _meter)
    except KeyboardInterrupt:
        raise Interrupted("what has come is kept: the same command goes on with it") from None
    if as_json:
        rows = [one._asdict() for one in saved]
        present.say_json({"goal_id": goal_id, "directory": str(folder), "files": rows})
    else:
        present.say("\n".join(_saved(one) for one in saved))
    return EXIT_FAILED if any(one.error for one in saved) else EXIT_OK


def _saved(one: Any) -> str:
    if one.error is not None:
        return f"{mark(False)} {line(one.path)}: {line(one.error)}"
    return f"{mark(True)} {line(one.file)} ({present.size(one.size)})"


def _meter(path: str, have: int, size: int) -> None:
    """How far a file has come, for whoever looks at a terminal; gone when it is there."""
    if sys.stderr.isatty():
        said = f"{line(path, 40)} {100 * have // max(1, size)} %"
        sys.stderr.write(f"\r{said}" if have < size else "\r" + " " * len(said) + "\r")
        sys.stderr.flush()


def picture(shown: Dict[str, Any]) -> List[str]:
    """All that is known of a goal, for people."""
    document = shown["document"]
    lines = [f"goal {document['goal_id']} {present.state(document['state'])}"]
    lines += [f"asked {line(shown['created'])}", indented(shown["goal"])]
    if shown["error"]:
        lines += ["why", indented(shown["error"])]
    if document["answer"]:
        lines += ["answer", indented(document["answer"])]
    if document["tasks"]:
        lines += ["tasks", *(_task(task) for task in document["tasks"])]
    if shown.get("asks"):
        lines += ["waits for approval", *(t for ask in shown["asks"] for t in _ask(ask))]
    if shown["artifacts"]:
        lines += ["files", *(f"  {present.file(one)}" for one in shown["artifacts"])]
        lines += [paint(f"  pibot.pyz show {document['goal_id']} --save DIR", "dim")]
    if shown["attempts"]:
        lines += ["attempts", *(text for a in shown["attempts"] for text in _attempt(a))]
    return [*lines, _usage(document)]


def _task(task: Dict[str, Any]) -> str:
    who = f"on {task['worker_id']}" if task["worker_id"] else ""
    why = f": {line(task['error'])}" if task["error"] else ""
    return f"  {line(task['task_id'])} {present.state(task['state'])}{who and ' ' + line(who)}{why}"


def _ask(ask: Dict[str, Any]) -> List[str]:
    name = line(ask["id"])
    return [f"  {asking.words(ask)}", f"    `pibot.pyz approve {name}` or `pibot.pyz deny {name}`"]


def _attempt(attempt: Dict[str, Any]) -> List[str]:
    head = f"{attempt['task']} attempt {attempt['attempt']} on {attempt['worker']}"
    lines = [f"  {mark(attempt['state'] == 'succeeded')} {line(head)}: {line(attempt['state'])}"]
    for step in attempt["trace"]:
        took = step.get("ms") if isinstance(step, dict) else None
        after = f" ({took} ms)" if isinstance(took, (int, float)) else ""
        lines.append("    " + step_line(step) + paint(after, "dim"))
    result = attempt["result"] or {}
    text = attempt["error"] or result.get("output")
    return [*lines, indented(text, "    ")] if isinstance(text, str) and text else lines


def _usage(document: Dict[str, Any]) -> str:
    usage = document["usage"]
    words = f"{present.duration(document['seconds'])}, {usage['model_calls']} model calls"
    if usage["model_calls"]:
        words += f", {usage['input_tokens']:,} tokens in, {usage['output_tokens']:,} out"
    return paint(words, "dim")
