"""A fleet under attack: whatever a test does to it, afterwards all is as it should be."""

from __future__ import annotations

from typing import Iterator

import pytest

from closed_fleet import ClosedFleet
from security.siege import Siege


@pytest.fixture(scope="module")
def closed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Siege]:
    """Two workers at work; a third one's credentials are in the wrong hands."""
    with ClosedFleet(tmp_path_factory.mktemp("closed")) as fleet, Siege(fleet) as siege:
        yield siege


@pytest.fixture
def siege(closed: Siege) -> Iterator[Siege]:
    closed.begin()
    yield closed
    closed.end()
