"""A master that fetches files from a worker, in virtual time and memory."""

from __future__ import annotations

import base64
import hashlib
import random
from dataclasses import replace
from typing import Any, Callable, Collection, Dict, List, Optional, Tuple

from pibot import messages as msg
from pibot.errors import StoreError
from pibot.fleet import events as ev
from pibot.fleet.board import Board
from pibot.fleet.fetching import Fetching
from pibot.fleet.records import Goal, Task, changed

SLICE = msg.FILE_SLICE_BYTES
DONE = {"success": True, "data": {}, "output": "done"}


class MemoryShelf:
    """The master's disk, in memory; `full` is when nothing more fits."""

    def __init__(self) -> None:
        self.whole: Dict[Tuple[str, str], bytes] = {}
        self.parts: Dict[Tuple[str, str], bytearray] = {}
        self.open: Dict[str, str] = {}
        self.full = False
        self.appended = 0

    def prepare(self, task: str, wanted: Dict[str, int]) -> None:
        if self.full:
            raise StoreError("the master has no room for it on its disk")

    def has(self, task: str, sha256: str) -> bool:
        return (task, sha256) in self.whole

    def begin(self, task: str, sha256: str, size: int) -> int:
        self.open[task] = sha256
        return len(self.parts.setdefault((task, sha256), bytearray()))

    def append(self, task: str, data: bytes) -> None:
        if self.full:
            raise StoreError("the master cannot keep it: no space left on device")
        self.parts[task, self.open[task]] += data
        self.appended += len(data)

    def finish(self, task: str) -> bool:
        sha256 = self.open[task]
        data = bytes(self.parts.pop((task, sha256)))
        if hashlib.sha256(data).hexdigest() != sha256:
            self.parts[task, sha256] = bytearray()
            return False
        self.whole[task, sha256] = data
        return True

    def leave(self, task: str) -> None:
        self.open.pop(task, None)

    def clear(self, task: str, keep: Collection[str]) -> None:
        for files in (self.whole, self.parts):
            for key in [k for k in files if k[0] == task and k[1] not in keep]:
                del files[key]  # type: ignore[attr-defined]


class World:
    """A master's fetching and a worker with files, in virtual time."""

    def __init__(self, seed: int = 0) -> None:
        self.now, self.random = 10.0, random.Random(seed)
        self.board, self.shelf = Board(), MemoryShelf()
        self.files: Dict[str, bytes] = {}
        self.taken: List[msg.Result] = []
        self.moves = 0
        self.asked: List[msg.Fetch] = []
        self.restart()

    def restart(self) -> None:
        """The master begins anew: the board and the disk are what it has."""
        self.fetching = Fetching(self.board, self.shelf, self.random.random)

    def task(self, name: str = "g1-1", **fields: Any) -> Task:
        self.board.apply(Goal(name.partition("-")[0], state="running"))
        held = {"state": "running", "attempt": 1, "assignee": "w1"}
        task = Task(name, name.partition("-")[0], **{**held, **fields})
        self.board.apply(task)
        return task

    def result(self, task: str = "g1-1", att: int = 1, **fields: Any) -> msg.Result:
        named = [
            {"path": p, "size": len(d), "sha256": hashlib.sha256(d).hexdigest()}
            for p, d in self.files.items()
        ]
        whole: Dict[str, Any] = {"state": "succeeded", "result": DONE, "artifacts": named}
        return msg.Result(task, att, **{**whole, **fields})

    def end(self, result: Optional[msg.Result] = None, worker: str = "w1") -> None:
        self.fetching.ended(ev.AttemptEnded(worker, result or self.result()), self.now)
        self.look()

    def look(self) -> List[msg.Fetch]:
        """Take what the master has decided; what the scheduler takes ends its task."""
        for event in self.fetching.take_events():
            if isinstance(event, ev.FilesMove):
                self.moves += 1
                continue
            assert isinstance(event, ev.AttemptEnded)
            self.taken.append(event.result)
            task = self.board.tasks.get(event.result.task)
            if task is not None:
                self.board.apply(changed(task, state="succeeded"))
        sends = self.fetching.take_sends()
        asked = [s.message for s in sends if isinstance(s.message, msg.Fetch)]
        self.asked += asked
        return asked

    def tick(self, seconds: float) -> List[msg.Fetch]:
        self.now += seconds
        self.fetching.tick(self.now)
        return self.look()

    def answer(self, fetch: msg.Fetch, **changes: Any) -> msg.Slice:
        data = self.files[fetch.path]
        piece = base64.b64encode(data[fetch.offset : fetch.offset + SLICE]).decode()
        found = msg.Slice(fetch.task, fetch.path, fetch.offset, len(data), piece)
        return replace(found, **changes)

    def give(self, part: msg.Slice, worker: str = "w1") -> List[msg.Fetch]:
        self.fetching.came(worker, part, self.now)
        return self.look()

    def serve(self, asked: List[msg.Fetch], until: Callable[[], bool] = lambda: False) -> None:
        """A perfect network: every fetch is answered at once, in order."""
        queue = list(asked)
        while queue and not until():
            queue += self.give(self.answer(queue.pop(0)))

    def kept(self, path: str, task: str = "g1-1") -> bytes:
        sha256 = hashlib.sha256(self.files[path]).hexdigest()
        return self.shelf.whole[task, sha256]


def errors(result: msg.Result) -> List[Optional[str]]:
    return [file["error"] for file in result.artifacts]
