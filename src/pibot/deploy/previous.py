"""A service that was deployed by hand, before there was `setup`: what its unit says. Pure."""

from __future__ import annotations

import re
import shlex
from typing import Dict, List, Mapping, NamedTuple, Optional, Sequence, Tuple

from pibot.deploy import layout

_PROGRAM = re.compile(r"(/[^\s\"';]+\.(?:pyz|py))\b")
_WORKER_ID = re.compile(r"--worker-id[=\s]+[\"']?([^\s\"';]+)")
_PORT = re.compile(r"--port[=\s]+[\"']?([0-9]+)")
_FOLDER = re.compile(r"\bcd\s+[\"']?(/[^\s\"';&]+)")


class Previous(NamedTuple):
    """What can be taken over from it."""

    program: str  # what it runs, without its arguments
    worker_id: Optional[str]
    port: Optional[str]
    user: Optional[str]
    environment: Dict[str, str]  # what the unit itself sets
    env_files: Tuple[str, ...]  # what it is started with, the strongest first
    dot_envs: Tuple[str, ...]  # where it may have read a .env of its own


def is_ours(text: str, role: str) -> bool:
    """Whether a unit was made by `setup`, whatever its version."""
    return f"LoadCredential=pibot.env:{layout.settings_file(role)}" in text.split("\n")


def read(unit: str, homes: Mapping[str, str]) -> Previous:
    """Understand the text of a unit; `homes` are the users' home directories."""
    found = _service_section(unit)
    command = "\n".join(found.get("ExecStart", ()))
    user = _last(found, "User")
    folders = [_folder(found, homes.get(user or "root")), *_FOLDER.findall(command)]
    folders += [path.rpartition("/")[0] for path in _PROGRAM.findall(command)]
    dot_envs = [f"{folder.rstrip('/')}/.env" for folder in folders if folder and folder[0] == "/"]
    env_files = [path.lstrip("-").strip("\"'") for path in found.get("EnvironmentFile", ())]
    return Previous(
        program=_first(_PROGRAM, command) or command.partition(" ")[0],
        worker_id=_first(_WORKER_ID, command),
        port=_first(_PORT, command),
        user=user,
        environment=_environment(found.get("Environment", ())),
        env_files=tuple(path for path in env_files[::-1] if path.startswith("/")),
        dot_envs=tuple(dict.fromkeys(dot_envs)),
    )


def _service_section(unit: str) -> Dict[str, List[str]]:
    """The assignments of [Service], as systemd reads them: an empty one ends those before it."""
    found: Dict[str, List[str]] = {}
    section = ""
    for line in re.sub(r"\\\n", " ", unit.replace("\r\n", "\n")).split("\n"):
        line = line.strip()
        if line.startswith("["):
            section = line
        key, equals, value = line.partition("=")
        if section == "[Service]" and equals and line[0] not in "#;":
            values = found.setdefault(key.strip(), [])
            values.append(value.strip())
            if not value.strip():
                values.clear()
    return found


def _folder(found: Dict[str, List[str]], home: Optional[str]) -> Optional[str]:
    folder = (_last(found, "WorkingDirectory") or "").lstrip("-").strip("\"'")
    return home if folder == "~" else folder


def _environment(lines: Sequence[str]) -> Dict[str, str]:
    found = {}
    for line in lines:
        for word in _words(line):
            key, equals, value = word.partition("=")
            if equals:
                found[key] = value
    return found


def _words(line: str) -> List[str]:
    try:
        return shlex.split(line)
    except ValueError:  # a quote that is not closed
        return line.split()


def _last(found: Dict[str, List[str]], key: str) -> Optional[str]:
    values = found.get(key)
    return values[-1] if values else None


def _first(pattern: "re.Pattern[str]", text: str) -> Optional[str]:
    match = pattern.search(text)
    return match[1] if match else None
