"""Skills as tools: declaration, and calls that always come back with a result."""

from __future__ import annotations

import json
import sys
import threading
import time
from pathlib import Path
from typing import Annotated, Any, Dict, List

import pytest

from pibot.agent.tools import Context, Output, Result, Skill, Toolbox, skill
from pibot.errors import SkillError

AT_ONCE_S = 0.5  # the promise is 0.2 s; a loaded machine gets a little more


@skill()
def greet(name: Annotated[str, "whom"], times: int = 1) -> str:
    """Greet somebody. It is polite!

    More about it.
    """
    return f"hello {name} " * times


@skill(phrases=["door {n}"], sensitive=True, repeatable=False, parallel=False)
def door(ctx: Context, n: int) -> Dict[str, Any]:
    """打开一扇门。之后再关上。"""
    return {"n": n, "key": ctx.key, "名": "门", "list": [1, 2]}


@skill(timeout_s=0.2)
def hang(ctx: Context) -> str:
    """Never end"""
    while True:
        time.sleep(0.01)


@skill(timeout_s=20)
def patient(ctx: Context) -> Dict[str, Any]:
    """Wait until told to stop, and say how far it came."""
    ctx.on_output("waiting")
    ctx.cancelled.wait(20)
    ctx.on_output("too late to be heard")
    return {"done": 3}


@skill()
def returns(what: str) -> Any:
    """Return what it is told."""
    values: Dict[str, Any] = {
        "number": 42,
        "none": None,
        "list": [1, "a"],
        "output": Output({"a": 1}, "one"),
        "tuple": {"pair": (1, 2)},
        "object": object(),
        "nan": float("nan"),
        "bytes": {"raw": b"x"},
        "surrogate": "name \udcff",
    }
    return values[what]


@skill()
def fails(how: str) -> str:
    """Fail."""
    if how == "skill":
        raise SkillError("the door is locked", {"door": 1})
    if how == "odd data":
        raise SkillError("the door is locked", {"door": object()})
    if how == "exit":
        sys.exit(3)
    if how == "deep":
        return fails(how)
    raise ValueError("two\nlines")


BOX = Toolbox([f.__skill__ for f in (greet, door, hang, patient, returns, fails)])  # type: ignore[union-attr]


def context(tmp_path: Path, **changes: Any) -> Context:
    given = {"cancelled": threading.Event(), "deadline": time.monotonic() + 20, "key": "t:1"}
    return Context(workspace=tmp_path, **{**given, **changes})


def test_a_skill_stays_a_function_and_knows_itself() -> None:
    declared: Skill = greet.__skill__  # type: ignore[attr-defined]
    assert greet("you") == "hello you "
    assert (declared.name, declared.timeout_s, declared.repeatable) == ("greet", 30.0, True)
    assert declared.description == "Greet somebody. It is polite!\n\nMore about it."


def test_the_context_is_not_in_the_schema() -> None:
    assert list(BOX.get("door").parameters["properties"]) == ["n"]  # type: ignore[union-attr]


def test_declarations_that_cannot_work_fail_at_once() -> None:
    def silent(a: int) -> None: ...

    def untyped(a) -> None:  # type: ignore[no-untyped-def]
        """Do."""

    async def later(a: int) -> None:
        """Do."""

    def größe(a: int) -> None:
        """Do."""

    for function, said in [
        (silent, "silent: has no docstring"),
        (untyped, "untyped, parameter a"),
        (later, "later: is async"),
        (größe, "größe: a name is"),
    ]:
        with pytest.raises(TypeError, match=said):
            skill()(function)
    with pytest.raises(TypeError, match="phrases must be a list"):
        skill(phrases="one text")(greet)


def test_tools_are_openai_functions_in_a_stable_order() -> None:
    assert [one["function"]["name"] for one in BOX.tools()] == BOX.names
    (tool,) = BOX.tools(only=["greet", "unknown"])
    assert tool["type"] == "function"
    assert tool["function"]["parameters"]["required"] == ["name"]
    assert json.loads(json.dumps(tool)) == tool
    assert BOX.tools(only=[]) == []


def test_the_announcement_is_short() -> None:
    by_name = {one["name"]: one for one in BOX.announce()}
    assert by_name["greet"]["description"] == "Greet somebody."
    assert by_name["hang"]["description"] == "Never end"
    assert by_name["door"] == {
        "name": "door",
        "description": "打开一扇门。",
        "params": ["n"],
        "phrases": ["door {n}"],
        "repeatable": False,
        "sensitive": True,
        "group": "own",
    }


def test_two_skills_of_one_name_are_refused() -> None:
    one = BOX.get("greet")
    assert one is not None
    with pytest.raises(ValueError, match="same name"):
        Toolbox([one, one])


