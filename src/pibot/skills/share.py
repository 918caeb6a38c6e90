"""Giving a file to the person who asked."""

from __future__ import annotations

from typing import Annotated

from pibot.skills import Context, Output, skill


@skill(timeout_s=10)
def share_file(ctx: Context, path: Annotated[str, "a file inside the workspace"]) -> Output:
    """Give a file of the workspace to the person who asked; they can download it afterwards.

    It is taken as it is when the task ends. Together at most 100 files and 32 MiB.
    """
    ctx.share(path)
    said = f"{path} is shared: it goes to the person who asked when the task ends"
    return Output({"path": path}, said)
