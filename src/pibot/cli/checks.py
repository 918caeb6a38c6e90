"""Checks of what people type, before anything is sent."""

from __future__ import annotations

from pibot.errors import UsageError
from pibot.topics import ID

GOAL_CHARS = 32_768


def an_id(text: str) -> str:
    """The id of a goal or a task; raise UsageError when it cannot be one."""
    if not ID.fullmatch(text):
        raise UsageError(f"{text[:60]!r} is no id of a goal or a task: see `pibot.pyz tasks`")
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
