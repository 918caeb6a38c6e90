"""One JSON schema that holds every tool, for models that cannot call tools in any other way.

The endpoint then lets the model write nothing but one step: a tool of the list with its
arguments, or `final` with the answer. Calls and results are plain messages, so that any endpoint
takes them. The conversation itself stays as it is: this is another way to tell it.
"""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any, Dict, Iterator, List, Mapping, Sequence, Tuple

from pibot.agent.model import Model
from pibot.agent.reply import Reply, ToolCall, new_call_id
from pibot.agent.tools import Context

FINAL = "final"
REFUSALS = (400, 422, 500)  # how endpoints say that they know no schemas
_ANSWER = {"type": "string", "description": "the answer to the task"}
_FINAL_TOOL = {
    "name": FINAL,
    "description": "End the task with its answer.",
    "parameters": {"type": "object", "properties": {"answer": _ANSWER}, "required": ["answer"]},
}
_INSTRUCTIONS = """\
# How you answer
Each of your answers is one JSON object, which is your next step:
{"step": {"name": TOOL, "arguments": {…}}}
You are told the result, then you give the next step. When you know the answer, or need no tool, \
the step is final. The tools:"""
_EXAMPLES = """\
# Examples (other tasks)
Task: How many people live in Rome?
{"step": {"name": "final", "arguments": {"answer": "About 2.8 million people live in Rome."}}}
Task: What does the file plan.txt hold?
{"step": {"name": "read_file", "arguments": {"path": "plan.txt"}}}
Result of read_file: buy milk
{"step": {"name": "final", "arguments": {"answer": "The file plan.txt holds: buy milk"}}}
Task: Call my sister.
{"step": {"name": "give_up", "arguments": {"reason": "There is no tool that makes calls."}}}"""


def ask(
    model: Model,
    native: Sequence[Mapping[str, Any]],
    tools: Sequence[Mapping[str, Any]],
    ctx: Context,
) -> Reply:
    """One model call; its reply is as if the model had called a tool natively, or answered.

    Raises as `Model.chat`; an EndpointError with a status of REFUSALS: no schemas here.
    """
    reply = model.chat(
        messages(native, tools),
        response_format=form(tools),
        deadline=ctx.deadline,
        cancelled=ctx.cancelled,
    )
    return read(reply)


def messages(
    native: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]]
) -> List[Mapping[str, Any]]:
    """A conversation in the form of chat completions, told without tool calls."""
    soul, *rest = native
    parts = (soul["content"], "\n".join([_INSTRUCTIONS, *_lines(tools)]), _EXAMPLES)
    return [{**soul, "content": "\n\n".join(parts)}, *_told(rest)]


def form(tools: Sequence[Mapping[str, Any]]) -> Dict[str, Any]:
    """The schema of one step with any of `tools`, or with the answer."""
    schema = _object({"step": {"anyOf": [_step(function) for function in _functions(tools)]}})
    return {"type": "json_schema", "json_schema": {"name": "step", "schema": schema}}


def read(reply: Reply) -> Reply:
    """A reply whose text is a step as the call or the answer that it means; others as they are."""
    try:
        step = json.loads(reply.text)["step"]
        name, args = str(step["name"]), step["arguments"]
        if name == FINAL:
            return replace(reply, text=str(args["answer"]))
        call = ToolCall(new_call_id(), name, json.dumps(args, ensure_ascii=False))
    except (ValueError, TypeError, LookupError, RecursionError):
        return reply
    return replace(reply, text="", calls=(call,))


def _functions(tools: Sequence[Mapping[str, Any]]) -> List[Mapping[str, Any]]:
    functions = [tool["function"] for tool in tools if tool["function"]["name"] != FINAL]
    return [*functions, _FINAL_TOOL]


def _step(function: Mapping[str, Any]) -> Dict[str, Any]:
    name = {"type": "string", "enum": [function["name"]]}
    return _object({"name": name, "arguments": function["parameters"]})


def _object(fields: Mapping[str, Any]) -> Dict[str, Any]:
    return {
        "type": "object",
        "properties": fields,
        "required": list(fields),
        "additionalProperties": False,
    }


def _lines(tools: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    for function in _functions(tools):
        args = ", ".join(function["parameters"].get("properties", {}))
        yield f"- {function['name']}({args}): {function['description']}"


def _told(native: Sequence[Mapping[str, Any]]) -> Iterator[Mapping[str, Any]]:
    """Each call as a step of its own, with its result as the user's next words."""
    steps: Dict[str, Tuple[str, str]] = {}
    for message in native:
        if message["role"] == "tool":
            name, step = steps[message["tool_call_id"]]
            yield {"role": "assistant", "content": step}
            yield {"role": "user", "content": f"Result of {name}: {message['content']}"}
        elif "tool_calls" in message:
            steps.update((call["id"], _said(call["function"])) for call in message["tool_calls"])
        else:
            yield message


def _said(function: Mapping[str, str]) -> Tuple[str, str]:
    step = {"name": function["name"], "arguments": json.loads(function["arguments"])}
    return function["name"], json.dumps({"step": step}, ensure_ascii=False)
