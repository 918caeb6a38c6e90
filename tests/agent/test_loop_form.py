"""What the agent loop does with a model whose tool calls do not work: it asks by a schema."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Iterator

import pytest

from agent.loop_bench import Bench, at_work
from model_server import calls, silent, status, text
from pibot.agent.model import Usage

BOTCHED = '{"name": "echo", "arguments": {"words": {"type": "string"}}} …</tool_response>'


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    with at_work(tmp_path, monkeypatch) as made:
        yield made


def step(name: str, **args: Any) -> Any:
    return text(json.dumps({"step": {"name": name, "arguments": args}}))


def test_a_botched_call_is_no_answer(bench: Bench) -> None:
    bench.script(text(BOTCHED))
    outcome = bench.run()
    assert not outcome.success
    assert "printed a tool call" in outcome.output
    assert bench.schemas() == [False, True, True]


def test_a_botched_call_changes_the_form(bench: Bench) -> None:
    bench.script(text(BOTCHED), step("echo", words="hi"), step("final", answer="It said hi."))
    outcome = bench.run()
    assert outcome.output == "It said hi."
    assert (outcome.steps, outcome.usage) == (4, Usage(30, 15, 3))
    assert bench.schemas() == [False, True, True]
    second, third = bench.server.requests[1:]
    assert third["messages"][: len(second["messages"])] == second["messages"]
    assert BOTCHED not in json.dumps(second["messages"], ensure_ascii=False)
    call, result = [m["content"] for m in third["messages"][-2:]]
    assert call == '{"step": {"name": "echo", "arguments": {"words": "hi"}}}'
    assert result.startswith("Result of echo: hi\n")


def test_what_was_done_before_is_told_in_the_new_form(bench: Bench) -> None:
    both = calls(("echo", {"words": "a"}), ("echo", {"words": "b"}))
    bench.script(both, text("<tool_call>echo c"), step("final", answer='{"said": ["a", "b"]}'))
    assert bench.run().data == {"said": ["a", "b"]}
    told = [m["content"].splitlines()[0] for m in bench.server.requests[-1]["messages"][-4:]]
    assert told[1::2] == ["Result of echo: a", "Result of echo: b"]


@pytest.mark.parametrize("said", [(text(""), text(" ")), (text("I'll look."), text("Let me see."))])
def test_a_complaint_that_did_not_help_changes_the_form(bench: Bench, said: Any) -> None:
    bench.script(*said, step("final", answer="Here it is."))
    assert bench.run().output == "Here it is."
    assert bench.schemas() == [False, False, True]


@pytest.mark.parametrize("args", ['{"words": {"type": "string"}}', '{"word": "hi"}'])
def test_a_printed_call_that_fails_changes_the_form(bench: Bench, args: str) -> None:
    printed = text(f'{{"name": "echo", "arguments": {args}}}')
    bench.script(printed, step("final", answer="So be it."))
    assert bench.run().output == "So be it."
    assert bench.schemas() == [False, True]
    assert "Error" not in bench.server.requests[-1]["messages"][-1]["content"]


def test_a_printed_call_that_is_repeated_changes_the_form(bench: Bench) -> None:
    printed = text('{"name": "echo", "arguments": {"words": "hi"}}')
    bench.script(printed, printed, step("final", answer="It said hi."))
    assert bench.run().output == "It said hi."
    assert bench.schemas() == [False, False, True]


def test_native_calls_never_change_the_form(bench: Bench) -> None:
    failing, same = calls(("fail", {})), calls(("echo", {"words": "hi"}))
    bench.script(failing, failing, same, same, text("It said hi."))
    assert bench.run().success
    assert bench.schemas() == [False] * 5


def test_calls_without_end_are_stopped(bench: Bench) -> None:
    printed = '{"name": "echo", "arguments": {"words": "hi"}}\n'
    bench.script(silent(30, partial=printed * 50), step("final", answer="It said hi."))
    outcome = bench.run()
    assert outcome.output == "It said hi."
    assert outcome.usage.model_calls == 2
    assert bench.schemas() == [False, True]


@pytest.mark.parametrize("said", ["give_up", "(nothing)"])
def test_words_of_ours_are_no_answer(bench: Bench, said: str) -> None:
    bench.script(text(said))
    assert not bench.run().success


def test_the_new_form_is_held_to_the_same_rules(bench: Bench) -> None:
    bench.script(
        text(BOTCHED), step("nothing"), step("echo"), step("final", answer="I will see."), text("")
    )
    outcome = bench.run()
    assert "gave no answer" in outcome.output
    assert [s["ok"] for s in bench.steps if s["kind"] == "tool"] == [False, False]
    assert bench.schemas() == [False, True, True, True, True]


def test_giving_up_by_schema(bench: Bench) -> None:
    bench.script(text(BOTCHED), step("give_up", reason="There is no camera."))
    assert bench.run().error == "There is no camera."


@pytest.mark.parametrize("number", [400, 422, 500])
def test_an_endpoint_without_schemas_is_asked_as_before(bench: Bench, number: int) -> None:
    refusal = status(number, "response_format is not supported")
    bench.server.on(lambda request: "response_format" in request, refusal)
    bench.script(text(BOTCHED), calls(("echo", {"words": "hi"})), text("It said hi."))
    assert bench.run().output == "It said hi."
    without = [r for r in bench.server.requests if "response_format" not in r]
    assert len(without) == 3
    assert without[0]["tools"] == without[-1]["tools"]
    assert bench.told() == ["hi"]


def test_other_refusals_end_the_attempt(bench: Bench) -> None:
    bench.script(text(BOTCHED), status(401, "no"))
    assert "VOLC_API_KEY" in bench.run().output
