"""What the arguments of all commands have in common."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import Mapping, NoReturn, Optional

from pibot import config
from pibot.config import Settings
from pibot.errors import EXIT_INTERRUPTED, PibotError, UsageError

MAX_TIMEOUT_S = 7 * 86_400


class Interrupted(PibotError):
    """Ctrl-C, with something to say about what goes on."""

    code = "interrupted"
    exit_status = EXIT_INTERRUPTED


class Parser(argparse.ArgumentParser):
    """A command's parser; it raises UsageError instead of ending the program."""

    def __init__(self, command: str, about: str, example: str) -> None:
        self.command = f"pibot.pyz {command}".rstrip()
        super().__init__(
            prog=self.command,
            description=about[:1].upper() + about[1:] + ".",
            epilog=f"example:\n  {example}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message}: see `{self.command} --help`")


def as_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that every command has."""
    parser.add_argument(
        "--env-file",
        metavar="FILE",
        type=Path,
        help="settings, instead of the .env beside pibot.pyz",
    )
    parser.add_argument("--debug", action="store_true", help="log more, and show tracebacks")


def with_json(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print one JSON document")


def settings(
    options: argparse.Namespace, role: str = "client", flags: Mapping[str, Optional[str]] = {}
) -> Settings:
    """The settings of this start, with logging set up for them; raise ConfigError."""
    from pibot import logs

    found = config.load(role, flags, os.environ, options.env_file, program())
    logs.setup(role, found, debug=options.debug)
    return found


def program() -> Path:
    """What was started: pibot.pyz, or a module of the package."""
    return Path(sys.argv[0] or ".")


def seconds(text: str) -> float:
    """A --timeout."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 1 <= value <= MAX_TIMEOUT_S:
        raise argparse.ArgumentTypeError(f"{text} is no number of seconds from 1 to 604800")
    return value
