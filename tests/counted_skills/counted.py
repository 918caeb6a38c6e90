"""Skills that count their executions: each call appends a line to $COUNTED, whatever dies later.

A line is: task and step, process id, the monotonic clock, which all processes of a machine share.
"""

from __future__ import annotations

import os
import time

from pibot.skills import Context, SkillError, skill


def _count(ctx: Context) -> None:
    line = f"{ctx.key} {os.getpid()} {time.monotonic():.3f}\n".encode("ascii")
    file = os.open(os.environ["COUNTED"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(file, line)
    finally:
        os.close(file)


@skill(timeout_s=60)
def work(ctx: Context, seconds: float = 0.0, size: int = 0, filling: str = "") -> str:
    """Work for some seconds, and return so many characters."""
    _count(ctx)
    ctx.cancelled.wait(seconds)
    if ctx.cancelled.is_set():
        raise SkillError("interrupted")
    return "x" * size or "done"


@skill(timeout_s=60, repeatable=False)
def work_once(ctx: Context, seconds: float = 0.0) -> str:
    """Work for some seconds on what must not be done twice at once."""
    return work(ctx, seconds)


@skill(timeout_s=60)
def work_badly(ctx: Context) -> str:
    """Work, and fail."""
    _count(ctx)
    raise SkillError("it does not work")
