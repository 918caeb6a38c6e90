"""The agent loop with a real endpoint and real skills."""

from __future__ import annotations

import json
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, Tuple

import pytest

from model_server import ModelServer, calls, last, serving, silent, status, text
from pibot.agent import model as model_module
from pibot.agent.loop import Job, Limits, Outcome, run
from pibot.agent.model import ModelSettings, OpenAIModel, Usage
from pibot.agent.tools import Context, Output, Toolbox, skill
from pibot.errors import SkillError

MEETING = threading.Barrier(2)


@skill()
def echo(words: str) -> str:
    """Say it again."""
    return words


@skill()
def meet(words: str) -> str:
    """Return when a second call of this skill runs at the same time."""
    MEETING.wait(5)
    return words


@skill(parallel=False)
def alone(ctx: Context, words: str) -> str:
    """Note its beginning and its end."""
    with (ctx.workspace / "order").open("a") as file:
        file.write(f"<{words}")
        file.flush()
        time.sleep(0.02)
        file.write(f"{words}>")
    return words


@skill()
def fail() -> str:
    """Fail."""
    raise SkillError("the sensor is not there", {"pin": 4})


@skill()
def crash() -> str:
    """Crash."""
    raise RuntimeError("bug")


@skill()
def key(ctx: Context) -> str:
    """The idempotency key."""
    return ctx.key


@skill()
def hang(ctx: Context) -> str:
    """Hang until told otherwise."""
    ctx.cancelled.wait(30)
    return "never"


@skill()
def lines(count: int) -> Output:
    """Print lines."""
    return Output({"count": count}, "\n".join(f"line {n}" for n in range(count)))


@skill()
def dirty() -> str:
    """Print what a terminal would obey."""
    return "\x1b[2J\x1b]0;title\x07red\x07\u202e\r\nend"


@skill()
def read_file(ctx: Context, path: str) -> str:
    """Read a file."""
    return (ctx.workspace / path).read_text("utf-8")


@skill(parallel=False)
def write_file(ctx: Context, path: str, content: str) -> str:
    """Write a file."""
    (ctx.workspace / path).parent.mkdir(exist_ok=True)
    (ctx.workspace / path).write_text(content, "utf-8")
    return "written"


BASIC = (echo, meet, alone, fail, crash, key, hang, lines, dirty)


class Bench:
    """Everything that a run needs, and what it showed."""

    def __init__(self, server: ModelServer, workspace: Path) -> None:
        self.server = server
        self.steps: List[Dict[str, Any]] = []
        self.cancelled = threading.Event()
        self.ctx = Context(workspace, self.cancelled, time.monotonic() + 20, "t1:0")
        self.model = OpenAIModel(ModelSettings(server.key, server.url, server.model))
        self.toolbox = Toolbox([function.__skill__ for function in BASIC])

    def run(self, goal: str = "Do it.", limits: Limits = Limits(), **job: Any) -> Outcome:  # noqa: B008
        return run(
            Job(task="t1", goal=goal, **job),
            model=self.model,
            toolbox=self.toolbox,
            soul="You work.",
            limits=limits,
            ctx=self.ctx,
            on_step=lambda step: self.steps.append(dict(step)),
        )

    def script(self, *replies: Any) -> None:
        self.server.on(lambda request: True, *replies)

    def told(self, number: int = -1) -> List[str]:
        """The tool results in a request."""
        messages = self.server.requests[number]["messages"]
        return [message["content"] for message in messages if message["role"] == "tool"]

    def schemas(self) -> List[bool]:
        """For each request, whether it asked for a step of the schema instead of tools."""
        assert all(("response_format" in r) != ("tools" in r) for r in self.server.requests)
        return ["response_format" in request for request in self.server.requests]


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    monkeypatch.setattr(model_module, "BACKOFF_S", 0.01)
    with serving() as server:
        made = Bench(server, tmp_path)
        yield made
        made.model.close()


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


# --- one schema for all tools, when nothing else works --------------------------------------------

BOTCHED = '{"name": "echo", "arguments": {"words": {"type": "string"}}} …</tool_response>'


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


# --- limits ------------------------------------------------------------------------------------


def test_the_limit_of_steps(bench: Bench) -> None:
    numbers = iter(range(100))
    bench.script(lambda request: calls(("echo", {"words": str(next(numbers))})))
    outcome = bench.run(limits=Limits(steps=7))
    assert not outcome.success
    assert "7 steps" in outcome.output
    assert (outcome.steps, outcome.usage.model_calls) == (7, 4)


def test_the_limit_of_tokens(bench: Bench) -> None:
    bench.script(*(calls(("echo", {"words": str(n)})) for n in range(9)))
    outcome = bench.run(limits=Limits(tokens=30))
    assert "30 tokens" in outcome.output
    assert outcome.usage.model_calls == 2


