"""The directories of a worker's tasks: empty ones go at once, old ones when there are many.

What counts is which are the newest, never how old they are: a clock that jumps removes nothing.
"""

from __future__ import annotations

import os
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Collection

KEEP = 200


def tidy(workspaces: Path, task: str, held: Collection[str]) -> None:
    """After a task: drop its directory if it is empty, else make room for it.

    `held` are the tasks that the worker still answers for: the master may want their files.
    """
    try:
        os.rmdir(workspaces / task)
    except FileNotFoundError:
        pass
    except OSError:
        with suppress(OSError):  # no reason to lose the task's result
            prune(workspaces, held)


def prune(workspaces: Path, held: Collection[str]) -> None:
    """Remove all but the newest 200, and what is held."""
    newest_first = sorted(workspaces.iterdir(), key=_changed, reverse=True)
    for path in newest_first[KEEP:]:
        if path.name not in held:
            shutil.rmtree(path, ignore_errors=True)


def _changed(path: Path) -> float:
    try:
        return path.lstat().st_mtime
    except OSError:
        return 0.0