def test_text_and_dictionaries_become_results(tmp_path: Path) -> None:
    ctx = context(tmp_path)
    assert BOX.call("greet", {"name": "you", "times": "2"}, ctx) == Result(
        True, {"text": "hello you hello you "}, "hello you hello you "
    )
    result = BOX.call("door", {"n": 1}, ctx)
    assert result.data == {"n": 1, "key": "t:1", "名": "门", "list": [1, 2]}
    assert result.output == "n: 1\nkey: t:1\n名: 门\nlist: [1, 2]"
    assert result.to_json() == {"success": True, "data": result.data, "output": result.output}


@pytest.mark.parametrize(
    ("what", "data", "output"),
    [
        ("number", {"value": 42}, "42"),
        ("none", {"value": None}, "done"),
        ("list", {"value": [1, "a"]}, "[1, 'a']"),
        ("output", {"a": 1}, "one"),
        ("tuple", {"pair": [1, 2]}, "pair: [1, 2]"),
        ("surrogate", {"text": "name ?"}, "name ?"),
    ],
)
def test_other_values(tmp_path: Path, what: str, data: Dict[str, Any], output: str) -> None:
    assert BOX.call("returns", {"what": what}, context(tmp_path)) == Result(True, data, output)


@pytest.mark.parametrize("what", ["object", "nan", "bytes"])
def test_what_is_not_json_is_a_failure(tmp_path: Path, what: str) -> None:
    result = BOX.call("returns", {"what": what}, context(tmp_path))
    assert not result.success
    assert "returned something that is not JSON" in result.output


@pytest.mark.parametrize(
    ("name", "args", "said"),
    [
        ("nothing", {}, "there is no skill 'nothing' here; there are: greet, door"),
        ("greet", {}, "greet: name is missing"),
        ("door", {"n": "x"}, "door: n must be a whole number, not 'x'"),
        ("door", [1], "door: the arguments must be a JSON object, not [1]"),
        ("fails", {"how": "skill"}, "the door is locked"),
        ("fails", {"how": "odd data"}, "the door is locked"),
        ("fails", {"how": "raise"}, "fails failed: ValueError: two lines (test_tools.py, line "),
        ("fails", {"how": "exit"}, "fails failed: SystemExit: 3"),
        ("fails", {"how": "deep"}, "fails failed: RecursionError"),
    ],
)
def test_what_goes_wrong_is_a_result(tmp_path: Path, name: str, args: Any, said: str) -> None:
    result = BOX.call(name, args, context(tmp_path))
    assert not result.success
    assert result.output.startswith(said)
    assert "\n" not in result.output


def test_the_data_of_a_skill_error_is_kept(tmp_path: Path) -> None:
    assert BOX.call("fails", {"how": "skill"}, context(tmp_path)).data == {"door": 1}


def test_a_hanging_skill_is_left_behind_at_its_time_limit(tmp_path: Path) -> None:
    started = time.monotonic()
    result = BOX.call("hang", {}, context(tmp_path))
    assert time.monotonic() - started < 0.2 + AT_ONCE_S
    assert result == Result(False, {}, "hang did not end in time and was stopped")


def test_the_deadline_of_the_context_counts_too(tmp_path: Path) -> None:
    started = time.monotonic()
    result = BOX.call("patient", {}, context(tmp_path, deadline=started + 0.1))
    assert time.monotonic() - started < 0.1 + AT_ONCE_S
    assert not result.success


def test_a_cancel_returns_at_once_and_reaches_the_skill(tmp_path: Path) -> None:
    heard: List[str] = []
    ctx = context(tmp_path, on_output=heard.append)
    cancelled_at: List[float] = []

    def cancel_when_heard() -> None:
        while not heard:
            time.sleep(0.005)
        cancelled_at.append(time.monotonic())
        ctx.cancelled.set()

    threading.Thread(target=cancel_when_heard, daemon=True).start()
    result = BOX.call("patient", {}, ctx)
    assert time.monotonic() - cancelled_at[0] < AT_ONCE_S
    assert result == Result(False, {"done": 3}, "patient was cancelled")
    assert heard == ["waiting"]


def test_a_time_out_does_not_cancel_the_task(tmp_path: Path) -> None:
    ctx = context(tmp_path)
    BOX.call("hang", {}, ctx)
    assert not ctx.cancelled.is_set()


def test_nothing_is_started_when_no_time_is_left(tmp_path: Path) -> None:
    cancelled = threading.Event()
    cancelled.set()
    for ctx in (context(tmp_path, cancelled=cancelled), context(tmp_path, deadline=0.0)):
        assert BOX.call("greet", {"name": "you"}, ctx).output.startswith("greet was not started")


def test_calls_run_side_by_side(tmp_path: Path) -> None:
    barrier = threading.Barrier(4, timeout=5)

    @skill()
    def meet() -> str:
        """Wait for the others."""
        barrier.wait()
        return "met"

    box = Toolbox([meet.__skill__])  # type: ignore[attr-defined]
    results: List[Result] = []
    threads = [
        threading.Thread(target=lambda: results.append(box.call("meet", {}, context(tmp_path))))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(5)
    assert [one.output for one in results] == ["met"] * 4
