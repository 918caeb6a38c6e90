"""The program of the processes of hands.py: it does what it is told, as whoever it was started.

It reads a request a line and answers in lines, both JSON. It needs pibot alone, so that it can be
copied to where everybody may read it.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import sys
import threading
import time
from pathlib import Path
from typing import Any, Dict, Iterator, List, Mapping

_PATHS = ("read_paths", "write_paths")


class _Program:
    """Reads requests until its standard input ends; each call has a thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._cancelled: Dict[int, threading.Event] = {}
        self._out = os.fdopen(os.dup(1), "w", encoding="utf-8")
        os.dup2(2, 1)  # what a skill prints is no answer

    def run(self) -> None:
        for line in sys.stdin:
            request = json.loads(line)
            number = request["number"]
            if request["do"] == "cancel":
                self._cancelled[number].set()
                continue
            self._cancelled[number] = threading.Event()
            threading.Thread(target=self._answer, args=(number, request), daemon=True).start()

    def _answer(self, number: int, request: Mapping[str, Any]) -> None:
        try:
            do = {"call": self._call, "attempt": self._attempt}[request["do"]]
            answer = do(number, request)
        except BaseException as error:  # anything here is a fault of the frame
            answer = {"broken": f"{type(error).__name__}: {error}"}
        self._say(number, answer)

    def _call(self, number: int, request: Mapping[str, Any]) -> Dict[str, Any]:
        from pibot.agent import library

        permits = _permits(request["permits"])
        folder = Path(request["skills_dir"]) if request["skills_dir"] else None
        shared: List[str] = []
        with _patched(request["patch"]):
            toolbox, notes = library.load(folder, permits)
            began = time.monotonic()
            ctx = self._context(number, request, permits, shared.append)
            done = toolbox.call(request["skill"], request["args"], ctx).to_json()
        took_s = time.monotonic() - began
        return {**done, "shared": shared, "took_s": took_s, "notes": notes}

    def _attempt(self, number: int, request: Mapping[str, Any]) -> Dict[str, Any]:
        from pibot.agent import attempt, library
        from pibot.agent.model import OpenAIModel
        from pibot.config import ModelSettings
        from pibot.messages import Assign
        from pibot.secrets import Redactor

        permits, workspace = _permits(request["permits"]), Path(request["workspace"])
        folder = Path(request["skills_dir"]) if request["skills_dir"] else None
        asks: List[Any] = []

        def answered(ask: Any) -> None:
            asks.append(vars(ask))
            if request["allow"] is None:
                running.interrupt()
            else:
                running.gate.decide(ask.step, request["allow"], "a person")

        with _patched(request["patch"]):
            tools = attempt.Tools(
                toolbox=library.load(folder, permits)[0],
                model=lambda: OpenAIModel(ModelSettings(**request["model"])),
                soul="You do what you are told.",
                permits=permits,
                workspaces=workspace.parent,
                approval=request["approval"],
                redactor=Redactor(request["secrets"]),
            )
            assign = Assign(workspace.name, 1, int(request["time_s"] * 1000), request["spec"])
            running = attempt.Attempt(
                assign, tools, lambda step: None, answered, self._cancelled[number]
            )
            done = running.run()
        return {**vars(done), "asks": asks}

    def _context(self, number: int, request: Mapping[str, Any], permits: Any, share: Any) -> Any:
        from pibot.agent.sharing import Shared
        from pibot.agent.tools import Context
        from pibot.secrets import Redactor

        redactor = Redactor(request["secrets"])
        files = Shared(Path(request["workspace"]), redactor)

        def checked(path: str) -> None:
            files.add(path)
            share(path)

        return Context(
            workspace=Path(request["workspace"]),
            cancelled=self._cancelled[number],
            deadline=time.monotonic() + request["time_s"],
            key=request["key"],
            permits=permits,
            on_output=lambda line: self._say(number, {"line": line}),
            share=checked,
            redactor=redactor,
        )

    def _say(self, number: int, message: Mapping[str, Any]) -> None:
        with self._lock:
            self._out.write(json.dumps({"number": number, **message}) + "\n")
            self._out.flush()


def _permits(fields: Mapping[str, Any]) -> Any:
    from pibot.permits import Permits

    given: Dict[str, Any] = {}
    for name, value in fields.items():
        if name in _PATHS:
            value = [Path(one) for one in value]
        given[name] = tuple(value) if isinstance(value, list) else value
    return Permits(**given)


@contextlib.contextmanager
def _patched(changes: Mapping[str, Any]) -> Iterator[None]:
    before = []
    for dotted, value in changes.items():
        name, attribute = dotted.rsplit(".", 1)
        module = importlib.import_module(name)
        old = getattr(module, attribute)
        before.append((module, attribute, old))
        setattr(module, attribute, Path(value) if isinstance(old, Path) else value)
    try:
        yield
    finally:
        for module, attribute, old in reversed(before):
            setattr(module, attribute, old)


if __name__ == "__main__":
    from pibot import memory

    memory.close()  # as the services do
    _Program().run()
