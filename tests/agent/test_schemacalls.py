"""One schema for all tools: the conversation told in plain messages, and the steps read back."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

import chat_rules
from pibot.agent import schemacalls
from pibot.agent.calls import GIVE_UP_TOOL
from pibot.agent.context import Conversation
from pibot.agent.reply import Reply, ToolCall, Usage

ECHO = {
    "type": "function",
    "function": {
        "name": "echo",
        "description": "Say it again.",
        "parameters": {"type": "object", "properties": {"text": {"type": "string"}}},
    },
}
TOOLS = [ECHO, GIVE_UP_TOOL]


def replied(text: str) -> Reply:
    return schemacalls.read(Reply(text, (), Usage(1, 2, 1), "stop"))


def step(name: str, **args: Any) -> str:
    return json.dumps({"step": {"name": name, "arguments": args}})


def test_each_tool_has_its_own_arguments() -> None:
    wanted = schemacalls.form(TOOLS)["json_schema"]
    assert wanted["name"] == "step"
    steps = [s["properties"] for s in wanted["schema"]["properties"]["step"]["anyOf"]]
    assert [s["name"]["enum"] for s in steps] == [["echo"], ["give_up"], ["final"]]
    assert [list(s["arguments"]["properties"]) for s in steps] == [["text"], ["reason"], ["answer"]]


def test_a_tool_called_final_gives_way() -> None:
    own = {**ECHO, "function": {**ECHO["function"], "name": "final"}}  # type: ignore[dict-item]
    schema = schemacalls.form([own])["json_schema"]["schema"]
    (only,) = schema["properties"]["step"]["anyOf"]
    assert list(only["properties"]["arguments"]["properties"]) == ["answer"]


def test_calls_and_results_become_plain_messages() -> None:
    talk = Conversation("You work.", "Do it.")
    talk.called("", [ToolCall("c1", "echo", '{"text": "ä"}'), ToolCall("c2", "echo", "{}")])
    talk.result(ToolCall("c1", "", ""), "ä")
    talk.result(ToolCall("c2", "", ""), "Error: text is missing")
    talk.called("", [ToolCall("c1", "echo", '{"text": "b"}')])
    talk.result(ToolCall("c1", "", ""), "b")
    talk.answered("I will go on.")
    talk.say("Do it.")
    messages = schemacalls.messages(talk.messages, TOOLS)
    told = messages[-9:]
    assert [m["role"] for m in told] == ["user", "assistant"] * 4 + ["user"]
    assert [m["content"].splitlines()[0] for m in told] == [
        "Do it.",
        '{"step": {"name": "echo", "arguments": {"text": "ä"}}}',
        "Result of echo: ä",
        '{"step": {"name": "echo", "arguments": {}}}',
        "Result of echo: Error: text is missing",
        '{"step": {"name": "echo", "arguments": {"text": "b"}}}',
        "Result of echo: b",
        "I will go on.",
        "Do it.",
    ]
    request = {"model": "m", "messages": messages, "response_format": schemacalls.form(TOOLS)}
    assert chat_rules.faults(request) == []


def test_the_soul_comes_first_and_the_examples_are_steps() -> None:
    soul, *examples = schemacalls.messages(Conversation("You work.", "Do it.").messages, TOOLS)
    assert soul["role"] == "system" and soul["content"].startswith("You work.")
    assert "- echo(text): Say it again." in soul["content"]
    said = [m["content"] for m in examples if m["role"] == "assistant"]
    read = [replied(words) for words in said]
    assert [reply.text or reply.calls[0].name for reply in read] == [
        "2 + 3 is 5.",
        "read_file",
        "write_file",
        "The file new.txt now holds: buy milk",
        "give_up",
    ]


def test_a_step_is_a_call() -> None:
    reply = replied(step("echo", text="ä"))
    (call,) = reply.calls
    assert (reply.text, call.name, call.arguments) == ("", "echo", '{"text": "ä"}')
    assert call.id and reply.usage == Usage(1, 2, 1)


@pytest.mark.parametrize(("answer", "text"), [("It is noon.", "It is noon."), (42, "42")])
def test_the_final_step_is_the_answer(answer: Any, text: str) -> None:
    assert replied(step("final", answer=answer)) == replace(replied(""), text=text)


@pytest.mark.parametrize(
    "text",
    ["", "It is noon.", "[]", "{}", '{"step": 1}', '{"step": {"name": "final", "arguments": {}}}']
    + ["[" * 100_000, '{"step": {"name": "echo"}}', '{"step": {"name": "final", "arguments": 1}}'],
)
def test_what_is_no_step_stays_as_it_is(text: str) -> None:
    assert replied(text) == Reply(text, (), Usage(1, 2, 1), "stop")
