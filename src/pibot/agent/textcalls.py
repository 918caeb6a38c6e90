"""Tool calls that a weak model prints as text instead of making them.

Only what cannot be meant otherwise counts: the shape of a call (a name of the given tools and
its arguments as an object) and nothing else beside it, inside a tag or a fence or as the whole
message. Ordinary JSON in an answer stays an answer.
"""

from __future__ import annotations

import json
import re
from typing import Any, Collection, Dict, Iterator, List, Optional, Tuple

from pibot.agent.reply import ToolCall, new_call_id

_TAG = re.compile(
    r"<(?:\w+:)?(tool_calls?|function_calls?)>(.*?)(?:</(?:\w+:)?\1>|\Z)"
    r"|<\|FunctionCallBegin\|>(?P<marked>.*?)(?:<\|FunctionCallEnd\|>|\Z)",
    re.DOTALL,
)
_MARK = re.compile(r"</?(?:\w+:)?(?:tool_calls?|function_calls?|tool_response)>|<\|FunctionCall")
# What is left of a call's beginning when its JSON is broken; the name is the group.
_CALL = re.compile(
    r"""["']name["']\s*:\s*["']([\w-]+)["']\s*,\s*["'](?:arguments|parameters)["']\s*:"""
)
_FUNCTION = re.compile(r"<function=([\w-]+)>(.*?)(?:</function>|\Z)", re.DOTALL)
_PARAMETER = re.compile(r"<parameter=([\w-]+)>(.*?)</parameter>", re.DOTALL)
_FENCE = re.compile(r"```[ \t]*\w*[ \t]*\n(.*?)```", re.DOTALL)
_BETWEEN = re.compile(r"[\s,;]*")
_ARGUMENTS = {"arguments", "parameters"}
_FIELDS = {"name", "id", "type"} | _ARGUMENTS

_MANY_CALLS = 8  # in one text; a model that prints more does not end by itself
_FIRST_LOOK_CHARS = 1000

Pair = Tuple[str, Dict[str, Any]]


def find(text: str, names: Collection[str]) -> Tuple[ToolCall, ...]:
    """The calls of tools in `names` that `text` prints; none when it prints anything else.

    None either when a call is there three times: such a text only failed to end.
    """
    tagged = [match.group("marked") or match.group(2) or "" for match in _TAG.finditer(text)]
    if tagged:
        pairs = _all(tagged, names, tagged=True)
    else:
        pairs = _all(_FENCE.findall(text), names) or _all([text], names)
    calls = [(name, json.dumps(args, ensure_ascii=False)) for name, args in pairs]
    if any(calls.count(call) > 2 for call in calls):
        return ()
    return tuple(ToolCall(new_call_id(), *call) for call in calls)


def is_printed(text: str, names: Collection[str]) -> bool:
    """Whether `text` holds a call of a tool in `names`, or the tags of calls, however botched.

    A JSON document that only mentions such a call somewhere inside is an answer.
    """
    if _MARK.search(text):
        return True
    try:
        document = json.loads(text)
    except (ValueError, RecursionError):
        return any(name in names for name in _CALL.findall(text))
    items = document if isinstance(document, list) else [document]
    return any(
        isinstance(item, dict) and item.get("name") in names and _ARGUMENTS & set(item)
        for item in items
    )


class RunsOn(Exception):
    """The model prints one call after the other and does not end; the message is the text."""


class Watch:
    """Hears a text as it comes, and raises RunsOn when there will be no end to its calls."""

    def __init__(self, names: Collection[str]) -> None:
        self._names = names
        self._text = ""
        self._look_at = _FIRST_LOOK_CHARS

    def __call__(self, piece: str) -> None:
        self._text += piece
        if len(self._text) >= self._look_at:
            self._look_at *= 2
            if sum(name in self._names for name in _CALL.findall(self._text)) > _MANY_CALLS:
                raise RunsOn(self._text + "…")


def _all(parts: List[str], names: Collection[str], tagged: bool = False) -> List[Pair]:
    found: List[Pair] = []
    for part in parts:
        pairs = _xml(part) if tagged and "<function=" in part else _json(part, tagged)
        if not pairs or any(name not in names for name, _ in pairs):
            return []
        found.extend(pairs)
    return found


def _xml(part: str) -> List[Pair]:
    """<function=NAME><parameter=KEY>VALUE</parameter>…</function>"""
    return [
        (name, {key: value.strip("\n") for key, value in _PARAMETER.findall(body)})
        for name, body in _FUNCTION.findall(part)
    ]


def _json(part: str, tagged: bool) -> List[Pair]:
    """Calls as JSON values one after another, or in a list; empty if anything is not one."""
    try:
        pairs = [_call(item, tagged) for item in _values(part)]
    except (ValueError, RecursionError):
        return []
    return [pair for pair in pairs if pair] if all(pairs) else []


def _values(part: str) -> Iterator[Any]:
    part = part.strip()
    at = 0
    while at < len(part):
        value, at = json.JSONDecoder().raw_decode(part, at)
        yield from value if isinstance(value, list) else [value]
        between = _BETWEEN.match(part, at)
        at = between.end() if between else at


def _call(item: Any, tagged: bool) -> Optional[Pair]:
    if isinstance(item, dict) and isinstance(item.get("function"), dict):
        item = {**item.pop("function"), **item}
    if not isinstance(item, dict) or not set(item) <= _FIELDS:
        return None
    name = item.get("name")
    # Without a tag around it, {"name": …} alone is too likely to be an answer.
    args = item.get("arguments", item.get("parameters", {} if tagged else None))
    if isinstance(args, str):
        args = json.loads(args)
    if not isinstance(name, str) or not isinstance(args, dict):
        return None
    return name, args
