"""The skills in the hands of an attacker: real calls in a real process, of root and of a user.

    def test_a_path_cannot_leave(hands: Hands) -> None:
        done = hands.call("write_file", {"path": "../outside/canary", "content": "x"})
        assert not done["success"]
        assert hands.is_outside_unchanged()

The process loads the real library with the permits that a call names; what it is asked and what
it answers are lines of JSON. Its environment holds `CANARY` as each of a worker's secrets.
hands_program.py is the program of that process.
"""

from __future__ import annotations

import contextlib
import json
import os
import pwd
import queue
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any, Dict, Iterator, List, Mapping, Optional, Sequence

CANARY = "canary-5f2d91c07ab34e68-never-to-be-seen"
SECRETS = ("MQTT_PASSWORD", "PIBOT_KEY", "PIBOT_UPDATE_KEY", "VOLC_API_KEY", "PIBOT_HTTP_TOKEN")
ROOT, USER = "root", "user"
SLACK_S = 20.0  # beyond a call's own time: two busy cores must not look like a hanging skill
_PROGRAM = Path(__file__).with_name("hands_program.py")
_SOURCES = Path(__file__).resolve().parents[2] / "src" / "pibot"
_TRIAL = """
import ssl, sqlite3, subprocess, sys
subprocess.run([sys.executable, "-c", ""], check=True)  # as skills do, without setpriv's rights
"""


def identities() -> List[str]:
    """Whose hands there can be: an ordinary user cannot become root."""
    return [ROOT, USER] if os.geteuid() == 0 else [USER]


class Failed(Exception):
    """The process itself did not do its part; that is never what an attack case asserts."""


class Running:
    """A call that goes on; `lines` are what it has shown until now."""

    def __init__(self, send: Any, number: int, limit_s: float) -> None:
        self.lines: List[str] = []
        self._send, self._number, self._limit_s = send, number, limit_s
        self._answers: "queue.Queue[Dict[str, Any]]" = queue.Queue()
        self._shown = threading.Condition()
        self._ended = False

    def cancel(self) -> None:
        self._send({"do": "cancel", "number": self._number})

    def wait_for_line(self, part: str) -> str:
        """The first shown line that holds `part`."""
        with self._shown:
            self._shown.wait_for(
                lambda: self._ended or any(part in line for line in self.lines), self._limit_s
            )
        found = [line for line in self.lines if part in line]
        if not found:
            raise Failed(f"no line with {part!r} was shown, only {self.lines}")
        return found[0]

    def result(self) -> Dict[str, Any]:
        """success, data and output; also lines (live output), shared (paths) and took_s."""
        try:
            answer = self._answers.get(timeout=self._limit_s)
        except queue.Empty:
            raise Failed(f"no result within {self._limit_s} s") from None
        if "broken" in answer:
            raise Failed(answer["broken"])
        return {**answer, "lines": list(self.lines)}

    def heard(self, message: Dict[str, Any]) -> None:
        with self._shown:
            if "line" in message:
                self.lines.append(message["line"])
            else:
                self._ended = True
                self._answers.put(message)
            self._shown.notify_all()


