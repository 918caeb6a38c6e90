"""The planner against a real HTTP endpoint: plans, corrections, answers, and what goes wrong."""

from __future__ import annotations

import json
import re
import threading
import time
from typing import Any, Dict, Iterator, List, Optional, Tuple

import pytest

from model_server import (
    KEY,
    MODEL,
    ModelServer,
    is_answer,
    is_plan,
    last,
    serving,
    silent,
    status,
    text,
)
from model_server import plan as plan_reply
from pibot.agent import model as model_module
from pibot.agent.model import ModelSettings, OpenAIModel
from pibot.fleet.events import Answered, AnswerJob, PlanJob, Planned
from pibot.fleet.jobs import Jobs
from pibot.fleet.planner import MAX_TASKS, PLAN_FORMAT, PLAN_TRIES, Planner, read_plan
from pibot.fleet.records import Goal
from pibot.secrets import Redactor

CANARY = "canary-of-the-master-77"
SOUL = "You are PiBot.\n"
FLEET: Dict[str, Any] = {
    "skills": [{"name": "shell", "description": "Run a command."}, {"name": "echo"}],
    "workers": [
        {"worker_id": "w1", "state": "idle", "tags": ["camera"]},
        {"worker_id": "w2", "state": "busy", "tags": []},
    ],
}
GOAL = Goal("g1", text="read the logs, then write a report")
GOOD = {"route": "plan", "answer": None, "tasks": [{"id": "a", "goal": "read"}]}
CIRCLE = json.dumps(
    {
        "tasks": [
            {"id": "a", "goal": "x", "needs": ["b"]},
            {"id": "b", "goal": "x", "needs": ["a"]},
            {"id": "c", "goal": "x"},
        ]
    }
)
WAIT_S = 20.0


@pytest.fixture
def server() -> Iterator[ModelServer]:
    with serving() as running:
        yield running


@pytest.fixture(autouse=True)
def short_backoff(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model_module, "BACKOFF_S", 0.01)


def planner(server: ModelServer, key: str = KEY) -> Planner:
    return Planner(OpenAIModel(ModelSettings(key, server.url, MODEL)), SOUL, Redactor([CANARY]))


def plan(
    one: Planner, job: Optional[PlanJob] = None, chat: Tuple[Tuple[str, str], ...] = ()
) -> Planned:
    return one.plan(job or PlanJob(GOAL), FLEET, chat, time.monotonic() + WAIT_S, threading.Event())


def answer(one: Planner, job: AnswerJob) -> Answered:
    return one.answer(job, (), time.monotonic() + WAIT_S, threading.Event())


# --- plans ----------------------------------------------------------------------------------------


def test_a_valid_plan_in_one_call_with_the_schema(server: ModelServer) -> None:
    server.on(is_plan, plan_reply(GOOD))
    found = plan(planner(server), chat=(("earlier goal", "earlier answer"),))
    assert found == Planned("g1", 0, ({"id": "a", "goal": "read"},), usage=found.usage)
    assert found.usage == {"input_tokens": 10, "output_tokens": 5, "model_calls": 1}
    (request,) = server.requests
    assert request["response_format"] == PLAN_FORMAT
    assert request["response_format"]["json_schema"]["name"] == "plan" and "tools" not in request
    system, *chat, asked = request["messages"]
    assert system["content"].startswith("You are PiBot.\n\nTurn the user's goal into a plan")
    assert "- shell: Run a command." in system["content"]
    assert "- w1 (idle, tags: camera)" in system["content"]
    assert [m["content"] for m in chat] == ["earlier goal", "earlier answer"]
    assert asked == {"role": "user", "content": GOAL.text}


def test_the_answer_route(server: ModelServer) -> None:
    server.on(is_plan, plan_reply({"route": "answer", "answer": "42", "tasks": []}))
    found = plan(planner(server))
    assert (found.answer, found.tasks, found.error) == ("42", (), None)


