"""A command of this machine's shell, in the task's workspace, with bounds on everything.

The command runs in a process group of its own, and the group is killed when the command ends,
when its time is over and when the call is cancelled: nothing of it stays behind. It gets none of
this process's environment. This is tidiness and protection from accidents; a command can still
read what the worker's user can read, which is why the skill is off unless its owner wants it.
"""

from __future__ import annotations

import os
import selectors
import signal
import time
from typing import TYPE_CHECKING, Annotated, Dict, List, Optional, Union

from pibot.permits import Permits
from pibot.skills import Context, Output, SkillError, skill

if TYPE_CHECKING:
    from subprocess import Popen

MAX_TIMEOUT_S = 3600.0
KEPT_BYTES = 32 * 1024  # of each end of each stream
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_LOOK_S = 0.05
_ENDING_S = 0.005
_READ_BYTES = 64 * 1024
_LIVE_LINES_PER_S = 50
_LIVE_LINE_BYTES = 500
_LAST_LINES = 10
_LAST_CHARS = 2000

_FILE_BLOCKS = 2 * 1024 * 1024  # of 512 bytes: 1 GiB a file
_ADDRESS_SPACE_KIB = 4 * 1024 * 1024
_MORE_PROCESSES = 256  # beside those that the user already has

# Sets limits and becomes the command. A shell does this rather than code between fork and exec,
# which can deadlock in a process with threads. -p is the number of processes in dash and busybox,
# -u in bash. The score makes the kernel end the command, not the worker, when memory runs out.
_LIMITED = """
{ ulimit -c 0; ulimit -t "$1"; ulimit -f "$2"; ulimit -v "$3"; ulimit -p "$4" || ulimit -u "$4"
echo 900 >/proc/$$/oom_score_adj; } 2>/dev/null
shift 4
exec "$@"
"""


def _why_off(permits: Permits) -> Optional[str]:
    if permits.shell:
        return None
    return "shell is off: set PIBOT_ALLOW_SHELL=1 on this machine to let agents run commands here"


@skill(
    timeout_s=MAX_TIMEOUT_S + 5,
    phrases=["shell {command}", "$ {command}", "(运行|执行)命令[：]{command}"],
    sensitive=True,
    repeatable=False,
    parallel=False,
    available=_why_off,
)
def shell(
    ctx: Context,
    command: Annotated[Union[str, List[str]], "a command line for /bin/sh, or its words as a list"],
    timeout_s: Annotated[float, "seconds after which it is stopped"] = 60,
) -> Output:
    """Run a command in the task's workspace and return what it printed.

    There is no input and no terminal. Processes that it leaves in the background are ended.
    """
    problem = _why_off(ctx.permits)
    if problem:
        raise SkillError(problem)
    if not command or not 0 < timeout_s <= MAX_TIMEOUT_S:
        raise SkillError(f"the command is empty, or timeout_s is not in 0 to {MAX_TIMEOUT_S:g}")
    run = _Run(ctx, timeout_s)
    run.run(["/bin/sh", "-c", command] if isinstance(command, str) else command)
    return run.output()


class _Run:
    """One command from its start until nothing of its process group is left."""

    def __init__(self, ctx: Context, timeout_s: float) -> None:
        self._ctx = ctx
        self._timeout_s = timeout_s
        self._streams = {"stdout": _Stream(ctx), "stderr": _Stream(ctx)}
        self._limit_s = timeout_s
        self._stopped = ""
        self._status = 0
        self._seconds = 0.0

    def run(self, words: List[str]) -> None:
        started = time.monotonic()
        deadline = min(started + self._timeout_s, self._ctx.deadline)
        self._limit_s = round(deadline - started, 1)
        process = _start(words, self._ctx, self._timeout_s)
        try:
            self._follow(process, deadline)
        finally:
            _kill_group(process.pid)  # it has not been waited for, so the number is still its own
            self._status = process.wait()
            self._seconds = round(time.monotonic() - started, 3)
            for pipe in (process.stdout, process.stderr):
                if pipe:
                    pipe.close()

    def _follow(self, process: Popen[bytes], deadline: float) -> None:
        with selectors.DefaultSelector() as selector:
            for name, pipe in (("stdout", process.stdout), ("stderr", process.stderr)):
                assert pipe is not None
                os.set_blocking(pipe.fileno(), False)
                selector.register(pipe, selectors.EVENT_READ, self._streams[name])
            while not self._is_over(deadline):
                ended = _has_ended(process.pid)
                self._read(selector, 0 if ended else _LOOK_S)
                if ended:
                    _kill_group(process.pid)
                    self._read_rest(selector)
                    return

    def _is_over(self, deadline: float) -> bool:
        if self._ctx.cancelled.is_set():
            self._stopped = "the command was stopped: the call was cancelled"
        elif time.monotonic() >= deadline:
            self._stopped = f"the command did not end in {self._limit_s:g} s and was stopped"
        return bool(self._stopped)

    def _read(self, selector: selectors.BaseSelector, wait_s: float) -> bool:
        """Take in what is there; returns whether there was anything."""
        if not selector.get_map():  # it closed both streams; mostly it is about to end
            time.sleep(min(wait_s, _ENDING_S))
            return False
        ready = selector.select(wait_s)
        for key, _ in ready:
            chunk = os.read(key.fd, _READ_BYTES)
            if chunk:
                key.data.take(chunk)
            else:
                selector.unregister(key.fileobj)
        return bool(ready)

    def _read_rest(self, selector: selectors.BaseSelector) -> None:
        """What the ended command left in its pipes, and no more: others may still write there."""
        for _ in range(4):
            if not self._read(selector, 0):
                return

    def output(self) -> Output:
        """What the command printed. Raises SkillError when it failed or was stopped."""
        out, err = self._streams["stdout"].text(), self._streams["stderr"].text()
        status = self._status if self._status >= 0 else 128 - self._status  # as shells count
        data = {"exit_status": status, "stdout": out, "stderr": err, "seconds": self._seconds}
        shown = "\n".join(part.rstrip("\n") for part in (out, err) if part)
        if not self._stopped and status == 0:
            return Output(data, shown or "(no output)")
        reason = self._stopped or f"the command ended with {_status_words(self._status)}"
        last = "\n".join(shown.splitlines()[-_LAST_LINES:])[-_LAST_CHARS:]
        raise SkillError(f"{reason}: {last}" if last else reason, data)


