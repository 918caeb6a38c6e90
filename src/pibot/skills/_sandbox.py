"""The sandbox: a command in namespaces of its own, with the task's workspace and little else.

bubblewrap makes it (bwrap(1)). Inside there are no other processes, no network (unless the owner
gives it), no environment of ours, no capability; the system is read-only, and what can be written
is the workspace, at /ws, and a small /tmp. Which system calls may be made says `_seccomp`. When the
command ends, is stopped or loses its worker, everything in there ends with it.

There is no other way to run a command: without bubblewrap there is none.
"""

from __future__ import annotations

import functools
import os
import stat
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Iterator, List, Optional, Sequence, Tuple

from pibot.permits import Permits
from pibot.skills import Context, Output, SkillError, _seccomp
from pibot.skills._steps import enter
from pibot.skills._usage import MAX_DEPTH

if TYPE_CHECKING:
    from subprocess import Popen

BWRAP = "/usr/bin/bwrap"
WORKSPACE = "/ws"
_NOBODY = 65534  # whom commands of a worker that is root run as
_UID = 1000  # of the others' commands, as these see it
_BECOME_NOBODY = (
    *("/usr/bin/setpriv", f"--reuid={_NOBODY}", f"--regid={_NOBODY}", "--clear-groups"),
    *("--no-new-privs", "--"),
)
_TMP_BYTES = 64 * 1024 * 1024
_TRIAL_S = 20.0  # a small machine that has just started has much to do
_MIB = 1024 * 1024
_LEAST_MEMORY, _MOST_MEMORY = 512 * _MIB, 4096 * _MIB
_MOST_FILE_MIB = 1024
_FILES = 256
_PROCESSES = 128  # beside those that the user already has, where the kernel counts all of them
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
# What programs need of /etc to start, and what they need besides to use a network.
_ETC = ("ld.so.cache", "ld.so.conf", "ld.so.conf.d", "alternatives", "localtime", "timezone")
_ETC_NETWORK = ("resolv.conf", "hosts", "ssl/certs", "ca-certificates.conf", "services")
_PASSWD = f"pibot:x:{_UID}:{_UID}::{WORKSPACE}:/bin/sh\nnobody:x:65534:65534::/:/bin/sh\n"
_GROUP = f"pibot:x:{_UID}:\nnogroup:x:65534:\n"

# Sets limits and becomes bwrap, so that the first process inside has them, too: into that one's
# memory a command of the same user can write. -p is the number of processes in dash and busybox,
# -u in bash. The score makes the kernel end the command, not the worker, when memory runs out.
_LIMITED = """
{ ulimit -c 0; ulimit -t "$1"; ulimit -f "$2"; ulimit -v "$3"; ulimit -n "$4"
ulimit -p "$5" || ulimit -u "$5"; echo 900 >/proc/$$/oom_score_adj; } 2>/dev/null
shift 5
exec "$@"
"""
_IN_WORKSPACE = f'cd {WORKSPACE} || exit 126; unset OLDPWD; exec "$@"'


def problem() -> Optional[str]:
    """Why there is no sandbox here, in a sentence that says what to do; None if it works.

    Whoever asks first waits for a trial run, at most 20 s. The answer holds for this process.
    """
    return _tried(os.geteuid())


@functools.cache
def _tried(user: int) -> Optional[str]:
    del user  # a test may become another one
    return trial()


def trial() -> Optional[str]:
    """As `problem`, by a run of /bin/true with all that a command gets."""
    from subprocess import TimeoutExpired
    from tempfile import TemporaryDirectory

    try:
        status = os.stat(BWRAP)
    except OSError:
        return "bubblewrap is not installed: run `sudo apt install bubblewrap`"
    if status.st_mode & (stat.S_ISUID | stat.S_ISGID):
        return f"{BWRAP} is setuid, which gives a command too much: run `sudo chmod u-s {BWRAP}`"
    if _seccomp.program() is None:
        return f"there is no list of system calls for this kind of machine ({os.uname().machine})"
    with TemporaryDirectory(prefix="pibot-trial-") as folder, ExitStack() as opened:
        box = Box(Path(folder), Permits())
        try:
            process = box.start(["/bin/true"], _TRIAL_S, b"", opened, info=-1)
        except OSError as error:
            return f"bubblewrap does not work here: {error}"
        with process:
            try:
                _, said = process.communicate(timeout=_TRIAL_S)
            except TimeoutExpired:
                process.kill()  # what is inside ends with it
                return f"bubblewrap did not start a command within {_TRIAL_S:g} s: {_ADVICE}"
    if process.returncode == 0:
        return None
    words = " ".join(said.decode("utf-8", "replace").split())[:200]
    return f"bubblewrap does not work here ({words or f'status {process.returncode}'}): {_ADVICE}"


