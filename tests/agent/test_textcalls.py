"""Printed tool calls are found; answers that only look a little like them are not."""

from __future__ import annotations

import json
from typing import Any, Dict, List, Tuple

import pytest

from pibot.agent import textcalls

NAMES = ["echo", "get_time", "write_file"]
ECHO = ("echo", {"text": "hi"})
CALL = '{"name": "echo", "arguments": {"text": "hi"}}'
XML = """<tool_call>
<function=write_file>
<parameter=path>
a.txt
</parameter>
<parameter=content>
one
two
</parameter>
</function>
</tool_call>"""


def found(text: str) -> List[Tuple[str, Dict[str, Any]]]:
    return [(call.name, json.loads(call.arguments)) for call in textcalls.find(text, NAMES)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (f"<tool_call>{CALL}</tool_call>", [ECHO]),
        (f"I will do that.\n<tool_call>\n{CALL}\n</tool_call>\nDone soon.", [ECHO]),
        (f"<tool_call>{CALL}", [ECHO]),
        (f"<tool_call>{CALL}</tool_call><tool_call>{CALL}</tool_call>", [ECHO, ECHO]),
        ('<tool_call>{"name": "get_time"}</tool_call>', [("get_time", {})]),
        (f"<|FunctionCallBegin|>[{CALL}]<|FunctionCallEnd|>", [ECHO]),
        (
            XML,
            [("write_file", {"path": "a.txt", "content": "one\ntwo"})],
        ),
        (
            "<seed:tool_call><function=echo><parameter=text>hi</parameter></seed:tool_call>",
            [ECHO],
        ),
        (f"```json\n{CALL}\n```", [ECHO]),
        (f"Here:\n```\n{CALL}\n```\nThat is it.", [ECHO]),
        (f"```json\n[{CALL}, {CALL}]\n```", [ECHO, ECHO]),
        (CALL, [ECHO]),
        (f"  [{CALL}]\n", [ECHO]),
        (f"{CALL}\n{CALL}", [ECHO, ECHO]),
        ('{"name": "echo", "parameters": {"text": "hi"}}', [ECHO]),
        ('{"name": "echo", "arguments": "{\\"text\\": \\"hi\\"}"}', [ECHO]),
        (f'{{"id": "c1", "type": "function", "function": {CALL}}}', [ECHO]),
    ],
)
def test_found(text: str, expected: List[Any]) -> None:
    assert found(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        "It is noon.",
        "null",
        "[]",
        "{}",
        '{"name": "echo"}',
        '{"name": "Ann", "arguments": {"a": 1}}',
        '{"name": "echo", "arguments": {"text": "hi"}, "result": "ok"}',
        '{"name": "echo", "arguments": ["hi"]}',
        '{"name": ["echo"], "arguments": {}}',
        '{"temperature": 51.2, "unit": "C"}',
        f"The call {CALL} would say hi.",
        f"{CALL} That is how it is called.",
        f'```json\n[{CALL}, {{"name": "Ann"}}]\n```',
        f"```json\n{CALL}\n```\nand\n```json\n{{}}\n```",
        "```python\nprint('hi')\n```",
        f"<tool_call>{CALL.replace('echo', 'rm_rf')}</tool_call>",
        "<tool_call>echo hi</tool_call>",
        "<tool_call></tool_call>",
        "<tool_call>" + "[" * 100_000,
        "[" * 100_000,
    ],
)
def test_not_found(text: str) -> None:
    assert found(text) == []


def test_ids_differ() -> None:
    first, second = textcalls.find(f"{CALL}{CALL}", NAMES)
    assert first.id != second.id
    assert first.id


@pytest.mark.parametrize(
    "text",
    [
        "<tool_call>nonsense",
        f"{CALL}\n" * 3,
        "nonsense</tool_call>",
        "<tool_response>12:00</tool_response>",
        "<|FunctionCallBegin|>[",
        f"The call {CALL} would say hi.",
        f"{CALL} …</tool_response>",
        '{"name": "get_time", "arguments": {"time": {"type": "string"}}',
        "{'name': 'echo', 'arguments': {'text': 'hi'}}",
        '{"function": {"name": "echo", "arguments": {"text": "hi"}',
        f'[{CALL}, {{"name": "Ann"}}]',
        '{"name": "echo", "arguments": {"text": "hi"}, "result": "ok"}',
        '{"name": "echo", "arguments": null}',
    ],
)
def test_a_botched_call_is_noticed(text: str) -> None:
    assert found(text) == []
    assert textcalls.is_printed(text, NAMES)


@pytest.mark.parametrize(
    "text",
    [
        "Use the tool call wisely: <b>x</b>",
        "It is noon.",
        '{"name": "echo"}',
        '{"name": "Ann", "arguments": {"a": 1}}',
        '{"name": "Ann", "arguments": {"a": 1}',
        '{"name": ["echo"], "arguments": {}}',
        '{"tools": [{"name": "echo", "parameters": {"text": "string"}}]}',
        '{"temperature": 51.2, "unit": "C"}',
        '{"arguments": "echo", "name": 1}',
        "[" * 100_000,
    ],
)
def test_an_answer_is_not_taken_for_a_botched_call(text: str) -> None:
    assert not textcalls.is_printed(text, NAMES)
