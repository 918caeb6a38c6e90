"""Files that tasks shared: fetched from their workers before the results are recorded. Pure.

    a result of the current attempt names files  →  it is held back; `fetch` asks for slices
    the slice that comes next in the file        →  to the shelf, and the window moves on
    no slice for a while                         →  asked again, with growing pauses
    a new session of the worker                  →  asked again at once
    all there, or known never to come            →  the result goes to the scheduler, with its files
    the attempt is not the current one any more  →  forgotten

The shelf is the master's disk (artifacts.py). What lies there says where to go on, so that a
restart of either side loses a window at most. A result that is held back is not acknowledged: its
worker keeps it, and the files with it.
"""

from __future__ import annotations

import base64
from dataclasses import dataclass, field, replace
from typing import Callable, Collection, Dict, List, Optional, Protocol

from pibot.errors import StoreError
from pibot.fleet import events as ev
from pibot.fleet.board import Board
from pibot.fleet.records import HELD, Task
from pibot.fleet.shared import File, files_of
from pibot.messages import FILE_SLICE_BYTES, Fetch, Slice

WINDOW = 16  # slices of one task that are asked for at once
ACTIVE = 8  # tasks whose files come at once, one of each worker; the others wait for their turn
RESULTS_BYTES = 64 * 1024 * 1024  # of the results that are held back, roughly
RESEND_S = 1.0
RESEND_MAX_S = 8.0
TRIES = 9  # without a slice, in about a minute: it never comes
NEWS_S = 1.0
ERROR_CHARS = 300


class Shelf(Protocol):
    """Where the files are put. Raises StoreError, in words, when the disk does not take them."""

    def prepare(self, task: str, wanted: Dict[str, int]) -> None:
        """Make room for files (SHA-256: size); forget what else there is of the task."""

    def has(self, task: str, sha256: str) -> bool:
        """Whether the whole file is there."""

    def begin(self, task: str, sha256: str, size: int) -> int:
        """Go on with a file; return how many bytes of it are there."""

    def append(self, task: str, data: bytes) -> None:
        """Add to the file that was begun last."""

    def finish(self, task: str) -> bool:
        """Keep the file that was begun last if it is what it should be; else nothing of it."""

    def leave(self, task: str) -> None:
        """Nothing more comes now."""

    def clear(self, task: str, keep: Collection[str]) -> None:
        """Nothing more comes; remove all but these of the task's files (SHA-256)."""


@dataclass
class Waiting:
    """A result that is held back, and its files, which come one after the other."""

    ended: ev.AttemptEnded
    files: List[File]
    weight: int
    todo: List[File] = field(default_factory=list)
    active: bool = False
    have: int = 0  # bytes of the first file of `todo` that are on the shelf
    asked: int = 0  # everything before has been asked for
    early: Dict[int, bytes] = field(default_factory=dict)  # slices that overtook others
    resend_at: float = 0.0
    pause_s: float = RESEND_S
    tries: int = 0  # to get something since something came

    def missing(self) -> List[int]:
        """The offsets that were asked for and have not come."""
        return [o for o in range(self.have, self.asked, FILE_SLICE_BYTES) if o not in self.early]


