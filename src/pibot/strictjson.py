"""JSON as PiBot speaks it: strict (RFC 8259), bounded, and nothing that others might misread."""

from __future__ import annotations

import json
import re
from typing import Any, Dict

from pibot.errors import BadMessage

MAX_DEPTH = 100  # of nesting: what is deeper ends recursive readers, here and elsewhere
MAX_DIGITS = 300  # of an integer: it still fits into a double
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")


def _once(pairs: "list[tuple[str, Any]]") -> Dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name stands twice in one object")
    return found


def _finite(digits: str) -> float:
    number = float(digits)
    if number - number != 0.0:
        raise ValueError("a number is beyond a double")
    return number


def _integer(digits: str) -> int:
    if len(digits) > MAX_DIGITS:
        raise ValueError(f"a number has {len(digits)} digits")
    return int(digits)


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no number")


# Made once: json.dumps and json.loads would make new ones for each message.
ENCODER = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), allow_nan=False)
_DECODER = json.JSONDecoder(
    object_pairs_hook=_once,
    parse_float=_finite,
    parse_int=_integer,
    parse_constant=_no_constant,
)


def parse(data: bytes, depth: int = MAX_DEPTH - 10) -> Dict[str, Any]:
    """Parse one JSON object strictly; raise BadMessage for anything that others might misread.

    That is: other encodings than UTF-8, names that stand twice, NaN, numbers beyond a double,
    lone surrogates, and nesting deeper than `depth` (by default so that it fits into a message).
    """
    found = parse_any(data, depth)
    if not isinstance(found, dict):
        raise BadMessage("not JSON as PiBot speaks it: it is not an object")
    return found


def parse_any(data: bytes, depth: int = MAX_DEPTH - 10) -> Any:
    """The same for a JSON text of any kind, such as a list."""
    try:
        text = data.decode("utf-8")
        found = _DECODER.decode(text)
        if data.count(b"[") + data.count(b"{") > depth and _is_deeper(found, depth):
            raise ValueError(f"it is nested more than {depth} deep")
        if _SURROGATE.search(text):
            json.dumps(found, ensure_ascii=False).encode("utf-8")
    except (ValueError, RecursionError) as error:
        raise BadMessage(f"not JSON as PiBot speaks it: {error}") from None
    return found


def _is_deeper(value: Any, depth: int) -> bool:
    """Whether lists and objects are nested more than `depth` deep; without recursion."""
    level = [value]
    for _ in range(depth):
        inside = (v.values() if isinstance(v, dict) else v for v in level)
        level = [v for values in inside for v in values if isinstance(v, (dict, list))]
        if not level:
            return False
    return True
