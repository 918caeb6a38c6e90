"""Questions to SQLite databases: of the workspace, and below the paths that the owner lets read."""

from __future__ import annotations

import os
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Dict, Iterator, List, Optional, Union

from pibot.errors import BadMessage
from pibot.permits import Permits
from pibot.skills import Context, Output, SkillError, skill
from pibot.skills._steps import look_in
from pibot.skills._workspace import Place, explained, open_parent
from pibot.strictjson import parse

if TYPE_CHECKING:
    from subprocess import Popen

MAX_ROWS = 5_000
TIME_S = 20.0
_SQL_CHARS = 20_000
_PARAMS_CHARS = 100_000
_MAX_BYTES = 1 << 20  # of the rows
_ANSWER_BYTES = 4 << 20  # with all around them
_CELL_CHARS = 100
_LOOK_S = 0.05
_READ_BYTES = 1 << 16
_TABLES = "SELECT name, type, sql FROM sqlite_master ORDER BY name"


@dataclass(frozen=True)
class _Below:
    """A directory that the owner of the machine lets skills read."""

    workspace: Path


def _note(permits: Permits) -> str:
    places = ", ".join(str(path) for path in permits.read_paths)
    return f"It also reads databases below {places}." if places else ""


@skill(
    timeout_s=TIME_S + 10,
    phrases=[
        f'(list|show) [the] tables (of|in) [the] [database] {{path}} => {{"sql": "{_TABLES}"}}',
        f'(列出|查看)[数据库]{{path}}[的](表|数据表) => {{"sql": "{_TABLES}"}}',
    ],
    taints=lambda permits: bool(permits.read_paths),
    note=_note,
)
def sqlite_query(
    ctx: Context,
    path: Annotated[str, "the database file"],
    sql: Annotated[str, "one SELECT (or WITH, VALUES, EXPLAIN, PRAGMA table_info(…))"],
    params: Annotated[
        Optional[List[Union[str, int, float, bool]]], "values for each ? in it"
    ] = None,
    max_rows: Annotated[int, f"1 to {MAX_ROWS}"] = 200,
) -> Output:
    """Ask an SQLite database of the task's workspace. It is only read, never changed."""
    if not sql.strip() or len(sql) > _SQL_CHARS:
        raise SkillError(f"sql must be one statement of 1 to {_SQL_CHARS:,} characters")
    if not 1 <= max_rows <= MAX_ROWS:
        raise SkillError(f"max_rows must be 1 to {MAX_ROWS:,}")
    request = {"sql": sql, "params": params or [], "max_rows": max_rows}
    with explained(path), _seen(ctx, path) as fd:
        found = _answered(
            ctx, path, {**request, "fd": fd, "max_bytes": _MAX_BYTES, "time_s": TIME_S}
        )
    if "error" in found:
        raise SkillError(f"{path}: {found['error']}")
    data = {**found, "row_count": len(found["rows"])}
    return Output(data, _table(found["columns"], found["rows"], found["truncated"]))


@contextmanager
def _seen(ctx: Context, path: str) -> Iterator[int]:
    """The database, not opened: to close it again would take the locks of this process from it."""
    with open_parent(_place(ctx, path), path) as (folder, name):
        fd = look_in(folder, name)
    try:
        yield fd
    finally:
        os.close(fd)


def _place(ctx: Context, path: str) -> Place:
    """The directory that a path is walked from."""
    normal = Path(os.path.normpath(path))
    for root in ctx.permits.read_paths:
        if root in (normal, *normal.parents):
            why = ctx.permits.hidden(root)
            if why:
                raise SkillError(f"{root} cannot be read: it {why}")
            return _Below(root.parent if normal == root else root)
    return ctx


# --- the reader ------------------------------------------------------------------------------


def _answered(ctx: Context, path: str, request: Dict[str, Any]) -> Dict[str, Any]:
    """What the reader says to a request; it does not outlive this call."""
    import json

    asked = json.dumps(request).encode()
    if len(asked) > _PARAMS_CHARS:
        raise SkillError(f"params are too long; sql and params have {_PARAMS_CHARS:,} characters")
    began = time.monotonic()
    process = _started(request["fd"])
    try:
        raw = _exchange(ctx, process, asked)
    finally:
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe:
                pipe.close()
    try:
        return parse(raw)
    except BadMessage:
        late = time.monotonic() - began >= TIME_S
        why = (
            f"took more than {TIME_S:g} s" if late else "gave no answer, mostly for want of memory"
        )
        raise SkillError(f"{path}: the query {why}; ask for less") from None


def _started(fd: int) -> Popen[bytes]:
    import subprocess
    import sys

    from pibot.skills import _sqlite_reader

    try:
        return subprocess.Popen(
            [sys.executable, "-I", "-S", _sqlite_reader.__file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            cwd="/",
            env={"LANG": "C.UTF-8"},
            pass_fds=(fd,),
            start_new_session=True,
        )
    except OSError as error:
        raise SkillError(f"the database reader could not be started: {error}") from error


def _exchange(ctx: Context, process: Popen[bytes], asked: bytes) -> bytes:
    import select

    assert process.stdin and process.stdout
    try:
        process.stdin.write(asked)
        process.stdin.close()
    except BrokenPipeError:  # it has ended already
        return b""
    raw = b""
    while len(raw) <= _ANSWER_BYTES:
        if ctx.cancelled.is_set():
            raise SkillError("the query was stopped")
        if select.select([process.stdout], [], [], _LOOK_S)[0]:
            data = os.read(process.stdout.fileno(), _READ_BYTES)
            if not data:
                break
            raw += data
    return raw


# --- for people ------------------------------------------------------------------------------


def _table(columns: List[str], rows: List[List[Any]], truncated: bool) -> str:
    """The rows as a table of Markdown."""
    lines = [_line(columns), _line(["---"] * len(columns)), *map(_line, rows)]
    if truncated:
        lines.append(f"[cut: only the first {len(rows)} rows; add LIMIT and OFFSET, or ask closer]")
    return "\n".join(lines) if rows or truncated else "no rows"


def _line(cells: List[Any]) -> str:
    return "| " + " | ".join(map(_cell, cells)) + " |"


def _cell(value: Any) -> str:
    if value is None:
        return "NULL"
    if isinstance(value, dict):
        text = str(value["base64"])
        return f"({len(text) * 3 // 4 - text.count('=')} bytes)"
    text = " ".join(str(value).split()).replace("|", "\\|")
    return text if len(text) <= _CELL_CHARS else text[:_CELL_CHARS] + "…"
