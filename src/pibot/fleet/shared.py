"""The files that a task's result names, as they may be believed. Pure.

A worker can be wrong, old or hostile: what it names is checked before anything is asked for.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Dict, List, Optional, Set

from pibot import paths
from pibot.messages import SHARED_BYTES, SHARED_FILES


@dataclass
class File:
    """A file that a result names."""

    path: str
    size: int
    sha256: str
    error: Optional[str] = None
    failed_once: bool = False  # what came was not what was announced

    def entry(self) -> Dict[str, Any]:
        """The file as the task's record has it."""
        return {"path": self.path, "size": self.size, "sha256": self.sha256, "error": self.error}


def files_of(entries: List[Any]) -> List[File]:
    """What a result names, each path once; what cannot be taken has its error already."""
    found: List[File] = []
    seen: Set[str] = set()
    room = SHARED_BYTES
    for entry in entries[:SHARED_FILES]:
        path, size, sha256 = _read(entry)
        if path in seen:
            continue
        seen.add(path)
        wrong = paths.problem(path)
        if wrong or not _is_sha256(sha256) or size < 0:
            found.append(File(_shown(path), 0, "", f"it cannot be taken: {wrong or 'no SHA-256'}"))
        elif size > room:
            found.append(File(path, size, sha256, f"a task may share {SHARED_BYTES:,} bytes"))
        else:
            room -= size
            found.append(File(path, size, sha256))
    return found


def _read(entry: Any) -> "tuple[str, int, str]":
    if not isinstance(entry, dict):
        return "", -1, ""
    path, size, sha256 = entry.get("path"), entry.get("size"), entry.get("sha256")
    is_size = isinstance(size, int) and not isinstance(size, bool) and size < 2**53
    return (
        path if isinstance(path, str) else "",
        int(size or 0) if is_size else -1,
        sha256 if isinstance(sha256, str) else "",
    )


def _is_sha256(text: str) -> bool:
    return len(text) == 64 and set(text) <= set("0123456789abcdef")


def _shown(path: str) -> str:
    """A path that is no path, as it may be shown and stored."""
    return "".join(c if c.isprintable() else "?" for c in path[:100]) or "?"
