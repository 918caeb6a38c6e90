"""Files that never come, are not what was announced, or have names that mean harm."""

from __future__ import annotations

import base64
from typing import Any, Dict

import pytest

from fleet.fetch_world import SLICE, World, errors
from pibot import messages as msg
from pibot.fleet import fetching


@pytest.fixture
def world() -> World:
    return World()


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"error": "a: there is no such file"}, "a: there is no such file"),
        ({"size": 7}, "it has changed since its task ended"),
        ({"error": "x" * 9_999}, "x" * (fetching.ERROR_CHARS - 1) + "…"),
    ],
)
def test_what_can_never_come_is_recorded_as_such(
    world: World, changes: Dict[str, Any], error: str
) -> None:
    world.task()
    world.files = {"a": bytes(SLICE), "b": b"b"}
    world.end()
    asked = world.give(world.answer(world.asked[0], **changes))
    world.serve(asked)
    assert errors(world.taken[0]) == [error, None]


def test_what_was_not_announced_is_fetched_once_more(world: World) -> None:
    world.task()
    world.files = {"a": b"a" * SLICE, "b": b"b"}
    wrong = base64.b64encode(b"x" * SLICE).decode()
    world.end()
    again = world.give(world.answer(world.asked[0], data=wrong))
    assert [f.offset for f in again] == [0] and world.taken == []
    asked = world.give(world.answer(world.asked[0], data=wrong))
    world.serve(asked)
    assert errors(world.taken[0]) == [
        "what came is not what was announced (its SHA-256 differs)",
        None,
    ]


def test_what_the_disk_does_not_take_ends_the_task_all_the_same(world: World) -> None:
    world.task()
    world.files = {"a": bytes(2 * SLICE)}
    world.end()
    world.shelf.full = True
    world.give(world.answer(world.asked[0]))
    assert errors(world.taken[0]) == ["the master cannot keep it: no space left on device"]
    world.task("g2-1")
    world.end(world.result("g2-1"))
    assert errors(world.taken[1]) == ["the master has no room for it on its disk"]


@pytest.mark.parametrize(
    "changes",
    [
        {"offset": SLICE * 99},
        {"offset": -SLICE},
        {"offset": 1},
        {"data": "!"},
        {"data": ""},
        {"data": base64.b64encode(bytes(SLICE - 1)).decode()},
        {"data": base64.b64encode(bytes(SLICE + 1)).decode()},
        {"path": "b"},
        {"task": "g2-1"},
    ],
)
def test_slices_that_do_not_fit_change_nothing(world: World, changes: Dict[str, Any]) -> None:
    world.task()
    world.files = {"a": bytes(2 * SLICE)}
    world.end()
    assert world.give(world.answer(world.asked[0], **changes)) == []
    assert world.give(world.answer(world.asked[0]), worker="w2") == []
    assert world.shelf.appended == 0
    world.serve(list(world.asked))
    assert errors(world.taken[0]) == [None]


@pytest.mark.parametrize(
    ("entry", "error"),
    [
        ({"path": "../x"}, "it cannot be taken: it is not a plain relative path"),
        ({"path": "/etc/passwd"}, "it cannot be taken: it is not a plain relative path"),
        ({"path": "a//b"}, "it cannot be taken: it is not a plain relative path"),
        ({"path": "."}, "it cannot be taken: it is not a plain relative path"),
        ({"path": ""}, "it cannot be taken: it is not a plain relative path"),
        ({"path": 7}, "it cannot be taken: it is not a plain relative path"),
        ({"path": "a\nb"}, "it cannot be taken: it has characters that cannot be shown"),
        ({"path": "a\u202eb"}, "it cannot be taken: it has characters that cannot be shown"),
        ({"path": "a\ud800b"}, "it cannot be taken: it has characters that cannot be shown"),
        ({"path": "é" * 101}, "it cannot be taken: a name in it has more than 200 bytes"),
        ({"path": "a/" * 20 + "a"}, "it cannot be taken: it is longer than"),
        ({"sha256": "../" + "a" * 61}, "it cannot be taken: no SHA-256"),
        ({"sha256": "A" * 64}, "it cannot be taken: no SHA-256"),
        ({"size": -1}, "it cannot be taken: no SHA-256"),
        ({"size": True}, "it cannot be taken: no SHA-256"),
        ({"size": 1e3}, "it cannot be taken: no SHA-256"),
        ({"size": msg.SHARED_BYTES + 1}, "a task may share 33,554,432 bytes"),
    ],
)
def test_hostile_names_sizes_and_digests(world: World, entry: Dict[str, Any], error: str) -> None:
    world.task()
    world.files = {"good": b"a"}
    (good,) = world.result().artifacts
    bad = {**good, "path": "bad", **entry}
    world.end(world.result(artifacts=[bad, good, good, "?", None]))
    world.serve(list(world.asked))
    (taken,) = world.taken
    found = {str(f["path"]): f["error"] for f in taken.artifacts}
    assert found.pop("good") is None
    assert any(str(e).startswith(error) for e in found.values())
    assert all(path.isprintable() for path in found)


def test_a_thousand_names_are_cut(world: World) -> None:
    world.task()
    named = [{"path": str(i), "size": 0, "sha256": "0" * 64} for i in range(1_000)]
    world.end(world.result(artifacts=named))
    assert len(world.taken[0].artifacts) == msg.SHARED_FILES
