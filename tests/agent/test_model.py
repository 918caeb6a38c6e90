"""The model client against a real HTTP endpoint: what it asks, what it makes of the answers."""

from __future__ import annotations

import json
import logging
import socket
import subprocess
import sys
import threading
import time
from typing import Any, Callable, Dict, Iterator, List

import pytest

from model_server import (
    ModelServer,
    Scripted,
    calls,
    midstream_error,
    raw,
    serving,
    silent,
    status,
    text,
    truncated,
)
from pibot.agent import model as model_module
from pibot.agent.model import (
    Cancelled,
    EndpointError,
    ModelSettings,
    OpenAIModel,
    Reply,
    Usage,
)
from pibot.errors import ModelError

ANY: Callable[[Any], bool] = lambda request: True  # noqa: E731
HELLO = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello"}]
TOOL = {
    "type": "function",
    "function": {
        "name": "echo",
        "description": "Say it again.",
        "parameters": {"type": "object", "properties": {"text": {"type": "string"}}},
    },
}


@pytest.fixture
def server() -> Iterator[ModelServer]:
    with serving() as running:
        yield running


@pytest.fixture(autouse=True)
def short_backoff(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model_module, "BACKOFF_S", 0.01)


def client(server: ModelServer, **changes: Any) -> OpenAIModel:
    silence_s = changes.pop("silence_s", 20.0)
    settings = {"api_key": server.key, "base_url": server.url, "model": server.model, **changes}
    return OpenAIModel(ModelSettings(**settings), silence_s=silence_s)


def ask(model: OpenAIModel, seconds: float = 10.0, **more: Any) -> Reply:
    more.setdefault("cancelled", threading.Event())
    messages = more.pop("messages", HELLO)
    return model.chat(messages, deadline=time.monotonic() + seconds, **more)


def failure(model: OpenAIModel, **more: Any) -> EndpointError:
    with pytest.raises(EndpointError) as caught:
        ask(model, **more)
    return caught.value


def stream(*chunks: Dict[str, Any], end: bytes = b"data: [DONE]\n\n") -> Scripted:
    lines = (b"data: " + json.dumps(chunk).encode() + b"\n\n" for chunk in chunks)
    return raw(b"".join(lines) + end)


def delta(finish: str = "", **fields: Any) -> Dict[str, Any]:
    return {"choices": [{"index": 0, "delta": fields, "finish_reason": finish or None}]}


def fragment(name: str = "", arguments: str = "", **more: Any) -> Dict[str, Any]:
    return {"function": {"name": name, "arguments": arguments}, **more}


# --- answers ---------------------------------------------------------------------------------


def test_text_comes_in_pieces_and_is_counted(server: ModelServer) -> None:
    server.on(ANY, text("It is 12 o'clock, 你好.", usage=(31, 7)))
    pieces: List[str] = []
    reply = ask(client(server), on_text=pieces.append)
    assert reply == Reply("It is 12 o'clock, 你好.", (), Usage(31, 7, 1), "stop")
    assert len(pieces) > 1
    assert "".join(pieces) == reply.text


def test_request_is_what_the_endpoint_expects(server: ModelServer) -> None:
    wanted = {"type": "json_schema", "json_schema": {"name": "plan", "schema": {"type": "object"}}}
    ask(client(server), tools=[TOOL], response_format=wanted)
    (request,) = server.requests
    assert request["messages"] == HELLO
    assert request["tools"] == [TOOL]
    assert request["response_format"] == wanted
    assert request["stream"] is True


def test_fragments_of_calls_are_put_together(server: ModelServer) -> None:
    args = {"text": "a long text, in many fragments"}
    server.on(ANY, calls(("echo", args), ("get_time", {}), words="Let me see."))
    reply = ask(client(server), tools=[TOOL])
    assert [(call.name, json.loads(call.arguments)) for call in reply.calls] == [
        ("echo", args),
        ("get_time", {}),
    ]
    assert reply.text == "Let me see."
    assert reply.finish == "tool_calls"


