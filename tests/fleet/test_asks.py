"""Goals over the `ask` topic: text or JSON in, the document and the asker's id out."""

from __future__ import annotations

import json
from typing import Optional

import pytest

from pibot.errors import BadMessage
from pibot.fleet.asks import MAX_BYTES, REMEMBERED, Asks, answer
from pibot.fleet.document import goal_document
from pibot.fleet.records import Goal, Task


@pytest.mark.parametrize(
    "payload, text, ask_id",
    [
        (b"disk space on all workers", "disk space on all workers", None),
        ("  磁盘空间 \n".encode(), "磁盘空间", None),
        (b"[1] is no object", "[1] is no object", None),
        (b'{"goal":"hi"}', "hi", None),
        (b' \n{"id":"n-1","goal":" hi "}', "hi", "n-1"),
        (b'{"id":7,"goal":"hi","later":[]}', "hi", "7"),
        (b'{"id":null,"goal":"hi"}', "hi", None),
        (b'{"id":"","goal":""}', "", ""),
        (b"", "", None),
    ],
)
def test_what_is_asked(payload: bytes, text: str, ask_id: Optional[str]) -> None:
    assert Asks().read(payload, "g1", 0.0) == Goal("g1", text=text, asked=True, ask_id=ask_id)


@pytest.mark.parametrize(
    "payload",
    [
        b"\xff\xfe",
        b"{",
        b"{goal: hi}",
        b'{"goal":5}',
        b'{"id":"x"}',
        b'{"goal":"x","id":[1]}',
        b'{"goal":"x","id":1.5}',
        b'{"goal":"x","id":"' + b"i" * 201 + b'"}',
        b'{"goal":"x","id":' + b"9" * 300 + b"}",
        b'{"goal":"\\ud800"}',
        b'{"goal":"x","x":NaN}',
        b'{"goal":' + b"[" * 100_000,
        b"x" * (MAX_BYTES + 1),
    ],
)
def test_what_is_no_ask(payload: bytes) -> None:
    with pytest.raises(BadMessage):
        Asks().read(payload, "g1", 0.0)


def test_one_that_comes_twice_with_its_id_is_one_goal() -> None:
    asks = Asks()
    first = b'{"id":"n-1","goal":"hi"}'
    assert asks.read(first, "g1", 0.0) is not None and asks.read(first, "g2", 9.0) is None
    assert asks.read(b'{"id":"n-2","goal":"hi"}', "g3", 0.0) is not None
    assert asks.read(b'{"id":"n-1","goal":"something else"}', "g4", 0.0) is not None
    assert asks.read(first, "g7", 11.0) is not None  # a flow that always sends the same id
    assert asks.read(b"hi", "g5", 0.0) is not None and asks.read(b"hi", "g6", 0.0) is not None


def test_only_so_many_are_remembered() -> None:
    asks = Asks()
    for i in range(3 * REMEMBERED):
        asks.read(json.dumps({"id": i, "goal": "x"}).encode(), "g", 0.0)
    assert len(asks._seen) == REMEMBERED


def test_the_answer_is_the_document_with_the_id_first() -> None:
    result = {"success": True, "data": {}, "output": "grüße"}
    task = Task("g1-1", "g1", state="succeeded", result=result, usage={"input_tokens": 3})
    goal = Goal("g1", state="succeeded", answer="half a \ud83d", usage={"input_tokens": 4})
    document = goal_document(goal, [task])
    found = json.loads(answer(document, "n-1").decode("utf-8"))
    assert list(found)[:2] == ["id", "goal_id"] and found["id"] == "n-1"
    assert found["answer"] == "half a ?" and found["usage"]["input_tokens"] == 7
    assert found["tasks"][0]["result"] == result
    assert json.loads(answer(document, None))["id"] is None