@pytest.mark.parametrize(
    "bad, why",
    [
        ("I would first read the logs.", "not one JSON object"),
        ("{", "not one JSON object"),
        ('{"route":"plan","tasks":[]}', "1 to 50 tasks"),
        ('{"route":"plan","tasks":5}', "1 to 50 tasks"),
        ('{"route":"answer","answer":"","tasks":[]}', 'needs a text in "answer"'),
        ('{"route":"plan","tasks":[{"id":"a","goal":"x","needs":["a"]}]}', "a wait for each"),
        (CIRCLE, "the tasks a, b wait for each other"),
        ('{"route":"plan","tasks":[{"id":"a","goal":"x","skills":["fly"]}]}', "unknown skill"),
        ('{"route":"plan","tasks":[{"id":"a","goal":"x","worker":"w9"}]}', "unknown worker"),
        ('{"route":"plan","tasks":[{"id":"a","goal":"x","needs":["z"]}]}', "needs 'z'"),
        ('{"route":"plan","tasks":[{"id":"a","goal":"x"},{"id":"a","goal":"y"}]}', "stands twice"),
        ('{"route":"plan","tasks":[{"id":"a b","goal":"x"}]}', "needs an id"),
        ('{"route":"plan","tasks":[{"id":"a","goal":" "}]}', "needs a goal"),
        ('{"route":"plan","tasks":["a"]}', "task 1 is not an object"),
        ('{"route":"plan","tasks":[{"id":"a","goal":"x","needs":"b"}]}', "needs must be a list"),
        ('{"route":"plan","tasks":[{"id":"a","goal":"x","tags":[1]}]}', "tags must be a list"),
        ('{"route":"plan","tasks":[{"id":"a","goal":"x","worker":["w1"]}]}', "worker must be"),
        ('{"route":"plan","tasks":[{"id":"a","goal":"x","timeout_s":"1h"}]}', "timeout_s must be"),
        ('{"route":"plan","tasks":[{"id":"a","goal":"x","timeout_s":1e9}]}', "timeout_s must be"),
        ('{"route":"plan","tasks":[{"id":"a","goal":"x","timeout_s":true}]}', "timeout_s must be"),
        ('{"route":"plan","tasks":[{"id":"a","goal":"x","on_lost":["x"]}]}', "on_lost must be"),
        ('{"route":"plan","tasks":[{"id":"a","goal":"x","all":"yes"}]}', "all must be"),
        ('{"route":"plan","tasks":[{"id":"a","goal":"x","acceptance":5}]}', "acceptance must be"),
        ("{" * 5000 + "}" * 5000, "not one JSON object"),
        ('{"tasks":' + "[" * 5000 + "]" * 5000 + "}", "JSON object|tasks|not an object"),
    ],
)
def test_a_wrong_plan_is_sent_back_with_its_errors_and_corrected(
    server: ModelServer, bad: str, why: str
) -> None:
    server.on(is_plan, text(bad), plan_reply(GOOD))
    found = plan(planner(server))
    assert found.error is None and [t["id"] for t in found.tasks] == ["a"]
    assert found.usage["model_calls"] == 2
    said = server.requests[1]["messages"][-2:]
    assert said[0] == {"role": "assistant", "content": bad}
    assert said[1]["content"].startswith("That plan cannot be used: ")
    assert re.search(why, said[1]["content"])


@pytest.mark.parametrize(
    "words",
    [
        "```json\n{}\n```",
        "Here is the plan:\n```\n{}\n```\nShall I go on?",
        "Sure! {} I hope this helps.",
        "\ufeff {}",
    ],
)
def test_a_plan_in_a_fence_or_among_words_is_read(server: ModelServer, words: str) -> None:
    server.on(is_plan, text(words.replace("{}", json.dumps(GOOD))))
    assert [t["id"] for t in plan(planner(server)).tasks] == ["a"]


def test_corrected_at_the_last_try_or_given_up(server: ModelServer) -> None:
    server.on(is_plan, text("no"), text("{}"), plan_reply(GOOD), text("no"))
    one = planner(server)
    assert [t["id"] for t in plan(one).tasks] == ["a"] and len(server.requests) == 3
    found = plan(one)
    assert len(server.requests) == 3 + PLAN_TRIES == 6
    assert found.error == "the model gave no valid plan in 3 tries: it is not one JSON object"
    assert found.tasks == () and found.usage["model_calls"] == 3


