"""What a worker tells of its skills: it has to fit into the one packet that a hello is. Pure.

What is left out is missed least first: the sentence templates of the owner's skills, their notes,
then whole skills of his from the end. The built-in ones always stay.
"""

from __future__ import annotations

import json
from typing import Any, Dict, List, Tuple

from pibot.agent.library import GROUPS

MOST_BYTES = 40_000  # of a hello's 60 000: the skills that were pushed and the machine need some

Told = Dict[str, Any]


def bounded(skills: List[Told], most: int = MOST_BYTES) -> Tuple[List[Told], str]:
    """As many of the announcements as may be said, and a line about what is left out, or ""."""
    if _size(skills) <= most:
        return skills, ""
    plain = [_without(one, phrases=[]) for one in skills]
    if _size(plain) <= most:
        return plain, _about("the sentence templates of your own skills are")
    bare = [_without(one, phrases=[], note=None, description="") for one in skills]
    if _size(bare) <= most:
        return bare, _about("the templates and descriptions of your own skills are")
    own = [one for one in bare if one["group"] not in GROUPS]
    while own and _size(bare) > most:
        left = own.pop()
        bare.remove(left)
    count = len(skills) - len(bare)
    return bare, _about(f"{count} of your own skills, from {left['name']} on, are")


def _without(one: Told, **other: Any) -> Told:
    """An own skill with other fields; None takes one away."""
    if one["group"] in GROUPS:
        return one
    return {key: value for key, value in {**one, **other}.items() if value is not None}


def _size(skills: List[Told]) -> int:
    return sum(len(_bytes(one)) + 1 for one in skills)


def _bytes(one: Told) -> bytes:
    return json.dumps(one, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")


def _about(what: str) -> str:
    return (
        f"{what} not told to the master, because there are too many: have fewer skills, or say "
        "less about each"
    )
