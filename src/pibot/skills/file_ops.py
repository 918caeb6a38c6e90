"""Files of the task's workspace: list, read, write, search, move, delete; all within bounds."""

from __future__ import annotations

import os
import stat
from fnmatch import fnmatchcase
from typing import Annotated, List, Tuple

from pibot.files import write_all
from pibot.skills import Context, Output, SkillError, skill
from pibot.skills._steps import enter, entries_of, open_in
from pibot.skills._workspace import (
    check_room,
    explained,
    is_directory,
    open_directory,
    open_file,
    open_parent,
)

READ_MAX_BYTES = 1 << 20
WRITE_MAX_BYTES = 16 << 20
_CHARACTER_BYTES = 4  # of the longest character: less could never be read on
_ENTRIES = 500
_SEARCHED_FILES = 5000
_SEARCHED_BYTES = 1 << 20  # of each file
_HITS = 200
_LINE_CHARS = 200
_DEPTH = 100


@skill(
    phrases=[
        "list [all] [the] files [in {path}]",
        "列出[所有]文件",
        "[所有]文件列表",
    ],
)
def list_files(
    ctx: Context, path: Annotated[str, "a directory inside the workspace"] = "."
) -> Output:
    """List a directory of the task's workspace, with sizes. Directories end in /."""
    with explained(path), open_directory(ctx, path) as fd:
        entries = sorted(entries_of(fd))
    shown = [
        {"name": _name(name), "type": kind, "size_bytes": size}
        for name, kind, size in entries[:_ENTRIES]
    ]
    lines = [_entry_line(name, kind, size) for name, kind, size in entries[:_ENTRIES]]
    if len(entries) > _ENTRIES:
        lines.append(f"[cut: {len(entries) - _ENTRIES} more; list a directory below, or search]")
    data = {"path": path, "entries": shown, "total": len(entries)}
    return Output(data, "\n".join(lines) or f"{path} is empty")


@skill(phrases=["read [the] file {path}", "(读取|读|打开|查看)文件{path}"])
def read_file(
    ctx: Context,
    path: Annotated[str, "a file inside the workspace"],
    max_bytes: Annotated[int, "how much to read at most"] = 65536,
    offset: Annotated[int, "the byte to start at"] = 0,
) -> Output:
    """Read a text file of the task's workspace. A note says when there is more, and where."""
    if max_bytes < 1 or offset < 0:
        raise SkillError("max_bytes must be at least 1, and offset must not be negative")
    with explained(path), open_file(ctx, path, os.O_RDONLY) as fd:
        size = os.fstat(fd).st_size
        raw = os.pread(fd, max(_CHARACTER_BYTES, min(max_bytes, READ_MAX_BYTES)), offset)
    text, used = _text(raw, path, size)
    end = offset + used
    data = {"text": text, "size_bytes": size}
    if end >= size:
        return Output(data, text)
    note = f"\n[cut: bytes {offset} to {end} of {size}; go on with offset={end}]"
    return Output({**data, "next_offset": end}, text + note)


@skill(parallel=False)
def write_file(
    ctx: Context,
    path: Annotated[str, "a file inside the workspace; directories on the way are made"],
    content: Annotated[str, "the whole text of the file"],
) -> Output:
    """Write a text file in the task's workspace. What was in it before is replaced."""
    return _write(ctx, path, content, 0)


@skill(parallel=False)
def append_file(
    ctx: Context,
    path: Annotated[str, "a file inside the workspace; made when it is not there"],
    content: Annotated[str, "the text to add at the end"],
) -> Output:
    """Add text at the end of a file in the task's workspace."""
    return _write(ctx, path, content, os.O_APPEND)


@skill(
    timeout_s=60,
    phrases=["(search|find) [the] files [for] {pattern}", "(搜索|查找)文件{pattern}"],
)
def search_files(
    ctx: Context,
    pattern: Annotated[str, "a name such as *.txt, or words that a file's text contains"],
    path: Annotated[str, "the directory to begin in"] = ".",
) -> Output:
    """Find files of the task's workspace by name and by the text in them, below a directory."""
    if not pattern.strip():
        raise SkillError("pattern is empty; give a name such as *.txt or words to look for")
    search = _Search(ctx, pattern)
    with explained(path), open_directory(ctx, path) as fd:
        search.walk(fd, "" if path in (".", "") else path.rstrip("/") + "/", 0)
    return search.output()


@skill(parallel=False, phrases=["move [the] file {source:path} to {target:path}"])
def move_file(
    ctx: Context,
    source: Annotated[str, "what to move or rename"],
    target: Annotated[str, "its new path, or a directory to put it in"],
) -> Output:
    """Move or rename a file or directory inside the task's workspace; replaces nothing."""
    with explained(source), open_parent(ctx, source) as (source_fd, source_name):
        os.stat(source_name, dir_fd=source_fd, follow_symlinks=False)
        if is_directory(ctx, target):
            target = f"{target.rstrip('/') or '.'}/{source_name}"
        if not is_directory(ctx, os.path.dirname(target.rstrip("/"))):  # directories are made
            check_room(ctx, target, 1)
        with explained(target), open_parent(ctx, target, make=True) as (target_fd, target_name):
            if target_name in os.listdir(target_fd):
                raise SkillError(f"{target}: is there already; delete it first or choose a name")
            os.rename(source_name, target_name, src_dir_fd=source_fd, dst_dir_fd=target_fd)
    return Output({"source": source, "target": target}, f"moved {source} to {target}")


