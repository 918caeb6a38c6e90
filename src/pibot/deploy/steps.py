"""What setup does to a machine, one thing a step. A plan is a list of them; `apply` does them.

`said` is the line for people. It never holds a secret; contents do not show in a step's repr.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Tuple, Union

from pibot.deploy import layout

Owner = Tuple[Union[str, int], Union[str, int]]  # user and group, by name or number
BY_ROOT: Owner = (layout.ROOT, layout.ROOT)
BY_PIBOT: Owner = (layout.USER, layout.USER)
FOR_BROKER: Owner = (layout.ROOT, layout.BROKER)


@dataclass(frozen=True)
class Step:
    said: str


@dataclass(frozen=True)
class Folder(Step):
    """Make a directory, or give it its mode and owner."""

    path: str
    mode: int = 0o755
    owner: Owner = BY_ROOT


@dataclass(frozen=True)
class File(Step):
    """Put a file in place."""

    path: str
    content: bytes = field(repr=False)
    mode: int = 0o644
    owner: Owner = BY_ROOT


@dataclass(frozen=True)
class Program(Step):
    """Copy the program that runs."""

    path: str
    source: str
    owner: Owner = BY_ROOT


@dataclass(frozen=True)
class Link(Step):
    path: str
    target: str


@dataclass(frozen=True)
class Twin(Step):
    """Make `path` a second name of the file `of`."""

    path: str
    of: str


@dataclass(frozen=True)
class Mend(Step):
    """Change the mode of a file that somebody brought along to this machine."""

    path: str
    mode: int


@dataclass(frozen=True)
class Give(Step):
    """Give a directory and all that is in it to an owner."""

    path: str
    owner: Owner


@dataclass(frozen=True)
class Remove(Step):
    """Remove a file or a link."""

    path: str


@dataclass(frozen=True)
class Clear(Step):
    """Remove a directory and all that is in it."""

    path: str


@dataclass(frozen=True)
class Prune(Step):
    """Remove a directory if nothing is left in it."""

    path: str


@dataclass(frozen=True)
class Run(Step):
    """Run a program of the machine; `hint` is the command that shows why it failed."""

    command: Tuple[str, ...]
    hint: str = ""


def systemctl(said: str, verb: str, *units: str) -> Run:
    hint = f"journalctl -u {units[-1]} -n 30 --no-pager" if units else ""
    return Run(said, ("systemctl", verb, *units), hint)
