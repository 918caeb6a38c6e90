"""The agent loop at its limits: steps, tokens, time, cancels, and a window that is too small."""

from __future__ import annotations

import json
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any, Callable, Iterator, List, Tuple

import pytest

from agent.loop_bench import Bench, at_work, lines, read_file, write_file
from model_server import calls, silent, status, text
from pibot.agent.loop import Limits, Outcome
from pibot.agent.tools import Toolbox


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    with at_work(tmp_path, monkeypatch) as made:
        yield made


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
