"""Calls that wait for a person: what `run` and `chat` show of them, and the question they ask."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, Mapping, Set

from pibot.agent.text import visible
from pibot.cli import present
from pibot.cli.present import line
from pibot.cli.progress import Progress
from pibot.errors import Refused

if TYPE_CHECKING:
    from pibot.roles.client import Fleet

ARGS_CHARS = 2_500
WHY_CHARS = 300
YES = ("y", "yes", "是")


def words(ask: Mapping[str, Any]) -> str:
    """A call that waits, in one safe line in which nothing hides, whatever its worker has sent."""
    worker, skill, args, why = (
        line(visible(str(ask[key])), ARGS_CHARS) for key in ("worker_id", "skill", "args", "why")
    )
    return f"{worker} wants to run {skill}({args}) because {line(why, WHY_CHARS)}"


class Asking:
    """Follows a goal beside its progress, and asks about each call once."""

    def __init__(self, fleet: Fleet, progress: Progress, quiet: bool = False) -> None:
        """`quiet`: standard output is a program's; then nobody is asked, only told."""
        self._fleet, self._progress = fleet, progress
        self._asks = not quiet and sys.stdin.isatty() and present.is_terminal()
        self._seen: Set[Any] = set()

    def on_event(self, kind: str, data: Mapping[str, Any]) -> None:
        self._progress.on_event(kind, data)
        if kind != "asked":
            return
        for ask in data.get("asks") or []:
            name = ask["id"], ask["attempt"]
            if name not in self._seen:
                self._seen.add(name)
                self._tell(ask)

    def _tell(self, ask: Mapping[str, Any]) -> None:
        if not self._asks:
            name = line(str(ask["id"]))
            present.note(f"{words(ask)}: `pibot.pyz approve {name}` or `pibot.pyz deny {name}`")
            return
        with self._progress.paused():
            allow = _yes(words(ask))
        try:
            self._fleet.decide(dict(ask), allow)
        except Refused as error:  # somebody else was faster, or it is over
            present.note(f"pibot: {line(str(error), 300)}")


def _yes(question: str) -> bool:
    """Ask; anything but a yes is a no. Ctrl-C is no answer, and ends the waiting."""
    try:
        said = input(f"{question}: approve? [y/N] ")
    except EOFError:
        present.say()
        return False
    return said.strip().lower() in YES
