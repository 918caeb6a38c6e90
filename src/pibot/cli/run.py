"""`run`: a goal in words, or a skill by name; wait for the answer."""

from __future__ import annotations

import argparse
import sys
from typing import Any, Dict, Optional

from pibot import messages as msg
from pibot.cli import present
from pibot.cli.checks import a_goal
from pibot.cli.parser import seconds, settings, with_json
from pibot.errors import EXIT_OK, BadMessage, UsageError
from pibot.strictjson import parse

EXAMPLE = """\
pibot.pyz run "disk space on all workers"
  pibot.pyz run --skill echo --args '{"text": "hello"}' --on worker-1"""
STDIN_BYTES = 16 * 1024 * 1024


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("goal", nargs="*", metavar="GOAL", help="in plain words; - reads it")
    parser.add_argument("--skill", metavar="NAME", help="run this skill; no model is involved")
    parser.add_argument("--args", metavar="JSON", help="the skill's arguments, a JSON object")
    parser.add_argument("--on", metavar="WORKER", help="on this worker only")
    parser.add_argument("--all", action="store_true", help="on every worker, with a row for each")
    parser.add_argument("--tag", help="on a worker with this label")
    parser.add_argument(
        "--timeout", type=seconds, default=600.0, metavar="S", help="seconds; default 600"
    )
    parser.add_argument("--detach", action="store_true", help="print the goal's id, do not wait")
    with_json(parser)


def run(options: argparse.Namespace) -> int:
    submit = _submit(options)
    found = settings(options)
    from pibot.cli import goals
    from pibot.roles.client import Fleet

    with Fleet.connect(found) as fleet:
        if options.detach:
            return _detached(fleet.ask(submit), options.json)
        outcome = goals.wait(fleet, submit, quiet=options.json)
    if not options.json:
        return goals.tell(outcome)
    document = outcome.document
    present.say_json(document)
    if document["state"] != "succeeded":
        present.note(f"pibot: {goals.failure(document, outcome.error)}")
    return goals.status_of(document)


def _detached(accepted: Dict[str, Any], as_json: bool) -> int:
    if as_json:
        present.say_json({"goal_id": accepted["goal_id"], "state": accepted["state"]})
    else:
        present.say(accepted["goal_id"])
        present.note(f"see how it goes with `pibot.pyz show {accepted['goal_id']}`")
    return EXIT_OK


def _submit(options: argparse.Namespace) -> msg.Submit:
    """The request that the arguments mean; raise UsageError for what cannot be one."""
    from pibot.roles.common import new_goal_id

    if options.on and (options.all or options.tag):
        raise UsageError("--on names one worker: leave out --all and --tag, or --on")
    if options.args is not None and not options.skill:
        raise UsageError("--args are the arguments of a skill: name it with --skill")
    if bool(options.skill) == bool(options.goal):
        raise UsageError(
            'give either a goal, as in `pibot.pyz run "disk space on all workers"`, or --skill NAME'
        )
    return msg.Submit(
        new_goal_id(),
        goal=_goal(options) if options.goal else "",
        skill=options.skill or "",
        args=_args(options.args),
        on=options.on or "",
        all=options.all,
        tag=options.tag or "",
        timeout_s=options.timeout,
        follow=not options.detach,
    )


def _goal(options: argparse.Namespace) -> str:
    text = " ".join(options.goal)
    if text == "-":
        text = sys.stdin.buffer.read(STDIN_BYTES).decode("utf-8", "replace")
    return a_goal(text)


def _args(text: Optional[str]) -> Dict[str, Any]:
    if text is None:
        return {}
    try:
        return parse(text.encode("utf-8", "replace"))
    except BadMessage as error:
        why = present.line(str(error), 200)
        raise UsageError(
            f"""--args is {why}: write an object such as '{{"text": "hello"}}'"""
        ) from None
