"""What is under attack: a fleet, which a test leaves as it should be, or the skills of a worker."""

from __future__ import annotations

import itertools
import shutil
from typing import Dict, Iterator

import pytest

from closed_fleet import ClosedFleet
from security.hands import Hands, Process, everybody, identities
from security.siege import Siege

_NUMBERS = itertools.count()


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


@pytest.fixture(scope="session")
def processes() -> Iterator[Dict[str, Process]]:
    with everybody() as found:
        yield found


@pytest.fixture(params=identities())
def hands(processes: Dict[str, Process], request: pytest.FixtureRequest) -> Iterator[Hands]:
    """A worker's skills, once in a process of root and once in one of an ordinary user."""
    process = processes[request.param]
    made = Hands(process, process.home / f"test-{next(_NUMBERS)}")
    yield made
    shutil.rmtree(made.folder, ignore_errors=True)
