"""From a function's type hints to a JSON schema, and from a model's arguments to the function's.

The schema is the only description of a parameter: it is shown to the model and it is what
`check` reads. A hint that has no faithful schema fails when the skill is declared, not when a
model first calls it.

    str  int  float  bool  list[X]  dict  dict[str, X]  Literal["a", "b"]  Union[X, Y]
    Optional[X] = ...         the argument may be left out; null means left out
    Annotated[X, "words"]     the words become the parameter's description
"""

from __future__ import annotations

import inspect
import json
import math
import types
from typing import (
    Annotated,
    Any,
    Callable,
    Dict,
    List,
    Literal,
    Mapping,
    Optional,
    Tuple,
    Union,
    get_args,
    get_origin,
    get_type_hints,
)

from pibot.errors import UsageError

Schema = Mapping[str, Any]

_SCALARS: Mapping[Any, str] = {str: "string", int: "integer", float: "number", bool: "boolean"}
_CLASSES: Mapping[str, type] = {
    "string": str,
    "integer": int,
    "number": float,
    "boolean": bool,
    "array": list,
    "object": dict,
}
_UNIONS = (Union, getattr(types, "UnionType", Union))  # X | Y of Python 3.10 and newer
_TRUE, _FALSE = ("true", "yes", "on", "1"), ("false", "no", "off", "0")
_SHOWN_CHARS = 60


def parameters(function: Callable[..., Any], injected: type) -> Tuple[Dict[str, Any], str]:
    """The schema of a function's parameters, and the name of the one annotated `injected`.

    The injected parameter is not in the schema; its name is "" when the function has none.
    Raises TypeError, naming function and parameter, for what cannot be described.
    """
    where = f"skill {function.__name__}"
    hints = _hints(function, where)
    properties: Dict[str, Any] = {}
    required: List[str] = []
    context = ""
    for name, parameter in inspect.signature(function).parameters.items():
        place = f"{where}, parameter {name}"
        if parameter.kind not in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
            raise TypeError(f"{place}: must be an ordinary parameter that can be given by name")
        if name not in hints:
            raise TypeError(f"{place}: has no type hint; write one, such as {name}: str")
        if hints[name] is injected:
            context = name
            continue
        properties[name] = _property(hints[name], parameter.default, place)
        if parameter.default is parameter.empty:
            required.append(name)
    schema = {"type": "object", "properties": properties, "required": required}
    return {**schema, "additionalProperties": False}, context


def check(schema: Schema, args: Mapping[str, Any]) -> Dict[str, Any]:
    """The arguments as the function wants them; what was left out is not in the answer.

    Mends what weak models get nearly right ("5" for 5, "true" for true, null for left out).
    Raises UsageError with the name of the first argument that is wrong.
    """
    if not isinstance(args, Mapping):
        raise UsageError(f"the arguments must be a JSON object, not {_shown(args)}")
    properties: Mapping[str, Schema] = schema["properties"]
    required = schema["required"]
    for name in args:
        if name not in properties:
            known = ", ".join(properties) or "none"
            raise UsageError(f"{name}: there is no such argument; there are: {known}")
    checked = {
        name: _value(properties[name], value, name)
        for name, value in args.items()
        if name in required or not _left_out(properties[name], value)
    }
    for name in required:
        if name not in checked:
            raise UsageError(f"{name} is missing")
    return checked


# --- hints to schema -------------------------------------------------------------------------


def _hints(function: Callable[..., Any], where: str) -> Dict[str, Any]:
    try:
        return get_type_hints(function, include_extras=True)
    except (NameError, TypeError, SyntaxError, AttributeError) as error:
        raise TypeError(f"{where}: a type hint cannot be read: {error}") from error


def _property(hint: Any, default: Any, place: str) -> Dict[str, Any]:
    plain, description, is_optional = _unwrapped(hint)
    if is_optional and default is inspect.Parameter.empty:
        raise TypeError(f"{place}: is Optional, so it needs a default, such as None")
    schema = _schema(plain, place)
    if description:
        schema["description"] = description
    if isinstance(default, (str, int, float)):
        schema["default"] = default
    return schema


def _unwrapped(hint: Any) -> Tuple[Any, str, bool]:
    """The hint inside Annotated and Optional, in whatever order, with the description.

    Python 3.9 puts an Optional of its own around everything that has None as its default.
    """
    description, is_optional = "", False
    while True:
        if get_origin(hint) is Annotated:
            hint, *extras = get_args(hint)
            description = next((extra for extra in extras if isinstance(extra, str)), "")
        elif get_origin(hint) in _UNIONS and type(None) in get_args(hint):
            hint = Union[tuple(one for one in get_args(hint) if one is not type(None))]
            is_optional = True
        else:
            return hint, description, is_optional


