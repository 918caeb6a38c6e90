"""The soul of a role: the system prompt, ours or the user's own file."""

from __future__ import annotations

import importlib.resources
from pathlib import Path
from typing import Optional

from pibot.errors import ConfigError

MAX_BYTES = 64 * 1024
_FILES = {"master": "soul.md", "worker": "worker_soul.md"}


def load(role: str, path: Optional[Path]) -> str:
    """The soul of `role` ("master" or "worker"); the file at `path` takes the default's place.

    Raises ConfigError when the file cannot be read, is empty, too large or not UTF-8.
    """
    if path is None:
        souls = importlib.resources.files("pibot").joinpath("souls")
        return souls.joinpath(_FILES[role]).read_text("utf-8").strip()
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise ConfigError(
            f"PIBOT_SOUL: {path} cannot be read: {error.strerror}; give the path of a text file."
        ) from None
    if len(raw) > MAX_BYTES:
        raise ConfigError(
            f"PIBOT_SOUL: {path} is larger than {MAX_BYTES // 1024} KiB; shorten it, every model"
            " call carries it."
        )
    return _text(raw, path)


def _text(raw: bytes, path: Path) -> str:
    try:
        text = raw.decode("utf-8-sig").strip()
    except UnicodeDecodeError:
        raise ConfigError(f"PIBOT_SOUL: {path} is not UTF-8 text; save it as UTF-8.") from None
    if not text:
        raise ConfigError(f"PIBOT_SOUL: {path} is empty; write a soul or unset PIBOT_SOUL.")
    return text
