"""One fleet for all tests of a module that do not break it."""

from __future__ import annotations

from typing import Iterator

import pytest

from fleet_processes import FleetProcesses


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FleetProcesses]:
    """A master without a model and two idle workers, worker-1 with the tag camera."""
    with FleetProcesses(tmp_path_factory.mktemp("fleet")) as processes:
        processes.start_master()
        processes.start_worker("worker-1", PIBOT_TAGS="camera", PIBOT_ALLOW_SHELL="1")
        processes.start_worker("worker-2")
        processes.wait_idle(2)
        yield processes
