"""`show`: a goal with its answer, its tasks, and every attempt with its trace."""

from __future__ import annotations

import argparse
from typing import Any, Dict, List

from pibot.cli import present
from pibot.cli.checks import an_id
from pibot.cli.parser import settings, with_json
from pibot.cli.present import indented, line, mark, paint
from pibot.cli.progress import step_line
from pibot.errors import EXIT_OK

EXAMPLE = "pibot.pyz show g0123456789ab"


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("id", metavar="ID", help="of a goal or a task, as `tasks` lists them")
    parser.add_argument("--follow", action="store_true", help="wait for its end, as `run` does")
    with_json(parser)


def run(options: argparse.Namespace) -> int:
    key = an_id(options.id)
    found = settings(options)
    from pibot import messages as msg
    from pibot.cli import goals
    from pibot.roles.client import Fleet

    with Fleet.connect(found) as fleet:
        shown = fleet.ask(msg.Get(key))
        if options.follow:
            goal_id = shown["document"]["goal_id"]
            document, error = goals.follow(fleet, goal_id, quiet=options.json)
    if options.follow and not options.json:
        return goals.tell(document, error)
    if options.json:
        present.say_json(document if options.follow else shown)
    else:
        present.say("\n".join(picture(shown)))
    return goals.status_of(document) if options.follow else EXIT_OK


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
    if shown["attempts"]:
        lines += ["attempts", *(text for a in shown["attempts"] for text in _attempt(a))]
    return [*lines, _usage(document)]


def _task(task: Dict[str, Any]) -> str:
    who = f"on {task['worker_id']}" if task["worker_id"] else ""
    why = f": {line(task['error'])}" if task["error"] else ""
    return f"  {line(task['task_id'])} {present.state(task['state'])}{who and ' ' + line(who)}{why}"


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
