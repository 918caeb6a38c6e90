"""The main job on real processes: a goal in, the fleet works, an answer out."""

from __future__ import annotations

import json
import subprocess
import urllib.request
from pathlib import Path
from typing import Callable

from fleet_processes import FleetProcesses
from model_server import (
    ModelServer,
    Request,
    calls,
    is_agent,
    is_answer,
    is_plan,
    last,
    plan,
    text,
)


def told(words: str) -> Callable[[Request], bool]:
    """An agent whose task says this."""
    return lambda request: is_agent(request) and words in last(request, "user")


def test_skills_and_sentences_need_no_model(tmp_path: Path, any_broker: str) -> None:
    with FleetProcesses(tmp_path, broker=any_broker) as fleet:
        fleet.start_master()
        fleet.start_worker("worker-1")
        fleet.start_worker("worker-2")
        fleet.wait_idle(2)
        echo = fleet.run("run", "--skill", "echo", "--args", '{"text": "hi"}', "--on", "worker-2")
        assert echo.document["tasks"][0]["worker_id"] == "worker-2"
        assert echo.document["tasks"][0]["result"]["data"] == {"text": "hi"}
        disks = fleet.run("run", "所有工作机的磁盘空间").document
        assert disks["state"] == "succeeded" and len(disks["tasks"]) == 2
        assert all(t["result"]["data"]["disk_used_pct"] >= 0 for t in disks["tasks"])
        assert {t["worker_id"] for t in disks["tasks"]} == {"worker-1", "worker-2"}


def test_health_is_as_the_contract_says(fleet: FleetProcesses) -> None:
    fleet.start_master()
    fleet.start_worker("worker-1")
    fleet.wait_idle(1)
    assert fleet.health("worker-1") == {
        "status": "healthy",
        "worker_id": "worker-1",
        "current_task": None,
    }
    assert fleet.health("master") == {
        "status": "healthy",
        "role": "master",
        "workers": {"total": 1, "idle": 1, "busy": 0, "offline": 0},
    }
    port = fleet.processes["worker-1"].health_port
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/health") as answer:
        assert answer.headers["Content-Type"].startswith("application/json")


def test_a_goal_is_planned_done_in_parallel_and_answered(
    fleet_with_model: FleetProcesses, model: ModelServer
) -> None:
    tasks = [
        {"id": "a", "goal": "say alpha"},
        {"id": "b", "goal": "say beta"},
        {"id": "c", "goal": "join both", "needs": ["a", "b"]},
    ]
    model.on(is_plan, plan({"route": "plan", "answer": None, "tasks": tasks}))
    model.on(told("say alpha"), calls(("echo", {"text": "ALPHA"})), text("It said ALPHA."))
    model.on(told("say beta"), calls(("echo", {"text": "BETA"})), text("It said BETA."))
    model.on(told("join both"), text("ALPHA and BETA."))
    model.on(is_answer, text("Both were said."))
    done = fleet_with_model.run("run", "say alpha and beta, then join them in a report").document
    assert done["state"] == "succeeded" and done["answer"] == "Both were said."
    assert [t["state"] for t in done["tasks"]] == ["succeeded"] * 3
    assert {t["worker_id"] for t in done["tasks"][:2]} == {"worker-1", "worker-2"}
    assert done["usage"]["model_calls"] == 7
    joined = [r for r in model.requests if told("join both")(r)]
    assert "It said ALPHA." in last(joined[0], "user")
    shown = fleet_with_model.run("show", done["goal_id"]).document
    assert "echo" in json.dumps(shown["attempts"])


def test_a_failed_task_goes_elsewhere_then_the_plan_is_revised(
    fleet_with_model: FleetProcesses, model: ModelServer
) -> None:
    one = {"route": "plan", "answer": None, "tasks": [{"id": "a", "goal": "open the safe"}]}
    two = {"route": "plan", "answer": None, "tasks": [{"id": "b", "goal": "ask politely"}]}
    model.on(is_plan, plan(one), plan(two))
    model.on(told("open the safe"), calls(("give_up", {"reason": "the safe is locked"})))
    model.on(told("ask politely"), text("It is open now."))
    model.on(is_answer, text("The safe is open: asking helped."))
    document = fleet_with_model.run("run", "open the safe and write a report").document
    failed, revised = document["tasks"]
    assert (failed["state"], failed["attempt"]) == ("failed", 2)
    assert "locked" in failed["error"] and failed["result"]["success"] is False
    assert revised["state"] == "succeeded" and document["state"] == "succeeded"
    assert document["answer"] == "The safe is open: asking helped."
    plans = [r for r in model.requests if is_plan(r)]
    assert "the safe is locked" in last(plans[1], "user")


def test_an_error_is_never_the_answer(fleet_with_model: FleetProcesses, model: ModelServer) -> None:
    bad = {"route": "plan", "answer": None, "tasks": [{"id": "a", "goal": "open the safe"}]}
    model.on(is_plan, plan(bad))
    model.on(told("open the safe"), calls(("give_up", {"reason": "the safe is locked"})))
    done = fleet_with_model.run("run", "open the safe and write a report", check=1).document
    assert done["state"] == "failed" and done["answer"].startswith("Not done:")
    assert len(done["tasks"]) == 4  # the plan, and three revisions
    assert not any(is_answer(r) for r in model.requests)


def test_everything_is_readable_json_and_ask_is_answered(fleet: FleetProcesses) -> None:
    fleet.start_master()
    fleet.start_worker("worker-1")
    fleet.wait_idle(1)
    base = ["-h", "127.0.0.1", "-p", str(fleet.port)]
    args = ["mosquitto_sub", *base, "-t", "pibot/1/home/#", "-v", "-W", "15"]
    watcher = subprocess.Popen(args, stdout=subprocess.PIPE, text=True)
    seen: "list[str]" = []
    assert watcher.stdout is not None
    try:
        ask = ["mosquitto_pub", *base, "-q", "1", "-t", "pibot/1/home/ask", "-m"]
        subprocess.run([*ask, "system status of all workers"], check=True)
        for line in watcher.stdout:
            seen.append(line)
            if "/answer/" in line:
                break
    finally:
        watcher.kill()
        watcher.wait()
    topics = dict(line.split(" ", 1) for line in seen)
    answer = json.loads(next(v for k, v in topics.items() if "/answer/" in k))
    assert answer["state"] == "succeeded" and answer["tasks"][0]["worker_id"] == "worker-1"
    kinds = {json.loads(v)["body"]["t"] for k, v in topics.items() if "/w/" in k and "{" in v}
    assert kinds >= {"assign", "result"} or kinds >= {"result_ack", "result"}


def test_an_asks_id_comes_back(fleet: FleetProcesses) -> None:
    fleet.start_master()
    base = ["-h", "127.0.0.1", "-p", str(fleet.port)]
    args = ["mosquitto_sub", *base, "-t", "pibot/1/home/answer/+", "-C", "1", "-W", "15"]
    watcher = subprocess.Popen(args, stdout=subprocess.PIPE, text=True)
    message = json.dumps({"id": "node-red-7", "goal": "what time is it"})
    ask = ["mosquitto_pub", *base, "-q", "1", "-t", "pibot/1/home/ask", "-m", message]

    def answered() -> bool:
        subprocess.run(ask, check=True)
        return watcher.poll() is not None

    fleet.wait_for(answered, 15, "the answer to the ask")
    assert watcher.stdout is not None
    answer = json.loads(watcher.stdout.read())
    assert answer["id"] == "node-red-7" and answer["state"] == "succeeded"
