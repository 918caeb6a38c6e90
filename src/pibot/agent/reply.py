"""What a chat completion says, put together from the pieces in which an endpoint streams it.

Pure: bytes and mappings in, a `Reply` out. Endpoints differ in many small ways (no ids, no
indexes, no usage, a whole document where a stream was asked for); all of that ends here.
"""

from __future__ import annotations

import json
import re
import secrets
from dataclasses import asdict, dataclass
from typing import Any, Dict, Iterable, Iterator, List, Mapping, Optional, Tuple

DONE = b"[DONE]"
_THOUGHT = re.compile(r"\A\s*<think>.*?</think>\s*", re.DOTALL)


@dataclass(frozen=True)
class Usage:
    """What the model calls of something cost, in tokens as the endpoint counted them."""

    input_tokens: int = 0
    output_tokens: int = 0
    model_calls: int = 0

    def __add__(self, other: Usage) -> Usage:
        return Usage(
            self.input_tokens + other.input_tokens,
            self.output_tokens + other.output_tokens,
            self.model_calls + other.model_calls,
        )

    def to_json(self) -> Dict[str, int]:
        return asdict(self)


@dataclass(frozen=True)
class ToolCall:
    """A call that the model asks for; `arguments` is the JSON text exactly as it came."""

    id: str
    name: str
    arguments: str


@dataclass(frozen=True)
class Reply:
    """One answer of the model. `finish` is the endpoint's reason: stop, tool_calls, length …"""

    text: str
    calls: Tuple[ToolCall, ...]
    usage: Usage
    finish: str


def events(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """The payloads of a server-sent event stream, one a `data:` line.

    Lines are split on bytes: a text splitter would also split on U+2028, which JSON may hold raw.
    """
    rest = b""
    for piece in pieces:
        *lines, rest = (rest + piece).split(b"\n")
        for line in lines:
            yield from _payload(line)
    yield from _payload(rest)


def _payload(line: bytes) -> Iterator[bytes]:
    field, _, value = line.partition(b":")
    if field == b"data":
        yield value.strip()
    elif field == b"error":  # llama.cpp names the field after the event
        yield b'{"error":' + value.strip() + b"}"


def new_call_id() -> str:
    """An id for a call that came without one."""
    return "call_" + secrets.token_hex(8)


class Assembler:
    """Collects the chunks of one completion."""

    def __init__(self) -> None:
        self.finish = ""
        self._text: List[str] = []
        self._calls: List[_Fragments] = []
        self._usage = Usage(model_calls=1)

    def feed(self, chunk: Mapping[str, Any]) -> str:
        """Take one chunk (or one whole completion) and return the text that it adds.

        Whatever is no chunk raises an exception of Python's own, such as TypeError.
        """
        usage = chunk.get("usage")
        if usage:
            # Some endpoints repeat the running total in every chunk: the last one counts.
            self._usage = Usage(
                int(usage.get("prompt_tokens") or 0), int(usage.get("completion_tokens") or 0), 1
            )
        choices = chunk.get("choices")
        if not choices:
            return ""
        choice = choices[0]
        self.finish = _text(choice.get("finish_reason")) or self.finish
        delta = choice.get("delta") or choice.get("message") or {}
        for call in delta.get("tool_calls") or ():
            self._fragment(call)
        text = _plain(delta.get("content"))
        self._text.append(text)
        return text

    def reply(self) -> Reply:
        text = _THOUGHT.sub("", "".join(self._text))
        calls: List[ToolCall] = []
        for fragments in self._calls:
            known = {call.id for call in calls}
            new = not fragments.id or fragments.id in known
            call_id = new_call_id() if new else fragments.id
            calls.append(ToolCall(call_id, fragments.name, "".join(fragments.arguments)))
        return Reply(text, tuple(calls), self._usage, self.finish or "stop")

    def _fragment(self, call: Mapping[str, Any]) -> None:
        function = call.get("function") or {}
        name = str(function.get("name") or "")
        fragments = self._place(call.get("index"), str(call.get("id") or ""), name)
        fragments.name = fragments.name or name
        arguments = function.get("arguments")
        if isinstance(arguments, (dict, list)):
            arguments = json.dumps(arguments, ensure_ascii=False)
        fragments.arguments.append(_text(arguments))

    def _place(self, index: Optional[int], call_id: str, name: str) -> _Fragments:
        """The call that a fragment belongs to.

        Usually the index says it. Endpoints that send none, or the same one for every call,
        start a new call with a new id, or, without ids, with a name.
        """
        for known in reversed(self._calls):
            other_id = call_id and known.id and call_id != known.id
            other_name = index is None and not call_id and name and known.name
            if known.index == index and not other_id and not other_name:
                return known
        fragments = _Fragments(index, call_id)
        self._calls.append(fragments)
        return fragments


class _Fragments:
    def __init__(self, index: Optional[int], call_id: str) -> None:
        self.index = index
        self.id = call_id
        self.name = ""
        self.arguments: List[str] = []


def _plain(content: Any) -> str:
    """Message content as text: a string, a list of typed parts, or nothing."""
    if isinstance(content, list):
        return "".join(str(part.get("text") or "") for part in content)
    return _text(content)


def _text(value: Any) -> str:
    """A text or nothing; anything else is an answer that nobody can read."""
    if value is None or isinstance(value, str):
        return value or ""
    raise TypeError(f"a text is a {type(value).__name__}")
