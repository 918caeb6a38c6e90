"""`version`: nothing is connected and little is imported."""

from __future__ import annotations

import argparse
import os
import platform
import sys
from pathlib import Path

import pibot
from pibot.cli import present
from pibot.cli.parser import program, with_json
from pibot.errors import EXIT_OK

EXAMPLE = "pibot.pyz version"


def arguments(parser: argparse.ArgumentParser) -> None:
    with_json(parser)


def run(options: argparse.Namespace) -> int:
    facts = {
        "version": pibot.__version__,
        "python": platform.python_version(),
        "executable": sys.executable,
        "platform": f"{platform.system()} {platform.release()} {platform.machine()}",
        "program": _place(),
    }
    if options.json:
        present.say_json(facts)
        return EXIT_OK
    present.say(f"pibot {facts['version']}")
    present.say(f"Python {facts['python']} ({facts['executable']})")
    present.say(facts["platform"])
    present.say(f"runs from {facts['program']}")
    return EXIT_OK


def _place() -> str:
    """The pyz; for a start as a module, the package."""
    started = program()
    is_module = started.name == "__main__.py"
    return os.fspath(Path(pibot.__file__).parent if is_module else started.resolve())
