"""Which filters of MQTT cover which: the table, and that nothing else follows from it."""

from __future__ import annotations

import itertools

import pytest

from pibot.skills._topics import covers


@pytest.mark.parametrize(
    ("permitted", "wanted", "is_covered"),
    [
        ("home/lamp", "home/lamp", True),
        ("home/lamp", "home/lamps", False),
        ("home/lamp", "home/lamp/", False),
        ("home/lamp", "home", False),
        ("home/lamp", "home/+", False),
        ("home/lamp", "home/#", False),
        ("home/+", "home/lamp", True),
        ("home/+", "home/+", True),
        ("home/+", "home/#", False),
        ("home/+", "home", False),
        ("home/+", "home/", True),
        ("home/+", "home/a/b", False),
        ("home/#", "home", True),
        ("home/#", "home/#", True),
        ("home/#", "home/+/a/#", True),
        ("home/#", "house/a", False),
        ("home/#", "#", False),
        ("home/#", "+/a", False),
        ("home/+/set", "home/lamp/set", True),
        ("home/+/set", "home/lamp/get", False),
        ("home/+/set", "home/+/+", False),
        ("home/+/#", "home/#", False),
        ("home/+/#", "home/a", True),
        ("home/+/#", "home", False),
    ],
)
def test_covers(permitted: str, wanted: str, is_covered: bool) -> None:
    assert covers(permitted, wanted) is is_covered


def matches(wanted: str, topic: str) -> bool:
    """As the standard has it, in other words than `covers`."""
    from paho.mqtt.client import topic_matches_sub

    return bool(topic_matches_sub(wanted, topic))


def test_what_is_covered_brings_no_topic_that_is_not_permitted() -> None:
    """All filters and topics of up to three levels of a small alphabet."""
    levels = ["a", "b", ""]
    topics = ["/".join(one) for n in (1, 2, 3, 4) for one in itertools.product(levels, repeat=n)]
    filters = [
        "/".join(one)
        for n in (1, 2, 3)
        for one in itertools.product(["a", "+", "#"], repeat=n)
        if "#" not in one[:-1]
    ]
    for permitted, wanted in itertools.product(filters, repeat=2):
        heard = {topic for topic in topics if matches(wanted, topic)}
        allowed = {topic for topic in topics if matches(permitted, topic)}
        assert covers(permitted, wanted) <= (heard <= allowed), (permitted, wanted)
