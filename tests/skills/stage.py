"""What an example of docs/skills.md needs to be true before it is run: files, servers, devices."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable, Dict, Mapping

import pytest

from pibot.skills import Context


@dataclass
class Stage:
    """`prepare` functions change it: `ctx` (other permits), `args` (another port), what is there.

    `tmp` is a directory beside the workspace; `patch` is undone and `closing` closed afterwards.
    """

    ctx: Context
    tmp: Path
    patch: pytest.MonkeyPatch
    args: Dict[str, Any]
    closing: ExitStack


Prepare = Callable[[Stage], None]
Prepared = Mapping[str, Prepare]


def nothing(stage: Stage) -> None:
    """The example needs nothing."""
