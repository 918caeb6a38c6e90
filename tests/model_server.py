"""A scripted chat-completions endpoint: real HTTP, strict about every request.

    with serving() as server:
        server.on(is_plan, plan({"route": "plan", "tasks": [...]}))
        server.on("what time", calls(("get_time", {})), text("It is noon."))
        ...  # server.url, server.key and server.model are the settings of a client

A rule's replies are given one after another; the last one stays. The first rule that matches
answers; without a match the default script does. A malformed request gets 400 and is kept in
`server.faults`; `serving` fails when there are any at its end. As a program:

    python tests/model_server.py --port 8123 --script FILE.json

where FILE.json is a list of {"when": TEXT or "plan"|"agent"|"answer"|"any", "replies": [...]},
a reply being {"text": …}, {"calls": [[NAME, ARGS], …]}, {"plan": …}, {"status": 500} or
{"silent": SECONDS}.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import select
import socketserver
import sys
import threading
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, Mapping, Optional, Tuple, Union

import chat_rules

KEY = "sk-test-0123456789abcdef"
MODEL = "test-model"
Request = Mapping[str, Any]


@dataclass(frozen=True)
class Scripted:
    """What to answer. `end`: done, truncated, error (in mid-stream) or silent (in mid-stream)."""

    text: str = ""
    calls: Tuple[Tuple[str, Any], ...] = ()
    finish: str = ""
    usage: Optional[Tuple[int, int]] = (10, 5)
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    message: str = ""
    code: str = ""
    end: str = "done"
    silent_s: float = 0.0
    raw: Optional[bytes] = None


def text(
    words: str, *, finish: str = "stop", usage: Optional[Tuple[int, int]] = (10, 5)
) -> Scripted:
    """A plain answer; `usage` is (input, output) tokens, None: the endpoint does not count."""
    return Scripted(text=words, finish=finish, usage=usage)


def calls(*wanted: Tuple[str, Any], words: str = "") -> Scripted:
    """Tool calls as (name, arguments); arguments that are a text are sent as they are."""
    return Scripted(text=words, calls=tuple(wanted), finish="tool_calls")


def plan(document: Mapping[str, Any]) -> Scripted:
    """A plan, as the JSON text that `response_format` asks for."""
    return text(json.dumps(document, ensure_ascii=False))


def status(
    number: int, message: str = "", *, retry_after: Optional[float] = None, code: str = ""
) -> Scripted:
    """An HTTP error with a body as OpenAI's."""
    headers = {} if retry_after is None else {"Retry-After": f"{retry_after:g}"}
    return Scripted(
        status=number, message=message or f"scripted {number}", headers=headers, code=code
    )


def truncated(partial: str) -> Scripted:
    """The stream ends in the middle, without a reason and without [DONE]."""
    return Scripted(text=partial, end="truncated")


def midstream_error(message: str, code: str = "", partial: str = "Well, ") -> Scripted:
    """An error object inside a stream that began well."""
    return Scripted(text=partial, end="error", message=message, code=code)


def silent(seconds: float, partial: str = "") -> Scripted:
    """Nothing for a while, not even headers; with `partial`, the silence comes after it."""
    return Scripted(text=partial or "late", silent_s=seconds, end="silent" if partial else "done")


def raw(body: bytes, content_type: str = "text/event-stream", number: int = 200) -> Scripted:
    """Exactly these bytes."""
    return Scripted(status=number, headers={"Content-Type": content_type}, raw=body)


Reply = Union[Scripted, Callable[[Request], Scripted]]
When = Union[str, Callable[[Request], bool]]


def last(request: Request, role: str) -> str:
    """The content of the last message of a role, "" when there is none."""
    found = [m["content"] or "" for m in request["messages"] if m["role"] == role]
    return found[-1] if found else ""


def is_plan(request: Request) -> bool:
    """The planner asks."""
    wanted = request.get("response_format") or {}
    return bool(wanted.get("json_schema", {}).get("name") == "plan")


def is_agent(request: Request) -> bool:
    """An agent with tools asks."""
    return bool(request.get("tools"))


def is_answer(request: Request) -> bool:
    """Somebody wants plain words: neither a plan nor an agent's step."""
    return not is_plan(request) and not is_agent(request)


def default_script(request: Request) -> Scripted:
    """Answers at once: a plan of one task, then the last tool output or a short answer."""
    if is_plan(request):
        goal = last(request, "user")[:2000]
        return plan({"route": "plan", "answer": None, "tasks": [{"id": "t1", "goal": goal}]})
    if request["messages"][-1]["role"] == "tool":
        return text(last(request, "tool")[:2000] or "Done.")
    return text("Done.")


@dataclass
class _Rule:
    when: When
    replies: List[Reply]

    def matches(self, request: Request) -> bool:
        if isinstance(self.when, str):
            return self.when.lower() in last(request, "user").lower()
        return self.when(request)

    def next(self) -> Reply:
        return self.replies.pop(0) if len(self.replies) > 1 else self.replies[0]


