from __future__ import annotations

from pathlib import Path

import pytest

from pibot.agent import souls
from pibot.errors import ConfigError


def test_each_role_has_its_own() -> None:
    master, worker = souls.load("master", None), souls.load("worker", None)
    assert "master" in master
    assert "give_up" in worker
    assert master != worker


def test_a_file_takes_the_place_of_the_default(tmp_path: Path) -> None:
    path = tmp_path / "soul.md"
    path.write_bytes("\ufeff你是管家。\n".encode())
    assert souls.load("worker", path) == "你是管家。"


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (None, "cannot be read"),
        (b"\xff\xfe\x00", "UTF-8"),
        (b" \n", "empty"),
        (b"x" * (souls.MAX_BYTES + 1), "larger than 64 KiB"),
    ],
)
def test_a_bad_file_is_refused(tmp_path: Path, content: bytes, why: str) -> None:
    path = tmp_path / "soul.md"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        souls.load("worker", path)
    assert "PIBOT_SOUL" in str(caught.value)
    assert str(path) in str(caught.value)
    assert why in str(caught.value)
