"""Paths of files that tasks share: they go over the wire, and become files elsewhere. Pure."""

from __future__ import annotations

MAX_BYTES = 1_000
MAX_NAME_BYTES = 200
MAX_DEPTH = 20


def problem(path: str) -> str:
    """Why this cannot be the path of a shared file; "" if it can.

    Such a path is relative and normal; each name in it can be shown as it is, on any terminal.
    """
    names = path.split("/")
    if any(name in ("", ".", "..") or name != name.strip() for name in names):
        return "it is not a plain relative path, such as photos/door.jpg"
    if not path.replace("/", "").isprintable():
        return "it has characters that cannot be shown"
    if max(len(name.encode()) for name in names) > MAX_NAME_BYTES:
        return f"a name in it has more than {MAX_NAME_BYTES} bytes"
    if len(names) > MAX_DEPTH or len(path.encode()) > MAX_BYTES:
        return f"it is longer than {MAX_BYTES:,} bytes or {MAX_DEPTH} directories deep"
    return ""