class ModelServer:
    """The endpoint. `requests` holds every good request, `faults` what was wrong with others,
    `hang_ups` how many clients left before their answer was complete."""

    def __init__(
        self, script: Callable[[Request], Scripted] = default_script, *, port: int = 0,
        key: str = KEY, model: str = MODEL,
    ) -> None:  # fmt: skip
        self.key = key
        self.model = model
        self.requests: List[Dict[str, Any]] = []
        self.headers: List[Dict[str, str]] = []
        self.faults: List[str] = []
        self.hang_ups = 0
        self.closed = threading.Event()
        self._script = script
        self._rules: List[_Rule] = []
        self._lock = threading.Lock()
        self._http = _Http(("127.0.0.1", port), _Handler)
        self._http.owner = self

    @property
    def url(self) -> str:
        """The base URL for a client."""
        return f"http://127.0.0.1:{self._http.server_address[1]}/v1"

    def on(self, when: When, *replies: Reply) -> None:
        """Answer requests for which `when` holds (a text: the last user message contains it)."""
        self._rules.append(_Rule(when, list(replies)))

    def start(self) -> None:
        threading.Thread(
            target=self._http.serve_forever, args=(0.02,), name="model-server", daemon=True
        ).start()

    def close(self) -> None:
        self.closed.set()
        self._http.shutdown()
        self._http.server_close()

    def reply_to(self, request: Dict[str, Any], headers: Dict[str, str]) -> Scripted:
        with self._lock:
            self.requests.append(request)
            self.headers.append(headers)
            rule = next((rule for rule in self._rules if rule.matches(request)), None)
            reply = rule.next() if rule else self._script
        return reply(request) if callable(reply) else reply

    def fault(self, words: str) -> None:
        with self._lock:
            self.faults.append(words)

    def hung_up(self) -> None:
        with self._lock:
            self.hang_ups += 1


@contextlib.contextmanager
def serving(script: Callable[[Request], Scripted] = default_script) -> Iterator[ModelServer]:
    """A running server; fails at the end when a request was malformed."""
    server = ModelServer(script)
    server.start()
    try:
        yield server
    finally:
        server.close()
    assert not server.faults, f"malformed requests: {server.faults}"


class _Http(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 128
    owner: ModelServer

    def server_bind(self) -> None:
        socketserver.TCPServer.server_bind(self)  # HTTPServer's asks the name service

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exc_info()[1], ConnectionError):  # clients may leave
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1
    server: _Http

    def log_message(self, format: str, *args: Any) -> None:
        """Keep tests quiet."""

    def do_GET(self) -> None:
        if self.path == "/v1/models":
            model = {"id": self.server.owner.model, "object": "model"}
            self._json(200, {"object": "list", "data": [model]})
        else:
            self._error(404, f"Unknown path {self.path}")

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        with contextlib.suppress(ConnectionError):
            self._answer(body)

    def _answer(self, body: bytes) -> None:
        server = self.server.owner
        if self.path != "/v1/chat/completions":
            self._malformed(404, f"unknown path {self.path}")
        elif self.headers.get("Authorization") != f"Bearer {server.key}":
            self._error(401, "Incorrect API key provided.", code="invalid_api_key")
        else:
            self._judge(body)

    def _judge(self, body: bytes) -> None:
        server = self.server.owner
        try:
            request = chat_rules.parse(body)
        except ValueError as error:
            self._malformed(400, f"bad JSON: {error}")
            return
        faults = chat_rules.faults(request)
        if faults:
            self._malformed(400, "; ".join(faults))
        elif request["model"] != server.model:
            words = f"The model `{request['model']}` does not exist or you do not have access."
            self._error(404, words, code="model_not_found")
        else:
            self._perform(request, server.reply_to(request, dict(self.headers)))

    def _perform(self, request: Request, reply: Scripted) -> None:
        if reply.silent_s and reply.end != "silent" and not self._wait(reply.silent_s):
            return
        if reply.raw is not None:
            self._send(reply.status, reply.raw, reply.headers)
        elif reply.status != 200:
            self._error(reply.status, reply.message, reply.code, reply.headers)
        elif request.get("stream"):
            self._stream(request, reply)
        else:
            self._whole(reply)

    def _stream(self, request: Request, reply: Scripted) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        counts = (request.get("stream_options") or {}).get("include_usage")
        for chunk in _chunks(replace(reply, usage=reply.usage if counts else None)):
            self._event(json.dumps(chunk, ensure_ascii=False))
        if reply.end == "silent" and not self._wait(reply.silent_s):
            return
        if reply.end == "error":
            self._event(json.dumps({"error": _error_body(500, reply.message, reply.code)}))
        if reply.end == "done":
            self._event("[DONE]")
        self.wfile.write(b"0\r\n\r\n")
        self.wfile.flush()

    def _event(self, data: str) -> None:
        line = f"data: {data}\n\n".encode()
        self.wfile.write(f"{len(line):x}\r\n".encode() + line + b"\r\n")
        self.wfile.flush()

    def _whole(self, reply: Scripted) -> None:
        message: Dict[str, Any] = {"role": "assistant", "content": reply.text or None}
        if reply.calls:
            message["tool_calls"] = [_call(n, c) for n, c in enumerate(reply.calls)]
        choice = {"index": 0, "message": message, "finish_reason": reply.finish or "stop"}
        self._json(200, {"choices": [choice], "usage": _usage(reply.usage)})

    def _wait(self, seconds: float) -> bool:
        """Stay silent; False when the client has left or the server closes."""
        owner = self.server.owner
        for _ in range(int(seconds / 0.02) + 1):
            if owner.closed.is_set():
                return False
            readable, _, _ = select.select([self.connection], [], [], 0.02)
            if readable:
                owner.hung_up()
                self.close_connection = True
                return False
        return True

    def _malformed(self, number: int, words: str) -> None:
        self.server.owner.fault(words)
        self._error(number, words)

    def _error(
        self, number: int, words: str, code: str = "", headers: Optional[Mapping[str, str]] = None
    ) -> None:
        self._json(number, {"error": _error_body(number, words, code)}, headers)

    def _json(
        self, number: int, document: Any, headers: Optional[Mapping[str, str]] = None
    ) -> None:
        body = json.dumps(document, ensure_ascii=False).encode()
        self._send(number, body, {"Content-Type": "application/json", **(headers or {})})

    def _send(self, number: int, body: bytes, headers: Mapping[str, str]) -> None:
        self.send_response(number)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
        self.wfile.flush()


