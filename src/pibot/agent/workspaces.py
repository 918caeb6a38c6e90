"""The directories of a worker's tasks: empty ones go at once, old ones when there are many."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path

KEEP = 200
KEEP_S = 7 * 86_400.0


def tidy(workspaces: Path, task: str) -> None:
    """After a task: drop its directory if it is empty, else make room for it."""
    try:
        os.rmdir(workspaces / task)
    except FileNotFoundError:
        pass
    except OSError:
        prune(workspaces, time.time())


def prune(workspaces: Path, now: float) -> None:
    """Remove what is older than a week, and the oldest beyond the newest 200."""
    aged = sorted((_changed(p), p) for p in workspaces.iterdir())
    for i, (changed, path) in enumerate(reversed(aged)):
        if i >= KEEP or now - changed > KEEP_S:
            shutil.rmtree(path, ignore_errors=True)


def _changed(path: Path) -> float:
    try:
        return path.lstat().st_mtime
    except OSError:
        return 0.0
