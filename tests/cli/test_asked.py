"""What a client makes of calls that wait: which one is meant, and for how long it has patience."""

from __future__ import annotations

from typing import Any, Dict, List

import pytest

from pibot.cli.checks import a_call
from pibot.errors import Refused, UsageError
from pibot.roles.asked import Patience, one_of


def ask(task: str, step: int = 1) -> Dict[str, Any]:
    goal = task.rpartition("-")[0]
    about = {"skill": "restart_service", "worker_id": "worker-1"}
    return {"id": f"{task}:{step}", "task_id": task, "goal_id": goal, "step": step, **about}


ASKS = [ask("g1-1"), ask("g2-1", 1), ask("g2-1", 2), ask("g2-2"), ask("g3-1")]


@pytest.mark.parametrize(
    ("key", "found"),
    [("g1", "g1-1:1"), ("g1-1", "g1-1:1"), ("g2-1:2", "g2-1:2"), ("g2-2", "g2-2:1")],
)
def test_a_key_names_one_call(key: str, found: str) -> None:
    assert one_of(ASKS, key)["id"] == found


@pytest.mark.parametrize(("key", "words"), [("g2", "3 calls of g2"), ("g2-1", "2 calls of g2-1")])
def test_when_several_wait_they_are_named(key: str, words: str) -> None:
    with pytest.raises(Refused, match=words) as error:
        one_of(ASKS, key)
    assert "g2-1:1 is restart_service on worker-1; g2-1:2 is" in str(error.value)


@pytest.mark.parametrize("key", ["g4", "g1-2", "g1-1:2", "g", ""])
def test_what_does_not_wait_cannot_be_meant(key: str) -> None:
    with pytest.raises(Refused, match="waits for approval"):
        one_of(ASKS, key)


def test_many_are_not_all_named() -> None:
    with pytest.raises(Refused, match="and 10 more"):
        one_of([ask(f"g1-{n}") for n in range(20)], "g1")


def patience(events: List[Any], seconds: float = 10.0) -> bool:
    """Whether there is some left after these: numbers are seconds, lists are calls that wait."""
    now = [0.0]
    one = Patience(seconds, lambda: now[0])
    for event in events:
        if isinstance(event, list):
            one.learn("asked", {"asks": event})
        else:
            now[0] += event
            one.learn("step", {})
    return one.is_left()


@pytest.mark.parametrize(
    ("events", "left"),
    [
        ([9.0], True),
        ([11.0], False),
        ([[1], 3_000.0], True),
        ([4.0, [1], 3_000.0, [], 5.0], True),
        ([4.0, [1], 3_000.0, [], 7.0], False),
        ([4.0, [1], 3_000.0, [1, 2], 3_000.0, [2], 100.0, [], 5.0], True),
    ],
)
def test_while_a_person_is_asked_a_client_has_patience(events: List[Any], left: bool) -> None:
    assert patience(events) is left


@pytest.mark.parametrize("text", ["g1", "g1-1", "g1-1:3"])
def test_what_can_name_a_call(text: str) -> None:
    assert a_call(text) == text


@pytest.mark.parametrize(
    "text", ["", "G!", "g1-1:", "g1-1:x", "g1-1:\u0663", "g1-1:-3", ":3", "a b"]
)
def test_what_cannot_name_a_call_is_refused_before_it_is_sent(text: str) -> None:
    with pytest.raises(UsageError, match="names no call that waits"):
        a_call(text)
