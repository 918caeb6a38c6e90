"""Words on a real text console, whose memory shows what stands on the screen."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pibot.agent.tools import Toolbox
from pibot.skills import Context, display

pytestmark = pytest.mark.skipif(
    "EMULATED" not in os.environ, reason="it would write on this machine's screen"
)
SCREEN = Path("/dev/vcs1")


def shown() -> str:
    return " ".join(SCREEN.read_bytes().decode("latin-1").split())


def test_the_words_stand_alone_on_the_screen(ctx: Context) -> None:
    box = Toolbox([display.display_text.__skill__])  # type: ignore[attr-defined]
    assert box.call("display_text", {"text": "Lunch is\nready"}, ctx).success
    assert shown() == "Lunch is ready"
    hostile = "\x1b[31mred\x1b]0;title\x07 \x9b2Jand \x07plain"
    assert box.call("display_text", {"text": hostile}, ctx).success
    assert shown() == "red 2Jand plain"
    assert box.call("display_text", {"text": "for a moment", "seconds": 0.1}, ctx).success
    assert shown() == ""
