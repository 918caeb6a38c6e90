"""What a strict chat-completions endpoint accepts: every rule that a request of ours breaks."""

from __future__ import annotations

import json
import re
from typing import Any, Dict, Iterator, List, Mapping, Set

_NAME = re.compile(r"[a-zA-Z0-9_-]{1,64}")
_FIELDS = {
    "model", "messages", "tools", "tool_choice", "response_format", "stream", "stream_options",
    "temperature", "max_tokens", "max_completion_tokens", "seed", "parallel_tool_calls",
}  # fmt: skip
_MESSAGE_FIELDS = {
    "system": {"role", "content"},
    "user": {"role", "content"},
    "assistant": {"role", "content", "tool_calls"},
    "tool": {"role", "content", "tool_call_id"},
}


def parse(raw: bytes) -> Dict[str, Any]:
    """The body of a request. Raises ValueError for what is not strict JSON in UTF-8."""

    def refuse(constant: str) -> None:
        raise ValueError(f"{constant} is not JSON")

    body = json.loads(raw.decode("utf-8"), parse_constant=refuse)
    if not isinstance(body, dict):
        raise ValueError("the body is not an object")
    return body


def faults(body: Mapping[str, Any]) -> List[str]:
    """Everything that is wrong with a request, in words; an empty list when it is good."""
    found = [f"unknown field {name}" for name in body if name not in _FIELDS]
    if not isinstance(body.get("model"), str):
        found.append("model is missing")
    if not isinstance(body.get("stream", False), bool):
        found.append("stream is not a boolean")
    if "stream_options" in body and body.get("stream") is not True:
        found.append("stream_options without stream")
    found.extend(_messages(body.get("messages")))
    if "tools" in body:
        found.extend(_tools(body["tools"]))
    if "response_format" in body:
        found.extend(_response_format(body["response_format"]))
    return found


def _messages(messages: Any) -> Iterator[str]:
    if not isinstance(messages, list) or not messages:
        yield "messages is not a list with something in it"
        return
    previous = ""
    waiting: Set[str] = set()
    for number, message in enumerate(messages):
        role = message.get("role") if isinstance(message, dict) else None
        where = f"messages[{number}] ({role})"
        if role not in _MESSAGE_FIELDS:
            yield f"{where}: unknown role"
            return
        extra = set(message) - _MESSAGE_FIELDS[role]
        if extra:
            yield f"{where}: unknown fields {sorted(extra)}"
        if role == "tool":
            call_id = message.get("tool_call_id")
            if call_id not in waiting:
                yield f"{where}: answers {call_id!r}, which is not asked or answered already"
            waiting.discard(call_id)
        elif waiting:
            yield f"{where}: the calls {sorted(waiting)} before it have no answer"
            waiting = set()
        yield from (f"{where}: {fault}" for fault in _order(role, previous))
        yield from (f"{where}: {fault}" for fault in _content(message))
        for call in message.get("tool_calls") or ():
            yield from (f"{where}: {fault}" for fault in _call(call, waiting))
        previous = role
    if waiting:
        yield f"the calls {sorted(waiting)} at the end have no answer"
    if previous not in ("user", "tool"):
        yield f"the last message is of role {previous}"


def _order(role: str, previous: str) -> Iterator[str]:
    if role == "system" and previous:
        yield "a system message that is not the first"
    if role == "user" and previous not in ("", "system", "assistant"):
        yield f"user follows {previous}"
    if role == "assistant" and previous not in ("user", "tool"):
        yield f"assistant follows {previous or 'nothing'}"


def _content(message: Mapping[str, Any]) -> Iterator[str]:
    content = message.get("content")
    if "tool_calls" in message:
        if not isinstance(message["tool_calls"], list) or not message["tool_calls"]:
            yield "tool_calls is not a list with something in it"
        if content is not None and not isinstance(content, str):
            yield "content is neither text nor null"
    elif not isinstance(content, str):
        yield "content is not text"
    elif not content and message["role"] != "tool":
        yield "content is empty"


def _call(call: Any, waiting: Set[str]) -> Iterator[str]:
    if not isinstance(call, dict) or set(call) != {"id", "type", "function"}:
        yield "a tool call needs exactly id, type and function"
        return
    if not isinstance(call["id"], str) or not call["id"] or call["id"] in waiting:
        yield f"the call id {call['id']!r} is empty or used twice"
    waiting.add(call["id"])
    function = call["function"]
    if call["type"] != "function" or set(function) != {"name", "arguments"}:
        yield "a tool call's function needs exactly name and arguments"
        return
    if not isinstance(function["name"], str) or not _NAME.fullmatch(function["name"]):
        yield f"the function name {function['name']!r} is not allowed"
    try:
        if not isinstance(json.loads(function["arguments"]), dict):
            yield "arguments is not the text of an object"
    except (TypeError, ValueError):
        yield "arguments is not JSON text"


def _tools(tools: Any) -> Iterator[str]:
    if not isinstance(tools, list) or not tools:
        yield "tools is not a list with something in it"
        return
    names: Set[str] = set()
    for number, tool in enumerate(tools):
        function = tool.get("function") if isinstance(tool, dict) else None
        if not isinstance(function, dict) or set(tool) != {"type", "function"}:
            yield f"tools[{number}] needs exactly type and function"
            continue
        name = function.get("name")
        if tool["type"] != "function" or not isinstance(name, str) or not _NAME.fullmatch(name):
            yield f"tools[{number}] is no function with an allowed name"
        if name in names:
            yield f"tools[{number}]: a second tool called {name}"
        names.add(str(name))
        if not isinstance(function.get("description"), str) or not function["description"]:
            yield f"tools[{number}] has no description"
        yield from (f"tools[{number}]: {f}" for f in _schema(function.get("parameters")))


def _schema(schema: Any) -> Iterator[str]:
    if not isinstance(schema, dict) or schema.get("type") != "object":
        yield "the schema is not of type object"
        return
    properties = schema.get("properties", {})
    if not isinstance(properties, dict) or not all(
        isinstance(p, dict) for p in properties.values()
    ):
        yield "properties is not an object of schemas"
    elif not set(schema.get("required", ())) <= set(properties):
        yield "a required property is not among the properties"


def _response_format(wanted: Any) -> Iterator[str]:
    kind = wanted.get("type") if isinstance(wanted, dict) else None
    if kind not in ("text", "json_object", "json_schema"):
        yield "response_format has an unknown type"
    if kind == "json_schema":
        inner = wanted.get("json_schema")
        if not isinstance(inner, dict) or not _NAME.fullmatch(str(inner.get("name") or "")):
            yield "response_format's json_schema has no name"
        elif not isinstance(inner.get("schema"), dict):
            yield "response_format's json_schema has no schema"
        else:
            yield from (f"response_format: {fault}" for fault in _schema(inner["schema"]))