def _schema(hint: Any, place: str) -> Dict[str, Any]:
    origin, inner = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return {**_schema(inner[0], place), "description": str(inner[1])}
    if hint in _SCALARS:
        return {"type": _SCALARS[hint]}
    if hint is dict or (origin is dict and inner in ((), (str, Any))):
        return {"type": "object"}
    if origin is dict and inner[0] is str:
        return {"type": "object", "additionalProperties": _schema(inner[1], place)}
    if origin is list and inner:
        return {"type": "array", "items": _schema(inner[0], place)}
    if origin is Literal:
        return _literal(inner, place)
    if origin in _UNIONS:
        return {"anyOf": [_schema(one, place) for one in inner]}
    raise TypeError(
        f"{place}: the type {_name(hint)} is not supported; use str, int, float, bool, list[...], "
        "dict, Literal[...] or Optional[...]"
    )


def _literal(values: Tuple[Any, ...], place: str) -> Dict[str, Any]:
    kinds = {type(value) for value in values}
    if kinds not in ({str}, {int}):
        raise TypeError(f"{place}: the values of a Literal must be all text or all whole numbers")
    return {"type": _SCALARS[kinds.pop()], "enum": list(values)}


def _name(hint: Any) -> str:
    return hint.__name__ if isinstance(hint, type) else str(hint)


# --- arguments against schema ----------------------------------------------------------------


def _left_out(schema: Schema, value: Any) -> bool:
    """Whether an optional argument was given only to say nothing."""
    if value is None:
        return True
    is_free_text = schema.get("type") == "string" and "enum" not in schema
    return value == "" and not is_free_text


def _value(schema: Schema, value: Any, name: str) -> Any:
    if "anyOf" in schema:
        return _any_of(schema["anyOf"], value, name)
    if "enum" in schema:
        return _one_of(schema["enum"], value, name)
    kind = str(schema.get("type"))
    if kind == "array":
        items, inner = _container(value, list, name, "a list"), schema.get("items")
        told = inner if isinstance(inner, Mapping) else {}
        return [_value(told, item, f"{name}[{i}]") for i, item in enumerate(items)]
    if kind == "object":
        inner = schema.get("additionalProperties")
        pairs = _container(value, dict, name, "an object").items()
        told = inner if isinstance(inner, Mapping) else {}
        return {k: _value(told, v, f"{name}.{k}") for k, v in pairs}
    reader = _READERS.get(kind)  # none: of a schema from elsewhere, whose author checks the rest
    return reader(value, name) if reader else value


def _any_of(schemas: List[Schema], value: Any, name: str) -> Any:
    exact_first = sorted(
        schemas, key=lambda one: type(value) is not _CLASSES.get(str(one.get("type")))
    )
    problems = []
    for schema in exact_first:
        try:
            return _value(schema, value, name)
        except UsageError as error:
            problems.append(str(error))
    raise UsageError("; or: ".join(problems))


def _one_of(allowed: List[Any], value: Any, name: str) -> Any:
    said = str(value).strip().lower()
    for one in allowed:
        if said == str(one).lower() and not isinstance(value, bool):
            return one
    raise UsageError(f"{name} must be one of {', '.join(map(str, allowed))}, not {_shown(value)}")


def _container(value: Any, kind: type, name: str, words: str) -> Any:
    if isinstance(value, str):  # a container that was written as text
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            pass
    if isinstance(value, kind):
        return value
    raise UsageError(f"{name} must be {words}, not {_shown(value)}")


def _string(value: Any, name: str) -> str:
    if isinstance(value, (bool, int, float)):
        return json.dumps(value)
    if not isinstance(value, str):
        raise UsageError(f"{name} must be text, not {_shown(value)}")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise UsageError(f"{name} holds half a character (a lone surrogate)") from None
    return value


def _integer(value: Any, name: str) -> int:
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    try:
        return int(str(value))  # exact, where a float would round
    except ValueError:
        number = _finite(value)
    if number is None or number != int(number):
        raise UsageError(f"{name} must be a whole number, not {_shown(value)}")
    return int(number)


def _number(value: Any, name: str) -> float:
    number = _finite(value)
    if number is None:
        raise UsageError(f"{name} must be a number, not {_shown(value)}")
    return number


def _boolean(value: Any, name: str) -> bool:
    said = str(value).strip().lower()
    if said in _TRUE or said in _FALSE:
        return said in _TRUE
    raise UsageError(f"{name} must be true or false, not {_shown(value)}")


def _finite(value: Any) -> Optional[float]:
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def _shown(value: Any) -> str:
    text = repr(value) if isinstance(value, str) else json.dumps(value, default=str)
    return text if len(text) <= _SHOWN_CHARS else text[:_SHOWN_CHARS] + "…"


_READERS: Mapping[str, Callable[[Any, str], Any]] = {
    "string": _string,
    "integer": _integer,
    "number": _number,
    "boolean": _boolean,
}
