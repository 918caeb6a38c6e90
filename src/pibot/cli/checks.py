"""Checks of what people type, before anything is sent."""

from __future__ import annotations

import argparse

from pibot.errors import UsageError
from pibot.topics import ID

GOAL_CHARS = 32_768


def an_id(text: str) -> str:
    """The id of a goal or a task; raise UsageError when it cannot be one."""
    if not ID.fullmatch(text):
        raise UsageError(f"{text[:60]!r} is no id of a goal or a task: see `pibot.pyz tasks`")
    return text


def of_a_call(parser: argparse.ArgumentParser) -> None:
    """Add the argument that names a call which waits for a person."""
    told = "of a goal or a task; of a call, such as g0123456789ab-1:3, when several wait"
    parser.add_argument("id", metavar="ID", help=told)


def a_call(text: str) -> str:
    """What names a call that waits; raise UsageError when it cannot."""
    task, colon, step = text.partition(":")
    if not ID.fullmatch(task) or (colon and not (step.isdecimal() and step.isascii())):
        raise UsageError(f"{text[:60]!r} names no call that waits: see `pibot.pyz tasks`")
    return text


def a_goal(text: str) -> str:
    """A goal's words; raise UsageError when there are none, or more than are taken."""
    text = text.encode("utf-8", "replace").decode()  # an argument may hold halves of characters
    if not text.strip():
        raise UsageError("the goal is empty: say in words what is to be done")
    if len(text) > GOAL_CHARS:
        raise UsageError(
            f"the goal has {len(text):,} characters, more than the {GOAL_CHARS:,} that are taken: "
            "put long material into a file that a worker can read"
        )
    return text
