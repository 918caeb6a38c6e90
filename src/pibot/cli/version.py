"""`version`: nothing is connected, nothing is unpacked, and little is imported."""

from __future__ import annotations

import argparse
import os
import platform
import sys
from pathlib import Path
from typing import Any, Dict, List, Mapping, Optional

import pibot
from pibot import parts
from pibot.cli import present
from pibot.cli.parser import program, with_json
from pibot.errors import EXIT_OK

EXAMPLE = "pibot.pyz version"
TITLES = {"model": "model client", "broker": "embedded broker", "screen": "live picture"}


def arguments(parser: argparse.ArgumentParser) -> None:
    with_json(parser)


def run(options: argparse.Namespace) -> int:
    facts: Dict[str, Any] = {
        "version": pibot.__version__,
        "python": platform.python_version(),
        "executable": sys.executable,
        "platform": f"{platform.system()} {platform.release()} {platform.machine()}",
        "program": _place(),
        "parts": parts.describe(),
    }
    if options.json:
        present.say_json(facts)
        return EXIT_OK
    present.say(f"pibot {facts['version']}")
    present.say(f"Python {facts['python']} ({facts['executable']})")
    present.say(facts["platform"])
    present.say(f"runs from {facts['program']}")
    for line in _lines(facts["parts"]):
        present.say(line)
    return EXIT_OK


def _lines(described: Optional[Mapping[str, Mapping[str, Any]]]) -> List[str]:
    if described is None:
        return ["parts: the installation's own"]
    return [f"{TITLES[name]}: {_form(facts)}" for name, facts in described.items()]


def _form(facts: Mapping[str, Any]) -> str:
    if facts["parts"] is None:
        return "none for this Python"
    form = "pure Python" if facts["tag"] is None else f"compiled for {facts['tag']}"
    return form + (", unpacked" if facts["unpacked"] else ", unpacked when it is needed")


def _place() -> str:
    """The pyz; for a start as a module, the package."""
    started = program()
    is_module = started.name == "__main__.py"
    return os.fspath(Path(pibot.__file__).parent if is_module else started.resolve())
