"""`setup`: makes this machine a master or a worker that starts with it, or takes that away.

It looks, says what it would do, asks, and does it. `pibot.deploy` has the parts.
"""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Dict, Optional

from pibot.cli import present
from pibot.cli.parser import program, with_json
from pibot.errors import EXIT_FAILED, EXIT_OK, PibotError, StoreError, UsageError
from pibot.values import NAME, NAME_RULE

if TYPE_CHECKING:
    from pibot.deploy.facts import Facts
    from pibot.deploy.plan import Plan
    from pibot.deploy.tree import Tree

EXAMPLE = "sudo python3 pibot.pyz setup --role master"
QUESTION = "Go on? [y/N] "
_NEXT = {
    "master": """\
The master runs, and starts with this machine. Next:
  sudo pibot.pyz doctor             checks this machine
  pibot.pyz status                  shows the fleet
  pibot.pyz workers add worker-1    writes worker-1.env: copy it to that machine, with pibot.pyz
                                    beside it, and run there:
                                    sudo python3 pibot.pyz setup --role worker""",
    "worker": """\
The worker runs, and starts with this machine. Next:
  sudo pibot.pyz doctor                   checks this machine
  sudo journalctl -u pibot-worker -f      shows what the worker says
  pibot.pyz status                        on the master, shows it in the fleet""",
}
_BY_HAND = """\
Everything is in place. Nothing was started, as systemd does not run here; by hand, as root:
  install -D -o pibot -m 600 /etc/pibot/{role}.env /run/pibot/{role}.env
  setpriv --reuid pibot --regid pibot --clear-groups env STATE_DIRECTORY=/var/lib/pibot \\
    CACHE_DIRECTORY=/var/cache/pibot python3 -I /opt/pibot/pibot.pyz --role {role} \\
    --env-file /run/pibot/{role}.env"""


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--role", choices=("master", "worker"), help="what this machine is to be")
    parser.add_argument("--fleet", metavar="NAME", help="the fleet's name; home without it")
    parser.add_argument("--yes", action="store_true", help="do it without asking")
    parser.add_argument("--dry-run", action="store_true", help="only say what would be done")
    parser.add_argument(
        "--prefix", metavar="DIR", type=Path, help="an image's directory, instead of this machine"
    )
    parser.add_argument(
        "--no-broker", action="store_true", help="leave the Mosquitto of this machine alone"
    )
    parser.add_argument(
        "--uninstall", action="store_true", help="remove all but the fleet's records"
    )
    parser.add_argument("--place-broker-files", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--place-program", action="store_true", help=argparse.SUPPRESS)
    with_json(parser)


def run(options: argparse.Namespace) -> int:
    if options.place_broker_files:
        from pibot.deploy.broker_files import place_and_reload

        place_and_reload()
        return EXIT_OK
    if options.place_program:
        from pibot.deploy.program import place_and_restart

        place_and_restart(_root(options))
        return EXIT_OK
    _check(options)
    try:
        return _run(options)
    except OSError as error:
        if isinstance(error, PermissionError) and os.geteuid() != 0:
            raise UsageError(_as_root("not all files can be read")) from None
        raise StoreError(
            f"{error.filename or 'a file'} cannot be read ({error.strerror})"
        ) from None


def _check(options: argparse.Namespace) -> None:
    """Raise UsageError for what does not go together."""
    if not options.role and not options.uninstall:
        raise UsageError("--role master or --role worker is needed: see `pibot.pyz setup --help`")
    if options.uninstall and (options.fleet or options.no_broker or options.env_file):
        raise UsageError("--uninstall goes with --role, --prefix, --yes, --dry-run and --json only")
    if options.fleet is not None and not NAME.fullmatch(options.fleet):
        raise UsageError(f"--fleet {options.fleet!r}: a name is {NAME_RULE}")
    if options.prefix is not None and not options.prefix.is_dir():
        raise UsageError(f"--prefix {options.prefix} is no directory: make it first")
    if _root(options) == Path("/") and os.geteuid() != 0 and not options.dry_run:
        raise UsageError(_as_root("setup changes files of the system"))
    if options.json and not (options.yes or options.dry_run):
        raise UsageError("with --json nobody is asked: add --yes or --dry-run")


def _root(options: argparse.Namespace) -> Path:
    chosen: Optional[Path] = options.prefix
    return chosen.resolve() if chosen else Path("/")


def _as_root(why: str) -> str:
    return f"{why}: run it with sudo: sudo python3 {shlex.join(sys.argv)}"


def _run(options: argparse.Namespace) -> int:
    from pibot.deploy.tree import Tree

    tree = Tree(_root(options), owners=os.geteuid() == 0)
    facts = _look(options, tree)
    plan = _plan(options, facts)
    if not options.json:
        _show(plan, options)
    if plan.steps and not options.dry_run:
        if not (options.yes or _agreed()):
            present.say("nothing was changed")
            return EXIT_FAILED
        _do(plan, tree, facts)
    if options.json:
        present.say_json(_document(plan, options))
    elif plan.steps and not options.dry_run:
        _say_what_is_next(options, facts)
    return EXIT_OK


def _look(options: argparse.Namespace, tree: Tree) -> Facts:
    from pibot.deploy import machine

    role = None if options.uninstall else options.role
    started = program()
    facts = machine.look(tree, role, started.parent.resolve() / started.name, options.env_file)
    if role:
        machine.check_program(facts)
    return facts


def _plan(options: argparse.Namespace, facts: Facts) -> Plan:
    from pibot.deploy import certificates, credentials, machine, plan, removal, settle
    from pibot.deploy.facts import Wishes

    if options.uninstall:
        return removal.uninstall(facts, options.role or "")
    wishes = Wishes(options.role, options.fleet, not options.no_broker)
    settled = settle.settle(facts, wishes)
    made = certificates.prepare(facts, settled.fleet) if settled.broker else None
    access = credentials.prepare(facts, settled, made) if settled.credentials else None
    return plan.install(facts, wishes, settled, access, machine.read_texts(facts))


def _do(plan: Plan, tree: Tree, facts: Facts) -> None:
    from pibot.deploy import machine
    from pibot.deploy.apply import apply

    apply(plan.steps, tree, facts, present.note)
    asleep = machine.asleep(plan.steps) if facts.systemd else []
    if asleep:
        raise PibotError(
            f"{asleep[0]} was started and does not run; see: journalctl -u {asleep[0]} -n 30 "
            "--no-pager"
        )


# --- what a person reads --------------------------------------------------------------------------


def _show(plan: Plan, options: argparse.Namespace) -> None:
    if plan.steps:
        present.say("This would be done:" if options.dry_run else "This will be done:")
        for step in plan.steps:
            present.say(f"  {present.line(step.said, 300)}")
    else:
        present.say("nothing to change")
    for text in plan.notes:
        present.say(f"note: {present.line(text, 500)}")


def _agreed() -> bool:
    if not sys.stdin.isatty():
        raise UsageError("nobody can be asked, as this is no terminal: add --yes, or --dry-run")
    present.say()
    try:
        return input(QUESTION).strip().lower() in ("y", "yes")
    except EOFError:
        present.say()
        return False


def _document(plan: Plan, options: argparse.Namespace) -> Dict[str, Any]:
    steps = [{"does": type(step).__name__.lower(), "said": step.said} for step in plan.steps]
    return {"done": not options.dry_run, "steps": steps, "notes": plan.notes}


def _say_what_is_next(options: argparse.Namespace, facts: Facts) -> None:
    if options.uninstall or not facts.is_machine:
        return
    text = _NEXT[options.role] if facts.systemd else _BY_HAND
    present.say("\n" + text.format(role=options.role))
