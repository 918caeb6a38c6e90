"""A recorded machine for each test of a check."""

from __future__ import annotations

from pathlib import Path

import pytest

from recorded_machine import Machine


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path / "root")
