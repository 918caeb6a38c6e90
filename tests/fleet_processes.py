"""A fleet of real processes: a broker, masters and workers, each started from build/pibot.pyz.

    with FleetProcesses(tmp_path) as fleet:
        fleet.start_master()
        fleet.start_worker("worker-1")
        fleet.wait_idle(1)
        fleet.run("run", "--skill", "echo", "--args", '{"text": "hi"}').document

Each process has its own directory under `tmp_path`, with its state and its log. Everything is
stopped by its own process id; `wait_for` shows the ends of the logs when a condition never comes.
"""

from __future__ import annotations

import atexit
import functools
import json as json_module
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Callable, Dict, List, Mapping, Optional, TypeVar

ROOT = Path(__file__).resolve().parents[1]
PYZ = ROOT / "build" / "pibot.pyz"
MOSQUITTO = "/usr/sbin/mosquitto"
FAKETIME = next(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"), None)
WAIT_S = 30.0
LOG_LINES = 25
_OURS = re.compile(
    r"PIBOT_|MQTT_|VOLC_|OPENAI_|MODEL_NAME|WORKER_|STATE_DIRECTORY|NO_COLOR|TERM|XDG_"
    r"|PYTHONPATH"
)
T = TypeVar("T")


@functools.cache
def program() -> Path:
    """build/pibot.pyz, built first when it is older than what goes into it."""
    builder = ROOT / "build" / "make_pyz.py"
    inputs = [builder.with_name(f"{name}.py") for name in ("make_pyz", "parts", "wheels")]
    inputs += [builder.with_name("pyz_main.py"), *builder.parent.glob("fallback/*.py")]
    inputs += [p for p in (ROOT / "src").rglob("*") if p.is_file() and p.suffix != ".pyc"]
    inputs += (ROOT / "requirements").glob("*.txt")
    if not PYZ.exists() or PYZ.stat().st_mtime < max(p.stat().st_mtime for p in inputs):
        subprocess.run([sys.executable, str(builder)], check=True, stdout=subprocess.DEVNULL)
    return PYZ


@functools.cache
def _own() -> Path:
    """What all processes of this test run share."""
    folder = Path(tempfile.mkdtemp(prefix="pibot-test-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def unpacked() -> Path:
    """Where this test run's processes unpack the pyz: once for all of them."""
    return _own() / "shiv"


def command(*args: str) -> List[str]:
    return [sys.executable, str(program()), *args]


def environment(**more: str) -> Dict[str, str]:
    """This process's environment without anything that PiBot reads, and `more`.

    The home is an empty one: the tester's own has settings, and perhaps this very build unpacked.
    """
    kept = {k: v for k, v in os.environ.items() if not _OURS.match(k)}
    own = {"SHIV_ROOT": str(unpacked()), "HOME": str(_own()), "PYTHONUTF8": "1"}
    return {**kept, **own, **more}


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def is_open(port: int) -> bool:
    with socket.socket() as sock:
        return sock.connect_ex(("127.0.0.1", port)) == 0


def wait_for(
    condition: Callable[[], T],
    seconds: float = WAIT_S,
    what: str = "",
    why: Callable[[], str] = str,
) -> T:
    """Return the condition's first true value; fail with `what` and `why()` when none comes."""
    deadline = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {seconds:g} s: {what or condition}\n{why()}")
        time.sleep(0.02)


@dataclass
class Finished:
    """A command that has ended; `document` is what it printed with --json."""

    status: int
    out: str
    err: str
    document: Any = None


@dataclass
class Process:
    """A process that runs, with its directory: state, log."""

    name: str
    popen: "subprocess.Popen[bytes]"
    log: Path
    health_port: int = 0
    args: List[str] = field(default_factory=list)
    env: Dict[str, str] = field(default_factory=dict)

    @property
    def alive(self) -> bool:
        return self.popen.poll() is None

    def said(self) -> str:
        return self.log.read_text("utf-8", "replace")


class FleetProcesses:
    """`broker` is mosquitto, amqtt (embedded in the master), or none (start one yourself).

    `env` goes to every process of the program. With `users` (name: password) mosquitto lets
    nobody else in; pass MQTT_USERNAME and MQTT_PASSWORD in `env` then.
    """

    def __init__(
        self,
        folder: Path,
        broker: str = "mosquitto",
        env: Optional[Mapping[str, str]] = None,
        users: Optional[Mapping[str, str]] = None,
    ) -> None:
        self.folder, self.broker, self.users = folder, broker, dict(users or {})
        self.port = free_port()
        self.env = environment(PIBOT_HEALTH_HOST="127.0.0.1", MQTT_PORT=str(self.port))
        if broker != "amqtt":
            self.env["MQTT_HOST"] = "127.0.0.1"
        self.env.update(env or {})
        self.processes: Dict[str, Process] = {}
        self._all: List[Process] = []

    def __enter__(self) -> "FleetProcesses":
        try:
            if self.broker == "mosquitto":
                self.start_broker()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # --- starting -------------------------------------------------------------------------------

    def start_broker(self, *lines: str) -> Process:
        """Start mosquitto on the fleet's port, with more lines of configuration."""
        home = self._home("broker")
        config = [f"listener {self.port} 127.0.0.1", "set_tcp_nodelay true", "persistence false"]
        if os.geteuid() == 0:
            config.append("user root")
        if self.users:
            passwords = home / "passwords"
            passwords.touch(0o600)
            for name, password in self.users.items():
                args = ["mosquitto_passwd", "-b", str(passwords), name, password]
                subprocess.run(args, check=True, capture_output=True)
            config += ["allow_anonymous false", f"password_file {passwords}"]
        else:
            config.append("allow_anonymous true")
        (home / "mosquitto.conf").write_text("\n".join([*config, *lines, ""]))
        started = self._start("broker", [MOSQUITTO, "-c", str(home / "mosquitto.conf")], {})
        self.wait_for(lambda: is_open(self.port), what="the broker listens")
        return started

    def start_master(self, name: str = "master", wait: bool = True, **env: str) -> Process:
        """Start a master; with `wait`, return once it serves /health and reached the broker."""
        port = free_port()
        args = command("--role", "master", "--port", str(port), "--env-file", self._no_settings())
        master = self._start(name, args, {**self._state(name), **env}, port)
        if wait:
            self.wait_for(lambda: "connected to the broker" in master.said(), what=f"{name} serves")
        return master

    def start_worker(self, name: str, process: str = "", **env: str) -> Process:
        """Start a worker called `name`; `process` names it here (two may share a name)."""
        port, process = free_port(), process or name
        args = ["--role", "worker", "--worker-id", name, "--port", str(port)]
        args += ["--env-file", self._no_settings()]
        return self._start(process, command(*args), {**self._state(process), **env}, port)

    def restart(self, name: str) -> Process:
        """Start a process that has ended once more, as it was: same state, same ports."""
        old = self.processes[name]
        assert not old.alive, f"{name} still runs"
        return self._start(name, old.args, old.env, old.health_port)

    def _start(
        self, name: str, args: List[str], env: Mapping[str, str], health_port: int = 0
    ) -> Process:
        log = self._home(name) / "log"
        with log.open("ab") as file:
            popen = subprocess.Popen(
                args,
                env={**self.env, **env},
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
                cwd=self._home(name),
                start_new_session=True,
            )
        started = Process(name, popen, log, health_port, list(args), dict(env))
        self.processes[name] = started
        self._all.append(started)
        return started

    def _home(self, name: str) -> Path:
        home = self.folder / name
        home.mkdir(parents=True, exist_ok=True)
        return home

    def _state(self, name: str) -> Dict[str, str]:
        return {"PIBOT_STATE_DIR": str(self._home(name) / "state")}

    def _no_settings(self) -> str:
        """An empty settings file, so that one beside the pyz is never read."""
        path = self.folder / "none.env"
        path.touch(0o600)
        return str(path)

    # --- ending ---------------------------------------------------------------------------------

    def kill(self, name: str, number: int = signal.SIGKILL, wait: bool = True) -> Optional[int]:
        """Send a signal; for one that ends the process, wait and return its exit status."""
        process = self.processes[name]
        process.popen.send_signal(number)
        if number in (signal.SIGSTOP, signal.SIGCONT) or not wait:
            return None
        return process.popen.wait(WAIT_S)

    def close(self) -> None:
        """End everything that still runs: first politely, after a while for good."""
        for process in self._all[::-1]:
            if process.alive:
                process.popen.send_signal(signal.SIGCONT)
                process.popen.terminate()
        for process in self._all[::-1]:
            try:
                process.popen.wait(5)
            except subprocess.TimeoutExpired:
                process.popen.kill()
                process.popen.wait()

    # --- using ----------------------------------------------------------------------------------

    def run(
        self,
        *args: str,
        json: bool = True,
        check: Optional[int] = 0,
        stdin: str = "",
        env: Optional[Mapping[str, str]] = None,
        timeout_s: float = 60.0,
    ) -> Finished:
        """Run a command of the program to its end; `check` is the status that it must have."""
        args = (*args, "--json") if json else args
        done = subprocess.run(
            self.command(*args),
            env={**self.env, **(env or {})},
            input=stdin,
            capture_output=True,
            encoding="utf-8",
            cwd=self.folder,
            timeout=timeout_s,
        )
        if check is not None and done.returncode != check:
            said = f"status {done.returncode}, not {check}\n{done.stdout}\n{done.stderr}"
            raise AssertionError(f"{args}: {said}\n{self.logs()}")
        document = json_module.loads(done.stdout) if json and done.stdout else None
        return Finished(done.returncode, done.stdout, done.stderr, document)

    def command(self, *args: str) -> List[str]:
        """The command line of a command of the program, for whoever starts it otherwise."""
        return command(*args, "--env-file", self._no_settings())

    def start(self, *args: str, env: Optional[Mapping[str, str]] = None) -> "subprocess.Popen[str]":
        """Start a command of the program and return at once; the caller ends it."""
        return subprocess.Popen(
            self.command(*args),
            env={**self.env, **(env or {})},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            encoding="utf-8",
            cwd=self.folder,
            start_new_session=True,
        )

    def health(self, name: str) -> Dict[str, Any]:
        """What a process answers on /health; {} when it does not."""
        url = f"http://127.0.0.1:{self.processes[name].health_port}/health"
        try:
            with urllib.request.urlopen(url, timeout=2) as answer:
                return dict(json_module.load(answer))
        except urllib.error.HTTPError as error:
            return dict(json_module.load(error))
        except OSError:
            return {}

    def counts(self, master: str = "master") -> Dict[str, int]:
        """{"total","idle","busy","offline"} of the workers, as the master's /health has them."""
        return dict(self.health(master).get("workers") or {})

    def wait_idle(self, count: int, seconds: float = WAIT_S) -> None:
        """Wait until exactly so many workers are idle."""
        self.wait_for(lambda: self.counts().get("idle") == count, seconds, f"{count} idle workers")

    def wait_for(self, condition: Callable[[], T], seconds: float = WAIT_S, what: str = "") -> T:
        return wait_for(condition, seconds, what, self.logs)

    def logs(self) -> str:
        """The end of every process's log, for the message of a failed test."""
        parts = []
        for name, process in self.processes.items():
            state = "runs" if process.alive else f"ended with {process.popen.returncode}"
            lines = process.said().splitlines()[-LOG_LINES:]
            parts.append("\n".join([f"--- {name} ({state})", *lines]))
        return "\n".join(parts)
