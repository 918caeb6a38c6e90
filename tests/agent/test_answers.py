"""The last words of an attempt: data only if a message can carry it."""

from __future__ import annotations

from typing import Any, Dict

import pytest

from pibot import messages as msg
from pibot.agent.answers import parsed


@pytest.mark.parametrize(
    ("text", "data"),
    [
        ('{"a": 1}', {"a": 1}),
        ('```json\n{"a": "\\ud83d\\ude00"}\n```', {"a": "😀"}),
        ('{"a": "\x1b[2Jx"}', None),
        ("It is done.", None),
        ("{}", None),
        ('{"a": 1e999}', None),
        ('{"a": NaN}', None),
        ('{"a": ' + "9" * 400 + "}", None),
        ('{"a": ' + "[" * 200 + "]" * 200 + "}", None),
        ('{"a": ' + "[" * 100_000, None),
        ('{"a": "\\ud800"}', None),
        ('{"a": 1, "a": 2}', None),
        ("\ud800", None),
    ],
)
def test_data_is_what_a_message_can_carry(text: str, data: Dict[str, Any]) -> None:
    found, words = parsed(text)
    assert found == (data or {"text": text}) and (data or words == text)
    result = msg.Result("t1", 1, "succeeded", {"success": True, "data": found, "output": words})
    msg.decode(msg.encode(msg.Header("result", "w-1", "w"), result))
