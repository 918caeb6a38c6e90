"""One JSON schema that holds every tool, for models that cannot call tools in any other way.

The endpoint then lets the model write nothing but one step: a tool of the list with its
arguments, or `final` with the answer. Calls and results are plain messages, so that any endpoint
takes them. The conversation itself stays as it is: this is another way to tell it.
"""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any, Dict, Iterator, List, Mapping, Sequence

from pibot.agent.calls import GIVE_UP
from pibot.agent.context import first_message
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
Each of your answers is one JSON object: your next step. Use a tool only if you need it. You are \
told its result. As soon as you know the answer, the next step is final. The tools:"""
_NEXT = (
    "Is the task done now? Then the next step is final, with the result in the answer."
    " If not, use another tool."
)


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
    """A conversation in the form of chat completions, told without tool calls.

    The examples are turns of it: small models do as they have done, more than as they are told.
    """
    soul, *rest = native
    instructions = "\n".join([_INSTRUCTIONS, *_lines(tools)])
    system = {**soul, "content": f"{soul['content']}\n\n{instructions}"}
    return [system, *_examples(), *_told(rest)]


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


def _examples() -> Iterator[Mapping[str, Any]]:
    yield _user(first_message("What is 2 + 3?", "", ""))
    yield _model(FINAL, {"answer": "2 + 3 is 5."})
    yield _user(first_message("Copy what is in plan.txt to the file new.txt.", "", ""))
    yield _model("read_file", {"path": "plan.txt"})
    yield _result("read_file", "buy milk")
    yield _model("write_file", {"path": "new.txt", "content": "buy milk"})
    yield _result("write_file", "wrote 8 bytes to new.txt")
    yield _model(FINAL, {"answer": "The file new.txt now holds: buy milk"})
    yield _user(first_message("Call my sister.", "", ""))
    yield _model(GIVE_UP, {"reason": "There is no tool that makes phone calls."})


def _told(native: Sequence[Mapping[str, Any]]) -> Iterator[Mapping[str, Any]]:
    """Each call as a step of its own, with its result as the user's next words."""
    called: Dict[str, Mapping[str, str]] = {}
    for message in native:
        if message["role"] == "tool":
            function = called[message["tool_call_id"]]
            yield _model(function["name"], json.loads(function["arguments"]))
            yield _result(function["name"], message["content"])
        elif "tool_calls" in message:
            called.update((call["id"], call["function"]) for call in message["tool_calls"])
        else:
            yield message


def _user(words: str) -> Mapping[str, Any]:
    return {"role": "user", "content": words}


def _result(name: str, output: str) -> Mapping[str, Any]:
    return _user(f"Result of {name}: {output}\n\n{_NEXT}")


def _model(name: str, args: Mapping[str, Any]) -> Mapping[str, Any]:
    step = {"step": {"name": name, "arguments": args}}
    return {"role": "assistant", "content": json.dumps(step, ensure_ascii=False)}
