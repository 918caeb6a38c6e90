"""Skills that are folders: a SKILL.md that a model reads when it needs it, files and scripts.

The form is that of Agent Skills (agentskills.io): front matter with `name` and `description`, then
Markdown. A folder becomes one skill: it reads the folder's files, and runs its scripts in the
sandbox.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Dict, Iterator, List, Literal, Tuple

from pibot.agent.text import visible
from pibot.agent.tools import Context, Output, Skill, skill
from pibot.errors import SkillError

MAIN = "SKILL.md"
SCRIPTS = "scripts"
_NAME = re.compile(r"[a-z0-9](-?[a-z0-9])*")
_KEY = re.compile(r"([A-Za-z][A-Za-z0-9_-]*):(?:\s+(.*))?")
_NAME_CHARS, _DESCRIPTION_CHARS = 64, 1024
_MOST_BYTES = 64 * 1024  # of a file that is read
_MOST_FILES = 200
_LONGEST_S = 600.0


class BadFolder(Exception):
    """What is wrong with a folder, in words for its author."""


@dataclass(frozen=True)
class _Place:
    """A folder as what its files are opened in."""

    workspace: Path


def read(folder: Path) -> Skill:
    """The skill that a folder is. Raises BadFolder."""
    fields = front_matter(_text(folder, MAIN))
    name, description = fields.get("name", ""), fields.get("description", "")
    if len(name) > _NAME_CHARS or not _NAME.fullmatch(name):
        raise BadFolder(f"{MAIN}: name {visible(name)[:80]!r} must be 1-64 of a-z, 0-9 and -")
    if name != folder.name:
        raise BadFolder(f"{MAIN}: name {name!r} is not the folder's name; rename one of them")
    if not description or len(description) > _DESCRIPTION_CHARS:
        raise BadFolder(f"{MAIN}: description must have 1 to {_DESCRIPTION_CHARS} characters")
    for _ in files_of(folder):  # what is wrong with its files is said before it is used
        pass
    return _declared(folder, name.replace("-", "_"), visible(description))


def front_matter(text: str) -> Dict[str, str]:
    """The fields between the first two lines of ---; what is indented below a key belongs to it.

    Plain, quoted and folded (`>`, `|`) texts are read; of anything nested only the text is kept.
    """
    lines = text.splitlines()
    if not lines or lines[0].strip() != "---" or "---" not in [line.strip() for line in lines[1:]]:
        raise BadFolder(
            f"{MAIN}: must begin with front matter: a line of ---, fields, a line of ---"
        )
    end = [line.strip() for line in lines[1:]].index("---") + 1
    fields: Dict[str, str] = {}
    key = ""
    for number, line in enumerate(lines[1:end], 2):
        match = _KEY.fullmatch(line.rstrip())
        if match:
            key = match[1]
            fields[key] = _plain(match[2] or "")
        elif key and (line.startswith((" ", "\t")) or not line.strip()):
            fields[key] = f"{fields[key]} {line.strip()}".strip()
        elif line.strip() and not line.lstrip().startswith("#"):
            raise BadFolder(f"{MAIN}, line {number}: is not `key: value`")
    return fields


def _plain(value: str) -> str:
    value = value.strip()
    if value[:1] in ("'", '"') and value[-1:] == value[:1] and len(value) > 1:
        return value[1:-1]
    return "" if value in (">", "|", ">-", "|-") else value


def files_of(folder: Path) -> Iterator[Tuple[str, int]]:
    """The path and size of each file in a folder, at most 200. Raises BadFolder."""
    count = 0
    for at, folders, files in os.walk(folder):
        folders.sort()
        for name in sorted([*files, *(f for f in folders if os.path.islink(os.path.join(at, f)))]):
            path = Path(at, name)
            shown = path.relative_to(folder).as_posix()
            if path.is_symlink() or not path.is_file():
                raise BadFolder(
                    f"{visible(shown)}: is not an ordinary file; links are not followed"
                )
            count += 1
            if count > _MOST_FILES:
                raise BadFolder(f"has more than {_MOST_FILES} files")
            yield shown, path.stat().st_size


def _text(folder: Path, path: str) -> str:
    from pibot.skills._workspace import explained, open_file

    try:
        with explained(path), open_file(_Place(folder), path, os.O_RDONLY) as fd:
            raw = os.read(fd, _MOST_BYTES + 1)
    except SkillError as error:
        raise BadFolder(str(error)) from None
    if len(raw) > _MOST_BYTES:
        raise BadFolder(f"{path}: has more than {_MOST_BYTES:,} bytes")
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise BadFolder(f"{path}: is not UTF-8 text") from None


def _declared(folder: Path, name: str, description: str) -> Skill:
    def use(
        ctx: Context,
        action: Annotated[Literal["read", "run"], "read a file, or run a script"] = "read",
        file: Annotated[str, "a file of the skill, such as scripts/make.py"] = MAIN,
        args: Annotated[List[str], "with run: the script's arguments"] = [],  # noqa: B006
        timeout_s: Annotated[float, "with run: seconds after which it is stopped"] = 60,
    ) -> Output:
        if action == "run":
            return _run(folder, ctx, file, args, timeout_s)
        return _read(folder, file)

    from pibot.skills import _sandbox

    use.__name__ = name
    use.__doc__ = f"{description}\nRead SKILL.md first: it says how to do this."
    declare = skill(
        timeout_s=_LONGEST_S + 5,
        sensitive=_sandbox.acts_outside,
        taints=_sandbox.reads_outside,
        repeatable=False,
        parallel=False,
    )
    try:
        made: Skill = vars(declare(use))["__skill__"]
    except TypeError as error:
        raise BadFolder(str(error)) from None
    return made


def _read(folder: Path, file: str) -> Output:
    try:
        text = _text(folder, file)
        there = [path for path, _ in files_of(folder)]
    except BadFolder as error:
        raise SkillError(str(error)) from None
    more = f"\n\nFiles of this skill: {', '.join(there)}" if file == MAIN else ""
    return Output({"file": file, "text": text, "files": there}, text + more)


def _run(folder: Path, ctx: Context, file: str, args: List[str], timeout_s: float) -> Output:
    from pibot.skills import _sandbox
    from pibot.skills._workspace import explained, open_file, parts_of

    parts = parts_of(_Place(folder), file)
    if parts[:1] != [SCRIPTS] or len(parts) < 2:
        raise SkillError(f"{file}: only files in {SCRIPTS}/ can be run")
    if not 0 < timeout_s <= _LONGEST_S:
        raise SkillError(f"timeout_s is not in 0 to {_LONGEST_S:g}")
    with explained(file), open_file(_Place(folder), file, os.O_RDONLY):
        pass
    path = str(folder.resolve().joinpath(*parts))
    words = [*_interpreter(path), path, *args]
    return _sandbox.run(ctx, words, timeout_s, read=(folder.resolve(),))


def _interpreter(path: str) -> List[str]:
    return {".py": ["/usr/bin/python3", "-I"], ".sh": ["/bin/sh"]}.get(Path(path).suffix, [])


def found_in(skills_dir: Path) -> List[Path]:
    """The folders of a directory that are skills."""
    return sorted(p.parent for p in skills_dir.glob(f"*/{MAIN}") if p.parent.name[:1] not in "._")
