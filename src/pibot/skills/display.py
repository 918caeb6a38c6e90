"""Words on the screen of a machine that shows its text console."""

from __future__ import annotations

import os
import time
from typing import Annotated, Optional

from pibot.agent.text import clean
from pibot.skills import Context, Output, SkillError, skill
from pibot.skills import _hardware as hardware

CONSOLE = "dev/tty1"
MAX_CHARS = 2000
MAX_SECONDS = 3600.0
_CLEAR = b"\x1b[0m\x1b[2J\x1b[H"  # also takes the cursor to the upper left corner
_FULL_S = 2.0  # a console that takes nothing for so long has been stopped (Ctrl-S)


def _problem() -> Optional[str]:
    connectors = hardware.below(hardware.path("sys/class/drm"), r"card\d+-.+")
    screens = [c for c in connectors if hardware.name(c / "status") == "connected"]
    framebuffers = hardware.below(hardware.path("sys/class/graphics"), r"fb\d+")
    if not (screens or framebuffers and not connectors):
        return "no screen is connected"
    return hardware.closed(hardware.path(CONSOLE), "tty")


@skill(
    timeout_s=MAX_SECONDS + 5,
    phrases=[
        "(show|display) {text} on [the|your] (screen|display)",
        "在(屏幕|显示屏)上显示{text}",
        "屏幕显示{text}",
    ],
    sensitive=True,
    parallel=False,
    available=hardware.off("display_text", _problem),
)
def display_text(
    ctx: Context,
    text: Annotated[str, "at most 2000 characters"],
    seconds: Annotated[Optional[float], "for so long; without it the text stays"] = None,
) -> Output:
    """Show text on the machine's screen, in place of what its text console (tty1) shows."""
    shown = clean(text)
    if not shown.strip() or len(shown) > MAX_CHARS:
        raise SkillError(f"text must have 1 to {MAX_CHARS} characters that can be shown")
    if seconds is not None and not 0 < seconds <= MAX_SECONDS:
        raise SkillError(f"seconds must be more than 0 and at most {MAX_SECONDS:g}")
    stopped = False
    fd = _opened()
    try:
        _write(fd, _CLEAR + shown.replace("\n", "\r\n").encode() + b"\r\n")
        if seconds is not None:
            stopped = ctx.cancelled.wait(seconds)
            _write(fd, _CLEAR)
    finally:
        os.close(fd)
    if stopped:
        raise SkillError("stopped; the screen is cleared")
    how = "" if seconds is None else f" for {seconds:g} s"
    return Output({"text": shown, "seconds": seconds}, f"shown on the screen{how}")


def _opened() -> int:
    """The console, without becoming its process and without waiting for it."""
    try:
        return os.open(
            hardware.path(CONSOLE), os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
        )
    except OSError as error:
        raise SkillError(f"/{CONSOLE} cannot be opened: {error.strerror}") from None


def _write(fd: int, data: bytes) -> None:
    ends = time.monotonic() + _FULL_S
    while data:
        try:
            data = data[os.write(fd, data) :]
        except BlockingIOError:
            if time.monotonic() > ends:
                raise SkillError("the console takes nothing; is it stopped (Ctrl-Q)?") from None
            time.sleep(0.01)
        except OSError as error:
            raise SkillError(f"/{CONSOLE} cannot be written: {error.strerror}") from None
