"""Records as the journal keeps them: read back with checks."""

from __future__ import annotations

import json
from typing import Any

import pytest

from pibot.fleet.records import Goal, Task, from_json, to_json

TASK = Task("g1-1", "g1", skill="echo", needs=("g1-0",), timeout_s=5, usage={"model_calls": 1})


def test_a_record_comes_back_with_what_it_knows() -> None:
    stored = json.loads(to_json(TASK))
    assert from_json(Task, json.dumps({**stored, "later": 1})) == TASK
    del stored["needs"]
    assert from_json(Task, json.dumps(stored)).needs == ()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("id", None),
        ("attempt", "1"),
        ("attempt", True),
        ("attempt", 1.5),
        ("timeout_s", float("nan")),
        ("timeout_s", "5"),
        ("cancel", 0),
        ("needs", "g1-0"),
        ("needs", [["g1-0"]]),
        ("args", []),
        ("usage", {"model_calls": "1"}),
        ("result", "done"),
        ("state", "sleeping"),
        ("state", []),
    ],
)
def test_a_damaged_record_is_none(name: str, value: Any) -> None:
    with pytest.raises((TypeError, ValueError)):
        from_json(Task, json.dumps({**json.loads(to_json(TASK)), name: value}))


@pytest.mark.parametrize("text", ["", "{", "[]", "7", "null", '"x"', "{}", '{"goal": "g1"}'])
def test_what_is_no_record(text: str) -> None:
    with pytest.raises((TypeError, ValueError)):
        from_json(Goal, text)
