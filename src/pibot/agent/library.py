"""Where a machine's skills come from: the built-in ones, and the files of its owner."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Callable, Dict, List, Mapping, Optional, Sequence, Tuple

from pibot.agent import folders
from pibot.agent.tools import OWN, Skill, Toolbox
from pibot.permits import Permits

Read = Callable[[Path], Tuple[List[Skill], str]]

# Each group's modules, and the order in which a model sees them.
GROUPS: Mapping[str, Tuple[str, ...]] = {
    "core": ("core",),
    "files": ("file_ops", "share"),
    "shell": ("shell",),
    "web": ("web_fetch", "web_download"),
    "hardware": ("gpio", "sensors", "i2c", "camera", "audio", "display", "devices", "pi"),
    "system": (
        *("services", "journal", "timers", "processes", "packages", "disks", "network"),
        "sqlite_query",
    ),
    "home": ("http_request", "notify", "mqtt"),
}


def load(skills_dir: Optional[Path], permits: Permits) -> Tuple[Toolbox, List[str]]:
    """The skills this machine can offer, and a line for each thing that was left out.

    `skills_dir` holds the user's skills: every *.py in it, except names that begin with "_" or
    "test_", and every folder with a SKILL.md. Nothing in there is fatal, and nothing in there
    replaces a built-in skill.
    """
    built_in = _built_in()
    paths: List[Path] = []
    wrong: List[str] = []
    if skills_dir is not None and not skills_dir.is_dir():
        wrong = [f"no skills were read from {skills_dir}: it is not a directory"]
    elif skills_dir is not None:
        paths = sources(skills_dir)
    taken = dict.fromkeys((one.name for one, _ in built_in), "a built-in skill")
    own, notes = _users_skills(paths, taken, read)
    offered, unavailable = _available([*built_in, *((one, OWN) for one in own)], permits)
    return Toolbox(offered), wrong + notes + unavailable


def extended(
    toolbox: Toolbox, paths: Sequence[Path], permits: Permits, reading: Read
) -> Tuple[Toolbox, List[str]]:
    """What `load` found, and the skills of more files and folders; those of before count first."""
    taken = dict.fromkeys(reserved(toolbox), "another skill here")
    own, notes = _users_skills(paths, taken, reading)
    offered, unavailable = _available([(one, OWN) for one in own], permits)
    return Toolbox([*toolbox.skills, *offered]), notes + unavailable


def reserved(toolbox: Toolbox) -> List[str]:
    """The names that no further skill can take: those of built-in ones that are off, too."""
    return [*toolbox.names, *(one.name for one, _ in _built_in())]


def _built_in() -> List[Tuple[Skill, str]]:
    return [
        (one, group)
        for group, names in GROUPS.items()
        for name in names
        for one in declared(importlib.import_module(f"pibot.skills.{name}"))
    ]


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
    paths: Sequence[Path], taken: Dict[str, str], reading: Read
) -> Tuple[List[Skill], List[str]]:
    """The skills of files and folders; `taken` says whose a name is already."""
    skills: List[Skill] = []
    notes: List[str] = []
    for path in paths:
        found, problem = reading(path)
        if problem:
            notes.append(f"{path.name} was left out: {problem}")
        for one in found:
            if one.name in taken:
                notes.append(
                    f"{one.name} of {path.name} was left out: {taken[one.name]} has that name; "
                    f"rename the {'folder' if path.is_dir() else 'function'}"
                )
                continue
            taken[one.name] = path.name
            skills.append(one)
    return skills, notes


def sources(skills_dir: Path) -> List[Path]:
    """What in a directory may be a skill: Python files (but tests and parts), folders."""
    found = sorted(path for path in skills_dir.glob("*.py") if not path.is_dir())
    files = [path for path in found if not path.name.startswith(("_", "test_"))]
    return [*files, *folders.found_in(skills_dir)]


def read(path: Path) -> Tuple[List[Skill], str]:
    """The skills of one file or folder, or why there are none."""
    if not path.is_dir():
        return _read(path)
    try:
        return [folders.read(path)], ""
    except (folders.BadFolder, TypeError, OSError) as error:
        return [], str(error)


def module_name(path: Path) -> str:
    """What a file of skills is called in sys.modules."""
    return f"pibot_user_skills_{path.stem}"


def _read(path: Path) -> Tuple[List[Skill], str]:
    """The skills of one file, or why there are none."""
    name = module_name(path)
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None or not path.is_file():
        return [], "it is not a Python file"
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses and pickling of its classes look it up there
    try:
        spec.loader.exec_module(module)
        skills = declared(module)
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        del sys.modules[name]
        return [], _one_line(error, path)
    return skills, "" if skills else "it declares no skill; put @skill above a function"


def _one_line(error: BaseException, path: Optional[Path] = None) -> str:
    """What went wrong, and in which line of the file, if it is one of its own."""
    if isinstance(error, SyntaxError) and error.lineno is not None:
        return f"{error.msg} (line {error.lineno})"
    lines = []
    at = error.__traceback__
    while at is not None:
        if at.tb_frame.f_code.co_filename == str(path):
            lines.append(at.tb_lineno)
        at = at.tb_next
    where = f" (line {lines[-1]})" if lines else ""
    return f"{type(error).__name__}: {' '.join(str(error).split())}{where}"
