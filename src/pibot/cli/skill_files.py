"""A skill of one's own on this machine: a template to begin with, and its trial."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Dict, List, Tuple

from pibot.cli.present import line
from pibot.errors import UsageError

_NAME = re.compile(r"[a-z][a-z0-9_]{0,40}")
_TEMPLATE = '''\
"""What this machine can do besides: {name}."""

from __future__ import annotations

from typing import Annotated

from pibot.skills import Output, SkillError, skill


@skill(timeout_s=10, phrases=["{words} {{of}}"])
def {name}(of: Annotated[str, "whose"]) -> Output:
    """Say in one sentence what this skill does: a model decides by it."""
    if not of.strip():
        raise SkillError("of is empty; say whose")
    return Output({{"of": of, "length": len(of)}}, f"{words} of {{of}}: {{len(of)}}")
'''
_TEST = '''\
"""`pibot.pyz skills check {name}.py` runs the functions test_* in here."""

from pibot.skills import SkillError

from {name} import {name}


def test_it_works():
    assert {name}("rose").data == {{"of": "rose", "length": 4}}


def test_what_is_wrong_is_said():
    try:
        {name}(" ")
    except SkillError as error:
        assert "of is empty" in str(error)
    else:
        raise AssertionError("nothing was said")
'''


def new(name: str) -> Tuple[Dict[str, Any], str]:
    """Write NAME.py and test_NAME.py into this directory. Nothing is replaced."""
    if not _NAME.fullmatch(name) or name.startswith("test_"):
        raise UsageError(
            f"{line(name, 60)!r} is no name of a skill: take a-z, 0-9 and _, as in lamp"
        )
    words = name.replace("_", " ")
    texts = {
        Path(f"{name}.py"): _TEMPLATE.format(name=name, words=words),
        Path(f"test_{name}.py"): _TEST.format(name=name),
    }
    there = next((path for path in texts if path.exists()), None)
    if there is not None:
        raise UsageError(f"{there} is there already: choose another name, or go on with that file")
    _check_free(name)
    try:
        for path, text in texts.items():
            with path.open("x", encoding="utf-8") as file:
                file.write(text)
    except OSError as error:
        why = (error.strerror or str(error)).lower()
        raise UsageError(f"{path} cannot be written here: {why}") from None
    told = [
        f"wrote {name}.py and its test test_{name}.py",
        f"try it:      pibot.pyz skills check {name}.py",
        f"give it:     pibot.pyz skills push {name}.py --on WORKER",
        f'then:        pibot.pyz run --skill {name} --args \'{{"of": "rose"}}\'',
    ]
    return {"files": [str(path) for path in texts]}, "\n".join(told)


def _check_free(name: str) -> None:
    """Refuse what could be written, but not be used."""
    import importlib.util
    import keyword

    from pibot.agent import library
    from pibot.agent.tools import Toolbox

    if name in library.reserved(Toolbox([])):
        raise UsageError(f"{name} is a built-in skill: choose another name")
    if keyword.iskeyword(name) or importlib.util.find_spec(name) is not None:
        raise UsageError(f"{name} means something to Python already: choose another name")


def check(what: str) -> Tuple[Dict[str, Any], str]:
    """Load a skill in a process of its own and run its tests."""
    path = Path(what)
    document = tried(path)
    rows = [f"✗ {line(one, 300)}" for one in document["problems"]]
    for tool in document["skills"]:
        rows.append(f"✓ {line(tool['name'], 64)}: {line(tool['description'], 200)}")
        rows += [f"    {row}" for row in _arguments(tool["parameters"])]
    if document["fit"]:
        rows.append(f"{document['tests']} tests passed" if document["tests"] else "no tests")
    return document, "\n".join(rows)


def tried(path: Path) -> Dict[str, Any]:
    """What `check` finds: skills as a model sees them, tests, problems, and whether it is fit."""
    from pibot.agent import library, packing, trial
    from pibot.agent.tools import Toolbox

    packing.pack(path)  # also says what is wrong with its name, its size and its files
    verdict = trial.tried(path, library.reserved(Toolbox([])))
    return {
        "fit": not verdict.problems,
        "skills": [tool["function"] for tool in verdict.tools],
        "tests": verdict.tests,
        "problems": verdict.problems,
    }


def _arguments(parameters: Dict[str, Any]) -> List[str]:
    needed = parameters.get("required", [])
    return [
        line(
            f"{name}: {about.get('type', 'any')}{'' if name in needed else ', may be left out'}", 90
        )
        for name, about in parameters.get("properties", {}).items()
    ]
