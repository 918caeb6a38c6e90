"""Photos and sounds: from a program's output into the workspace, and to the person who asked."""

from __future__ import annotations

import os

from pibot.files import write_all
from pibot.skills import Context, SkillError
from pibot.skills._workspace import check_room, explained, open_file, parts_of


def check_name(ctx: Context, path: str, endings: "tuple[str, ...]") -> None:
    """Before the device is used: whether the path leads into the workspace and says what it is."""
    parts_of(ctx, path)
    if not path.lower().endswith(endings):
        raise SkillError(f"{path}: must end in {' or '.join(endings)}")


def keep(ctx: Context, path: str, raw: bytes) -> str:
    """Write it, in place of what was there, and share it; words about how to get it."""
    check_room(ctx, path, len(raw))
    with explained(path), open_file(ctx, path, os.O_WRONLY | os.O_CREAT) as fd:
        os.ftruncate(fd, 0)
        write_all(fd, raw)
    try:
        ctx.share(path)
    except SkillError as error:
        return f"it is in the workspace as {path}; it was not shared: {error}"
    return f"it is in {path}, for the person who asked"