class _Stream:
    """Head and tail of what one stream printed; each line is shown live."""

    def __init__(self, ctx: Context) -> None:
        self._show = ctx.on_output
        self._head = bytearray()
        self._tail = bytearray()
        self._cut_bytes = 0
        self._line = b""
        self._second = 0
        self._shown = 0

    def take(self, chunk: bytes) -> None:
        room = KEPT_BYTES - len(self._head)
        self._head += chunk[:room]
        self._tail += chunk[room:] if room < len(chunk) else b""
        excess = len(self._tail) - KEPT_BYTES
        if excess > 0:
            self._cut_bytes += excess
            del self._tail[:excess]
        *lines, self._line = (self._line + chunk).replace(b"\r", b"\n").split(b"\n")
        for line in lines:
            self._show_live(line)
        self._line = self._line[:_LIVE_LINE_BYTES]

    def text(self) -> str:
        if self._line:
            self._show_live(self._line)
            self._line = b""
        if not self._cut_bytes:
            return (self._head + self._tail).decode("utf-8", "replace")
        head, tail = self._head.decode("utf-8", "replace"), self._tail.decode("utf-8", "replace")
        return f"{head}\n[cut: {self._cut_bytes} bytes are left out here]\n{tail}"

    def _show_live(self, line: bytes) -> None:
        second = int(time.monotonic())
        if second != self._second:
            self._second, self._shown = second, 0
        self._shown += 1
        if line.strip() and self._shown <= _LIVE_LINES_PER_S:
            self._show(line[:_LIVE_LINE_BYTES].decode("utf-8", "replace"))


# --- the process -----------------------------------------------------------------------------


def _start(words: List[str], ctx: Context, timeout_s: float) -> Popen[bytes]:
    import subprocess

    cpu_s = int(timeout_s * (os.cpu_count() or 1)) + 1
    processes = _own_threads() + _MORE_PROCESSES
    limits = [cpu_s, _FILE_BLOCKS, _ADDRESS_SPACE_KIB, processes]
    try:
        return subprocess.Popen(
            ["/bin/sh", "-c", _LIMITED, "sh", *map(str, limits), *words],
            cwd=ctx.workspace,
            env=_environment(ctx),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
    except (OSError, ValueError) as error:
        raise SkillError(f"the command could not be started: {error}") from error


def _environment(ctx: Context) -> Dict[str, str]:
    return {"PATH": _PATH, "HOME": str(ctx.workspace), "LANG": "C.UTF-8"}


def _own_threads() -> int:
    """How many threads this process's user has: the kernel's limit counts all of them."""
    mine, count = os.getuid(), 0
    for name in os.listdir("/proc"):
        try:
            if name.isdigit() and os.stat(f"/proc/{name}").st_uid == mine:
                count += len(os.listdir(f"/proc/{name}/task"))
        except OSError:
            continue  # it has just ended
    return count


def _has_ended(pid: int) -> bool:
    """Whether the process has ended; it is not waited for, so its number stays taken."""
    try:
        return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
    except ChildProcessError:  # somebody else waited for it
        return True


def _kill_group(pid: int) -> None:
    try:
        os.killpg(pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        pass  # nobody is left, or only what became another user's


def _status_words(status: int) -> str:
    if status >= 0:
        return f"status {status}"
    try:
        return f"signal {-status} ({signal.Signals(-status).name})"
    except ValueError:
        return f"signal {-status}"
