"""What models say, what people say, what the web says."""

from __future__ import annotations

import json
from email.message import Message as Headers
from typing import Tuple

from fleet.world import World
from fuzzing.decoder import Decoder, Target, plain, text
from pibot.agent import answers, calls, folders, library, schema, schemacalls, textcalls
from pibot.agent.failures import EndpointError
from pibot.agent.model import OpenAIModel
from pibot.agent.reply import DONE, Assembler, Reply, ToolCall, Usage, events
from pibot.config import ModelSettings
from pibot.errors import PibotError, UsageError
from pibot.fleet import phrases, planner
from pibot.permits import Permits
from pibot.secrets import Redactor
from pibot.skills import _body, _readable, _robots, _urls

TOOLBOX = library.load(None, Permits(shell=True))[0]


# --- what a model says ----------------------------------------------------------------------------

_FLEET = {
    "skills": [{"name": "echo", "description": "says it back"}, {"name": "shell"}],
    "workers": [{"worker_id": "worker-1", "state": "idle", "tags": ["camera"]}],
}
PLANS = [
    json.dumps(document).encode()
    for document in (
        {"route": "answer", "answer": "It is noon.", "tasks": []},
        {"route": "plan", "answer": None, "tasks": [{"id": "t1", "goal": "look"}]},
        {
            "route": "plan", "answer": None, "tasks": [
                {"id": "a", "goal": "one", "needs": [], "skills": ["echo"], "worker": "worker-1",
                 "tags": [], "all": False, "acceptance": "", "timeout_s": 60, "on_lost": "rerun"},
                {"id": "b", "goal": "two", "needs": ["a"], "skills": [], "worker": None,
                 "tags": ["camera"], "all": True, "acceptance": "x", "timeout_s": 5,
                 "on_lost": "wait"},
                {"id": "c", "goal": "three", "needs": ["a", "b"], "timeout_s": 1},
            ],
        },
    )
]  # fmt: skip


def _plan(payload: bytes) -> bool:
    """A plan that is taken must be one that the scheduler can carry out."""
    plan, errors = planner.read_plan(text(payload), _FLEET, ["t0"])
    if plan is None or errors:
        return False
    if plan["route"] == "plan":
        world = World()
        world.join("worker-1", tags=["camera"])
        world.submit(text="do it")
        world.plan("g1", *plan["tasks"])
        world.tick(1.0)
    return True


STREAMS = [
    (
        b'data: {"choices":[{"index":0,"delta":{"role":"assistant","content":"Hel"}}]}\n\n'
        b'data: {"choices":[{"index":0,"delta":{"content":"lo"},"finish_reason":"stop"}]}\n\n'
        b'data: {"choices":[],"usage":{"prompt_tokens":3,"completion_tokens":2}}\n\n'
        b"data: [DONE]\n\n"
    ),
    (
        b'data: {"choices":[{"delta":{"tool_calls":[{"index":0,"id":"c1","function":{"name":"echo",'
        b'"arguments":""}}]}}]}\n\ndata: {"choices":[{"delta":{"tool_calls":[{"index":0,"function":'
        b'{"arguments":"{\\"text\\":1}"}}]}}]}\n\ndata: [DONE]\n\n'
    ),
    b'{"choices":[{"message":{"content":[{"type":"text","text":"whole"}]}}],"usage":null}',
    b'data: {"error":{"message":"overloaded","type":"server_error","code":503}}\n\n',
    b'error: {"message":"context","code":400}\n\n',
]
CHUNKS = [payload for stream in STREAMS for payload in events([stream]) if payload != DONE]
_MODEL = OpenAIModel(ModelSettings("sk-0123456789", "http://127.0.0.1:1/v1", "m"))


def _stream(payload: bytes) -> None:
    """A whole answer as an endpoint streams it, in two pieces, and what the loop makes of it."""
    assembler, middle = Assembler(), len(payload) // 2
    for event in events([payload[:middle], payload[middle:]]):
        if event == DONE:
            break
        _MODEL._feed(assembler, event)
    _reply(assembler.reply())


def _chunk(payload: bytes) -> None:
    assembler = Assembler()
    _MODEL._feed(assembler, payload)
    _MODEL._feed(assembler, payload)
    _reply(assembler.reply())


def _reply(reply: Reply) -> None:
    """What the agent loop does first with any reply."""
    assert isinstance(reply.text, str) and all(isinstance(c.arguments, str) for c in reply.calls)
    assert all(isinstance(c.id, str) and isinstance(c.name, str) for c in reply.calls)
    for call in reply.calls:
        _call_read(call)
    _words(reply.text)
    schemacalls.read(reply)


def _call_read(call: ToolCall) -> None:
    calls.given_up(call)
    json.loads(calls.sendable(call).arguments)
    calls.sendable(call).name.encode("ascii")


STEPS = [
    b'{"step":{"name":"echo","arguments":{"text":"hi"}}}',
    b'{"step":{"name":"final","arguments":{"answer":"It is done."}}}',
]
PRINTED = [
    b'<tool_call>\n{"name": "echo", "arguments": {"text": "hi"}}\n</tool_call>',
    b"<function=echo>\n<parameter=text>\nhi\n</parameter>\n</function>",
    b'```json\n{"name": "echo", "arguments": {"text": "hi"}}\n```',
    b'<|FunctionCallBegin|>[{"name":"echo","parameters":{"text":"1"}}]<|FunctionCallEnd|>',
    b'I will now look at the file. {"name": "read_file", "arguments": "{}"}',
    "好的，我先看一下。".encode(),
    b'{"text": "an answer as JSON", "list": [1, 2, {"a": null}]}',
]
_NAMES = frozenset(tool["function"]["name"] for tool in TOOLBOX.tools(None))


