"""Words on a console: a pseudo-terminal in its place, which is a real terminal device."""

from __future__ import annotations

import os
import pty
import threading
import tty
from pathlib import Path
from typing import Any, Iterator, List, Tuple

import pytest

from pibot.agent.tools import Context, Result, Toolbox
from pibot.skills import Permits, display
from recorded_machine import Machine
from skills.pi_hardware import recorded

SKILL = display.display_text.__skill__  # type: ignore[attr-defined]
CLEAR = b"\x1b[0m\x1b[2J\x1b[H"


@pytest.fixture
def screen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Tuple[Machine, int]]:
    """A Pi with a screen, and the end of its console at which the words come out."""
    machine = recorded("pi5", tmp_path / "pi", monkeypatch)
    ours, theirs = pty.openpty()
    tty.setraw(theirs)
    (machine.root / "dev").mkdir()
    (machine.root / "dev/tty1").symlink_to(os.ttyname(theirs))
    yield machine, ours
    os.close(ours)
    os.close(theirs)


def show(ctx: Context, **args: Any) -> Result:
    return Toolbox([SKILL]).call("display_text", args, ctx)


def test_the_words_are_alone_on_the_screen(ctx: Context, screen: Tuple[Machine, int]) -> None:
    result = show(ctx, text="Lunch is\nready")
    assert result.success, result.output
    assert result.data == {"text": "Lunch is\nready", "seconds": None}
    assert os.read(screen[1], 1000) == CLEAR + b"Lunch is\r\nready\r\n"


def test_they_go_after_a_while(ctx: Context, screen: Tuple[Machine, int]) -> None:
    assert show(ctx, text="hello", seconds=0.1).success
    assert os.read(screen[1], 1000) == CLEAR + b"hello\r\n" + CLEAR


def test_they_go_when_the_call_is_cancelled(ctx: Context, screen: Tuple[Machine, int]) -> None:
    outcome: List[Result] = []
    showing = threading.Thread(target=lambda: outcome.append(show(ctx, text="hello", seconds=20)))
    showing.start()
    assert os.read(screen[1], 1000) == CLEAR + b"hello\r\n"
    ctx.cancelled.set()
    showing.join(5)
    assert not outcome[0].success
    assert outcome[0].output == "stopped; the screen is cleared"
    assert os.read(screen[1], 1000) == CLEAR


def test_what_cannot_be_shown(ctx: Context, screen: Tuple[Machine, int]) -> None:
    for text in ("", " \n", "\x1b[2J", "x" * 2001):
        assert "text must have 1 to 2000 characters" in show(ctx, text=text).output
    for seconds in (0, -1, 1e9):
        assert "seconds must be more than 0" in show(ctx, text="hi", seconds=seconds).output


def test_it_is_off_without_a_screen(screen: Tuple[Machine, int]) -> None:
    machine, _ = screen
    assert SKILL.available(Permits()) is None
    (machine.root / "sys/class/drm/card1-HDMI-A-1/status").write_text("disconnected\n")
    assert SKILL.available(Permits()) == "display_text is off: no screen is connected"
    (machine.root / "sys/class/drm/card1-HDMI-A-1/status").write_text("connected\n")
    (machine.root / "dev/tty1").unlink()
    assert SKILL.available(Permits()).startswith(
        "display_text is off: the worker's unit hides /dev/tty1: give it the drop-in"
    )