_ADVICE = "run `pibot.pyz doctor`, which says why"


def run(
    ctx: Context,
    words: Sequence[str],
    timeout_s: float,
    *,
    read: Sequence[Path] = (),
    stdin: bytes = b"",
) -> Output:
    """Run a command in the task's workspace; its data is {exit_status, stdout, stderr, seconds}.

    `read` are more paths that it may read, at their own places. Raises SkillError, with the same
    data, when it fails, is stopped or cannot be started.
    """
    from pibot.skills._command import Command

    why = problem()
    if why:
        raise SkillError(f"no command can be run here: {why}")
    return Command(ctx, Box(ctx.workspace, ctx.permits, tuple(read)), timeout_s).run(words, stdin)


def acts_outside(permits: Permits) -> bool:
    """Whether a command can do more than change the workspace."""
    return permits.shell_network or bool(permits.write_paths)


def reads_outside(permits: Permits) -> bool:
    """Whether what a command prints may come from somebody else than the task."""
    return permits.shell_network or bool(permits.read_paths or permits.write_paths)


def described(permits: Permits) -> str:
    """What the settings add to the sandbox, for people and models."""
    parts = [f"The workspace is {WORKSPACE}, all else is read-only."]
    parts.append("The network can be reached." if permits.shell_network else "There is no network.")
    for verb, paths in (("read", permits.read_paths), ("changed", permits.write_paths)):
        shown = [os.fspath(path) for path in paths if not permits.hidden(path)]
        if shown:
            parts.append(f"Can be {verb}: {', '.join(shown)}.")
    for path in (*permits.read_paths, *permits.write_paths):
        why = permits.hidden(path)
        if why:
            parts.append(f"{path} cannot be seen: it {why}.")
    return " ".join(parts)


@dataclass(frozen=True)
class Box:
    """What a command may see."""

    workspace: Path
    permits: Permits
    read: Tuple[Path, ...] = ()

    def start(
        self, words: Sequence[str], timeout_s: float, stdin: bytes, opened: ExitStack, info: int
    ) -> "Popen[bytes]":
        """Start a command, with pipes to read from; `info` is where bwrap says its child's number.

        Raises OSError and ValueError. What `opened` holds may be closed as soon as it runs.
        """
        from subprocess import PIPE, Popen

        fds: List[int] = [info] if info >= 0 else []
        source = _handed(stdin, opened)
        become: Sequence[str] = ()
        if os.geteuid() == 0:  # it would own what it sees, and no limit of processes would hold
            _give_away(self.workspace)
            become = _BECOME_NOBODY
        options = [*self._options(fds, opened), *(("--info-fd", str(info)) if info >= 0 else ())]
        limited = ["/bin/sh", "-c", _LIMITED, "sh", *self._limits(timeout_s)]
        inside = ["/bin/sh", "-c", _IN_WORKSPACE, "sh", *words]
        return Popen(
            [*limited, BWRAP, *options, "--", *become, *inside],
            cwd="/",
            env={},
            stdin=source,
            stdout=PIPE,
            stderr=PIPE,
            pass_fds=fds,
            start_new_session=True,
        )

    def _options(self, fds: List[int], opened: ExitStack) -> List[str]:
        """bwrap's options; descriptors that they name are added to `fds`."""

        def handed(content: bytes) -> str:
            fds.append(_handed(content, opened))
            return str(fds[-1])

        options = outline(as_root=os.geteuid() == 0)
        if not self.permits.shell_network:
            options.append("--unshare-net")
        options += ["--perms", "0755", "--dir", "/etc"]
        for name, text in (("passwd", _PASSWD), ("group", _GROUP)):
            options += ["--perms", "0444", "--file", handed(text.encode()), f"/etc/{name}"]
        options += self._etc()
        for place in ("/dev/shm", "/tmp"):
            options += ["--size", str(_TMP_BYTES), "--perms", "1777", "--tmpfs", place]
        options += ["--bind", os.fspath(self.workspace), WORKSPACE, *self._extra()]
        # Otherwise they are file systems in memory, which a command could fill.
        options += ["--remount-ro", "/dev", "--remount-ro", "/"]
        return [*options, "--seccomp", handed(_seccomp.program() or b"")]

    def _etc(self) -> Iterator[str]:
        for name in _ETC + (_ETC_NETWORK if self.permits.shell_network else ()):
            yield from ("--ro-bind-try", os.path.realpath(f"/etc/{name}"), f"/etc/{name}")

    def _extra(self) -> Iterator[str]:
        """More paths, but none from which one gets to the tasks of others."""
        for option, paths in (
            ("--ro-bind-try", (*self.permits.read_paths, *self.read)),
            ("--bind-try", self.permits.write_paths),
        ):
            for path in paths:
                if path in self.workspace.resolve().parents or self.permits.hidden(path):
                    continue
                for parent in [*path.parents][-2::-1]:
                    yield from ("--perms", "0755", "--dir", os.fspath(parent))
                yield from (option, os.fspath(path), os.fspath(path))

    def _limits(self, timeout_s: float) -> List[str]:
        cpu_s = int(timeout_s * (os.cpu_count() or 1)) + 1
        file_blocks = min(self.permits.workspace_mb, _MOST_FILE_MIB) * 2048  # of 512 bytes
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
        memory_kib = max(_LEAST_MEMORY, min(memory, _MOST_MEMORY)) // 1024
        limits = (cpu_s, file_blocks, memory_kib, _FILES, _own_threads() + _PROCESSES)
        return [str(limit) for limit in limits]