def _step(payload: bytes) -> bool:
    reply = Reply(text(payload), (), Usage(), "stop")
    read = schemacalls.read(reply)
    for call in read.calls:
        _call_read(call)
    return read is not reply


def _words(said: str) -> bool:
    answers.complaint(said, "stop", _NAMES)
    data, _ = answers.parsed(said)
    json.dumps(data, allow_nan=False)
    watch = textcalls.Watch(_NAMES)
    try:
        watch(said[: len(said) // 2])
        watch(said[len(said) // 2 :])
    except textcalls.RunsOn:
        pass
    found = textcalls.find(said, _NAMES)
    for call in found:
        assert call.name in _NAMES
        _call_read(call)
    return bool(found) or not textcalls.is_printed(said, _NAMES)


ARGUMENTS = [
    b'{"text": "hi"}',
    b'{"path": "a/b.txt", "content": "x", "max_bytes": 10}',
    b'{"command": ["ls", "-l"], "timeout_s": "10"}',
    b'{"part": "disk"}',
    b'{"url": "http://example.com/", "max_chars": 5, "pattern": "a.*b", "old": null}',
]
_SCHEMAS = [tool["function"]["parameters"] for tool in TOOLBOX.tools(None)]


def _arguments(payload: bytes) -> bool:
    args = calls.arguments(ToolCall("c1", "x", text(payload)))
    if args is None:
        return False
    taken = 0
    for parameters in _SCHEMAS:
        try:
            schema.check(parameters, args)
            taken += 1
        except UsageError as error:
            str(error).encode("utf-8", "replace")
    return taken > 0


# --- sentences, templates, the web ----------------------------------------------------------------

SENTENCES = [s.encode() for s in (
    "please show me the disk usage on all workers", "worker-2 的磁盘空间", "echo hello, world",
    "fetch http://example.com/a?b=c on worker-1", "temperature everywhere", "shell uname -a",
)]  # fmt: skip
TEMPLATES = [phrase.encode() for skill in TOOLBOX.announce() for phrase in skill["phrases"]]


def _sentence(payload: bytes) -> bool:
    return phrases.match(text(payload)[:2000], TOOLBOX.announce(), ["worker-1"]) is not None


class _Templates(Target):
    """A template comes from a worker: it is taken or passed over."""

    def take(self, payload: bytes) -> bool:
        skills = [{"name": "x", "phrases": [text(payload)]}]
        return phrases.match("disk usage of worker-1", skills, ["worker-1"]) is not None

    def rest(self) -> None:
        phrases._template.cache_clear()


HTML = [
    (
        b"<!doctype html><html><head><title>T</title></head><body><h1>A</h1><p>b<br>c</p><ul><li>d"
        b"</ul><table><tr><td>1<td>2</table><script>x()</script><pre>a\n b</pre></body></html>"
    ),
    b'<p a="<">&amp;&#x41;&#99999999;<![CDATA[x]]><!-- c --><svg/><nav><main>t</main>',
]
ROBOTS = [
    b"\xef\xbb\xbfUser-agent: *\nDisallow: /a*b$\nAllow: /\nCrawl-delay: 3\n\nUser-agent: pibot\n"
]
FRONT = [
    b"---\nname: a-b\ndescription: >\n  What it does,\n  and when.\nmetadata:\n  x: y\n---\n# B\n"
]
SECRET = "hush-hush-5f2d91c07ab3"
REDACTOR = Redactor([SECRET])
HIDDEN = [
    f"key={SECRET} sk-{'a' * 40} aHVzaC1odXNoLTVmMmQ5MWMwN2FiMw== {SECRET.encode().hex()}".encode()
]
URLS = [b"http://example.com/a?b#c", b"https://[2001:db8::1]:8443/x", b"http://127.1/",
        "http://例え.jp/ü".encode(), b"http://user:pw@host/"]  # fmt: skip


def _page(payload: bytes) -> None:
    headers = Headers()
    headers["Content-Type"] = "text/html; charset=" + payload[:12].decode("latin-1")
    charset = headers.get_content_charset() or ""
    page = _readable.read(_body.decoded(payload, charset, True, False), lambda: None)
    (page.title + page.text).encode("utf-8", "replace")


def _url(payload: bytes) -> None:
    target = _urls.parse(text(payload))
    str(target).encode("utf-8", "replace")


def _hidden(payload: bytes) -> None:
    said = REDACTOR.text(text(payload))
    assert SECRET not in said


DECODERS: Tuple[Decoder, ...] = (
    plain("plan", PLANS, _plan),
    plain("model stream", STREAMS, _stream, EndpointError),
    plain("model chunk", CHUNKS, _chunk, EndpointError),
    plain("schema step", STEPS, _step),
    plain("printed calls", PRINTED, lambda p: _words(text(p))),
    plain("skill arguments", ARGUMENTS, _arguments),
    plain("sentence", SENTENCES, _sentence),
    Decoder("template", TEMPLATES, lambda _: _Templates()),
    plain("web page", HTML, _page),
    plain("web address", URLS, _url, PibotError),
    plain("robots.txt", ROBOTS, _robots.read),
    plain("front matter", FRONT, lambda p: folders.front_matter(text(p)), folders.BadFolder),
    plain("secrets", HIDDEN, _hidden),
)  # fmt: skip