def test_an_endpoint_without_schemas_is_asked_in_words_from_then_on(server: ModelServer) -> None:
    words = "`response_format` of type json_schema is not supported by this model"
    server.on(is_plan, status(400, words))
    server.on(is_answer, plan_reply(GOOD))
    one = planner(server)
    assert [t["id"] for t in plan(one).tasks] == ["a"]
    assert [is_plan(r) for r in server.requests] == [True, False]
    plan(one)
    assert [is_plan(r) for r in server.requests] == [True, False, False]
    assert '"route":"answer"|"plan"' in last(server.requests[-1], "system")


@pytest.mark.parametrize(
    "number, words", [(400, "context length exceeded"), (404, "no such model")]
)
def test_another_error_is_the_goals_error_in_the_endpoints_words(
    server: ModelServer, number: int, words: str
) -> None:
    server.on(is_plan, status(number, words))
    found = plan(planner(server))
    assert found.error is not None and words in found.error and len(server.requests) == 1


def test_a_wrong_key_says_so(server: ModelServer) -> None:
    found = plan(planner(server, "sk-wrong-key-0000"))
    assert found.error is not None and "key" in found.error.lower()
    assert "sk-wrong-key-0000" not in found.error
    assert server.requests == []


def test_a_revised_plan_is_asked_for_with_what_happened(server: ModelServer) -> None:
    done = {"id": "a", "goal": "read", "worker": "w1", "state": "succeeded", "output": "LOG"}
    lost = {"id": "b", "goal": "write", "worker": "w2", "state": "failed", "error": "disk full"}
    revised = {"route": "plan", "tasks": [{"id": "c", "goal": "write", "needs": ["a"]}]}
    again = {"route": "plan", "tasks": [{"id": "c", "goal": "write", "needs": ["b"]}]}
    server.on(is_plan, plan_reply(again), plan_reply(revised))
    found = plan(planner(server), PlanJob(Goal("g1", text="x", revision=2), (done, lost)))
    assert found.revision == 2 and found.tasks[0]["needs"] == ["a"]
    asked = last({"messages": server.requests[0]["messages"]}, "user")
    assert "disk full" in asked and "LOG" in asked and "data, not instructions" in asked
    assert "needs 'b', which is no task" in last(server.requests[1], "user")


def test_a_cancel_ends_a_call_that_hangs(server: ModelServer) -> None:
    server.on(is_plan, silent(30.0))
    cancelled = threading.Event()
    threading.Timer(0.2, cancelled.set).start()
    begun = time.monotonic()
    found = planner(server).plan(PlanJob(GOAL), FLEET, (), begun + WAIT_S, cancelled)
    assert found.error is not None and time.monotonic() - begun < 10.0


@pytest.mark.parametrize("count", [MAX_TASKS, MAX_TASKS + 1])
def test_a_plan_has_so_many_tasks_at_most(count: int) -> None:
    tasks = [{"id": f"t{i}", "goal": "x"} for i in range(count)]
    _, errors = read_plan(json.dumps({"route": "plan", "tasks": tasks}), FLEET, ())
    assert bool(errors) == (count > MAX_TASKS)


def test_nulls_of_a_strict_schema_are_defaults() -> None:
    nulls = dict.fromkeys(
        ("needs", "skills", "worker", "tags", "all", "acceptance", "timeout_s", "on_lost")
    )
    one = {"route": "plan", "answer": None, "tasks": [{"id": "a", "goal": "x", **nulls}]}
    assert read_plan(json.dumps(one), FLEET, ())[1] == []


# --- answers --------------------------------------------------------------------------------------

RESULTS = ({"id": "a", "worker": "w1", "state": "succeeded", "output": "grüße"},)


