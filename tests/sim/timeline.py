"""What happened, as a person reads it: virtual seconds, who, what. Formatted when asked for."""

from __future__ import annotations

import re
from dataclasses import fields, is_dataclass
from typing import Any, List, Optional, Tuple

_GOAL = re.compile(r"\bg\d+\b")
LINES = 60
LONG = 160


class Timeline:
    def __init__(self) -> None:
        self._events: List[Tuple[float, str, Tuple[Any, ...]]] = []

    def note(self, now: float, who: str, *what: Any) -> None:
        self._events.append((now, who, what))

    def lines(self) -> List[str]:
        return [_line(*event) for event in self._events]

    def about(self, key: str, last: int = LINES) -> List[str]:
        """The last lines; of those that concern nothing but other goals, none."""
        goal = key.partition("-")[0]
        chosen = [line for line in self.lines() if not goal or _concerns(line, goal)]
        return chosen[-last:]


def _concerns(line: str, goal: str) -> bool:
    """Whether a line names this goal, or none at all."""
    named = _GOAL.findall(line)
    return goal in named or not named


def _line(now: float, who: str, what: Tuple[Any, ...]) -> str:
    return f"{now:9.3f}  {who:10} {' '.join(_short(w) for w in what)}"


def _short(value: Any) -> str:
    if not is_dataclass(value):
        text = str(value)
    else:
        name = getattr(value, "t", "") or type(value).__name__.lower()
        pairs = ((f.name, getattr(value, f.name)) for f in fields(value))
        text = f"{name} " + " ".join(f"{n}={_value(v)}" for n, v in pairs if v not in _DULL)
    return text if len(text) <= LONG else text[: LONG - 1] + "…"


_DULL: Tuple[Any, ...] = (None, "", 0, (), [], {}, False)


def _value(value: Optional[Any]) -> str:
    if isinstance(value, dict) and len(str(value)) > 80:
        return "{…}"
    if isinstance(value, list):
        return ",".join("/".join(map(str, v)) if isinstance(v, list) else str(v) for v in value)
    return str(value)
