"""A fleet of real processes and a scripted model, for the tests of the whole."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Dict, Iterator

import pytest

from fleet_processes import FleetProcesses
from model_server import ModelServer, serving


@pytest.fixture(params=["mosquitto", "amqtt"])
def any_broker(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[FleetProcesses]:
    with FleetProcesses(tmp_path) as processes:
        yield processes


@pytest.fixture
def model() -> Iterator[ModelServer]:
    with serving() as server:
        yield server


def model_env(server: ModelServer) -> Dict[str, str]:
    return {"VOLC_API_KEY": server.key, "VOLC_BASE_URL": server.url, "MODEL_NAME": server.model}


@pytest.fixture
def fleet_with_model(tmp_path: Path, model: ModelServer) -> Iterator[FleetProcesses]:
    with FleetProcesses(tmp_path, env=model_env(model)) as processes:
        processes.start_master()
        processes.start_worker("worker-1", PIBOT_ALLOW_SHELL="1")
        processes.start_worker("worker-2", PIBOT_ALLOW_SHELL="1")
        processes.wait_idle(2)
        yield processes


def by_id(document: Any) -> Dict[str, Any]:
    """The tasks of a `run --json` document, by their ids."""
    return {task["task_id"]: task for task in document["tasks"]}
