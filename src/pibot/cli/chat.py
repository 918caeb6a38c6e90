"""`chat`: a conversation with the master, which remembers its last turns."""

from __future__ import annotations

import argparse
import secrets
import sys
from typing import TYPE_CHECKING, Iterator

from pibot import messages as msg
from pibot.cli import goals, present, status
from pibot.cli.checks import a_goal
from pibot.cli.parser import settings
from pibot.errors import EXIT_FAILED, EXIT_OK, PibotError

if TYPE_CHECKING:
    from pibot.roles.client import Fleet

EXAMPLE = "pibot.pyz chat"
PROMPT = "> "
HELP = """\
Say in plain words what is to be done. Also:
  /status   the fleet
  /quit     leave (or Ctrl-D)
Ctrl-C stops waiting for an answer."""


def arguments(parser: argparse.ArgumentParser) -> None:
    del parser  # it has no arguments of its own


def run(options: argparse.Namespace) -> int:
    found = settings(options)
    from pibot.roles.client import Fleet

    with Fleet.connect(found) as fleet:
        if sys.stdin.isatty():
            present.say(f"Connected to the fleet {found.fleet}. /help explains, Ctrl-D leaves.")
        return converse(fleet)


def converse(fleet: Fleet) -> int:
    """Talk until the input ends. Piped input fails with the first goal that cannot be asked."""
    chat = f"chat-{secrets.token_hex(6)}"
    at_terminal = sys.stdin.isatty()
    status_ = EXIT_OK
    for text in _lines(at_terminal):
        if text in ("/quit", "/exit"):
            break
        try:
            ended = _turn(fleet, chat, text)
        except PibotError as error:
            if not at_terminal:
                raise
            present.note(f"pibot: {present.line(str(error), 2_000)}")
            continue
        if ended != EXIT_OK:
            status_ = EXIT_FAILED
    return EXIT_OK if at_terminal else status_


def _lines(at_terminal: bool) -> Iterator[str]:
    """What is typed, line by line, without empty ones."""
    if at_terminal:
        import readline  # noqa: F401 (gives input() its editing and its history)
    while True:
        try:
            text = input(PROMPT if at_terminal else "").strip()
        except EOFError:
            if at_terminal:
                present.say()
            return
        except KeyboardInterrupt:
            if not at_terminal:
                raise
            present.say("\n(Ctrl-D leaves)")
            continue
        if text:
            yield text


def _turn(fleet: Fleet, chat: str, text: str) -> int:
    from pibot.roles.common import new_goal_id

    if text == "/help" or (text.startswith("/") and text != "/status"):
        present.say(HELP)
        return EXIT_OK
    if text == "/status":
        present.say(status.picture(fleet.get_status_summary()))
        return EXIT_OK
    submit = msg.Submit(new_goal_id(), goal=a_goal(text), chat=chat, follow=True)
    return goals.tell(goals.wait(fleet, submit))
