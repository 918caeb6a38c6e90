"""Topic names, and who speaks on them."""

from __future__ import annotations

import pytest

from pibot.errors import UsageError
from pibot.topics import ID, Address, Topics, check_name

TOPICS = Topics("home")


@pytest.mark.parametrize(
    "made, topic",
    [
        (TOPICS.worker("worker-1", "cmd"), "pibot/1/home/w/worker-1/cmd"),
        (TOPICS.client("laptop", "req"), "pibot/1/home/c/laptop/req"),
        (TOPICS.announce, "pibot/1/home/m/all"),
        (TOPICS.ask, "pibot/1/home/ask"),
        (TOPICS.answer("g1"), "pibot/1/home/answer/g1"),
        (TOPICS.view("fleet"), "pibot/1/home/view/fleet"),
        (TOPICS.view("worker", "worker-1"), "pibot/1/home/view/worker/worker-1"),
        (TOPICS.view("task", "g1-1"), "pibot/1/home/view/task/g1-1"),
    ],
)
def test_the_names_of_the_contract(made: str, topic: str) -> None:
    assert made == topic


@pytest.mark.parametrize(
    "topic, address",
    [
        ("pibot/1/home/w/worker-1/evt", Address("w", "worker-1", "evt")),
        ("pibot/1/home/c/laptop/req", Address("c", "laptop", "req")),
        ("pibot/1/home/m/all", Address("m", "master", "all")),
        ("pibot/1/lab/w/worker-1/evt", None),
        ("pibot/2/home/w/worker-1/evt", None),
        ("pibot/1/home/w/worker-1", None),
        ("pibot/1/home/w/worker-1/evt/x", None),
        ("pibot/1/home/x/worker-1/evt", None),
        ("pibot/1/home/w/Worker-1/evt", None),
        ("pibot/1/home/w/worker\n/evt", None),
        ("pibot/1/home/w/worker-1\n/evt", None),
        ("pibot/1/home/w/" + "a" * 33 + "/evt", None),
        ("pibot/1/home/ask", None),
        ("pibot/1/home/view/fleet", None),
        ("", None),
    ],
)
def test_who_speaks_on_a_topic(topic: str, address: Address) -> None:
    assert TOPICS.parse(topic) == address


@pytest.mark.parametrize("name", ["a", "0", "worker-1", "a" * 32, "a-"])
def test_good_names(name: str) -> None:
    assert check_name(name, "worker") == name


@pytest.mark.parametrize(
    "name", ["", "-a", "A", "a_b", "a b", "a" * 33, "é", "a\n", "+", "#", "a/b"]
)
def test_bad_names_are_refused_by_name(name: str) -> None:
    with pytest.raises(UsageError, match="is not a worker name"):
        check_name(name, "worker")


@pytest.mark.parametrize("text, good", [("g" * 40, True), ("g" * 41, False), ("g1\n", False)])
def test_ids_are_a_bit_longer_than_names(text: str, good: bool) -> None:
    assert bool(ID.fullmatch(text)) is good
