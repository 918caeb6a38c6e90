"""Tools of MCP servers as skills: names, arguments, results, and what is refused."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any, Dict, List, Mapping, Tuple

import pytest

from pibot.agent.mcp_tools import TEXT_CHARS, Unusable, group_of, output_of, skill_name, skill_of
from pibot.agent.tools import Context, Result, Toolbox
from pibot.errors import SkillError

Calls = List[Tuple[str, Dict[str, Any]]]


def tool(properties: Any, **more: Any) -> Dict[str, Any]:
    schema = {"type": "object", "properties": properties, **more}
    return {"name": "set", "description": "Sets it.", "inputSchema": schema}


def called(
    tmp_path: Path, described: Mapping[str, Any], args: Dict[str, Any]
) -> Tuple[Result, Calls]:
    """The result of a call through a real Toolbox, and what the server was asked."""
    asked: Calls = []

    def call(name: str, given: Mapping[str, Any], ctx: Context) -> Mapping[str, Any]:
        asked.append((name, dict(given)))
        return {"content": [{"type": "text", "text": "done"}]}

    one = skill_of("house", described, call)
    ctx = Context(tmp_path, threading.Event(), time.monotonic() + 10, "k")
    return Toolbox([one]).call(one.name, args, ctx), asked


def test_what_a_skill_is_of_a_tool() -> None:
    one = skill_of("my house", tool({"n": {"type": "integer"}}), lambda *_: {})
    assert (one.name, one.group, one.description) == ("my_house_set", "mcp-my_house", "Sets it.")
    assert (one.taints, one.sensitive, one.repeatable) == (True, True, False)
    reads = {**tool({}), "annotations": {"readOnlyHint": True}}
    assert skill_of("a", reads, lambda *_: {}).sensitive is False
    assert skill_of("a", reads, lambda *_: {}).taints is True


@pytest.mark.parametrize("hint", ["true", 1, None, {"x": 1}])
def test_only_a_plain_true_makes_a_tool_harmless(hint: Any) -> None:
    described = {**tool({}), "annotations": {"readOnlyHint": hint}}
    assert skill_of("a", described, lambda *_: {}).sensitive is True


@pytest.mark.parametrize(
    ("server", "name", "expected"),
    [
        ("home", "turn-on", "home_turn_on"),
        ("1st", "x", "_1st_x"),
        ("灯", "on", "_on"),
        ("a", "b/../c", "a_b_c"),
    ],
)
def test_names(server: str, name: str, expected: str) -> None:
    assert skill_name(server, name) == expected
    assert group_of("my.house") == "mcp-my_house"


@pytest.mark.parametrize("name", ["", "灯", "x" * 70])
def test_a_name_that_cannot_be_one(name: str) -> None:
    with pytest.raises(Unusable):
        skill_name("a", name)


def test_arguments_are_checked_as_far_as_they_are_understood(tmp_path: Path) -> None:
    properties = {
        "n": {"type": "integer"},
        "any": {},
        "all": True,
        "both": {"type": ["string", "null"]},
        "list": {"type": "array"},
        "ref": {"$ref": "#/$defs/X"},
        "map": {"type": "object", "additionalProperties": False, "properties": {"a": {}}},
        "maybe": {"anyOf": [{"type": "integer"}, {"type": "null"}]},
    }
    given: Dict[str, Any] = {"n": "5", "any": [1], "all": {"x": 1}, "both": "b", "list": [1, "a"]}
    given.update(ref={"y": 2}, map={"a": 1}, maybe=3)
    result, asked = called(tmp_path, tool(properties, required=["n"]), given)
    assert result.success, result.output
    assert asked == [("set", {**given, "n": 5})]
    for wrong in ({}, {"n": "x"}, {"n": 1, "other": 2}, {"n": 1, "list": 3}):
        result, asked = called(tmp_path, tool(properties, required=["n"]), wrong)
        assert (result.success, asked) == (False, [])


def nested(depth: int) -> Dict[str, Any]:
    return {"type": "array", "items": nested(depth - 1)} if depth else {}


@pytest.mark.parametrize(
    "schema",
    [
        None,
        [],
        {"properties": ["a"]},
        {"properties": {"a": 1}},
        {"properties": {"a": {"anyOf": []}}},
        {"properties": {"a": {"anyOf": 5}}},
        {"properties": {"a": {"enum": "abc"}}},
        {"properties": {"a": {"items": [1]}}},
        {"properties": {"a": nested(40)}},
        {"properties": {"a": {"description": "x" * 10_000}}},
        {"properties": {}, "required": ["a"]},
        {"properties": {}, "required": "a"},
        {"properties": {"pibot context": {}}},
    ],
)
def test_a_schema_that_would_confuse_the_check_is_refused(schema: Any) -> None:
    with pytest.raises(Unusable):
        skill_of("a", {"name": "x", "inputSchema": schema}, lambda *_: {})


def test_results() -> None:
    both = output_of({"content": [{"type": "text", "text": "5"}], "structuredContent": {"n": 5}})
    assert (both.data, both.text) == ({"n": 5}, "5")
    assert output_of({"content": [], "structuredContent": [1]}).data == {"value": [1]}
    image = {"type": "image", "data": "QUJD" * 100, "mimeType": "image/png"}
    shown = output_of({"content": [image, {"type": "text", "text": "a\x1b[31mb"}]})
    assert shown.text == "[image/png, 300 bytes: not shown]\nab"
    assert shown.data["parts"] == ["image", "text"]
    with pytest.raises(SkillError, match="no luck"):
        output_of({"isError": True, "content": [{"type": "text", "text": "no luck"}]})


def test_a_huge_result_is_cut_with_a_note() -> None:
    long = output_of({"content": [{"type": "text", "text": "x" * 1_000_000}]})
    assert len(long.text) < TEXT_CHARS + 200
    assert "cut here" in long.text
    large = output_of({"content": [], "structuredContent": {"x": "y" * 1_000_000}})
    assert "left out" in large.text
    assert len(str(large.data)) < 1000
