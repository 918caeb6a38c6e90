"""A new program for this worker: fetched into a directory, from which root takes it.

    install from the master   →  SHA256.part, slice by slice; SHA256 once its bytes are right
    all of it is there        →  manifest.json, then the mark `wanted`, which wakes root's unit
    root has put it in place  →  this process is replaced by the new program
    the master answers it     →  `healthy`, with the build's name: root keeps the new program
    root is done, or refuses  →  outcome.json, which the master hears of

The directory is made by `setup`: without it nobody here could put a program in place, and none is
taken. This process cannot check who signed the manifest. Root can, and trusts nothing else.
"""

from __future__ import annotations

import json
import logging
import os
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, Optional, Union

from pibot import manifest as manifests
from pibot import messages as msg
from pibot.agent.pulling import Pull
from pibot.errors import BadMessage
from pibot.fields import read
from pibot.files import write_private
from pibot.growing import SPARE_BYTES, Growing
from pibot.manifest import Manifest
from pibot.strictjson import parse

log = logging.getLogger("pibot.worker")

FOLDER = "update"  # below the state directory
MANIFEST, WANTED, HEALTHY, OUTCOME = "manifest.json", "wanted", "healthy", "outcome.json"
FETCHING, PLACED, FAILED = "fetching", "placed", "failed"
DONE, ROLLED_BACK, REFUSED = "done", "rolled_back", "refused"  # what root says
_OUTCOME_BYTES = 4_000


@dataclass(frozen=True)
class Outcome:
    """How far the attempt number `serial` is. `last` is the highest number that root has seen."""

    serial: int = 0
    state: str = ""
    why: str = ""
    last: int = 0