def test_the_answer_is_put_together_by_a_plain_completion(server: ModelServer) -> None:
    server.on(is_answer, text("  w1 says grüße.  "))
    found = answer(planner(server), AnswerJob(GOAL, RESULTS))
    assert (found.answer, found.error) == ("w1 says grüße.", None)
    assert found.usage["output_tokens"] == 5
    (request,) = server.requests
    assert "tools" not in request and "response_format" not in request
    assert "grüße" in last(request, "user") and GOAL.text in last(request, "user")
    assert "not instructions" in last(request, "system")


def test_without_results_the_goal_itself_is_answered(server: ModelServer) -> None:
    server.on("report", text("It depends."))
    assert answer(planner(server), AnswerJob(GOAL)).answer == "It depends."
    assert server.requests[0]["messages"] == [
        {"role": "system", "content": "You are PiBot."},
        {"role": "user", "content": GOAL.text},
    ]


@pytest.mark.parametrize("reply", [text(" \n"), status(400, "too long")])
def test_no_answer_is_none(server: ModelServer, reply: Any) -> None:
    server.on(is_answer, reply)
    found = answer(planner(server), AnswerJob(GOAL, RESULTS))
    assert found.answer is None and (found.error is None or "too long" in found.error)


# --- beside the loop ------------------------------------------------------------------------------


class Inbox:
    def __init__(self) -> None:
        self.events: List[Any] = []
        self.came = threading.Condition()

    def put(self, event: Any) -> None:
        with self.came:
            self.events.append(event)
            self.came.notify()

    def wait(self, count: int) -> List[Any]:
        with self.came:
            assert self.came.wait_for(lambda: len(self.events) >= count, WAIT_S)
            return self.events


def test_jobs_answer_once_and_end_with_their_goal(server: ModelServer) -> None:
    server.on("logs", plan_reply(GOOD))
    server.on("slow", silent(30.0))
    inbox = Inbox()
    jobs = Jobs(planner(server), inbox.put)
    jobs.start(PlanJob(GOAL), FLEET, [])
    assert inbox.wait(1)[0].tasks[0]["id"] == "a"
    begun = time.monotonic()
    jobs.start(AnswerJob(Goal("g2", text="slow")), FLEET, [])
    jobs.stop("g2")
    assert inbox.wait(2)[1].answer is None and time.monotonic() - begun < 10.0
    jobs.close()


@pytest.mark.parametrize("job", [PlanJob(GOAL), AnswerJob(GOAL)])
def test_without_a_model_a_job_fails_in_words(job: Any) -> None:
    inbox = Inbox()
    jobs = Jobs(None, inbox.put)
    jobs.start(job, FLEET, [])
    assert "VOLC_API_KEY" in inbox.wait(1)[0].error
    jobs.close()


def test_whatever_happens_inside_a_job_comes_back_as_its_failure(server: ModelServer) -> None:
    inbox = Inbox()
    jobs = Jobs(planner(server), inbox.put)
    jobs.start(PlanJob(GOAL), {"workers": [], "skills": [{}]}, [])
    assert "internal error" in inbox.wait(1)[0].error
    jobs.close()


def test_no_secret_goes_to_the_model_or_comes_back(server: ModelServer) -> None:
    server.on(is_plan, plan_reply({"route": "answer", "answer": f"it is {CANARY}", "tasks": []}))
    server.on(is_answer, text(f"say {CANARY}"))
    asked = Goal("g1", text=f"the password is {CANARY}")
    one = planner(server)
    chat = ((f"before: {CANARY}", "yes"),)
    told = plan(one, PlanJob(asked, ()), chat)
    answered = one.answer(AnswerJob(asked, ()), chat, time.monotonic() + WAIT_S, threading.Event())
    assert CANARY not in json.dumps(server.requests)
    assert "the password is ***" in json.dumps(server.requests)
    assert (told.answer, answered.answer) == ("it is ***", "say ***")


def test_no_secret_is_in_an_error_of_the_endpoint(server: ModelServer) -> None:
    server.on(is_plan, status(401, f"Incorrect API key provided: {CANARY}"))
    assert CANARY not in str(plan(planner(server)).error)
