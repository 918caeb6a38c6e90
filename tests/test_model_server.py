"""The scripted endpoint is strict: every kind of malformed request is noticed."""

from __future__ import annotations

import json
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any, Dict, List, Tuple

import pytest

import model_server
from model_server import ModelServer, calls, is_agent, is_answer, is_plan, serving, text

USER = {"role": "user", "content": "Hello"}
CALL = {"id": "c1", "type": "function", "function": {"name": "echo", "arguments": "{}"}}
ASKED = {"role": "assistant", "content": None, "tool_calls": [CALL]}
TOLD = {"role": "tool", "tool_call_id": "c1", "content": "hi"}
PARAMETERS = {"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"]}
TOOL = {"name": "echo", "description": "Say it.", "parameters": PARAMETERS}
PLAN = {"type": "json_schema", "json_schema": {"name": "plan", "schema": {"type": "object"}}}


def post(server: ModelServer, body: bytes, key: str = "") -> Tuple[int, Dict[str, Any]]:
    headers = {"Authorization": f"Bearer {key or server.key}", "Content-Type": "application/json"}
    request = urllib.request.Request(f"{server.url}/chat/completions", body, headers)
    try:
        with urllib.request.urlopen(request, timeout=5) as response:
            return response.status, json.load(response)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


def body(**fields: Any) -> bytes:
    request = {"model": model_server.MODEL, "messages": [USER], **fields}
    return json.dumps(request).encode()


def tools(**changes: Any) -> List[Dict[str, Any]]:
    return [{"type": "function", "function": {**TOOL, **changes}}]


@pytest.mark.parametrize(
    "good",
    [
        body(),
        body(messages=[{"role": "system", "content": "Be brief."}, USER, ASKED, TOLD]),
        body(messages=[USER, ASKED, TOLD, {"role": "assistant", "content": "hi"}, USER]),
        body(tools=tools(), stream=False),
        body(response_format=PLAN),
    ],
)
def test_good_requests_pass(good: bytes) -> None:
    with serving() as server:
        assert post(server, good)[0] == 200


@pytest.mark.parametrize(
    "bad",
    [
        b"{",
        b"[]",
        b'{"model": "\xff"}',
        body(temperature=float("nan")),
        body(surprise=1),
        body(model=None),
        body(stream_options={"include_usage": True}),
        body(messages=[]),
        body(messages=[{"role": "robot", "content": "x"}]),
        body(messages=[{"role": "user", "content": ""}]),
        body(messages=[{**USER, "name": "x"}]),
        body(messages=[USER, USER]),
        body(messages=[USER, {"role": "system", "content": "late"}]),
        body(messages=[USER, {"role": "assistant", "content": "hi"}]),
        body(messages=[USER, ASKED]),
        body(messages=[USER, ASKED, USER]),
        body(messages=[USER, ASKED, TOLD, TOLD]),
        body(messages=[USER, TOLD]),
        body(messages=[USER, {**ASKED, "tool_calls": []}, USER]),
        body(messages=[USER, {**ASKED, "tool_calls": [CALL, CALL]}, TOLD]),
        body(messages=[USER, {**ASKED, "tool_calls": [{**CALL, "id": ""}]}, TOLD]),
        body(messages=[USER, {**ASKED, "tool_calls": [{"id": "c1"}]}, TOLD]),
        body(tools=[]),
        body(tools=tools(name="no spaces")),
        body(tools=tools(description="")),
        body(tools=tools(parameters={"type": "string"})),
        body(tools=tools(parameters={**PARAMETERS, "required": ["b"]})),
        body(tools=tools() * 2),
        body(response_format={"type": "xml"}),
        body(response_format={"type": "json_schema", "json_schema": {"name": "plan"}}),
    ],
)
def test_bad_requests_fail_the_test(bad: bytes) -> None:
    with pytest.raises(AssertionError, match="malformed"), serving() as server:
        assert post(server, bad)[0] == 400


def test_wrong_key_and_model_are_refused_but_no_faults() -> None:
    with serving() as server:
        assert post(server, body(), key="sk-other")[0] == 401
        number, document = post(server, body(model="other"))
        assert (number, document["error"]["code"]) == (404, "model_not_found")
        assert server.requests == []


def test_rules_are_taken_in_order_and_replies_one_by_one() -> None:
    with serving() as server:
        server.on(is_agent, calls(("echo", {"a": "1"})), text("end"))
        server.on("hello", text("hi"))
        answers = [post(server, body(tools=tools()))[1] for _ in range(3)]
        first, *others = [answer["choices"][0]["message"] for answer in answers]
        assert first["tool_calls"][0]["function"] == {"name": "echo", "arguments": '{"a": "1"}'}
        assert [message["content"] for message in others] == ["end", "end"]
        assert post(server, body())[1]["choices"][0]["message"]["content"] == "hi"
        kinds = [(is_plan(r), is_agent(r), is_answer(r)) for r in server.requests]
        assert kinds == [(False, True, False)] * 3 + [(False, False, True)]


def test_as_a_program(tmp_path: Path) -> None:
    script = tmp_path / "script.json"
    script.write_text('[{"when": "plan", "replies": [{"plan": {"route": "answer"}}]}]')
    command = [sys.executable, model_server.__file__, "--script", str(script), "--key", "k1"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            url = process.stdout.readline().strip()
            headers = {"Authorization": "Bearer k1"}
            request = urllib.request.Request(
                f"{url}/chat/completions", body(response_format=PLAN), headers
            )
            with urllib.request.urlopen(request, timeout=5) as response:
                answer = json.load(response)["choices"][0]["message"]["content"]
        finally:
            process.kill()
    assert json.loads(answer) == {"route": "answer"}
