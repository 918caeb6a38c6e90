"""Records out of JSON values: every field of a dataclass is checked by its type and its name.

Unknown values are ignored, missing or wrong-typed ones are rejected with the field's name.
"""

from __future__ import annotations

import dataclasses
import re
from typing import Any, Callable, Dict, List, Optional, Type, TypeVar, get_type_hints

from pibot import paths
from pibot.errors import BadMessage
from pibot.topics import ID

Pairs = List[List[Any]]  # [[task, attempt], …]
_NONCE = re.compile(r"[0-9a-f]{16}")
_SHA256 = re.compile(r"[0-9a-f]{64}")

# Fields that name things: the value must look like a name or an id, not just be a string.
_IDS: Dict[str, Any] = {"task": ID, "goal_id": ID}
_SHAPES = {**_IDS, "nonce": _NONCE, "nonce_m": _NONCE, "sha256": _SHA256}

T = TypeVar("T")
Check = Callable[[Any], bool]


def read(cls: Type[T], values: Dict[str, Any]) -> T:
    """Build a record from JSON values, checking each field's type and shape."""
    picked = {}
    for name, required, fits in _fields(cls):
        if name in values:
            if not fits(values[name]):
                raise BadMessage(f"{_label(cls)}: field {name!r} has a wrong value")
            picked[name] = values[name]
        elif required:
            raise BadMessage(f"{_label(cls)}: field {name!r} is missing")
    return cls(**picked)


def _label(cls: type) -> str:
    return getattr(cls, "t", "") or cls.__name__.lower()


_CACHE: Dict[type, "list[tuple[str, bool, Check]]"] = {}


def _fields(cls: Any) -> "list[tuple[str, bool, Check]]":
    if cls not in _CACHE:
        hints = get_type_hints(cls)
        _CACHE[cls] = [
            (f.name, _required(f), _check(f.name, hints[f.name])) for f in dataclasses.fields(cls)
        ]
    return _CACHE[cls]


def _required(f: "dataclasses.Field[Any]") -> bool:
    return f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING


def _check(name: str, hint: Any) -> Check:
    if name in _SHAPES:
        shape = _SHAPES[name]
        return lambda v: isinstance(v, str) and bool(shape.fullmatch(v))
    if name == "path":
        return lambda v: isinstance(v, str) and not paths.problem(v)
    if hint == Pairs:
        return _is_pairs
    return _BY_HINT[hint]


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**53


def _is_number(value: Any) -> bool:
    return _is_int(value) or (isinstance(value, float) and abs(value) < 1e15)


def _is_id(value: Any) -> bool:
    return isinstance(value, str) and ID.fullmatch(value) is not None


def _is_pairs(value: Any) -> bool:
    return isinstance(value, list) and all(
        isinstance(p, list) and len(p) == 2 and _is_id(p[0]) and _is_int(p[1]) for p in value
    )


_BY_HINT: Dict[Any, Check] = {
    str: lambda v: isinstance(v, str),
    bool: lambda v: isinstance(v, bool),
    int: _is_int,
    float: _is_number,
    Dict[str, Any]: lambda v: isinstance(v, dict),
    List[Any]: lambda v: isinstance(v, list),
    Optional[str]: lambda v: v is None or isinstance(v, str),
    Optional[Dict[str, Any]]: lambda v: v is None or isinstance(v, dict),
}
