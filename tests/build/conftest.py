from __future__ import annotations

from pathlib import Path

import pytest

from stand_in import StandIn


@pytest.fixture(scope="session")
def pyz(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A stand-in for pibot.pyz that tests do not change."""
    return StandIn(tmp_path_factory.mktemp("built")).build()