def _error_body(number: int, words: str, code: str) -> Dict[str, Any]:
    kind = "server_error" if number >= 500 else "invalid_request_error"
    return {"message": words, "type": kind, "param": None, "code": code or None}


def _usage(usage: Optional[Tuple[int, int]]) -> Optional[Dict[str, int]]:
    if usage is None:
        return None
    counted, written = usage
    return {
        "prompt_tokens": counted, "completion_tokens": written, "total_tokens": counted + written,
    }  # fmt: skip


def _call(number: int, call: Tuple[str, Any]) -> Dict[str, Any]:
    name, args = call
    arguments = args if isinstance(args, str) else json.dumps(args, ensure_ascii=False)
    return {
        "id": f"call_{number}",
        "type": "function",
        "function": {"name": name, "arguments": arguments},
    }


def _chunks(reply: Scripted) -> Iterator[Dict[str, Any]]:
    """The reply in fragments: text in pieces of seven characters, arguments in pieces of four."""

    def chunk(delta: Dict[str, Any], finish: Optional[str] = None) -> Dict[str, Any]:
        choice = {"index": 0, "delta": delta, "finish_reason": finish}
        return {"object": "chat.completion.chunk", "choices": [choice]}

    yield chunk({"role": "assistant", "content": ""})
    for start in range(0, len(reply.text), 7):
        yield chunk({"content": reply.text[start : start + 7]})
    for number, wanted in enumerate(reply.calls):
        call = _call(number, wanted)
        arguments = call["function"].pop("arguments")
        call["function"]["arguments"] = ""
        yield chunk({"tool_calls": [{"index": number, **call}]})
        for start in range(0, len(arguments), 4):
            piece = {"arguments": arguments[start : start + 4]}
            yield chunk({"tool_calls": [{"index": number, "function": piece}]})
    if reply.end == "done":
        yield chunk({}, reply.finish or "stop")
        if reply.usage is not None:
            yield {"choices": [], "usage": _usage(reply.usage)}


_KINDS: Mapping[str, When] = {
    "plan": is_plan, "agent": is_agent, "answer": is_answer, "any": lambda request: True,
}  # fmt: skip


def _scripted(document: Mapping[str, Any]) -> Scripted:
    if "calls" in document:
        return calls(*((name, args) for name, args in document["calls"]))
    if "plan" in document:
        return plan(document["plan"])
    if "status" in document:
        return status(document["status"], retry_after=document.get("retry_after"))
    if "silent" in document:
        return silent(document["silent"])
    return text(document["text"])


def main() -> None:
    parser = argparse.ArgumentParser(description="A scripted chat-completions endpoint.")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--script", type=Path)
    parser.add_argument("--key", default=KEY)
    parser.add_argument("--model", default=MODEL)
    options = parser.parse_args()
    server = ModelServer(port=options.port, key=options.key, model=options.model)
    for rule in json.loads(options.script.read_text("utf-8")) if options.script else ():
        when = rule["when"]
        server.on(_KINDS.get(when, when), *map(_scripted, rule["replies"]))
    server.start()
    print(server.url, flush=True)
    with contextlib.suppress(KeyboardInterrupt):
        threading.Event().wait()


if __name__ == "__main__":
    main()
