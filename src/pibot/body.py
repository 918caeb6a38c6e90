"""What every message of the wire begins with; `messages.py` has the rest."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from pibot.topics import PROTOCOL


@dataclass(frozen=True)
class Header:
    """What every body begins with. `ses` and `n` are empty and 0 outside a session."""

    t: str
    id: str
    src: str
    ses: str = ""
    n: int = 0
    ep: int = 0
    v: int = PROTOCOL


@dataclass(frozen=True)
class Message:
    t: ClassVar[str] = ""
