"""Commands of a fleet with a model: plans, conversations, and what a wrong key looks like."""

from __future__ import annotations

from pathlib import Path
from typing import Dict, Iterator

import pytest

from fleet_processes import FleetProcesses
from model_server import ModelServer, is_plan, plan, serving


@pytest.fixture(scope="module")
def model() -> Iterator[ModelServer]:
    with serving() as server:
        yield server


def settings(model: ModelServer) -> Dict[str, str]:
    return {"VOLC_API_KEY": model.key, "VOLC_BASE_URL": model.url, "MODEL_NAME": model.model}


@pytest.fixture(scope="module")
def thinking(
    model: ModelServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[FleetProcesses]:
    """A fleet whose master and only worker have a model."""
    with FleetProcesses(tmp_path_factory.mktemp("thinking"), env=settings(model)) as processes:
        processes.start_master()
        processes.start_worker("worker-1")
        processes.wait_idle(1)
        yield processes


def test_a_planned_goal(thinking: FleetProcesses) -> None:
    done = thinking.run("run", "collect the logs of each machine and compare them", json=False)
    assert done.out == "Done.\n"
    document = thinking.run("run", "collect the logs of each machine", "--json", json=False)
    assert '"model_calls": 3' in document.out


def test_selftest_plans_a_goal(thinking: FleetProcesses) -> None:
    document = thinking.run("selftest").document
    assert [(c["name"], c["ok"]) for c in document["checks"]] == [
        ("worker-1", True),
        ("plan", True),
    ]


def test_chat_remembers_what_was_said(thinking: FleetProcesses, model: ModelServer) -> None:
    answer = plan({"route": "answer", "answer": "Noted: blue.", "tasks": []})
    model.on(lambda r: is_plan(r) and "my colour" in str(r["messages"]), answer)
    said = "remember that blue is my colour\nthen write my colour into every report\n"
    done = thinking.run("chat", json=False, stdin=said)
    assert done.out == "Noted: blue.\nNoted: blue.\n"
    roles = [m["role"] for m in model.requests[-1]["messages"]]
    assert roles.count("assistant") == 1
    # Another conversation begins anew.
    thinking.run("chat", json=False, stdin="write my colour into every report\n")
    assert [m["role"] for m in model.requests[-1]["messages"]].count("assistant") == 0


def test_a_model_cannot_steer_the_terminal(thinking: FleetProcesses, model: ModelServer) -> None:
    nasty = "red \x1b[31m\x1b]0;owned\x07 \x9b2J\u202eend"
    answer = plan({"route": "answer", "answer": nasty, "tasks": []})
    model.on(lambda r: is_plan(r) and "nasty" in str(r["messages"]), answer)
    for as_json in (False, True):
        done = thinking.run("run", "run every nasty script", json=as_json)
        assert not set("\x1b\x07\x9b\u202e") & set(done.out + done.err)


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("VOLC_API_KEY", "sk-wrong", "Incorrect API key"),
        ("MODEL_NAME", "no-such-model", "no-such-model"),
    ],
)
def test_a_wrong_key_or_model_is_one_line_and_status_1(
    name: str, value: str, words: str, model: ModelServer, tmp_path: Path
) -> None:
    with FleetProcesses(tmp_path, env={**settings(model), name: value}) as fleet:
        fleet.start_master()
        fleet.start_worker("worker-1")
        fleet.wait_idle(1)
        goals = ("collect the logs of each machine", "what is the meaning of life")
        for goal in goals:  # planned by the master; given to a worker as it is
            done = fleet.run("run", goal, json=False, check=1)
            said = [line for line in done.err.splitlines() if line.startswith("pibot: ")]
            assert len(said) == 1 and words in said[0], done.err
            assert "sk-wrong" not in done.out + done.err + fleet.logs()
        assert fleet.run("selftest", check=1).document["checks"][1]["ok"] is False