def outline(as_root: bool) -> List[str]:
    """bwrap's options that are the same for every command, without those about the network.

    Root makes no user namespace: it binds what others cannot reach, and the command then becomes
    nobody (`_BECOME_NOBODY`).
    """
    options = ["--unshare-ipc", "--unshare-pid", "--unshare-uts", "--unshare-cgroup-try"]
    options += ["--die-with-parent", "--new-session", "--cap-drop", "ALL"]
    if as_root:
        options += ["--cap-add", "CAP_SETUID", "--cap-add", "CAP_SETGID"]
    else:
        options += ["--unshare-user", "--disable-userns", "--uid", str(_UID), "--gid", str(_UID)]
    options += ["--clearenv", "--setenv", "PATH", _PATH, "--setenv", "LANG", "C.UTF-8"]
    options += ["--setenv", "HOME", WORKSPACE]
    return [*options, *_system(), "--proc", "/proc", "--dev", "/dev"]


def _system() -> Iterator[str]:
    yield from ("--ro-bind", "/usr", "/usr")
    for name in ("bin", "sbin", "lib", "lib32", "lib64", "libx32"):
        place = Path("/", name)
        if place.is_symlink():
            yield from ("--symlink", os.readlink(place), os.fspath(place))
        elif place.is_dir():
            yield from ("--ro-bind", os.fspath(place), os.fspath(place))


def _handed(content: bytes, opened: ExitStack) -> int:
    """A descriptor from which another process reads this, and nothing else."""
    fd = os.memfd_create("pibot", os.MFD_CLOEXEC)
    opened.callback(os.close, fd)
    os.write(fd, content)
    os.lseek(fd, 0, os.SEEK_SET)
    return fd


def _give_away(workspace: Path) -> None:
    """Make the workspace belong to whom commands run as; no link is followed on the way."""
    fd = os.open(workspace, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        _give(fd, 0)
    finally:
        os.close(fd)


def _give(fd: int, depth: int) -> None:
    """What lies deeper than skills write was made by a command, and belongs to it already."""
    os.chown(fd, _NOBODY, _NOBODY)
    with os.scandir(fd) as found:
        for entry in found:
            os.chown(entry.name, _NOBODY, _NOBODY, dir_fd=fd, follow_symlinks=False)
            if depth < MAX_DEPTH and entry.is_dir(follow_symlinks=False):
                below = enter(fd, entry.name)
                try:
                    _give(below, depth + 1)
                finally:
                    os.close(below)


def _own_threads() -> int:
    """How many threads the user has: kernels before 5.14 count all of them against the limit."""
    mine, count = os.getuid() or _NOBODY, 0
    for name in os.listdir("/proc"):
        try:
            if name.isdigit() and os.stat(f"/proc/{name}").st_uid == mine:
                count += len(os.listdir(f"/proc/{name}/task"))
        except OSError:
            continue  # it has just ended
    return count
