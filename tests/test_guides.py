"""The guides agree with each other and with the program: places, commands, options.

That what they say also happens is the matter of tests/system/test_deploy.py.
"""

from __future__ import annotations

import importlib
import re
import shlex
from pathlib import Path
from typing import Iterator, List, Tuple

import pytest

import guide
from pibot import rights
from pibot.cli import COMMANDS, service
from pibot.cli.parser import Parser, as_options

ROOT = Path(__file__).resolve().parents[1]
DEPLOY = ROOT / "docs" / "deploy.md"
CHINESE = ROOT / "docs" / "deploy.zh-CN.md"
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
PAGES = [page for page in PAGES if page.name not in ("decisions.md", "from-v3.md")]
# `…` and COMMAND stand for something; a name in capitals is an argument like any other.
_INLINE = re.compile(r"`((?:sudo )?(?:python3 )?(?:\./)?pibot\.pyz [^`…]*)`")
_OPERATORS = {"|", "||", "&", "&&", ";", "<", ">", ">>", "#"}


def test_the_chinese_guide_has_the_same_commands() -> None:
    english, chinese = guide.read(DEPLOY), guide.read(CHINESE)
    for ours, theirs in zip(english, chinese):
        assert _what(theirs) == _what(ours), f"lines {ours.line} and {theirs.line}"
    assert len(chinese) == len(english) > 20


def _what(block: guide.Block) -> Tuple[object, ...]:
    return block.place, block.script, block.printed, block.typed


def test_the_chinese_guide_has_the_same_headings() -> None:
    levels = [re.findall(r"^#+ ", p.read_text("utf-8"), re.MULTILINE) for p in (DEPLOY, CHINESE)]
    assert levels[0] == levels[1]


def test_the_first_steps_of_the_readme_are_those_of_the_guide() -> None:
    """So the system test runs them, too."""
    known = [line.strip() for block in guide.read(DEPLOY) for line in block.script.splitlines()]
    first = [line for b in _first_steps() for line in b.script.splitlines()]
    assert len(first) > 5
    assert [line for line in first if line not in known] == []


def _first_steps() -> List[guide.Block]:
    text = (ROOT / "README.md").read_text("utf-8")
    found = re.search(r"^## Ten minutes .*?(?=^## )", text, re.MULTILINE | re.DOTALL)
    assert found
    return guide.read_text(found[0], "README.md")


# --- every command of every page --------------------------------------------------------------


def commands(text: str) -> Iterator[str]:
    """What follows `pibot.pyz` in blocks for the shell and between backquotes."""
    for block in re.findall(r"^```sh\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
        for line in block.replace("\\\n", " ").splitlines():
            if re.search(r"(^|[ /])pibot\.pyz( |$)", line):
                yield line
    yield from _INLINE.findall(text)


def arguments(line: str) -> List[str]:
    """The arguments of pibot.pyz in a line of shell; [] where it is only a file there."""
    words = list(shlex.shlex(line, posix=True, punctuation_chars=True))
    words = shlex.split(line, comments=True) if not _OPERATORS & set(words) else words
    at = [n for n, word in enumerate(words) if word.split("/")[-1] == "pibot.pyz"][-1]
    before = words[:at]
    if at and before[-1] not in ("sudo", "python3", "do", ";", "&&", "|"):
        return []  # an argument of scp, cp, rm
    rest = words[at + 1 :]
    ends = [n for n, word in enumerate(rest) if word in _OPERATORS]
    return rest[: ends[0]] if ends else rest


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.name))
def test_every_command_is_one(page: Path) -> None:
    for line in commands(page.read_text("utf-8")):
        words = arguments(line)
        if words and words[0] != "COMMAND":
            assert parses(words), line


def parses(words: List[str]) -> bool:
    """Raise UsageError, or end, when the program would not know what is meant."""
    if words[0].startswith("--role"):
        return bool(service._parse(words))
    if words[-1] == "--help":
        words = words[:-1]
    assert words[0] in COMMANDS, words[0]
    module = importlib.import_module(f"pibot.cli.{words[0]}")
    parser = Parser(words[0], "", module.EXAMPLE)
    as_options(parser)
    module.arguments(parser)
    return bool(parser.parse_args(words[1:]))


def test_the_readme_shows_the_rights_that_setup_gives() -> None:
    assert f"```\n{rights.acl_text('home')}```\n" in (ROOT / "README.md").read_text("utf-8")
