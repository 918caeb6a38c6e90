"""Does the steps of a plan. Each is done whole or not at all, and can be done again."""

from __future__ import annotations

import errno
import shlex
import subprocess
from pathlib import Path
from typing import Any, Callable, Dict, Sequence, Type

from pibot.deploy import layout
from pibot.deploy.facts import Facts
from pibot.deploy.machine import read_groups, read_users
from pibot.deploy.steps import (
    Clear,
    File,
    Folder,
    Give,
    Link,
    Mend,
    Owner,
    Program,
    Prune,
    Remove,
    Run,
    Step,
    Twin,
)
from pibot.deploy.tree import Ids, Tree
from pibot.errors import PibotError, StoreError
from pibot.files import name_twice

RUN_S = 330.0  # the first start of a service, with its unpacking, may take 300 s


def apply(steps: Sequence[Step], tree: Tree, facts: Facts, tell: Callable[[str], None]) -> None:
    """Do all of it, in order; `tell` hears of what may take a while. Raises PibotError."""
    hands = _Hands(tree, facts, tell)
    with tree.locked(layout.AT_WORK):
        for step in steps:
            try:
                hands.do(step)
            except OSError as error:
                raise StoreError(_words(step, error)) from None


class _Hands:
    def __init__(self, tree: Tree, facts: Facts, tell: Callable[[str], None]) -> None:
        self.tree, self.facts, self.tell = tree, facts, tell
        self._does: Dict[Type[Step], Callable[[Any], object]] = {
            Folder: lambda s: tree.folder(s.path, s.mode, self._ids(s.owner)),
            File: self._file,
            Program: self._program,
            Link: lambda s: tree.link(s.path, s.target),
            Twin: lambda s: name_twice(Path(f"{tree.root}{s.of}"), Path(f"{tree.root}{s.path}")),
            Mend: self._mend,
            Give: lambda s: tree.give(s.path, self._ids(s.owner)),
            Remove: lambda s: tree.remove(s.path),
            Clear: lambda s: tree.clear(s.path),
            Prune: lambda s: tree.prune(s.path),
            Run: self._run,
        }

    def do(self, step: Step) -> None:
        self._does[type(step)](step)

    def _file(self, step: File) -> None:
        now, planned = self.tree.entry(step.path), self.facts.entry(step.path)
        if (now.kind, now.content) != (planned.kind, planned.content):
            raise StoreError(
                f"{step.path} has changed since setup looked at it: run setup again, and it goes "
                "on from there"
            )
        self.tree.write(step.path, step.content, step.mode, self._ids(step.owner))

    def _mend(self, step: Mend) -> None:
        try:
            Tree(Path("/"), owners=False).mode(step.path, step.mode)
        except PermissionError as error:  # a memory stick knows no modes
            self.tell(f"{step.path} stays open to others ({error.strerror}): remove it yourself")

    def _program(self, step: Program) -> None:
        self.tree.copy(Path(step.source), step.path, 0o755, self._ids(step.owner))

    def _run(self, step: Run) -> None:
        self.tell(f"{step.said} …")
        try:
            done = subprocess.run(
                step.command, stdin=subprocess.DEVNULL, capture_output=True, timeout=RUN_S
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise PibotError(_failed(step, str(error))) from None
        if done.returncode:
            said = done.stderr.decode("utf-8", "replace").strip() or f"status {done.returncode}"
            raise PibotError(_failed(step, " ".join(said.split())))

    def _ids(self, owner: Owner) -> Ids:
        """Numbers for names; a user or group that the image does not have is root."""
        user, group = owner
        if isinstance(user, str):
            user = {account.name: account.uid for account in read_users(self.tree)}.get(user, 0)
        if isinstance(group, str):
            group = read_groups(self.tree).get(group, 0)
        return user, group


def _failed(step: Run, why: str) -> str:
    look = f"; see: {step.hint}" if step.hint else ""
    return f"`{shlex.join(step.command)}` failed ({why}){look}; mend that and run setup again"


def _words(step: Step, error: OSError) -> str:
    where = getattr(step, "path", "this machine")
    advice = {
        errno.ENOSPC: "free some space there",
        errno.EROFS: "make that file system writable (mount -o remount,rw)",
        errno.EDQUOT: "free some space there",
    }.get(error.errno or 0, "mend that")
    return f"{where} cannot be changed ({error.strerror}): {advice} and run setup again"
