"""What the tests of skills share: a context in a fresh workspace."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest

from pibot.skills import Context, Permits


@pytest.fixture
def ctx(tmp_path: Path) -> Context:
    workspace = tmp_path / "workspace"
    workspace.mkdir()
    return Context(workspace, threading.Event(), time.monotonic() + 30, "t1:1", Permits(shell=True))
