"""Which topics of a broker a skill may use: those that filters of the owner cover."""

from __future__ import annotations

import re
from typing import Collection

from pibot.skills import SkillError

_MOST_BYTES = 1024
_CONTROLS = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ufffe\uffff\ud800-\udfff]")
_OURS = "pibot"  # the fleet's own topics


def covers(permitted: str, wanted: str) -> bool:
    """Whether each topic that the filter `wanted` matches is matched by `permitted`, too."""
    have, want = permitted.split("/"), wanted.split("/")
    for i, level in enumerate(have):
        if level == "#":
            return True
        if i >= len(want) or want[i] == "#":
            return False
        if level not in ("+", want[i]):
            return False
    return len(have) == len(want)


def check_topic(topic: str, permitted: Collection[str]) -> None:
    """Raise SkillError unless a message may be sent to this topic."""
    if "#" in topic or "+" in topic:
        raise SkillError(f"{_shown(topic)}: a message goes to one topic, without # and +")
    check_filter(topic, permitted)


def check_filter(wanted: str, permitted: Collection[str]) -> None:
    """Raise SkillError unless what this filter matches may be read."""
    levels = wanted.split("/")
    if not wanted or _CONTROLS.search(wanted) or len(wanted.encode()) > _MOST_BYTES:
        raise SkillError(f"{_shown(wanted)} is no topic: 1 to {_MOST_BYTES} bytes of plain text")
    if any(("#" in one or "+" in one) and len(one) > 1 for one in levels) or "#" in levels[:-1]:
        raise SkillError(f"{_shown(wanted)} is no filter: + stands for a level, # ends it")
    if levels[0].startswith("$") or levels[0] in (_OURS, "+", "#"):
        raise SkillError(f"{_shown(wanted)} is refused: it is a broker's or PiBot's own topic")
    if not any(covers(one, wanted) for one in permitted):
        raise SkillError(
            f"{_shown(wanted)} is refused: PIBOT_MQTT_TOPICS covers {', '.join(permitted)}"
        )


def _shown(topic: str) -> str:
    return repr(topic[:100])