class Process:
    """The child that executes calls as somebody."""

    def __init__(self, identity: str, home: Path) -> None:
        self.identity, self.home = identity, home
        self.uid, self.gid = _ids(identity)
        self.become, self.python = _become(self.uid, self.gid), _python(self.uid, self.gid)
        self._calls: Dict[int, Running] = {}
        self._lock = threading.Lock()
        self._child = subprocess.Popen(
            [*self.become, self.python, str(home / _PROGRAM.name)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=_environment(home),
            cwd=home,
            start_new_session=True,
        )
        threading.Thread(target=self._listen, daemon=True).start()

    @property
    def pid(self) -> int:
        return self._child.pid

    def begin(self, request: Mapping[str, Any], limit_s: float) -> Running:
        with self._lock:
            number = len(self._calls)
            running = self._calls[number] = Running(self._send, number, limit_s)
        self._send({"number": number, **request})
        return running

    def close(self) -> None:
        assert self._child.stdin
        with contextlib.suppress(OSError):
            self._child.stdin.close()
        try:
            self._child.wait(5)
        except subprocess.TimeoutExpired:
            self._child.kill()
            self._child.wait()

    def _send(self, message: Mapping[str, Any]) -> None:
        assert self._child.stdin
        with self._lock:
            self._child.stdin.write(json.dumps(message).encode() + b"\n")
            self._child.stdin.flush()

    def _listen(self) -> None:
        assert self._child.stdout
        for line in self._child.stdout:
            message = json.loads(line)
            self._calls[message.pop("number")].heard(message)
        for running in list(self._calls.values()):
            running.heard({"broken": f"the process has ended with {self._child.wait()}"})


class Hands:
    """What one test has: the process, a workspace of its own, and what lies beside it."""

    def __init__(self, process: Process, folder: Path) -> None:
        self.process = process
        self.user = process.identity
        self.uid, self.gid = process.uid, process.gid
        self.folder = folder
        self.workspace, self.outside = folder / "workspace", folder / "outside"
        for made in (folder, self.workspace, self.outside):
            made.mkdir(mode=0o700)
        self.canary = self.outside / "canary"
        self.canary.write_text(CANARY)
        self.give(folder, self.workspace, self.outside, self.canary)
        self._before = self._state()

    @property
    def is_root(self) -> bool:
        return self.uid == 0

    def give(self, *paths: Path) -> None:
        """Make the process's user the owner of what a test has made."""
        for path in paths:
            if os.geteuid() == 0:
                os.chown(path, self.uid, self.gid, follow_symlinks=False)

    def begin(
        self,
        skill: str,
        args: Mapping[str, Any],
        *,
        permits: Optional[Mapping[str, Any]] = None,
        time_s: float = 30.0,
        skills_dir: Optional[Path] = None,
        patch: Optional[Mapping[str, Any]] = None,
        secrets: Sequence[str] = (CANARY,),
        key: str = "task:1",
        workspace: Optional[Path] = None,
    ) -> Running:
        """Start a call. `permits` are fields of Permits as JSON; `patch` sets module attributes
        for this call, such as {"pibot.skills.sensors.ROOT": "/tmp/sys"} (a text becomes a Path
        where the attribute is one); `secrets` are what the toolbox's Redactor knows."""
        request = {
            "do": "call",
            "skill": skill,
            "args": args,
            "permits": json.loads(json.dumps(permits or {}, default=str)),
            "time_s": time_s,
            "skills_dir": str(skills_dir) if skills_dir else None,
            "patch": json.loads(json.dumps(patch or {}, default=str)),
            "secrets": list(secrets),
            "key": key,
            "workspace": str(workspace or self.workspace),
        }
        return self.process.begin(request, time_s + SLACK_S)

    def call(self, skill: str, args: Mapping[str, Any], **options: Any) -> Dict[str, Any]:
        """A whole call: the Result as JSON, with lines, shared and took_s (see Running.result)."""
        return self.begin(skill, args, **options).result()

    def attempt(
        self,
        spec: Mapping[str, Any],
        model: Mapping[str, str],
        *,
        permits: Optional[Mapping[str, Any]] = None,
        approval: str = "tainted",
        allow: Optional[bool] = None,
        skills_dir: Optional[Path] = None,
        patch: Optional[Mapping[str, Any]] = None,
        time_s: float = 30.0,
    ) -> Dict[str, Any]:
        """A whole attempt as a worker runs it: `spec` is of its assignment, `model` has api_key,
        base_url and model. A person answers every question with `allow`; None: nobody answers, and
        the task is cancelled. Returns state, result, error, trace, tainted and asks."""
        request = {
            "do": "attempt",
            "spec": spec,
            "model": model,
            "permits": json.loads(json.dumps(permits or {}, default=str)),
            "approval": approval,
            "allow": allow,
            "skills_dir": str(skills_dir) if skills_dir else None,
            "patch": json.loads(json.dumps(patch or {}, default=str)),
            "time_s": time_s,
            "secrets": [CANARY],
            "workspace": str(self.workspace),
        }
        return self.process.begin(request, time_s + SLACK_S).result()

    def is_outside_unchanged(self) -> bool:
        """Whether the directory beside the workspace is as it was: names, bytes, modes, links."""
        return self._state() == self._before

    def outside_is_now(self) -> None:
        """From here on what lies outside counts as unchanged: a test has put something there."""
        self._before = self._state()

    def _state(self) -> List[Any]:
        found: List[Any] = []
        for path in sorted([self.outside, *self.outside.rglob("*")]):
            at = path.lstat()
            content = path.read_bytes() if path.is_file() and not path.is_symlink() else b""
            link = os.readlink(path) if path.is_symlink() else ""
            links = at.st_nlink if path.is_file() else 0
            found.append((str(path), at.st_mode, at.st_uid, links, link, content))
        return found


def left_running(marker: str, within_s: float = 5.0) -> List[int]:
    """Processes with `marker` in their command line that are still there after some time."""
    give_up = time.monotonic() + within_s
    while True:
        found = [pid for pid in _pids() if marker.encode() in _command(pid)]
        if not found or time.monotonic() > give_up:
            return found
        time.sleep(0.02)


@contextlib.contextmanager
def everybody() -> Iterator[Dict[str, Process]]:
    """A process for each identity, in a directory that each of them can read."""
    home = Path(tempfile.mkdtemp(prefix="pibot-hands-"))
    home.chmod(0o755)
    processes: Dict[str, Process] = {}
    try:
        _lay_out(home)
        for identity in identities():
            processes[identity] = Process(identity, home)
        yield processes
    finally:
        for process in processes.values():
            process.close()
        shutil.rmtree(home, ignore_errors=True)


def _lay_out(home: Path) -> None:
    """pibot, this program and the one package that skills import, readable for everybody."""
    import paho

    sources = {"pibot": _SOURCES, "paho": Path(paho.__path__[0])}
    for name, source in sources.items():
        skip = shutil.ignore_patterns("__pycache__")
        shutil.copytree(source, home / name, ignore=skip, copy_function=shutil.copyfile)
    shutil.copyfile(_PROGRAM, home / _PROGRAM.name)


def _packages() -> str:
    """Where the model's client lies, which is too large to be copied."""
    import openai

    return str(Path(openai.__path__[0]).parent)


def _ids(identity: str) -> "tuple[int, int]":
    if os.geteuid() != 0 or identity == ROOT:
        return os.geteuid(), os.getegid()
    nobody = pwd.getpwnam("nobody")
    return nobody.pw_uid, nobody.pw_gid


def _become(uid: int, gid: int) -> List[str]:
    if uid == os.geteuid():
        return []
    return ["setpriv", f"--reuid={uid}", f"--regid={gid}", "--clear-groups"]


def _python(uid: int, gid: int) -> str:
    """An interpreter that this user can start: the tests' own may lie in a private directory."""
    for program in (sys.executable, "/usr/bin/python3", "/usr/local/bin/python3"):
        words = [*_become(uid, gid), program, "-I", "-c", _TRIAL]
        with contextlib.suppress(OSError):
            if subprocess.run(words, stderr=subprocess.DEVNULL, cwd="/").returncode == 0:
                return program
    raise Failed("there is no Python that an ordinary user can start")


def _environment(home: Path) -> Dict[str, str]:
    kept = {key: os.environ[key] for key in ("PATH", "LANG") if key in os.environ}
    return {
        **kept,
        "HOME": str(home),
        "PYTHONPATH": f"{home}:{_packages()}",
        **dict.fromkeys(SECRETS, CANARY),
    }


def _pids() -> List[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdecimal()]


def _command(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""
