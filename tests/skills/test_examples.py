"""Each example of docs/skills.md is run, and brings data that a program can use."""

from __future__ import annotations

import importlib
import json
import re
import shlex
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Dict, List

import pytest

from pibot.agent.library import GROUPS, declared
from pibot.agent.tools import Skill, Toolbox
from pibot.skills import Context
from skills.stage import Prepare, Stage
from test_docs import page, section

SKILLS: Dict[str, Skill] = {
    one.name: one
    for modules in GROUPS.values()
    for module in modules
    for one in declared(importlib.import_module(f"pibot.skills.{module}"))
}
PLAIN_TEXT = {"echo"}  # there is nothing more to say of it


def prepared() -> Dict[str, Prepare]:
    found: Dict[str, Prepare] = {}
    for path in sorted(Path(__file__).parent.glob("examples_*.py")):
        module = importlib.import_module(f"skills.{path.stem}")
        assert not found.keys() & module.PREPARE.keys(), path
        found.update(module.PREPARE)
    return found


PREPARED = prepared()


def example(name: str) -> Dict[str, Any]:
    """The arguments of the first example of a skill."""
    said = section(page("docs/skills.md"), f"`{name}`")
    line = re.search(rf"^pibot\.pyz run --skill {name}\b.*$", said, re.MULTILINE)
    assert line, f"{name} has no example"
    words: List[str] = shlex.split(line[0])
    args: Dict[str, Any] = json.loads(words[words.index("--args") + 1]) if "--args" in words else {}
    return args


def test_every_skill_has_an_example_that_is_run() -> None:
    assert sorted(PREPARED) == sorted(SKILLS)


@pytest.mark.parametrize("name", sorted(SKILLS))
def test_the_example(
    name: str, ctx: Context, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with ExitStack() as closing:
        stage = Stage(ctx, tmp_path, monkeypatch, example(name), closing)
        PREPARED[name](stage)
        one = SKILLS[name].settled(stage.ctx.permits, "")
        result = Toolbox([one]).call(name, stage.args, stage.ctx)
    assert result.success, result.output
    assert result.output
    assert set(result.data) - ({"text"} if name not in PLAIN_TEXT else set())
    json.dumps(result.to_json(), allow_nan=False)
