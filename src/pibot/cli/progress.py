"""How a goal goes on, shown while one waits: a live picture on a terminal, else plain lines."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Dict, Iterator, List, Mapping, Optional

from pibot import parts
from pibot.cli import present
from pibot.cli.present import line, note
from pibot.errors import StoreError
from pibot.fleet.records import TERMINAL

_CHARS = 200
_SYMBOLS = {"waiting": "?", "succeeded": "✓", "failed": "✗", "timed_out": "✗", "cancelled": "-"}


@dataclass
class Row:
    """A task as the events have it; all text is safe and of one line."""

    task_id: str
    what: str
    state: str = ""
    worker: str = ""
    step: str = ""


class Progress:
    """Takes the events of `Fleet.finish`; shows nothing (with --json, or in tests)."""

    def __init__(self) -> None:
        self.goal_id = ""
        self.state = "submitted"
        self.note = ""
        self.error = ""  # why the goal did not succeed, once that is known
        self.files: List[Dict[str, Any]] = []  # that its tasks shared
        self.tasks: Dict[str, Row] = {}

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *_: object) -> None:
        pass

    @contextmanager
    def paused(self) -> Iterator[None]:
        """While somebody is asked something, nothing else is written."""
        yield

    def on_event(self, kind: str, data: Mapping[str, Any]) -> None:
        if kind == "submitted":
            self.goal_id = str(data["goal_id"])
        elif kind == "goal":
            self.state = line(str(data.get("state")))
        elif kind == "task":
            self._task(data)
            return
        elif kind == "step":
            self._step(data)
            return
        elif kind == "asked":
            return
        elif kind == "done":
            self.error = str(data.get("error") or "")
            self.files = list(data.get("artifacts") or [])
            for task in data["document"]["tasks"]:  # the last events may be late or lost
                self._task(task)
        self.changed(kind, None)

    def changed(self, kind: str, row: Optional[Row]) -> None:
        """Something is new: show it."""

    def _task(self, data: Mapping[str, Any]) -> None:
        key = str(data.get("task_id"))
        row = self.tasks.setdefault(key, Row(key, line(str(data.get("what") or ""), _CHARS)))
        before = (row.state, row.worker)
        row.state = line(str(data.get("state")))
        row.worker = line(str(data.get("worker_id") or ""))
        if row.state in TERMINAL:
            row.step = line(str(data.get("error") or ""), _CHARS)
        if (row.state, row.worker) != before:
            self.changed("task", row)

    def _step(self, data: Mapping[str, Any]) -> None:
        row = self.tasks.get(str(data.get("task_id")))
        if row is None:
            self.note = line(str(data.get("text") or ""), _CHARS)
            self.changed("note", None)
            return
        row.step = step_line(data.get("step"))
        self.changed("step", row)


def step_line(step: Any) -> str:
    """A step of an attempt on one line: what was called, and what came of it."""
    if not isinstance(step, dict):
        return ""
    name, text = str(step.get("name") or ""), str(step.get("text") or "")
    if step.get("kind") == "model":
        name = "model"
    failed = "" if step.get("ok", True) else "failed: "
    return line(f"{name}: {failed}{text}" if name else text, _CHARS)


class Lines(Progress):
    """Plain lines on standard error."""

    def changed(self, kind: str, row: Optional[Row]) -> None:
        if kind == "submitted":
            note(f"{self.goal_id} submitted")
        elif kind == "note":
            note(f"{self.goal_id} {self.note}")
        elif (
            kind == "task"
            and row is not None
            and row.state not in ("blocked", "queued", "assigned")
        ):
            who = f" on {row.worker}" if row.worker else ""
            why = row.step if row.state in TERMINAL and row.step else row.what
            note(f"{row.task_id} {row.state}{who}{why and ': ' + why}")
        elif kind == "step" and row is not None:
            note(f"{row.task_id} {row.worker}: {row.step}")


class Live(Progress):
    """A picture of the tasks that redraws itself, and is gone when the answer is there."""

    def __init__(self) -> None:
        parts.ensure("screen")
        from rich.console import Console
        from rich.live import Live as Picture
        from rich.spinner import Spinner

        super().__init__()
        self._spinner = Spinner("dots")
        self._picture = Picture(
            console=Console(highlight=False, markup=False, emoji=False),
            get_renderable=self._render,
            refresh_per_second=8,
            transient=True,
        )

    def __enter__(self) -> "Live":
        self._picture.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._picture.stop()

    @contextmanager
    def paused(self) -> Iterator[None]:
        self._picture.stop()
        try:
            yield
        finally:
            self._picture.start()

    def _render(self) -> Any:
        from rich.table import Table
        from rich.text import Text

        grid = Table.grid(padding=(0, 1))
        rows = list(self.tasks.values())
        for row in rows:
            symbol: Any = _SYMBOLS.get(row.state)
            if symbol is None:
                symbol = self._spinner if row.state == "running" else "·"
            else:
                symbol = Text(symbol, style=present.style_of(row.state) or "")
            cells = [row.worker or row.state, row.what, row.step]
            grid.add_row(symbol, *(Text(c, no_wrap=True, overflow="ellipsis") for c in cells))
        if not rows or self.state == "planning" or self._is_composing(rows):
            doing = self.note or ("planning" if self.state == "planning" else "working")
            grid.add_row(self._spinner, Text(doing, no_wrap=True, overflow="ellipsis"))
        return grid

    def _is_composing(self, rows: List[Row]) -> bool:
        return all(row.state in TERMINAL for row in rows)


def progress(quiet: bool = False) -> Progress:
    """The way to show progress that fits where standard output goes."""
    if quiet:
        return Progress()
    try:
        return Live() if present.is_terminal() else Lines()
    except StoreError:  # a full disk: the goal matters, not its picture
        return Lines()