@skill(parallel=False, phrases=["delete [the] file {path}", "删除文件{path}"])
def delete_file(
    ctx: Context, path: Annotated[str, "a file or an empty directory inside the workspace"]
) -> Output:
    """Delete a file or an empty directory of the task's workspace."""
    with explained(path), open_parent(ctx, path) as (fd, name):
        mode = os.stat(name, dir_fd=fd, follow_symlinks=False).st_mode
        if stat.S_ISDIR(mode):
            os.rmdir(name, dir_fd=fd)
        else:
            os.unlink(name, dir_fd=fd)  # a link or a FIFO goes too, not what is behind it
    return Output({"path": path}, f"deleted {path}")


def _write(ctx: Context, path: str, content: str, append: int) -> Output:
    raw = content.encode()
    if len(raw) > WRITE_MAX_BYTES:
        raise SkillError(
            f"{path}: {len(raw)} bytes are more than a call may write ({WRITE_MAX_BYTES}); "
            "append it in parts"
        )
    check_room(ctx, path, len(raw) - (0 if append else _replaced_bytes(ctx, path)))
    with explained(path), open_file(ctx, path, os.O_WRONLY | os.O_CREAT | append) as fd:
        if not append:  # only now: it is known to be an ordinary file
            os.ftruncate(fd, 0)
        write_all(fd, raw)
        size = os.fstat(fd).st_size
    done = "appended" if append else "wrote"
    data = {"path": path, "written_bytes": len(raw), "size_bytes": size}
    return Output(data, f"{done} {len(raw)} bytes to {path}")


def _replaced_bytes(ctx: Context, path: str) -> int:
    """What a file that is written anew takes on the disk now."""
    try:
        with open_file(ctx, path, os.O_RDONLY) as fd:
            status = os.fstat(fd)
    except OSError:
        return 0
    return min(status.st_size, status.st_blocks * 512)


def _text(raw: bytes, path: str, size: int) -> Tuple[str, int]:
    """The text of some bytes, and how many of them make whole characters."""
    if b"\0" not in raw:
        try:
            return raw.decode(), len(raw)
        except UnicodeDecodeError as error:
            is_cut_character = error.start >= len(raw) - 3 and error.start > 0
            if is_cut_character and error.reason == "unexpected end of data":
                return raw[: error.start].decode(), error.start
    raise SkillError(
        f"{path}: is not UTF-8 text ({size} bytes of binary data); it cannot be read as text",
        {"size_bytes": size},
    )


def _entry_line(name: str, kind: str, size: int) -> str:
    shown = _shown(name)
    if kind == "directory":
        return f"{shown}/"
    return f"{shown}  {size} bytes" if kind == "file" else f"{shown}  ({kind})"


def _name(name: str) -> str:
    """A name as JSON takes it: bytes that are no characters are written as \\xNN."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def _shown(name: str) -> str:
    """A name in one line: what cannot be shown is written as in a program's text."""
    return "".join(
        c if c.isprintable() else c.encode("unicode_escape").decode() for c in _name(name)
    )


class _Search:
    """One walk through a tree, with bounds on everything."""

    def __init__(self, ctx: Context, pattern: str) -> None:
        self._ctx = ctx
        self._words = pattern.lower()
        self._glob = self._words if set("*?[") & set(pattern) else f"*{self._words}*"
        self._names: List[str] = []
        self._lines: List[Tuple[str, int, str]] = []
        self._files = 0
        self._cut = ""

    def walk(self, fd: int, prefix: str, depth: int) -> None:
        for name, kind, _ in sorted(entries_of(fd)):
            if self._is_over():
                return
            if fnmatchcase(name.lower(), self._glob):
                self._names.append(_name(prefix + name) + ("/" if kind == "directory" else ""))
            try:
                if kind == "directory":
                    self._below(fd, name, prefix, depth)
                elif kind == "file":
                    self._look_into(fd, name, prefix)
            except OSError:
                continue  # gone or swapped for something else meanwhile, or not ours to read

    def output(self) -> Output:
        self._is_over()  # the last file may have been too much
        names = [_shown(name) for name in self._names]
        lines = [f"{_shown(path)}:{number}: {text}" for path, number, text in self._lines]
        data = {
            "names": self._names,
            "lines": [{"path": p, "line": n, "text": t} for p, n, t in self._lines],
            "files_searched": self._files,
        }
        note = [f"[cut: {self._cut}]"] if self._cut else []
        return Output(data, "\n".join([*names, *lines, *note]) or "nothing was found")

    def _is_over(self) -> bool:
        if self._ctx.cancelled.is_set():
            raise SkillError("the search was stopped")
        if len(self._names) + len(self._lines) >= _HITS:
            self._cut = f"only the first {_HITS} hits; look for something narrower"
        elif self._files >= _SEARCHED_FILES:
            self._cut = f"only the first {_SEARCHED_FILES} files; begin in a directory below"
        return bool(self._cut)

    def _below(self, fd: int, name: str, prefix: str, depth: int) -> None:
        if depth >= _DEPTH:
            self._cut = f"only {_DEPTH} directories deep; begin in a directory below"
            return
        below = enter(fd, name)
        try:
            self.walk(below, f"{prefix}{name}/", depth + 1)
        finally:
            os.close(below)

    def _look_into(self, fd: int, name: str, prefix: str) -> None:
        self._files += 1
        opened = open_in(fd, name, os.O_RDONLY)
        try:
            raw = os.pread(opened, _SEARCHED_BYTES, 0)
        finally:
            os.close(opened)
        text = raw.decode("utf-8", "replace")
        if b"\0" in raw or self._words not in text.lower():
            return
        room = _HITS - len(self._names) - len(self._lines)
        for number, line in enumerate(text.splitlines(), 1):
            if room > 0 and self._words in line.lower():
                self._lines.append((_name(prefix + name), number, line.strip()[:_LINE_CHARS]))
                room -= 1
