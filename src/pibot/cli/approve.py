"""`approve`: let a call that waits for a person happen."""

from __future__ import annotations

import argparse

from pibot.cli import asking, checks, present
from pibot.cli.parser import settings, with_json
from pibot.errors import EXIT_OK

EXAMPLE = "pibot.pyz approve g0123456789ab-1"


def arguments(parser: argparse.ArgumentParser) -> None:
    checks.of_a_call(parser)
    with_json(parser)


def run(options: argparse.Namespace) -> int:
    key = checks.a_call(options.id)
    found = settings(options)
    from pibot.roles.client import Fleet

    with Fleet.connect(found) as fleet:
        done = fleet.approve(key)
    if options.json:
        present.say_json(done)
    else:
        present.say(f"approved: {asking.words(done)}")
    return EXIT_OK
