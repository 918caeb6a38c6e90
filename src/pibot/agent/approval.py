"""A person's approval: which calls need one, and what the person is told. Pure.

    sensitive, and the mode is `always`                      →  a person is asked
    sensitive, the attempt is tainted, the mode is `tainted` →  a person is asked
    anything else, or the mode is `never`                    →  the call is run

An attempt is tainted from its beginning, or from the first result of a skill that brings text from
outside; and then for good: nobody can tell which of its later ideas are still its own.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Callable, Mapping

from pibot.agent.text import cut, visible

ALWAYS, NEVER, TAINTED = "always", "never", "tainted"
ARGS_CHARS = 2_000


def needed(mode: str, sensitive: bool, tainted: bool) -> bool:
    """Whether a person has to approve a call."""
    return sensitive and mode != NEVER and (tainted or mode == ALWAYS)


@dataclass(frozen=True)
class Ask:
    """A call that waits; `args` are JSON text in which nothing hides."""

    step: int
    skill: str
    args: str
    why: str


def shown(args: Mapping[str, Any], hide: Callable[[str], str] = str) -> str:
    """Arguments as a person reads them: JSON on one line, without secrets, nothing invisible."""
    return cut(visible(hide(json.dumps(dict(args), ensure_ascii=False))), ARGS_CHARS)
