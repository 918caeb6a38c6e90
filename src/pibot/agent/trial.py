"""A skill on trial: loaded, and its tests run, in a process of its own that cannot do much harm.

A file of Python is code. A process that hangs, ends itself, eats the memory or changes what it
imports is better found out here than in a worker.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import tempfile
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Dict, List, Sequence, Tuple

if TYPE_CHECKING:
    import subprocess

TRIAL_S = 20.0
_MEMORY_BYTES = 2 << 30
_FILE_BYTES = 16 << 20
_ANSWER_BYTES = 1 << 20
_ROUNDS = 20  # of ending processes that start others meanwhile
_BEGIN = (
    "import json, sys; path, about = json.loads(sys.argv[1]); sys.path[:] = path; "
    "from pibot.agent import trial; trial.main(about)"
)


@dataclass(frozen=True)
class Verdict:
    """`tools` are the skills as a model sees them; without `problems` the skill is fit."""

    tools: List[Dict[str, Any]] = field(default_factory=list)
    tests: int = 0
    problems: List[str] = field(default_factory=list)


def tried(path: Path, reserved: Sequence[str] = (), limit_s: float = TRIAL_S) -> Verdict:
    """Load a skill and run its tests; `reserved` are names that it must not take."""
    import subprocess

    about = {"path": os.path.abspath(path), "reserved": list(reserved)}
    packages = [os.path.abspath(place) for place in sys.path if place]
    words = [sys.executable, "-I", "-B", "-c", _BEGIN, json.dumps([packages, about])]
    with (
        tempfile.TemporaryDirectory(prefix="pibot-trial-") as folder,
        tempfile.TemporaryFile() as answer,
    ):
        number = answer.fileno()
        try:
            child = subprocess.Popen(
                words,
                cwd=folder,
                env={"PATH": "/usr/bin:/bin", "HOME": folder, "PIBOT_TRIAL_FD": str(number)},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                pass_fds=[number],
                start_new_session=True,
            )
        except OSError as error:
            return Verdict(problems=[f"it could not be tried: {error}"])
        why = _ended(child, limit_s, folder)
        answer.seek(0)
        said = answer.read(_ANSWER_BYTES)
    return _verdict(said, why)


def _ended(child: "subprocess.Popen[bytes]", limit_s: float, folder: str) -> str:
    """Wait for the child, and end all that it has started; "" if it ended by itself."""
    import subprocess

    why = ""
    try:
        child.wait(limit_s)
    except subprocess.TimeoutExpired:
        why = f"it did not end within {limit_s:g} s: does something at its top level wait?"
    finally:
        _end_all(child, folder)
    status = child.wait()
    if not why and status:
        words = signal.Signals(-status).name if status < 0 else f"status {status}"
        why = f"loading it ended the process ({words})"
    return why


def _end_all(child: "subprocess.Popen[bytes]", folder: str) -> None:
    """Its process group, and whoever left that but still has the child's home."""
    if child.poll() is None:
        child.kill()
    try:
        os.killpg(child.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    mark = f"HOME={folder}\0".encode()
    for _ in range(_ROUNDS):
        found = [
            pid for pid in map(int, filter(str.isdecimal, os.listdir("/proc"))) if _has(pid, mark)
        ]
        for pid in found:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        if not found:
            return


def _has(pid: int, mark: bytes) -> bool:
    try:
        return mark in Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:
        return False  # it has ended, or is not ours


def _verdict(said: bytes, why: str) -> Verdict:
    try:
        found = json.loads(said)
        problems = [str(one) for one in found["problems"]]
        verdict = Verdict([_tool(one) for one in found["tools"]], int(found["tests"]), problems)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return Verdict(problems=[why or "loading it ended the process without a word"])
    return replace(verdict, problems=[*problems, *([why] if why else [])])


def _tool(said: Dict[str, Any]) -> Dict[str, Any]:
    """A tool as it is said to be: the skill itself may have said so. Raises what it raises."""
    function = said["function"]
    parameters = function["parameters"]
    arguments = {str(name): dict(about) for name, about in parameters["properties"].items()}
    schema = {"properties": arguments, "required": list(parameters.get("required", []))}
    described = {"name": str(function["name"]), "description": str(function["description"])}
    return {"function": {**described, "parameters": {**parameters, **schema}}}


# --- in the process ---------------------------------------------------------------------------


def main(about: Dict[str, Any]) -> None:
    """The child's part: what it finds goes to the given file as JSON."""
    import resource

    from pibot.files import write_all

    writer = int(os.environ.pop("PIBOT_TRIAL_FD"))
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY_BYTES, _MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_FSIZE, (_FILE_BYTES, _FILE_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    found = _look(Path(about["path"]), about["reserved"])
    write_all(writer, json.dumps(found).encode())
    os._exit(0)  # whatever threads or exit handlers the skill has left


def _look(path: Path, reserved: Sequence[str]) -> Dict[str, Any]:
    from pibot.agent import library

    skills, problem = library.read(path)
    module = sys.modules.get(library.module_name(path))
    if module is not None:
        sys.modules[path.stem] = module  # what its test imports is what was tried
    problems = [f"{path.name}: {problem}"] if problem else []
    for one in skills:
        if one.name in reserved:
            problems.append(f"{one.name}: another skill has that name; rename this one")
    tests, failed = (0, []) if problem else _tests(path)
    tools = [one.tool() for one in skills]
    return {"tools": tools, "tests": tests, "problems": [*problems, *failed]}


def _tests(path: Path) -> Tuple[int, List[str]]:
    """Run the functions test_* of the file beside it whose name is test_NAME.py."""
    import importlib.util

    beside = path.parent / f"test_{path.stem}.py"
    if path.is_dir() or not beside.is_file():
        return 0, []
    sys.path.insert(0, str(path.parent))
    try:
        spec = importlib.util.spec_from_file_location(beside.stem, beside)
        assert spec and spec.loader
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        return 0, [_where(beside, "", error)]
    found = {name: value for name, value in vars(module).items() if name.startswith("test_")}
    failed = []
    for name, function in found.items():
        try:
            function()
        except (Exception, SystemExit) as error:
            failed.append(_where(beside, f" {name}", error))
    return len(found), failed


def _where(path: Path, name: str, error: BaseException) -> str:
    import traceback

    frames = [f for f in traceback.extract_tb(error.__traceback__) if f.filename == str(path)]
    line = f", line {frames[-1].lineno}" if frames else ""
    words = " ".join(str(error).split())
    shown = frames[-1].line if frames and isinstance(error, AssertionError) and not words else words
    return f"{path.name}{line}{name} failed: {type(error).__name__}: {shown}"
