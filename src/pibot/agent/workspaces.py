"""The directories of a worker's tasks: empty ones go at once, old ones when their time is over.

How old one is, is counted in seconds that the worker has run, as the master does for its history:
a Pi without a clock battery is wrong about the date, and a clock that jumps removes nothing.

    of a task that the worker still answers for   →  stays
    ended more than PIBOT_WORKSPACE_DAYS ago      →  goes
    200 others ended later                        →  goes
    the disk has less than 512 MB                 →  the oldest go until it has more
"""

from __future__ import annotations

import json
import os
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Callable, Dict, List, NamedTuple

from pibot.agent import trash
from pibot.errors import BadMessage
from pibot.files import write_private
from pibot.strictjson import parse

KEEP = 200
RESERVE_BYTES = 512 << 20
DAY_S = 86_400.0


class Ages(NamedTuple):
    """For how long the worker has run, and at which second of that each directory was left."""

    ran_s: float
    left_s: Dict[str, float]


class Workspaces:
    """`is_held` tells the tasks that the worker still answers for: the master may want their files.

    `end` and `prune` may be called from several threads.
    """

    def __init__(
        self,
        folder: Path,
        days: float,
        is_held: Callable[[str], bool],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._folder, self._keep_s, self._is_held = folder, days * DAY_S, is_held
        self._record = folder.with_name(f"{folder.name}.json")
        self._clock, self._counted_at = clock, clock()
        self._lock = threading.Lock()

    def end(self, task: str) -> bool:
        """After a task: drop its directory if it is empty; whether it stays."""
        try:
            os.rmdir(self._folder / task)
        except FileNotFoundError:
            return False
        except OSError:
            return True
        return False

    def prune(self) -> None:
        """Remove what need not stay. This may take a while, and is not worth a failure."""
        if self._lock.acquire(blocking=False):
            try:
                with suppress(OSError):
                    self._prune()
            finally:
                self._lock.release()

    def _prune(self) -> None:
        names = [name for name in os.listdir(self._folder) if name != trash.NAME]
        ages = self._aged(names)
        trash.empty(self._folder)
        oldest_first = sorted(names, key=lambda name: (ages.left_s[name], self._changed(name)))
        for i, name in enumerate(oldest_first):
            is_old = ages.ran_s - ages.left_s[name] > self._keep_s
            if not (is_old or i < len(names) - KEEP or self._is_short()):
                return
            if not self._is_held(name):
                with suppress(OSError):
                    trash.discard(self._folder, name)
                trash.empty(self._folder)

    def _aged(self, names: List[str]) -> Ages:
        """The ages of these directories, as they are stored from now on."""
        before = self._read()
        now = self._clock()
        ran_s = before.ran_s + now - self._counted_at
        left_s = {
            name: ran_s if self._is_held(name) else min(before.left_s.get(name, ran_s), ran_s)
            for name in names
        }
        with suppress(OSError):  # as on a full disk, where it is most needed that we go on
            write_private(self._record, json.dumps({"ran_s": ran_s, "left_s": left_s}))
            self._counted_at = now
        return Ages(ran_s, left_s)

    def _read(self) -> Ages:
        """What was stored; whatever cannot be read begins its time anew."""
        try:
            stored = parse(self._record.read_bytes())
            left_s = {name: float(at) for name, at in stored["left_s"].items()}
            return Ages(float(stored["ran_s"]), left_s)
        except (OSError, BadMessage, KeyError, TypeError, ValueError, AttributeError):
            return Ages(0.0, {})

    def _changed(self, name: str) -> float:
        try:
            return (self._folder / name).lstat().st_mtime
        except OSError:
            return 0.0

    def _is_short(self) -> bool:
        disk = os.statvfs(self._folder)
        return disk.f_blocks > 0 and disk.f_bavail * disk.f_frsize < RESERVE_BYTES
