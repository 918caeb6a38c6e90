"""The machine that is examined, and the little that the checks need to ask it.

Every file and program is looked for under `root`. It is `/`, except for tests: there it is a
recorded tree, with small scripts in the place of systemctl and others.
"""

from __future__ import annotations

import os
import subprocess
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from shlex import quote
from typing import Callable, List, Mapping, NamedTuple, Optional, TypeVar

from pibot.deploy.layout import COMMAND, PROGRAM, ROLES, service, settings_file, unit_file

T = TypeVar("T")
COMMAND_S = 4.0
TEXT_BYTES = 1_000_000
WHOLE_BYTES = 16_000_000  # of what must not be cut: a fleet may have thousands of names
_ENV = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8"}


class Said(NamedTuple):
    """How a program ended, and what it printed."""

    status: int
    out: str
    err: str


@dataclass(frozen=True)
class Surroundings:
    """What the checks look at; `program` is what was started."""

    program: Path
    environ: Mapping[str, str]
    env_file: Optional[Path] = None
    online: bool = False
    security: bool = False  # the checks of --security are run
    root: Path = Path("/")
    uid: int = field(default_factory=os.geteuid)
    now: Callable[[], float] = time.time

    @property
    def is_root(self) -> bool:
        return self.uid == 0

    @property
    def is_pi(self) -> bool:
        return "Raspberry Pi" in self.text("/proc/device-tree/model")

    @property
    def roles(self) -> List[str]:
        """The roles that `setup` has installed here."""
        return [role for role in ROLES if self.env_path(role).exists() or self.has_our_unit(role)]

    @property
    def pibot(self) -> str:
        """What to type for the program: before `setup` it is no command yet."""
        if self.at(COMMAND).exists() or self.program.suffix != ".pyz":
            return "pibot.pyz"
        return f"python3 {quote(os.fspath(self.program))}"

    @property
    def doctor_as_root(self) -> str:
        return f"sudo {self.pibot} doctor" + (" --security" if self.security else "")

    def setup(self, role: str) -> str:
        return f"sudo {self.pibot} setup --role {role}"

    def at(self, path: str) -> Path:
        """Where a path of the machine lies under `root`."""
        return self.root / path.lstrip("/")

    def shown(self, path: Path) -> str:
        """What such a path is called on the machine itself."""
        try:
            inside = os.fspath(path.relative_to(self.root))
        except ValueError:
            return os.fspath(path)
        return "/" if inside == "." else f"/{inside}"

    def env_path(self, role: str) -> Path:
        return self.at(settings_file(role))

    def has_our_unit(self, role: str) -> bool:
        return PROGRAM in self.text(unit_file(service(role)))

    def text(self, path: str) -> str:
        """A file's text; "" when it is not there or cannot be read."""
        try:
            with self.at(path).open(encoding="utf-8", errors="replace") as file:
                return file.read(TEXT_BYTES)
        except OSError:
            return ""

    def read(self, path: str) -> Optional[str]:
        """A file's text, None if it is not there; raise PermissionError if it is not for us."""
        try:
            with self.at(path).open(encoding="utf-8", errors="replace") as file:
                return file.read(WHOLE_BYTES)
        except (FileNotFoundError, NotADirectoryError):
            return None

    def ask(
        self, *command: str, user: Optional[str] = None, limit_s: float = COMMAND_S
    ) -> Optional[Said]:
        """Run a program, as another user if that is said; None: not there, or it hangs."""
        path = self.at(command[0])
        if not os.access(path, os.X_OK):
            return None
        try:
            done = subprocess.run(
                [str(path), *command[1:]],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                encoding="utf-8",
                errors="replace",
                timeout=limit_s,
                env=_ENV,
                cwd="/",
                user=user,
                group=user and _group(user),
                extra_groups=[] if user else None,
            )
        except (OSError, subprocess.SubprocessError, LookupError):
            return None
        return Said(done.returncode, done.stdout, done.stderr)


def _group(user: str) -> int:
    import pwd

    return pwd.getpwnam(user).pw_gid


def has_user(name: str) -> bool:
    import pwd

    try:
        pwd.getpwnam(name)
    except KeyError:
        return False
    return True


def within(seconds: float, function: Callable[[], T]) -> T:
    """The function's value; raise TimeoutError when it takes longer. It may go on unseen."""
    results: List[T] = []
    errors: List[BaseException] = []

    def run() -> None:
        try:
            results.append(function())
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run, name="within", daemon=True)
    thread.start()
    thread.join(seconds)
    if errors:
        raise errors[0]
    if not results:
        raise TimeoutError(f"no answer within {seconds:g} s")
    return results[0]