@pytest.mark.parametrize(
    "tool_calls",
    [
        [[fragment("a", '{"x":1}'), fragment("b", "{}")]],
        [[fragment("a", '{"x":', id="1")], [fragment("", "1}")], [fragment("b", "{}", id="2")]],
        [[fragment("a", '{"x":1}', index=0, id="1")], [fragment("b", "{}", index=0, id="2")]],
        [[fragment("a", '{"x":', index=0)], [fragment("b", "{}", index=1)],
         [fragment("a", "1}", index=0)]],
        [[fragment("a", '{"x":1}', index=0, id="1"), fragment("b", "{}", index=1, id="1")]],
        [[{"function": {"name": "a", "arguments": {"x": 1}}, "index": 0}],
         [fragment("b", "{}", index=1)]],
    ],
    ids=["no ids, no indexes", "no indexes", "one index", "no ids", "one id", "object"],
)  # fmt: skip
def test_calls_of_endpoints_with_habits(server: ModelServer, tool_calls: List[Any]) -> None:
    server.on(ANY, stream(*(delta(tool_calls=some) for some in tool_calls), delta("tool_calls")))
    reply = ask(client(server))
    assert [(call.name, json.loads(call.arguments)) for call in reply.calls] == [
        ("a", {"x": 1}),
        ("b", {}),
    ]
    assert len({call.id for call in reply.calls}) == 2
    assert all(call.id for call in reply.calls)


@pytest.mark.parametrize(
    "answer",
    [
        stream(delta(content="Hi"), delta("stop"), end=b""),
        stream(delta(content="Hi")),
        stream({"choices": [], "usage": None}, delta(content="Hi"), {"choices": None}),
        raw(b": ping\r\n\r\ndata:" + json.dumps(delta("stop", content="Hi")).encode() + b"\r\n"),
        raw(
            b'{"choices": [{"message": {"content": "Hi"}, "finish_reason": "stop"}]}',
            "application/json; charset=utf-8",
        ),
        stream(delta("stop", content=[{"type": "text", "text": "Hi"}])),
        stream(delta("stop", content="<think>He greets\nme.</think>\n\nHi")),
    ],
    ids=["no DONE", "no reason", "no usage", "comments", "no stream", "parts", "thoughts"],
)
def test_answers_of_endpoints_with_habits(server: ModelServer, answer: Scripted) -> None:
    server.on(ANY, answer)
    assert ask(client(server)) == Reply("Hi", (), Usage(0, 0, 1), "stop")


