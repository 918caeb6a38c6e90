"""The model client: one chat completion at a time, from any OpenAI-compatible endpoint.

Streaming always, so that the silence of an endpoint and a cancel are noticed at once. Retries
are ours, not the library's: they respect the task's deadline and stop on a cancel. The library
itself is imported when the first call is made.
"""

from __future__ import annotations

import itertools
import json
import queue
import random
import threading
import time
from typing import Any, Callable, Dict, List, Mapping, Optional, Protocol, Sequence

from pibot.agent.failures import EndpointError, stream_error
from pibot.agent.line import Event, Line
from pibot.agent.reply import DONE, Assembler, Reply, ToolCall, Usage
from pibot.config import ModelSettings
from pibot.errors import ModelError, PibotError

__all__ = [
    "Cancelled",
    "EndpointError",
    "Model",
    "ModelSettings",
    "OpenAIModel",
    "Reply",
    "ToolCall",
    "Usage",
]

TRIES = 5
BACKOFF_S = 0.5  # doubles with each try, with jitter
BACKOFF_MAX_S = 8.0
POLL_S = 0.1  # how soon a cancel is noticed
HANG_ON_S = 0.2  # how long the connection may stay open after the answer's end
SILENCE_S = 120.0
# What the reading of JSON that is no chunk of a completion raises.
_NO_CHUNK = (ValueError, TypeError, AttributeError, LookupError, ArithmeticError, RecursionError)


class Cancelled(PibotError):
    """The caller's `cancelled` event was set while a model call was under way."""

    code = "cancelled"


class Model(Protocol):
    """Whatever answers a conversation."""

    def chat(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        tools: Sequence[Mapping[str, Any]] = (),
        response_format: Optional[Mapping[str, Any]] = None,
        deadline: float,
        cancelled: threading.Event,
        on_text: Optional[Callable[[str], None]] = None,
    ) -> Reply:
        """The model's answer to `messages` (roles and fields as in OpenAI's chat completions).

        `deadline` is a `time.monotonic()`. `on_text` gets the text as it comes; after a failed
        try the text starts anew. Raises ModelError (explained), or Cancelled once `cancelled`
        is set.
        """


class OpenAIModel:
    """A model behind an OpenAI-compatible endpoint. May be used from several threads."""

    def __init__(self, settings: ModelSettings, *, silence_s: float = SILENCE_S) -> None:
        self._settings = settings
        self._silence_s = silence_s
        self._idle: List[Line] = []
        self._counts_usage = True

    def chat(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        tools: Sequence[Mapping[str, Any]] = (),
        response_format: Optional[Mapping[str, Any]] = None,
        deadline: float,
        cancelled: threading.Event,
        on_text: Optional[Callable[[str], None]] = None,
    ) -> Reply:
        """See `Model.chat`."""
        for tries in itertools.count(1):
            body = self._body(messages, tools, response_format)
            try:
                return self._try(body, deadline, cancelled, on_text)
            except EndpointError as error:
                if not self._drops_usage(error, body):
                    _pause(error, tries, deadline, cancelled)
        raise AssertionError("unreachable")

    def close(self) -> None:
        """Close the connections that are kept open between calls."""
        while self._idle:
            self._idle.pop().cut()

    def _body(
        self,
        messages: Sequence[Mapping[str, Any]],
        tools: Sequence[Mapping[str, Any]],
        response_format: Optional[Mapping[str, Any]],
    ) -> Dict[str, Any]:
        body: Dict[str, Any] = {"model": self._settings.model, "messages": list(messages)}
        if tools:
            body["tools"] = list(tools)
        if response_format is not None:
            body["response_format"] = response_format
        body["stream"] = True
        if self._counts_usage:
            body["stream_options"] = {"include_usage": True}
        return body

    def _drops_usage(self, error: EndpointError, body: Mapping[str, Any]) -> bool:
        """An endpoint that does not know `stream_options` is asked again without it."""
        unknown = error.status in (400, 422) and "stream_options" in str(error)
        if unknown:
            self._counts_usage = False
        return unknown and "stream_options" in body

    def _try(
        self,
        body: Mapping[str, Any],
        deadline: float,
        cancelled: threading.Event,
        on_text: Optional[Callable[[str], None]],
    ) -> Reply:
        _check(deadline, cancelled)
        try:
            line = self._idle.pop()
        except IndexError:
            line = Line(self._settings, self._silence_s)
        inbox: queue.SimpleQueue[Event] = queue.SimpleQueue()
        line.start(body, inbox.put)
        try:
            reply = self._collect(inbox, deadline, cancelled, on_text)
            ended = _ended(inbox)
        except BaseException:
            line.cut()
            raise
        if ended:
            self._idle.append(line)
        else:
            line.cut()
        return reply

    def _collect(
        self,
        inbox: queue.SimpleQueue[Event],
        deadline: float,
        cancelled: threading.Event,
        on_text: Optional[Callable[[str], None]],
    ) -> Reply:
        assembler = Assembler()
        while True:
            event = _next(inbox, deadline, cancelled)
            if event == DONE:
                return assembler.reply()
            if event is None or isinstance(event, EndpointError):
                if assembler.finish:  # complete, only the stream's own end is missing
                    inbox.put(event)
                    return assembler.reply()
                raise event or EndpointError(
                    "The model endpoint ended its answer in the middle.", retryable=True
                )
            text = self._feed(assembler, event)
            if text and on_text is not None:
                on_text(text)

    def _feed(self, assembler: Assembler, payload: bytes) -> str:
        try:
            chunk = json.loads(payload)
            if chunk.get("error"):
                raise stream_error(chunk["error"], self._settings)
            return assembler.feed(chunk)
        except _NO_CHUNK:
            raise EndpointError(
                "The model endpoint sent something that is not a chat completion.", retryable=True
            ) from None


def _check(deadline: float, cancelled: threading.Event) -> None:
    if cancelled.is_set():
        raise Cancelled("The model call was cancelled.")
    if time.monotonic() >= deadline:
        raise ModelError("The model did not answer before the task's time was over.")


def _next(inbox: queue.SimpleQueue[Event], deadline: float, cancelled: threading.Event) -> Event:
    while True:
        _check(deadline, cancelled)
        try:
            return inbox.get(timeout=max(0.0, min(POLL_S, deadline - time.monotonic())))
        except queue.Empty:
            continue


def _ended(inbox: queue.SimpleQueue[Event]) -> bool:
    """Whether the connection is free again after an answer; what still comes is dropped."""
    try:
        while True:
            event = inbox.get(timeout=HANG_ON_S)
            if event is None or isinstance(event, EndpointError):
                return event is None
    except queue.Empty:
        return False


def _pause(error: EndpointError, tries: int, deadline: float, cancelled: threading.Event) -> None:
    """Wait before the next try, or raise `error` when there is none."""
    if not error.retryable:
        raise error
    if tries >= TRIES:
        raise _with(error, f"PiBot tried {tries} times.")
    backoff_s = min(BACKOFF_MAX_S, BACKOFF_S * 2 ** (tries - 1)) * random.uniform(0.5, 1.0)
    wait_s = max(backoff_s, error.retry_after_s or 0.0)
    if wait_s >= deadline - time.monotonic():
        raise _with(error, "The task's time is too short for another try.")
    if cancelled.wait(wait_s):
        raise Cancelled("The model call was cancelled.")


def _with(error: EndpointError, addition: str) -> EndpointError:
    return EndpointError(
        f"{error} {addition}",
        status=error.status,
        retryable=True,
        retry_after_s=error.retry_after_s,
    )
