"""A real small model plans and answers. `make test-llm` runs it; everything else leaves it out.

LLM_START names a script that is called with SIZE, DIRECTORY and PORT, starts an OpenAI-compatible
server and prints BASE_URL=… MODEL=… PID=…; without one the tests are skipped.
"""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from pathlib import Path
from typing import Dict, Iterator

import pytest

from fleet_processes import FleetProcesses, free_port
from pibot.agent.model import ModelSettings, OpenAIModel
from pibot.fleet.document import results
from pibot.fleet.events import AnswerJob, PlanJob
from pibot.fleet.planner import Planner
from pibot.fleet.records import Goal, Task
from pibot.secrets import Redactor

pytestmark = pytest.mark.llm
START = Path(os.environ.get("LLM_START", "../shared/real-llm/start"))
SKILLS = ("get_time", "system_status", "web_fetch", "write_file", "read_file")
FLEET = {
    "skills": [{"name": name, "description": ""} for name in SKILLS],
    "workers": [{"worker_id": f"worker-{i}", "state": "idle", "tags": []} for i in (1, 2)],
}


@pytest.fixture(scope="module")
def endpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Dict[str, str]]:
    if not START.exists():
        pytest.skip("no script that starts a model: set LLM_START")
    folder = os.environ.get("LLM_DIR") or str(tmp_path_factory.mktemp("llm"))
    command = [str(START), "0.5b", folder, str(free_port())]
    started = subprocess.run(command, capture_output=True, text=True, timeout=600)
    if started.returncode != 0:
        pytest.skip(f"the model cannot be had: {started.stderr[-300:]}")
    found = dict(pair.split("=", 1) for pair in started.stdout.split() if "=" in pair)
    try:
        yield found
    finally:
        os.kill(int(found["PID"]), signal.SIGTERM)


@pytest.fixture
def planner(endpoint: Dict[str, str]) -> Planner:
    model = OpenAIModel(ModelSettings("none", endpoint["BASE_URL"], endpoint["MODEL"]))
    return Planner(model, "You plan for a team of Raspberry Pis.", Redactor())


@pytest.mark.parametrize(
    "goal",
    [
        "Measure the temperature of both workers, then write a report that compares them.",
        "Fetch https://example.com and save its title to a file.",
    ],
)
def test_a_real_models_plan_is_valid(planner: Planner, goal: str) -> None:
    job = PlanJob(Goal("g1", text=goal))
    planned = planner.plan(job, FLEET, [], time.monotonic() + 240, threading.Event())
    assert planned.error is None, planned.error
    assert planned.tasks or planned.answer
    assert planned.usage["input_tokens"] > 0 and planned.usage["output_tokens"] > 0


def test_a_real_models_answer_uses_the_results(planner: Planner) -> None:
    done = {"success": True, "data": {}, "output": "The temperature is 61.5 °C."}
    task = Task("g1-1", "g1", name="t", text="measure", state="succeeded", result=done)
    job = AnswerJob(Goal("g1", text="How warm is worker-1?"), results([task]))
    answered = planner.answer(job, [], time.monotonic() + 240, threading.Event())
    assert answered.error is None and "61.5" in (answered.answer or "")


def test_a_goal_in_words_ends_truthfully(endpoint: Dict[str, str], tmp_path: Path) -> None:
    env = {
        "OPENAI_API_KEY": "none",
        "OPENAI_BASE_URL": endpoint["BASE_URL"],
        "OPENAI_MODEL": endpoint["MODEL"],
    }
    with FleetProcesses(tmp_path, env=env) as fleet:
        fleet.start_master()
        fleet.start_worker("worker-1")
        fleet.wait_idle(1)
        done = fleet.run("run", "What is the capital of France?", check=None, timeout_s=300)
        assert done.document["usage"]["model_calls"] >= 1
        if done.status == 0:
            assert "paris" in done.document["answer"].lower()
        else:
            assert done.document["state"] in ("failed", "timed_out")
            assert done.document["answer"] is None or "Not done" in done.document["answer"]