def test_connection_is_kept_and_serves_several_threads(server: ModelServer) -> None:
    model = client(server)
    assert [ask(model).text for _ in range(3)] == ["Done."] * 3
    assert len(model._idle) == 1
    answers: List[str] = []
    threads = [threading.Thread(target=lambda: answers.append(ask(model).text)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert answers == ["Done."] * 8
    model.close()
    assert model._idle == []


def test_usage_is_asked_for_only_where_it_is_known(server: ModelServer) -> None:
    refusal = status(422, "stream_options: extra inputs are not permitted")
    server.on(lambda request: "stream_options" in request, refusal)
    model = client(server)
    assert ask(model).text == "Done."
    assert ask(model).usage == Usage(0, 0, 1)
    assert len(server.requests) == 3


# --- failures --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "trouble",
    [
        status(429, retry_after=0.05),
        status(500),
        status(503),
        status(529),
        truncated("The answer is"),
        midstream_error("overloaded"),
        raw(b"data: {nonsense\n\n"),
        raw(b'data: [{"not": "a chunk"}]\n\ndata: [DONE]\n\n'),
        raw(b'error: {"code":500,"message":"parse error"}\n\n'),
        raw(b""),
        stream(delta(content=7)),
        stream(delta(content={"text": "not text"})),
        stream(delta({"not": "a reason"}, content="Hi")),
        stream(delta(tool_calls=[{"index": 0, "function": {"name": "a", "arguments": 7}}])),
        raw(b'data: {"usage":{"prompt_tokens":1e999}}\n\ndata: [DONE]\n\n'),
    ],
    ids=lambda reply: f"{reply.status} {reply.end} {(reply.raw or b'')[:12]!r}",
)
def test_passing_trouble_is_tried_again(server: ModelServer, trouble: Scripted) -> None:
    server.on(ANY, trouble, trouble, text("At last."))
    assert ask(client(server)).text == "At last."
    assert len(server.requests) == 3


@pytest.mark.parametrize(
    ("reply", "hints"),
    [
        (status(401, "no such key"), ["401: no such key", "VOLC_API_KEY", "OPENAI_API_KEY"]),
        (status(403, "forbidden"), ["403: forbidden", "VOLC_API_KEY"]),
        (status(404, "unknown model"), ["test-model", "404: unknown model", "MODEL_NAME"]),
        (status(404, "no page"), ["404: no page", "VOLC_BASE_URL"]),
        (status(400, "model not supported"), ["MODEL_NAME"]),
        (status(400, "maximum context length is 4096"), ["context window", "4096"]),
        (status(400, "bad tools"), ["refused the request", "bad tools"]),
        (status(429, "You exceeded your current quota"), ["no credit"]),
        (status(302), ["redirects", "VOLC_BASE_URL"]),
        (midstream_error("the context size is exceeded"), ["context window"]),
        (raw(b"<html>Log in</html>", "text/html"), ["web page", "VOLC_BASE_URL"]),
        (raw(b"plainly no", "text/plain", 400), ["400: plainly no"]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_lasting_trouble_is_explained_at_once(
    server: ModelServer, reply: Scripted, hints: List[str]
) -> None:
    server.on(ANY, reply)
    error = failure(client(server))
    assert all(hint in str(error) for hint in hints), str(error)
    assert not error.retryable
    assert len(server.requests) == 1


def test_overflow_can_be_told_from_other_refusals(server: ModelServer) -> None:
    server.on("long", status(400, "no", code="context_length_exceeded"))
    server.on("odd", status(400, "no"))
    model = client(server)
    assert failure(model, messages=[{"role": "user", "content": "long"}]).overflow
    assert not failure(model, messages=[{"role": "user", "content": "odd"}]).overflow


def test_the_real_refusals_of_the_server(server: ModelServer) -> None:
    assert failure(client(server, api_key="sk-wrong-key")).status == 401
    unknown = failure(client(server, model="gpt-17"))
    assert unknown.status == 404
    assert "'gpt-17'" in str(unknown)


def test_tries_are_limited(server: ModelServer) -> None:
    server.on(ANY, status(500, "still broken"))
    error = failure(client(server))
    assert "still broken" in str(error)
    assert "tried 5 times" in str(error)
    assert len(server.requests) == 5


def test_retry_after_is_obeyed(server: ModelServer) -> None:
    server.on(ANY, status(429, retry_after=0.4), text("Now."))
    began = time.monotonic()
    assert ask(client(server)).text == "Now."
    assert time.monotonic() - began >= 0.4


def test_retry_after_beyond_the_deadline_fails_at_once(server: ModelServer) -> None:
    server.on(ANY, status(429, "slow down", retry_after=60))
    began = time.monotonic()
    error = failure(client(server), seconds=5)
    assert time.monotonic() - began < 2
    assert "slow down" in str(error)
    assert "too short" in str(error)


def test_words_of_the_endpoint_are_cut_and_harmless(server: ModelServer) -> None:
    server.on(ANY, status(400, "bad\x1b[31m\r\nred \u202e" + "x" * 1000))
    message = str(failure(client(server)))
    assert "bad red x" in message
    assert len(message) < 400


def test_the_key_is_nowhere(server: ModelServer, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    server.on(ANY, status(400, f"the key {server.key} is not good"))
    model = client(server)
    error = failure(model)
    bad = failure(client(server, api_key=f"{server.key}\n"))
    shown = [str(error), repr(error), str(bad), repr(model._settings), str(vars(bad)), caplog.text]
    assert "[key]" in str(error)
    assert not [words for words in shown if server.key in words]


def test_the_key_is_not_carried_elsewhere(
    server: ModelServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serving() as other:
        moved = raw(b"", number=307)
        moved.headers["Location"] = f"{other.url}/chat/completions"  # type: ignore[index]
        server.on("redirect", moved)
        failure(client(server), messages=[{"role": "user", "content": "redirect"}])
        for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
            monkeypatch.setenv(name, other.url)
        assert ask(client(server)).text == "Done."
        assert other.requests == []
        assert other.headers == []


def test_unreachable_endpoint_is_named(server: ModelServer) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{closed.getsockname()[1]}/v1"
    message = str(failure(client(server, base_url=url)))
    assert "127.0.0.1" in message
    assert "VOLC_BASE_URL" in message


def test_an_address_without_scheme_is_not_tried_again(server: ModelServer) -> None:
    error = failure(client(server, base_url="ark.example/v3"))
    assert not error.retryable
    assert "VOLC_BASE_URL" in str(error)


def test_text_that_cannot_be_sent_is_an_error(server: ModelServer) -> None:
    error = failure(client(server), messages=[{"role": "user", "content": "\udc80"}])
    assert not error.retryable


# --- time ------------------------------------------------------------------------------------


@pytest.mark.parametrize("reply", [silent(30), silent(30, "It is")], ids=["no headers", "stream"])
def test_cancel_ends_a_silent_call_and_its_connection(server: ModelServer, reply: Scripted) -> None:
    server.on(ANY, reply)
    cancelled = threading.Event()
    model = client(server)
    ended: List[float] = []

    def call() -> None:
        with pytest.raises(Cancelled):
            ask(model, seconds=30, cancelled=cancelled)
        ended.append(time.monotonic())

    thread = threading.Thread(target=call)
    thread.start()
    until(lambda: bool(server.requests))
    set_at = time.monotonic()
    cancelled.set()
    thread.join(5)
    assert ended[0] - set_at < 0.5
    until(lambda: server.hang_ups == 1)


def test_deadline_ends_a_silent_call(server: ModelServer) -> None:
    server.on(ANY, silent(30))
    ask_until = 0.5
    began = time.monotonic()
    with pytest.raises(ModelError, match="time was over"):
        ask(client(server), seconds=ask_until)
    assert time.monotonic() - began < ask_until + 0.5


def test_silence_is_a_time_out_and_tried_again(server: ModelServer) -> None:
    server.on(ANY, silent(30), silent(30, "It is"), text("Late, but here."))
    assert ask(client(server, silence_s=0.3)).text == "Late, but here."


def test_cancel_ends_a_pause(server: ModelServer) -> None:
    server.on(ANY, status(429, retry_after=20))
    cancelled = threading.Event()
    timer = threading.Timer(0.3, cancelled.set)
    timer.start()
    began = time.monotonic()
    with pytest.raises(Cancelled):
        ask(client(server), seconds=60, cancelled=cancelled)
    assert time.monotonic() - began < 1.5


def test_an_answer_is_not_held_up_by_a_connection_that_stays_open(server: ModelServer) -> None:
    def linger(listener: socket.socket) -> None:
        connection, _ = listener.accept()
        with connection:
            connection.recv(65536)
            connection.sendall(
                b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n"
                b'data: {"choices":[{"delta":{"content":"Hi"},"finish_reason":"stop"}]}\n\n'
                b"data: [DONE]\n\n"
            )
            connection.recv(1)  # until the client leaves

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=linger, args=(listener,))
        thread.start()
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/v1"
        began = time.monotonic()
        assert ask(client(server, base_url=url)).text == "Hi"
        assert time.monotonic() - began < 5
        thread.join(5)
        assert not thread.is_alive()


def test_import_is_light() -> None:
    code = "import sys, pibot.agent.model, pibot.agent.loop; print(*sys.modules)"
    names = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True,
        env={"PYTHONPATH": ":".join(sys.path)},
    ).stdout.split()  # fmt: skip
    heavy = {"openai", "pydantic", "httpx", "httpx2", "asyncio", "rich", "concurrent.futures"}
    assert not heavy & set(names)


def until(condition: Callable[[], bool], seconds: float = 5.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "the condition did not come true"
        time.sleep(0.01)
