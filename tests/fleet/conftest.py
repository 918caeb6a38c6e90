"""The master's desk with real files, closed at the end."""

from __future__ import annotations

from pathlib import Path
from typing import Iterator

import pytest

from fleet.office import OPEN, Office


@pytest.fixture
def office(tmp_path: Path) -> Iterator[Office]:
    made = Office(tmp_path)
    yield made
    made.journal.close()


@pytest.fixture
def open_office(tmp_path: Path) -> Iterator[Office]:
    made = Office(tmp_path, OPEN)
    yield made
    made.journal.close()
