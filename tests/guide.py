"""Reads a guide as a person does who types what it says.

A guide names the place of each block of commands in a line of its own, such as `**On the
master:**`. After a block of commands may come

- a block `text`: what the commands print, with … for what differs from day to day (a line that is
  nothing but … stands for any lines); where it holds a question, such as `Go on? [y/N] y`, the
  answer is typed;
- a block `ini`: what a person types into the file that the command has opened.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Iterator, List, Optional, Tuple

PLACES = {
    "On your computer": "laptop",
    "On the master": "master",
    "On worker-1": "worker-1",
    "On worker-2": "worker-2",
    "在你的电脑上": "laptop",
    "在主控机上": "master",
    "在 worker-1 上": "worker-1",
    "在 worker-2 上": "worker-2",
}
_PLACE = re.compile(r"^\*\*(.+?)[:：]\*\*$")
_QUESTION = re.compile(r"^(.*\? \[y/N\]) (\w+)$", re.MULTILINE)
_ANYTHING = "…"


@dataclass(frozen=True)
class Block:
    """Commands, where they are typed, and what comes of them."""

    line: int
    place: str
    script: str
    printed: Optional[str] = None
    typed: Optional[str] = None

    @property
    def questions(self) -> List[Tuple[str, str]]:
        """What is asked, and what the person answers."""
        return [(q.strip(), answer) for q, answer in _QUESTION.findall(self.printed or "")]

    def agrees(self, output: str) -> bool:
        """Whether what was printed is what the guide says."""
        return self.printed is None or bool(_pattern(self.printed).fullmatch(_plain(output)))


def read(page: Path) -> List[Block]:
    """The blocks of commands of a page; raise AssertionError for one without a place."""
    return read_text(page.read_text("utf-8"), page.name)


def read_text(text: str, page: str) -> List[Block]:
    """The same of a part of a page, whose lines are then counted from its beginning."""
    found: List[Block] = []
    for line, language, body, said in _fences(text):
        if language == "sh":
            found.append(_block(line, body, said, f"{page}:{line}"))
        elif language in ("text", "ini"):
            assert found, f"{page}:{line}: nothing was typed yet"
            name = {"text": "printed", "ini": "typed"}[language]
            assert getattr(found[-1], name) is None, f"{page}:{line}: a second {name}"
            found[-1] = Block(**{**vars(found[-1]), name: body})
    return found


def _block(line: int, body: str, said: List[str], where: str) -> Block:
    place = _PLACE.match(said[-1]) if said else None
    assert place and place[1] in PLACES, f"{where}: no line says where this is typed"
    return Block(line, PLACES[place[1]], body)


def _fences(text: str) -> Iterator[Tuple[int, str, str, List[str]]]:
    """Line number, language and body of each fenced block, with the prose before it."""
    prose: List[str] = []
    body: Optional[List[str]] = None
    start, language = 0, ""
    for number, line in enumerate(text.splitlines(), 1):
        if body is not None and line == "```":
            yield start, language, "\n".join(body) + "\n", prose
            prose, body = [], None
        elif body is not None:
            body.append(line)
        elif line.startswith("```"):
            start, language, body = number, line[3:], []
        elif line:
            prose.append(line)
    assert body is None, f"the block of line {start} has no end"


def _pattern(printed: str) -> "re.Pattern[str]":
    parts = []
    for line in _plain(printed).splitlines(keepends=True):
        if line.strip() == _ANYTHING:
            parts.append(r"(?:.*\n)*?")
        else:
            parts.append(".*?".join(map(re.escape, line.split(_ANYTHING))))
    return re.compile("".join(parts))


def _plain(text: str) -> str:
    """Without what a reader does not see: how many blanks, and where lines end."""
    lines = [re.sub(r"[ \t]+", " ", line).strip() for line in text.splitlines()]
    return "\n".join(lines).strip("\n") + "\n"