def test_the_limit_of_output(bench: Bench) -> None:
    bench.script(text("x" * 101))
    assert "100 characters" in bench.run(limits=Limits(output_chars=100)).output


def test_the_limit_of_identical_calls(bench: Bench) -> None:
    same = [calls(("echo", '{"words":"a"}')), calls(("echo", '{ "words": "a" }'))]
    bench.script(calls(("echo", {"words": "b"})), *same, same[0], same[1])
    outcome = bench.run()
    assert not outcome.success
    assert "same call" in outcome.output
    assert bench.told() == ["b", "a", "a", "a"]


def test_the_deadline(bench: Bench) -> None:
    bench.ctx = replace(bench.ctx, deadline=time.monotonic() + 0.3)
    bench.script(silent(30))
    began = time.monotonic()
    outcome = bench.run()
    assert time.monotonic() - began < 1
    assert "time was over" in outcome.output


@pytest.mark.parametrize("reply", [silent(30), calls(("hang", {}))], ids=["model", "tool"])
def test_a_cancel(bench: Bench, reply: Any) -> None:
    bench.script(reply)
    outcomes: List[Tuple[Outcome, float]] = []
    thread = threading.Thread(target=lambda: outcomes.append((bench.run(), time.monotonic())))
    thread.start()
    until(lambda: bool(bench.server.requests))
    set_at = time.monotonic()
    bench.cancelled.set()
    thread.join(5)
    ((outcome, ended),) = outcomes
    assert ended - set_at < 0.5
    assert "cancelled" in outcome.output


def test_long_tool_output_is_cut(bench: Bench) -> None:
    bench.script(calls(("lines", {"count": 1000})), text("Done."))
    bench.run(limits=Limits(tool_chars=400))
    (told,) = bench.told()
    assert "8489 of 8889 characters are missing" in told
    assert told.startswith("line 0\n")
    assert told.endswith("line 999")
    assert len(told) < 500


def test_what_was_cut_off_can_be_read(bench: Bench) -> None:
    files = (lines, read_file, write_file)
    bench.toolbox = Toolbox([function.__skill__ for function in files])
    bench.script(
        calls(("lines", {"count": 1000})), calls(("read_file", {"path": ".steps/2.txt"})), text("!")
    )
    bench.run(limits=Limits(tool_chars=400))
    first, second = bench.told()
    assert "all of it is in the file .steps/2.txt" in first
    assert "smaller parts" in second
    assert len((bench.ctx.workspace / ".steps/2.txt").read_text().splitlines()) == 1000


def test_old_steps_make_room(bench: Bench) -> None:
    counts = iter(range(500, 520))
    bench.script(*(calls(("lines", {"count": next(counts)})) for _ in range(9)), text("Done."))
    outcome = bench.run("Count.", limits=Limits(window_chars=20_000, steps=99))
    assert outcome.success
    sizes = [sum(len(m["content"] or "") for m in r["messages"]) for r in bench.server.requests]
    assert max(sizes) <= 20_000
    assert {json.dumps(r["messages"][:2]) for r in bench.server.requests} == {
        json.dumps(bench.server.requests[0]["messages"])
    }
    told = bench.told()
    assert "left out to make room" in told[0]
    assert told[-1].endswith("line 507")
    assert [s for s in bench.steps if s["kind"] == "note"]


def test_long_arguments_make_room_too(bench: Bench) -> None:
    long = [{"words": str(n) * 3000} for n in range(5)]
    bench.script(*(calls(("echo", args)) for args in long), text("Done."))
    assert bench.run(limits=Limits(window_chars=12_000, tool_chars=100)).success
    first = bench.server.requests[-1]["messages"][2]["tool_calls"][0]
    assert "left out" in first["function"]["arguments"]


def test_a_task_larger_than_the_window_is_refused(bench: Bench) -> None:
    outcome = bench.run("x" * 2000, limits=Limits(window_chars=1000))
    assert "larger than the model's window" in outcome.output
    assert bench.server.requests == []


def test_a_smaller_window_than_believed(bench: Bench) -> None:
    def small(request: Any) -> Any:
        size = sum(len(m["content"] or "") for m in request["messages"])
        if size > 9000:
            return status(400, "context_length_exceeded: 9000")
        return text("Done.") if size < 5000 else calls(("lines", {"count": 600 + size % 7}))

    steps = [calls(("lines", {"count": 500})), calls(("lines", {"count": 501}))]
    bench.script(*steps, small)
    outcome = bench.run(limits=Limits(tool_chars=4500))
    assert outcome.success, outcome


def until(condition: Callable[[], bool], seconds: float = 5.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "the condition did not come true"
        time.sleep(0.01)
