"""Text that came from models, tools and the web, made safe to store, to show and to send on."""

from __future__ import annotations

import json
import re
from typing import Any, Mapping

_TERMINAL = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)|[@-Z\\-_])")
# Control characters but tab and newline, marks that reorder what is shown, what has no width (but
# for the two that scripts and emoji join with), tags; and halves of characters.
_CONTROL = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u00ad\u061c\u180e\u200b\u200e\u200f\u2028-\u202e"
    "\u2060-\u206f\ufeff\U000e0000-\U000e007f]"
)
_HALVES = re.compile(r"[\ud800-\udfff]")


def clean(text: str) -> str:
    """`text` without terminal sequences and control characters; lines end in a newline only."""
    text = _TERMINAL.sub("", text).replace("\r\n", "\n").replace("\r", "\n")
    return _HALVES.sub("?", _CONTROL.sub("", text))


def clean_json(value: Any) -> Any:
    """A JSON value in which every text is clean."""
    if isinstance(value, str):
        return clean(value)
    if isinstance(value, list):
        return [clean_json(item) for item in value]
    if isinstance(value, dict):
        return {clean(key): clean_json(item) for key, item in value.items()}
    return value


def visible(text: str) -> str:
    """`text` in which every character shows: the others (controls, marks, odd spaces) as escapes.

    Of JSON it is JSON still, so that a person sees what a call would really get.
    """
    return "".join(one if one.isprintable() else _escaped(one) for one in text)


def _escaped(character: str) -> str:
    return json.dumps(character)[1:-1]


def short(text: str, chars: int = 200) -> str:
    """`text` on one line and not longer than `chars`, for progress and errors."""
    line = clean(" ".join(text.split()))
    return line if len(line) <= chars else line[: chars - 1] + "…"


def cut(text: str, chars: int, rest: str = "") -> str:
    """Head and tail of a long text, with a note between them that says what is missing.

    `rest` goes into the note and says where the whole text is.
    """
    if len(text) <= chars:
        return text
    tail = max(1, chars // 4)
    missing = len(text) - chars
    note = f"\n[… cut here: {missing} of {len(text)} characters are missing{rest} …]\n"
    return text[: chars - tail] + note + text[-tail:]


def readable(data: Mapping[str, Any]) -> str:
    """A mapping as lines of "key: value"."""

    def shown(value: Any) -> str:
        return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)

    return "\n".join(f"{key}: {shown(value)}" for key, value in data.items())
