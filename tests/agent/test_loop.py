"""The agent loop with a real endpoint and real skills: answers, calls and errors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Iterator, List, Tuple

import pytest

from agent.loop_bench import Bench, at_work
from model_server import calls, last, status, text
from pibot.agent.loop import Outcome
from pibot.agent.model import Usage


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    with at_work(tmp_path, monkeypatch) as made:
        yield made


# --- answers ---------------------------------------------------------------------------------


def test_an_answer_at_once(bench: Bench) -> None:
    bench.script(text("It is noon."))
    outcome = bench.run()
    expected = Outcome(True, {"text": "It is noon."}, "It is noon.", None, Usage(10, 5, 1), 1)
    assert outcome == expected


def test_a_call_and_an_answer(bench: Bench) -> None:
    bench.script(calls(("echo", {"words": "hello"})), lambda r: text(f"It said {last(r, 'tool')}."))
    outcome = bench.run()
    assert outcome.output == "It said hello."
    assert (outcome.steps, outcome.usage) == (3, Usage(20, 10, 2))
    assert [(s["step"], s["kind"], s["name"], s["ok"]) for s in bench.steps] == [
        (1, "model", "model", True),
        (2, "tool", "echo", True),
        (3, "model", "model", True),
    ]
    assert 'echo({"words": "hello"})' in bench.steps[0]["text"]
    assert all(set(s) == {"step", "kind", "name", "text", "ok", "ms"} for s in bench.steps)


def test_the_prefix_is_stable(bench: Bench) -> None:
    bench.script(calls(("echo", {"words": "a"})), text("Done."))
    bench.run("Say a.", context="earlier: b", acceptance="a was said", skills=("key", "echo"))
    first, second = bench.server.requests
    assert first["tools"] == second["tools"]
    assert [tool["function"]["name"] for tool in first["tools"]] == ["echo", "key", "give_up"]
    assert second["messages"][:2] == first["messages"]
    assert first["messages"][0] == {"role": "system", "content": "You work."}
    for part in ("Say a.", "earlier: b", "a was said"):
        assert part in first["messages"][1]["content"]


@pytest.mark.parametrize(
    "answer", ['{"temp": 51.5, "name": "CPU"}', '```json\n{"temp": 51.5, "name": "CPU"}\n```']
)
def test_a_json_answer_is_the_data(bench: Bench, answer: str) -> None:
    bench.script(text(answer))
    outcome = bench.run()
    assert outcome.data == {"temp": 51.5, "name": "CPU"}
    assert outcome.output == "temp: 51.5\nname: CPU"


@pytest.mark.parametrize(
    "answer", ["[1, 2]", '{"a": NaN}', "{}", '{"a": 1} or so', "42", "{" * 9000]
)
def test_other_answers_are_text(bench: Bench, answer: str) -> None:
    bench.script(text(answer))
    assert bench.run().data == {"text": answer}


def test_control_characters_are_removed(bench: Bench) -> None:
    bench.script(calls(("dirty", {})), text('{"a": "\\u001b[31mred"}'))
    outcome = bench.run()
    assert outcome.data == {"a": "red"}
    assert bench.told() == ["red\nend"]
    assert "\x1b" not in json.dumps(bench.steps)


def test_a_printed_call_is_run(bench: Bench) -> None:
    printed = '<tool_call>{"name": "echo", "arguments": {"words": "hi"}}</tool_call>'
    bench.script(text(printed), text("It said hi."))
    assert bench.run().output == "It said hi."
    assert bench.told() == ["hi"]


# --- no answers ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("args", "error"),
    [
        ({"reason": "There is no camera."}, "There is no camera."),
        ({"reason": "red\x1b[31m"}, "red"),
        ({}, "The model gave up and gave no reason."),
        ("no JSON", "The model gave up and gave no reason."),
    ],
)
def test_giving_up_is_honest(bench: Bench, args: Any, error: str) -> None:
    bench.script(calls(("give_up", args)))
    outcome = bench.run()
    assert (outcome.success, outcome.error, outcome.output) == (False, error, error)
    assert outcome.data == {}
    assert len(bench.server.requests) == 1


def test_giving_up_waits_for_the_results_of_other_calls(bench: Bench) -> None:
    wanted = [("echo", {"words": "x"}), ("give_up", {"reason": "?"})]
    bench.script(calls(*wanted), text("It said x."))
    assert bench.run().output == "It said x."
    assert bench.told() == ["x", "Error: not taken, as other calls came with it: see their results"]


@pytest.mark.parametrize(
    ("reply", "why"),
    [
        (text(""), "no answer"),
        (text(" \n"), "no answer"),
        (text("half an ans", finish="length"), "cut off"),
        (text("", finish="content_filter"), "content filter"),
    ],
)
def test_no_answer_is_asked_for_once_more(bench: Bench, reply: Any, why: str) -> None:
    bench.script(reply, text("Here it is."))
    assert bench.run().output == "Here it is."
    assert len(bench.server.requests) == 2


@pytest.mark.parametrize(
    "reply", [text("half", finish="length"), text("", finish="content_filter")]
)
def test_no_answer_twice_is_a_failure(bench: Bench, reply: Any) -> None:
    bench.script(reply)
    outcome = bench.run()
    assert not outcome.success
    assert len(bench.server.requests) == 2
    assert bench.schemas() == [False, False]


@pytest.mark.parametrize(
    "said", ["I'll check the clock now.", "好的，我来看一下时间。", "Let me see."]
)
def test_an_announcement_is_no_answer(bench: Bench, said: str) -> None:
    bench.script(text(said), calls(("echo", {"words": "12:00"})), text("It is 12:00."))
    assert bench.run().output == "It is 12:00."
    assert bench.server.requests[1]["messages"][-1]["role"] == "user"


def test_who_insists_on_an_announcement_means_it(bench: Bench) -> None:
    bench.script(text("I will come."))
    assert bench.run("Translate: 我会来。").output == "I will come."
    assert len(bench.server.requests) == 2


@pytest.mark.parametrize(
    "said", ["Let me know if you need more.", "现在是12点。", "Will it rain? No."]
)
def test_what_only_begins_alike_is_an_answer(bench: Bench, said: str) -> None:
    bench.script(text(said))
    assert bench.run().output == said
    assert len(bench.server.requests) == 1


def test_a_model_that_fails_is_an_explained_failure(bench: Bench) -> None:
    bench.script(status(401, "no"))
    outcome = bench.run()
    assert not outcome.success
    assert "VOLC_API_KEY" in (outcome.error or "")
    assert bench.steps[-1]["kind"] == "note"


# --- errors that go back to the model ----------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "parts"),
    [
        (("nothing", {}), ["no tool 'nothing'", "echo", "give_up"]),
        (("bad name!", {}), ["no tool 'bad name!'"]),
        (("echo", '{"words": '), ["not a JSON object"]),
        (("echo", "[1]"), ["not a JSON object"]),
        (("echo", '{"words": NaN}'), ["not a JSON object"]),
        (("echo", ""), ["words is missing"]),
        (("echo", {"word": "x"}), ["word"]),
        (("fail", {}), ["the sensor is not there", '{"pin": 4}']),
        (("crash", {}), ["RuntimeError", "bug"]),
    ],
)
def test_errors_are_results(bench: Bench, call: Tuple[str, Any], parts: List[str]) -> None:
    bench.script(calls(call), text("It did not work."))
    assert bench.run().success
    (told,) = bench.told()
    assert told.startswith("Error: ")
    assert all(part in told for part in parts), told
    assert [s["ok"] for s in bench.steps if s["kind"] == "tool"] == [False]


def test_only_the_tasks_skills_can_be_called(bench: Bench) -> None:
    bench.script(calls(("key", {})), text("Fine."))
    bench.run(skills=("echo",))
    assert "no tool 'key'" in bench.told()[0]


# --- several calls -----------------------------------------------------------------------------


def test_independent_calls_run_side_by_side(bench: Bench) -> None:
    bench.script(calls(("meet", {"words": "a"}), ("meet", {"words": "b"})), text("Met."))
    assert bench.run().success
    assert bench.told() == ["a", "b"]


def test_calls_that_must_not_run_side_by_side(bench: Bench) -> None:
    wanted = [("alone", {"words": "a"}), ("echo", {"words": "-"}), ("alone", {"words": "b"})]
    bench.script(calls(*wanted), text("Done."))
    bench.run()
    assert (bench.ctx.workspace / "order").read_text() == "<aa><bb>"
    assert bench.told() == ["a", "-", "b"]


def test_each_call_has_its_own_key(bench: Bench) -> None:
    bench.script(calls(("key", {}), ("key", {})), text("Done."))
    bench.run()
    assert bench.told() == ["t1:2", "t1:3"]
