"""`doctor`: what is right and what is wrong on this machine, and what mends it."""

from __future__ import annotations

import argparse
import os
import shutil
import textwrap
from typing import List

from pibot.cli import present
from pibot.cli.parser import program, with_json
from pibot.cli.present import line
from pibot.doctor.findings import FAIL, OK, WARN, Finding
from pibot.errors import EXIT_FAILED, EXIT_OK

EXAMPLE = "pibot.pyz doctor --online"
_SIGNS = {OK: "✓", WARN: "!", FAIL: "✗"}
_STYLES = {OK: "green", WARN: "yellow", FAIL: "red"}
MESSAGE_CHARS, FIX_CHARS = 500, 1_000


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--online", action="store_true", help="also ask the model endpoint, for one token"
    )
    parser.add_argument(
        "--security", action="store_true", help="how well it is guarded, with a score"
    )
    with_json(parser)


def run(options: argparse.Namespace) -> int:
    from pibot.doctor import runner, security
    from pibot.doctor.surroundings import Surroundings

    here = Surroundings(
        program(), dict(os.environ), options.env_file, options.online, options.security
    )
    checks = security.checks_of(here) if options.security else runner.checks_of(here)
    found: List[Finding] = []
    for finding in runner.examine(checks):
        found.append(_safe(finding))
        if not options.json:
            _show(found[-1])
    failed = any(finding.state == FAIL for finding in found)
    score = {"score": security.score(found)} if options.security else {}
    if options.json:
        document = {"ok": not failed, **score, "checks": [f._asdict() for f in found]}
        present.say_json(document)
    else:
        counts = [(state, sum(f.state == state for f in found)) for state in (OK, WARN, FAIL)]
        told = [f"{count} {state}" for state, count in counts]
        present.say(", ".join([*(f"score {s:g} of 10" for s in score.values()), *told]))
    return EXIT_FAILED if failed else EXIT_OK


def _safe(finding: Finding) -> Finding:
    fix = finding.fix and line(finding.fix, FIX_CHARS)
    return Finding(line(finding.check), finding.state, line(finding.message, MESSAGE_CHARS), fix)


def _show(finding: Finding) -> None:
    """One line, and one for what mends it: that one is never broken, so that it can be copied."""
    state = f"{finding.state:<4}"
    if present.is_terminal():
        state = f"{_SIGNS[finding.state]} {state}"
    indent = " " * (len(state) + 1)
    text = f"{finding.check}: {finding.message}"
    if present.is_terminal():
        width = max(20, shutil.get_terminal_size().columns - len(indent))
        text = f"\n{indent}".join(textwrap.wrap(text, width, break_on_hyphens=False))
    present.say(f"{present.paint(state, _STYLES[finding.state])} {text}")
    if finding.fix:
        present.say(f"{indent}mend: {finding.fix}")