class Fetching:
    def __init__(self, board: Board, shelf: Shelf, jitter: Callable[[], float]) -> None:
        """`jitter` returns numbers in [0, 1)."""
        self._board, self._shelf, self._jitter = board, shelf, jitter
        self._waiting: Dict[str, Waiting] = {}
        self._news_at = 0.0
        self._sends: List[ev.Send] = []
        self._events: List[ev.FleetEvent] = []

    def take_sends(self) -> List[ev.Send]:
        sends, self._sends = self._sends, []
        return sends

    def take_events(self) -> List[ev.FleetEvent]:
        """What the scheduler is to be told: that files come, and results that may be recorded."""
        events, self._events = self._events, []
        return events

    def wake_at(self) -> float:
        """When `tick` is next needed, if nothing else happens."""
        times = [w.resend_at for w in self._waiting.values() if w.active]
        return min([self._news_at, *times]) if self._waiting else float("inf")

    # --- what happens ---------------------------------------------------------------------------

    def ended(self, ended: ev.AttemptEnded, now: float) -> None:
        """A result came: hold it back if its files are wanted, else pass it on as it is."""
        result = ended.result
        if not result.artifacts:
            self._events.append(ended)
        elif not self._is_wanted(ended):
            self._events.append(_with(ended, []))
        elif not self._is_held(ended):
            self._forget(result.task)
            weight = len(str(result.result)) + len(str(result.trace))
            if weight + sum(w.weight for w in self._waiting.values()) <= RESULTS_BYTES:
                files = files_of(result.artifacts)
                self._waiting[result.task] = Waiting(ended, files, weight)
                self._news_at = now
                self.tick(now)
            else:  # its worker says it again; until then its time does not matter either
                self._events.append(_moving(ended))

    def came(self, worker: str, part: Slice, now: float) -> None:
        """A slice came, perhaps twice, late, or of something that nobody wants."""
        waiting = self._waiting.get(part.task)
        if waiting is None or not waiting.active or waiting.ended.worker != worker:
            return
        file = waiting.todo[0]
        if part.path != file.path:
            return
        if part.error is not None:
            self._failed(waiting, part.error, now)
        elif part.size != file.size:
            self._failed(waiting, "it has changed since its task ended", now)
        else:
            self._add(waiting, file, part, now)

    def joined(self, worker: str, now: float) -> None:
        """A new session: what was asked in the old one may be lost."""
        for waiting in self._waiting.values():
            if waiting.ended.worker == worker:
                waiting.resend_at, waiting.pause_s = now, RESEND_S

    def tick(self, now: float) -> None:
        """Forget what is stale, begin what waits, ask again; say that files are coming."""
        for task_id, waiting in list(self._waiting.items()):
            task = self._current(waiting.ended)
            if task is None:
                self._forget(task_id)
            elif task.cancel:
                self._give_up(waiting, "the task was cancelled before it had come")
        self._go_on(now)
        if now >= self._news_at:
            self._news_at = now + NEWS_S
            self._events += [_moving(w.ended) for w in self._waiting.values()]

    def _go_on(self, now: float) -> None:
        """Ask again, and begin what waits: of one result of a worker at a time."""
        busy = {w.ended.worker for w in self._waiting.values() if w.active}
        for task_id, waiting in list(self._waiting.items()):
            worker = waiting.ended.worker
            if waiting.active and now >= waiting.resend_at:
                self._again(waiting, now)
            elif not waiting.active and len(busy) < ACTIVE and worker not in busy:
                self._begin(waiting, now)
            else:
                continue
            (busy.add if task_id in self._waiting else busy.discard)(worker)

    # --- results --------------------------------------------------------------------------------

    def _current(self, ended: ev.AttemptEnded) -> Optional[Task]:
        """The fence, as the scheduler has it."""
        task = self._board.tasks.get(ended.result.task)
        if task is None or task.state not in HELD:
            return None
        return task if (task.assignee, task.attempt) == (ended.worker, ended.result.att) else None

    def _is_wanted(self, ended: ev.AttemptEnded) -> bool:
        task, result = self._current(ended), ended.result
        succeeded = result.state == "succeeded" and result.result.get("success") is True
        return task is not None and succeeded

    def _is_held(self, ended: ev.AttemptEnded) -> bool:
        waiting = self._waiting.get(ended.result.task)
        return waiting is not None and (waiting.ended.worker, waiting.ended.result.att) == (
            ended.worker,
            ended.result.att,
        )

    def _forget(self, task: str) -> None:
        if self._waiting.pop(task, None) is not None:
            self._shelf.leave(task)

    def _pass_on(self, waiting: Waiting) -> None:
        task = waiting.ended.result.task
        self._forget(task)
        if any(file.error is not None for file in waiting.files):
            self._shelf.clear(task, [f.sha256 for f in waiting.files if f.error is None])
        self._events.append(_with(waiting.ended, waiting.files))

    def _give_up(self, waiting: Waiting, why: str) -> None:
        for file in waiting.files if not waiting.active else waiting.todo:
            file.error = file.error or why
        self._pass_on(waiting)

    # --- files ----------------------------------------------------------------------------------

    def _begin(self, waiting: Waiting, now: float) -> None:
        waiting.active = True
        waiting.todo = [f for f in waiting.files if f.error is None]
        try:
            wanted = {f.sha256: f.size for f in waiting.todo}
            self._shelf.prepare(waiting.ended.result.task, wanted)
        except StoreError as error:
            self._give_up(waiting, _short(str(error)))
        else:
            self._next(waiting, now)

    def _next(self, waiting: Waiting, now: float) -> None:
        """Go on with the first file that is not there; pass the result on after the last."""
        task = waiting.ended.result.task
        while waiting.todo:
            file = waiting.todo[0]
            waiting.early.clear()
            try:
                if self._shelf.has(task, file.sha256) or self._is_whole(waiting, file):
                    del waiting.todo[0]
                    continue
            except StoreError as error:
                file.error = _short(str(error))
            if file.error is not None:
                del waiting.todo[0]
            elif waiting.have < file.size:
                self._moved(waiting, now)
                return
        self._pass_on(waiting)

    def _is_whole(self, waiting: Waiting, file: File) -> bool:
        """Whether what is on the shelf makes the file; what is wrong begins anew, but once."""
        task = waiting.ended.result.task
        waiting.have = waiting.asked = self._shelf.begin(task, file.sha256, file.size)
        if waiting.have < file.size:
            return False
        if self._shelf.finish(task):
            return True
        if file.failed_once:
            file.error = "what came is not what was announced (its SHA-256 differs)"
        file.failed_once = True
        waiting.have = waiting.asked = 0
        return False

    def _add(self, waiting: Waiting, file: File, part: Slice, now: float) -> None:
        """Take a slice; put on the shelf what now follows on what is there."""
        data = _bytes(part, file)
        if data is None or part.offset not in waiting.missing():
            return
        waiting.early[part.offset] = data
        try:
            while waiting.have in waiting.early:
                data = waiting.early.pop(waiting.have)
                self._shelf.append(part.task, data)
                waiting.have += len(data)
        except StoreError as error:
            self._failed(waiting, str(error), now)
            return
        if waiting.have == file.size:
            self._next(waiting, now)
        else:
            self._moved(waiting, now)

    def _failed(self, waiting: Waiting, why: str, now: float) -> None:
        waiting.todo.pop(0).error = _short(why)
        self._next(waiting, now)

    # --- asking ---------------------------------------------------------------------------------

    def _moved(self, waiting: Waiting, now: float) -> None:
        """Something came: the window moves on, and patience begins anew."""
        waiting.tries, waiting.pause_s = 0, RESEND_S
        self._later(waiting, now)
        end = min(waiting.todo[0].size, waiting.have + WINDOW * FILE_SLICE_BYTES)
        while waiting.asked < end:
            self._ask(waiting, waiting.asked)
            waiting.asked = min(waiting.asked + FILE_SLICE_BYTES, waiting.todo[0].size)

    def _again(self, waiting: Waiting, now: float) -> None:
        waiting.tries += 1
        if waiting.tries > TRIES:
            self._give_up(waiting, "its worker did not send it")
            return
        for offset in waiting.missing():
            self._ask(waiting, offset)
        waiting.pause_s = min(2 * waiting.pause_s, RESEND_MAX_S)
        self._later(waiting, now)

    def _later(self, waiting: Waiting, now: float) -> None:
        waiting.resend_at = now + waiting.pause_s * (1 + 0.5 * self._jitter())

    def _ask(self, waiting: Waiting, offset: int) -> None:
        ended = waiting.ended
        fetch = Fetch(ended.result.task, waiting.todo[0].path, offset)
        self._sends.append(ev.Send(ended.worker, fetch))


def _moving(ended: ev.AttemptEnded) -> ev.FilesMove:
    return ev.FilesMove(ended.worker, ended.result.task, ended.result.att)


def _with(ended: ev.AttemptEnded, files: List[File]) -> ev.AttemptEnded:
    entries = [file.entry() for file in files]
    return ev.AttemptEnded(ended.worker, replace(ended.result, artifacts=entries))


def _bytes(part: Slice, file: File) -> Optional[bytes]:
    """The slice's data; None unless it is exactly what was to come."""
    try:
        data = base64.b64decode(part.data, validate=True)
    except ValueError:
        return None
    whole = min(FILE_SLICE_BYTES, file.size - part.offset)
    return data if len(data) == whole else None


def _short(text: str) -> str:
    return text if len(text) <= ERROR_CHARS else text[: ERROR_CHARS - 1] + "…"
