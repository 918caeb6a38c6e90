"""Processes of this same program: started in a directory of their own, ended with this one."""

from __future__ import annotations

import signal
import subprocess
import sys
import zipfile
from contextlib import contextmanager
from pathlib import Path
from typing import Callable, Dict, Iterator, List, Mapping

from pibot import broker
from pibot.cli.parser import program
from pibot.errors import PibotError

PATIENCE_S = 5.0
ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def command() -> List[str]:
    """How this program is started once more."""
    started = program()
    if zipfile.is_zipfile(started):
        return [sys.executable, str(started.resolve())]
    return [sys.executable, "-m", "pibot.cli"]


@contextmanager
def _undisturbed() -> Iterator[Callable[[], object]]:
    """Hold signals back for a while: what a handler raises amid a fork is lost, or loses the child.

    Yields what a child calls to get its signals again.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ENDING)
    try:
        yield lambda: signal.pthread_sigmask(signal.SIG_SETMASK, before)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _both(first: Callable[[], object], second: Callable[[], object]) -> Callable[[], None]:
    def call() -> None:
        first()
        second()

    return call


class Children:
    """The processes, by name. They end at the latest when the calling thread does."""

    def __init__(self, folder: Path, env: Mapping[str, str]) -> None:
        self._folder, self._env = folder, dict(env)
        self._running: Dict[str, "subprocess.Popen[bytes]"] = {}

    def start(self, name: str, *args: str, **env: str) -> None:
        with self._log(name).open("wb") as log, _undisturbed() as unmask:
            self._running[name] = subprocess.Popen(
                [*command(), *args],
                env={**self._env, **env},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # Ctrl-C is for the one that started them
                preexec_fn=_both(broker.die_with_parent(), unmask),
            )

    def check(self) -> None:
        """Raise what a child said when it ended by itself, with its exit status."""
        for name, child in self._running.items():
            status = child.poll()
            if status is not None:
                error = PibotError(self._last_words(name) or f"{name} ended with {status}")
                error.exit_status = status if status > 0 else 1
                raise error

    def close(self) -> None:
        """End them all, the one that was started first last."""
        children = list(self._running.values())[::-1]
        for child in children:
            child.terminate()
        for child in children:
            try:
                child.wait(PATIENCE_S)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()

    def _log(self, name: str) -> Path:
        return self._folder / f"{name}.log"

    def _last_words(self, name: str) -> str:
        lines = self._log(name).read_text("utf-8", "replace").splitlines()
        said = [text for text in lines if text.startswith("pibot: ")]
        return said[-1][len("pibot: ") :] if said else (lines[-1] if lines else "")
