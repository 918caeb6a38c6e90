"""A tool of an MCP server as a skill: its name, its arguments, what it returns.

Whatever a server says is somebody else's text: it is bounded, and what cannot be used is refused
with a reason. Pure: the connection is in mcp_servers.py.
"""

from __future__ import annotations

import json
import re
from typing import Any, Callable, Dict, List, Mapping

from pibot.agent.text import clean, cut
from pibot.agent.tools import Context, Output, Skill
from pibot.errors import SkillError

CALL_S = 60.0
SCHEMA_CHARS = 8_000
SCHEMA_DEPTH = 16
DESCRIPTION_CHARS = 1_000
TEXT_CHARS = 50_000
STRUCTURED_CHARS = 60_000
_CONTEXT = "pibot context"  # no argument of a tool is called that: see `_parameters`
_OTHER = re.compile(r"[^a-zA-Z0-9]+")

Call = Callable[[str, Mapping[str, Any], Context], Mapping[str, Any]]


class Unusable(Exception):
    """Why a tool cannot be a skill."""


def skill_of(server: str, tool: Mapping[str, Any], call: Call) -> Skill:
    """The skill of a tool as `tools/list` describes it; raises Unusable.

    `call` is given the tool's name, the arguments and the context of each call, and returns the
    result as the protocol has it.
    """
    name = str(tool.get("name") or "")
    words = clean(str(tool.get("description") or "")).strip()

    def function(**args: Any) -> Output:
        ctx: Context = args.pop(_CONTEXT)
        return output_of(call(name, args, ctx))

    hints = tool.get("annotations")
    reads = isinstance(hints, Mapping) and hints.get("readOnlyHint") is True
    return Skill(
        name=skill_name(server, name),
        description=cut(words, DESCRIPTION_CHARS) or f"The tool {clean(name)} of {server}.",
        parameters=_parameters(tool.get("inputSchema")),
        function=function,
        timeout_s=CALL_S,
        sensitive=not reads,
        taints=True,
        repeatable=reads,
        context=_CONTEXT,
        group=group_of(server),
    )


def skill_name(server: str, tool: str) -> str:
    """SERVER_TOOL in letters that a skill's name may have; raises Unusable."""
    name = _OTHER.sub("_", f"{server}_{tool}")
    name = f"_{name}" if name[:1].isdigit() else name
    if not _OTHER.sub("", tool) or len(name) > 64:
        raise Unusable("its name is empty or, with that of the server, longer than 64 characters")
    return name


def group_of(server: str) -> str:
    return f"mcp-{_OTHER.sub('_', server)}"


# --- arguments -------------------------------------------------------------------------------


def _parameters(schema: Any) -> Dict[str, Any]:
    """The schema as `schema.check` can use it. What it does not know, the server checks."""
    if not isinstance(schema, Mapping):
        raise Unusable("it has no schema for its arguments")
    properties, required = schema.get("properties") or {}, schema.get("required") or []
    if not isinstance(properties, Mapping) or not isinstance(required, list):
        raise Unusable("the schema of its arguments is not valid")
    if _CONTEXT in properties or not all(name in properties for name in map(str, required)):
        raise Unusable("the schema of its arguments asks for what it does not describe")
    found = {
        **{key: schema[key] for key in ("$defs", "definitions") if key in schema},
        "type": "object",
        "properties": {name: {} if one is True else one for name, one in properties.items()},
        "required": [str(name) for name in required],
        "additionalProperties": False,
    }
    if len(json.dumps(found)) > SCHEMA_CHARS:
        raise Unusable(f"the schema of its arguments is longer than {SCHEMA_CHARS} characters")
    for one in found["properties"].values():
        _sound(one, SCHEMA_DEPTH)
    return found


def _sound(schema: Any, depth: int) -> None:
    """Raise Unusable for what would confuse the check: it trusts the schemas it is given."""
    if not isinstance(schema, Mapping) or depth == 0:
        raise Unusable("the schema of its arguments is not valid, or nested too deeply")
    choices = [schema[key] for key in ("anyOf", "enum") if key in schema]
    if not all(isinstance(one, list) and one for one in choices):
        raise Unusable("the schema of its arguments has a choice of nothing")
    inner = [schema[key] for key in ("items", "additionalProperties") if key in schema]
    for one in [*schema.get("anyOf", []), *(one for one in inner if not isinstance(one, bool))]:
        _sound(one, depth - 1)


# --- results ---------------------------------------------------------------------------------


def output_of(result: Mapping[str, Any]) -> Output:
    """What a call returned, bounded; raises SkillError when the tool says that it failed."""
    parts = [_part(one) for one in result.get("content") or []]
    text = cut(clean("\n".join(parts)), TEXT_CHARS)
    if result.get("isError"):
        raise SkillError(text or "the tool failed and gave no reason")
    structured = result.get("structuredContent")
    if structured is None:
        return Output({"text": text, "parts": _kinds(result)}, text)
    if len(json.dumps(structured)) > STRUCTURED_CHARS:
        note = f"[the structured answer was left out: more than {STRUCTURED_CHARS} characters]"
        return Output({"text": text, "parts": _kinds(result)}, f"{text}\n{note}".strip())
    data = structured if isinstance(structured, dict) else {"value": structured}
    return Output(data, text or cut(json.dumps(structured, ensure_ascii=False), TEXT_CHARS))


def _part(part: Mapping[str, Any]) -> str:
    if part.get("type") == "text":
        return str(part.get("text") or "")
    resource = part.get("resource")
    inner = resource if isinstance(resource, Mapping) else part
    if isinstance(inner.get("text"), str):
        return str(inner["text"])
    size = len(str(inner.get("data") or inner.get("blob") or "")) * 3 // 4
    kind = inner.get("mimeType") or part.get("type") or "something"
    where = f" at {inner['uri']}" if inner.get("uri") else ""
    return f"[{kind}{where}, {size} bytes: not shown]"


def _kinds(result: Mapping[str, Any]) -> List[str]:
    return [str(one.get("type")) for one in result.get("content") or []][:100]