class Updating:
    def __init__(
        self,
        state_dir: Path,
        worker: str,
        build: str,
        with_master: bool,
        jitter: Callable[[], float],
    ) -> None:
        """`build` is the program that runs; `with_master`: this machine's master runs it, too."""
        self._folder, self._worker, self._build = state_dir / FOLDER, worker, build
        self._with_master, self._jitter = with_master, jitter
        self._possible = self._folder.is_dir()
        self._outcome, self._seen = Outcome(), (0, 0)
        self._manifest: Optional[Manifest] = None
        self._signed = {"manifest": "", "mac": ""}
        self._pull: Optional[Pull] = None
        self._part: Optional[Growing] = None
        self._told = self._outcome
        self._answered = False
        self._session = ""

    # --- what is said of it -----------------------------------------------------------------------

    def facts(self) -> Dict[str, Any]:
        """What the master hears of it; nothing where no program can be put in place."""
        if not self._possible:
            return {}
        self._look()
        have = self._pull.have if self._pull else 0
        said = {**asdict(self._outcome), "have": have, "with_master": self._with_master}
        return {"update": said}

    def is_news(self) -> bool:
        """Whether the master should hear at once how it stands."""
        if self._outcome.state == PLACED:
            self._look()  # root may have come to its end
        is_new, self._told = self._told != self._outcome, self._outcome
        return is_new

    def begin(self) -> None:
        """At the start: what the process of before has left is said, and given to root."""
        if not self._possible:
            return
        self._look()
        left = self._left()
        if left and left.serial > self._outcome.serial and (self._folder / left.sha256).is_file():
            self._outcome = replace(self._outcome, serial=left.serial, state=PLACED, why="")
            self._mark()
        self._told = self._outcome

    def answered(self) -> None:
        """The master has answered this program: it works."""
        if self._possible and not self._answered:
            self._answered = True
            try:
                write_private(self._folder / HEALTHY, self._build)
            except OSError as error:
                log.error("%s cannot be written: %s", self._folder / HEALTHY, error.strerror)

    # --- fetching ---------------------------------------------------------------------------------

    def take(self, message: Union[msg.Install, msg.ProgramSlice], now: float) -> None:
        """Something about a program, from the master."""
        if isinstance(message, msg.Install):
            self._install(message, now)
        else:
            self._came(message, now)

    def due(self, session: str, now: float) -> List[msg.FetchProgram]:
        """What to ask the master for now. What was asked in another session may be lost."""
        pull = self._pull
        if pull is None:
            return []
        if session != self._session:
            self._session = session
            pull.again(now)
        if pull.hopeless:
            self._fail("the master did not send it")
            return []
        return pull.due(now)

    def wake_at(self) -> float:
        return self._pull.wake_at() if self._pull else float("inf")

    def _install(self, told: msg.Install, now: float) -> None:
        """Begin to fetch a program, or go on; what is not for here or not new is left out."""
        try:
            wanted = manifests.parsed(told.manifest)
        except BadMessage as error:
            log.warning("a new program is left out: %s", error)
            return
        known = max(self._outcome.serial, self._outcome.last)
        if not self._possible or wanted.worker != self._worker or wanted.serial <= known:
            return
        log.info("fetching version %s of the program", wanted.version)
        self._stop()
        self._manifest, self._signed = wanted, dict(told.__dict__)
        self._outcome = replace(self._outcome, serial=wanted.serial, state=FETCHING, why="")
        with self._failing():
            self._tidy(wanted.sha256)
            if (self._folder / wanted.sha256).is_file():
                self._place()
                return
            self._part = Growing(self._folder / wanted.sha256, wanted.sha256)
            if self._part.size >= wanted.size:
                self._part.empty()
            if not self._has_room(2 * wanted.size - self._part.size):  # root makes a copy
                self._fail("its disk has no room for it: free some there")
                return
            self._pull = Pull(wanted.sha256, wanted.size, self._part.size, now, self._jitter)

    def _came(self, part: msg.ProgramSlice, now: float) -> None:
        pull, file = self._pull, self._part
        if pull is None or file is None or part.sha256 != pull.sha256:
            return
        if part.error is not None:
            self._fail(part.error)
            return
        with self._failing():
            for data in pull.came(part, now):
                file.append(data)
            if not pull.done:
                return
            if file.keep():
                self._place()
            else:
                file.empty()
                self._fail("what came is not what was announced (its SHA-256 differs)")

    # --- the directory ----------------------------------------------------------------------------

    def _place(self) -> None:
        """All of it is there and safe from a power cut: now root may come."""
        assert self._manifest
        self._stop()
        write_private(self._folder / MANIFEST, json.dumps(self._signed))
        self._outcome = replace(self._outcome, state=PLACED)
        self._mark()

    def _mark(self) -> None:
        with self._failing():
            (self._folder / WANTED).touch(0o600)

    def _look(self) -> None:
        """Read what root says, if it is new."""
        path = self._folder / OUTCOME
        try:
            status = path.stat()
            seen = (status.st_ino, status.st_mtime_ns)
            if seen == self._seen:
                return
            with path.open("rb") as file:
                found = read(Outcome, parse(file.read(_OUTCOME_BYTES)))
        except (OSError, BadMessage):
            return
        self._seen = seen
        self._outcome = replace(self._outcome, last=found.last)
        if found.serial >= self._outcome.serial:
            self._outcome = found
            self._stop()
            self._tidy("")

    def _left(self) -> Optional[Manifest]:
        """The manifest that a process of before has given to root."""
        try:
            with (self._folder / MANIFEST).open("rb") as file:
                signed = parse(file.read(2 * manifests.MAX_CHARS))
            return manifests.parsed(str(signed.get("manifest")))
        except (OSError, BadMessage):
            return None

    def _tidy(self, keep: str) -> None:
        """Remove programs that nobody needs any more."""
        with suppress(OSError):
            for path in self._folder.iterdir():
                name = path.name.partition(".")[0]
                if len(name) == 64 and name != keep:
                    path.unlink()

    def _fail(self, why: str) -> None:
        log.error("the new program could not be fetched: %s", why)
        self._outcome = replace(self._outcome, state=FAILED, why=why)
        self._stop()

    @contextmanager
    def _failing(self) -> Iterator[None]:
        """What the disk does not take ends the attempt, not the worker."""
        try:
            yield
        except OSError as error:
            self._fail(f"this machine cannot keep it: {(error.strerror or str(error)).lower()}")
            self._tidy("")  # a full disk stops more than this

    def _has_room(self, count: int) -> bool:
        disk = os.statvfs(self._folder)
        return disk.f_bavail * disk.f_frsize >= count + SPARE_BYTES

    def _stop(self) -> None:
        """Nothing more comes now; what has come stays."""
        if self._part is not None:
            with suppress(OSError):
                self._part.close()
        self._pull = self._part = None
