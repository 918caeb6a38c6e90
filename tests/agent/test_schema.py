"""Hints to schema, and arguments against it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any, Callable, Dict, List, Literal, Optional, Union

import pytest

from pibot.agent.schema import check, parameters
from pibot.errors import UsageError


class Injected:
    pass


def schema_of(function: Callable[..., Any]) -> Dict[str, Any]:
    return parameters(function, Injected)[0]


def every_kind(
    ctx: Injected,
    path: Annotated[str, "where"],
    count: int = 3,
    ratio: float = 0.5,
    deep: bool = False,
    names: Optional[List[str]] = None,
    extra: Optional[dict] = None,  # type: ignore[type-arg]
    table: Optional[Dict[str, int]] = None,
    mode: Literal["fast", "slow"] = "fast",
    level: Annotated[Optional[Literal[1, 2]], "how loud"] = None,
    command: Union[str, List[str], None] = None,
    free: str = "",
) -> None:
    pass


def test_every_supported_hint_has_its_schema() -> None:
    schema, context = parameters(every_kind, Injected)
    assert context == "ctx"
    assert schema == {
        "type": "object",
        "properties": {
            "path": {"type": "string", "description": "where"},
            "count": {"type": "integer", "default": 3},
            "ratio": {"type": "number", "default": 0.5},
            "deep": {"type": "boolean", "default": False},
            "names": {"type": "array", "items": {"type": "string"}},
            "extra": {"type": "object"},
            "table": {"type": "object", "additionalProperties": {"type": "integer"}},
            "mode": {"type": "string", "enum": ["fast", "slow"], "default": "fast"},
            "level": {"type": "integer", "enum": [1, 2], "description": "how loud"},
            "command": {
                "anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]
            },
            "free": {"type": "string", "default": ""},
        },
        "required": ["path"],
        "additionalProperties": False,
    }


def test_a_function_without_parameters() -> None:
    def nothing() -> None: ...

    schema, context = parameters(nothing, Injected)
    assert (schema["properties"], schema["required"], context) == ({}, [], "")


def no_hint(path) -> None: ...  # type: ignore[no-untyped-def]
def bytes_hint(raw: bytes) -> None: ...
def path_hint(where: Path) -> None: ...
def any_hint(what: Any) -> None: ...
def bare_list(names: list) -> None: ...  # type: ignore[type-arg]
def other_keys(table: Dict[int, str]) -> None: ...
def inner(names: List[bytes]) -> None: ...
def mixed(mode: Literal["a", 1]) -> None: ...
def no_default(mode: Optional[str]) -> None: ...
def unknown(mode: Nowhere) -> None: ...  # type: ignore[name-defined]  # noqa: F821
def many(*args: str) -> None: ...
def keywords(**kwargs: str) -> None: ...


@pytest.mark.parametrize(
    ("function", "said"),
    [
        (no_hint, "no_hint, parameter path: has no type hint"),
        (bytes_hint, "bytes_hint, parameter raw: the type bytes is not supported"),
        (path_hint, "path_hint, parameter where: the type Path is not supported"),
        (any_hint, "any_hint, parameter what: the type"),
        (bare_list, "bare_list, parameter names: the type list is not supported"),
        (other_keys, "other_keys, parameter table: the type"),
        (inner, "inner, parameter names: the type bytes"),
        (mixed, "mixed, parameter mode: the values of a Literal"),
        (no_default, "no_default, parameter mode: is Optional, so it needs a default"),
        (unknown, "skill unknown: a type hint cannot be read: .*Nowhere"),
        (many, "many, parameter args: must be an ordinary parameter"),
        (keywords, "keywords, parameter kwargs: must be an ordinary parameter"),
    ],
)
def test_what_has_no_schema_fails_at_declaration(function: Callable[..., Any], said: str) -> None:
    with pytest.raises(TypeError, match=said):
        parameters(function, Injected)


@pytest.mark.skipif(sys.version_info < (3, 10), reason="X | Y is read from Python 3.10 on")
def test_the_new_spelling_of_unions() -> None:
    def new(a: int | None = None, b: str | list[str] = "") -> None: ...

    schema = schema_of(new)
    assert schema["properties"]["a"] == {"type": "integer"}
    assert [one["type"] for one in schema["properties"]["b"]["anyOf"]] == ["string", "array"]


@pytest.mark.parametrize(
    ("given", "got"),
    [
        ({"count": "5"}, 5),
        ({"count": " -5 "}, -5),
        ({"count": 5.0}, 5),
        ({"count": "5.0"}, 5),
        ({"count": "12345678901234567891"}, 12345678901234567891),
        ({"ratio": "0.25"}, 0.25),
        ({"ratio": 2}, 2.0),
        ({"deep": "true"}, True),
        ({"deep": "False"}, False),
        ({"deep": 1}, True),
        ({"names": '["a", "b"]'}, ["a", "b"]),
        ({"names": ["a", 1]}, ["a", "1"]),
        ({"table": '{"a": "1"}'}, {"a": 1}),
        ({"extra": {"any": [None]}}, {"any": [None]}),
        ({"mode": "FAST "}, "fast"),
        ({"level": "2"}, 2),
        ({"command": "ls"}, "ls"),
        ({"command": ["ls", "-l"]}, ["ls", "-l"]),
        ({"path": 5}, "5"),
        ({"path": True}, "true"),
        ({"free": ""}, ""),
    ],
)
def test_near_misses_are_mended(given: Dict[str, Any], got: object) -> None:
    checked = check(schema_of(every_kind), {"path": "p", **given})
    (name,) = given
    assert checked[name] == got
    assert type(checked[name]) is type(got)


@pytest.mark.parametrize(
    "given", [{"count": None}, {"count": ""}, {"mode": ""}, {"names": None}, {"level": ""}]
)
def test_an_empty_optional_argument_counts_as_left_out(given: Dict[str, Any]) -> None:
    assert check(schema_of(every_kind), {"path": "p", **given}) == {"path": "p"}


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"count": "five"}, "count must be a whole number, not 'five'"),
        ({"count": 1.5}, "count must be a whole number, not 1.5"),
        ({"count": True}, "count must be a whole number, not true"),
        ({"count": float("inf")}, "count must be a whole number"),
        ({"count": "9" * 5000}, "count must be a whole number, not '999"),
        ({"ratio": "nan"}, "ratio must be a number"),
        ({"ratio": 10**400}, "ratio must be a number"),
        ({"deep": "perhaps"}, "deep must be true or false"),
        ({"names": "a"}, "names must be a list, not 'a'"),
        ({"names": [["a"]]}, r"names\[0\] must be text"),
        ({"table": {"a": "x"}}, "table.a must be a whole number"),
        ({"extra": "[" * 100_000}, "extra must be an object"),
        ({"mode": "medium"}, "mode must be one of fast, slow, not 'medium'"),
        ({"level": True}, "level must be one of 1, 2, not true"),
        ({"command": {"a": 1}}, "command must be text, .*; or: command must be a list"),
        ({"path": {"a": 1}}, "path must be text"),
        ({"path": None}, "path must be text, not null"),
        ({"path": "\ud800"}, "path holds half a character"),
        ({"colour": "red"}, "colour: there is no such argument; there are: path, count"),
    ],
)
def test_a_wrong_argument_is_named(given: Dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said) as caught:
        check(schema_of(every_kind), {"path": "p", **given})
    assert len(str(caught.value)) < 200


def test_a_missing_argument_is_named() -> None:
    with pytest.raises(UsageError, match="path is missing"):
        check(schema_of(every_kind), {"count": 1})


@pytest.mark.parametrize("given", [None, [1], "text"])
def test_arguments_that_are_no_object(given: Any) -> None:
    with pytest.raises(UsageError, match="must be a JSON object"):
        check(schema_of(every_kind), given)
