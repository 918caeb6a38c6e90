"""`skills`: what the workers can do; and skills of one's own: new, check, push, back."""

from __future__ import annotations

import argparse
from typing import Any, Dict, List

from pibot.cli import present
from pibot.cli.parser import settings, with_json
from pibot.cli.present import line
from pibot.errors import EXIT_FAILED, EXIT_OK, UsageError

EXAMPLE = "pibot.pyz skills --on worker-1"
ACTIONS = ("list", "new", "check", "push", "back")
HEADER = ("SKILL", "GROUP", "ON", "WHAT IT DOES")


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "action",
        choices=ACTIONS,
        metavar="|".join(ACTIONS),
        nargs="?",
        default="list",
        help="list: what the workers can do; new NAME: write a skill with its test here; check "
        "FILE: load it and run its tests; push FILE|DIR: give it to workers, without a restart; "
        "back NAME: the version before, or none",
    )
    parser.add_argument("what", metavar="NAME|FILE|DIR", nargs="?", help="not with list")
    parser.add_argument("--on", metavar="WORKER", default="", help="of, or to, this worker only")
    parser.add_argument("--tag", default="", help="with push and back: workers with this label")
    parser.add_argument("--all", action="store_true", help="with push and back: every worker")
    with_json(parser)


def run(options: argparse.Namespace) -> int:
    _check(options)
    if options.action == "list":
        return _list(options)
    if options.action == "new":
        from pibot.cli import skill_files

        document, text = skill_files.new(options.what)
        return _told(options, document, text)
    if options.action == "check":
        from pibot.cli import skill_files

        document, text = skill_files.check(options.what)
        return _told(options, document, text, document["fit"])
    from pibot.cli import skill_push

    document, text = skill_push.run(options)
    return _told(options, document, text, all(row["done"] for row in document["workers"]))


def _check(options: argparse.Namespace) -> None:
    action, what = options.action, options.what
    if (what is None) != (action == "list"):
        need = "takes nothing more" if what is not None else "needs a name, a file or a directory"
        raise UsageError(f"`skills {action}` {need}: see `pibot.pyz skills --help`")
    if action not in ("push", "back") and (options.tag or options.all):
        raise UsageError("--tag and --all go with push and back only")
    if action in ("new", "check") and options.on:
        raise UsageError(f"`skills {action}` works on this machine, without --on")
    if sum(map(bool, (options.on, options.tag, options.all))) > 1:
        raise UsageError("--on, --tag and --all exclude each other")


def _told(options: argparse.Namespace, document: Any, text: str, good: bool = True) -> int:
    if options.json:
        present.say_json(document)
    else:
        present.say(text)
    return EXIT_OK if good else EXIT_FAILED


def _list(options: argparse.Namespace) -> int:
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
    group = str(skill.get("group") or "")
    return [line(signature, 60), line(group, 20), line(where, 40), line(_about(skill))]


def _about(skill: Dict[str, Any]) -> str:
    words = [str(skill.get("description") or ""), str(skill.get("note") or "")]
    if skill.get("sensitive"):
        words.append("(acts outside the workspace)")
    return " ".join(filter(None, words))
