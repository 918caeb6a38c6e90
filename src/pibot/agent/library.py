"""Where a machine's skills come from: the built-in ones, and the files of its owner."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Collection, List, Mapping, Optional, Sequence, Tuple

from pibot.agent.tools import OWN, Skill, Toolbox
from pibot.permits import Permits

# Each group's modules, and the order in which a model sees them.
GROUPS: Mapping[str, Tuple[str, ...]] = {
    "core": ("core",),
    "files": ("file_ops", "share"),
    "shell": ("shell",),
    "web": ("web_fetch",),
}


def load(skills_dir: Optional[Path], permits: Permits) -> Tuple[Toolbox, List[str]]:
    """The skills this machine can offer, and a line for each thing that was left out.

    `skills_dir` holds the user's skills: every *.py in it, except names that begin with "_".
    Nothing in there is fatal, and nothing in there replaces a built-in skill.
    """
    built_in = [
        (one, group)
        for group, names in GROUPS.items()
        for name in names
        for one in declared(importlib.import_module(f"pibot.skills.{name}"))
    ]
    own, notes = _users_skills(skills_dir, [one.name for one, _ in built_in])
    offered, unavailable = _available([*built_in, *((one, OWN) for one in own)], permits)
    return Toolbox(offered), notes + unavailable


def declared(module: ModuleType) -> List[Skill]:
    """The skills that a module itself declares, in the order of its text."""
    found = []
    for value in vars(module).values():
        one = getattr(value, "__skill__", None)
        is_own = getattr(value, "__module__", None) == module.__name__
        if isinstance(one, Skill) and is_own and one not in found:
            found.append(one)
    return found


def _available(
    skills: Sequence[Tuple[Skill, str]], permits: Permits
) -> Tuple[List[Skill], List[str]]:
    offered, notes = [], []
    for one, group in skills:
        try:
            why_not = one.available(permits) if one.available else None
            if why_not is None:
                offered.append(one.settled(permits, group))
        except Exception as error:
            why_not = f"{one.name} is off: its check failed: {_one_line(error)}"
        if why_not is not None:
            notes.append(why_not)
    return offered, notes


def _users_skills(
    skills_dir: Optional[Path], reserved: Collection[str]
) -> Tuple[List[Skill], List[str]]:
    if skills_dir is None:
        return [], []
    if not skills_dir.is_dir():
        return [], [f"no skills were read from {skills_dir}: it is not a directory"]
    skills: List[Skill] = []
    notes: List[str] = []
    taken = dict.fromkeys(reserved, "a built-in skill")
    for path in sorted(skills_dir.glob("*.py")):
        if path.name.startswith("_"):
            continue
        found, problem = _read(path)
        if problem:
            notes.append(f"{path.name} was left out: {problem}")
        for one in found:
            if one.name in taken:
                notes.append(
                    f"{one.name} of {path.name} was left out: {taken[one.name]} has that name; "
                    "rename the function"
                )
                continue
            taken[one.name] = path.name
            skills.append(one)
    return skills, notes


def _read(path: Path) -> Tuple[List[Skill], str]:
    """The skills of one file, or why there are none."""
    name = f"pibot_user_skills_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None or not path.is_file():
        return [], "it is not a Python file"
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses and pickling of its classes look it up there
    try:
        spec.loader.exec_module(module)
        skills = declared(module)
    except (Exception, SystemExit) as error:
        del sys.modules[name]
        return [], _one_line(error)
    return skills, "" if skills else "it declares no skill; put @skill above a function"


def _one_line(error: BaseException) -> str:
    if isinstance(error, SyntaxError):
        return f"{error.msg} (line {error.lineno})"
    return f"{type(error).__name__}: {' '.join(str(error).split())}"
