"""New programs and skills for workers: what a client may ask for, what its worker is sent.

    upload         →  a slice of the program to the master's disk
    update         →  a manifest, signed for one worker, to that worker: `install`
    fetch_program  →  the next slice, to the worker that asks
    push           →  a skill, to a worker: `skill`

Nothing is remembered here but the files: the client watches how it goes (`list updates`), and
asks again for what a restart or a lost message has undone.
"""

from __future__ import annotations

import base64
import re
from collections import Counter
from typing import Any, Dict, List, Optional

from pibot import __version__, parts
from pibot import manifest as manifests
from pibot import messages as msg
from pibot.agent import packing
from pibot.errors import BadMessage, PibotError, Refused, UsageError
from pibot.fleet.events import Send
from pibot.fleet.pool import Pool, Worker
from pibot.fleet.programs import Programs
from pibot.fleet.roster import Roster
from pibot.manifest import Manifest

NO_SETUP = "it was not installed by `setup`, or by an older version: copy pibot.pyz to its machine"
WITH_MASTER = "it shares its program with the master: run `sudo python3 pibot.pyz setup` there"
SLICES_A_SECOND = 200  # to one worker: asking costs it little, answering does not
PUSHED_CHARS = 4 * packing.PACKED_BYTES // 3 + 4  # as base64
_TEXT = 300
_PUSHED = 200
_SHA256 = re.compile(r"[0-9a-f]{64}")
_BEGINNING = re.compile(r"[0-9a-f]{16,64}")


class Updates:
    def __init__(self, pool: Pool, roster: Roster, programs: Programs) -> None:
        self._pool, self._roster, self._programs = pool, roster, programs
        self._sends: List[Send] = []
        self._served: Counter[str] = Counter()
        self._counting_since = 0.0

    def take_sends(self) -> List[Send]:
        sends, self._sends = self._sends, []
        return sends

    # --- of clients -----------------------------------------------------------------------------

    def upload(self, part: msg.Upload) -> Dict[str, Any]:
        """Take a slice; the reply of the same one that comes twice is the same."""
        try:
            data = base64.b64decode(part.data, validate=True)
        except ValueError:
            raise UsageError("upload: its data is not base64") from None
        return {"have": self._programs.take(part.sha256, part.size, part.offset, data)}

    def update(self, wanted: msg.Update) -> Dict[str, Any]:
        """Tell a worker to install a program; raise PibotError if it cannot be told."""
        size = self._programs.size(wanted.sha256)
        if size is None:
            raise Refused("the master does not have this program: upload it first")
        worker = self._pool.workers.get(wanted.worker)
        if worker is None or not worker.online:
            raise Refused(f"{wanted.worker} is not there")
        why = self._obstacle(worker)
        if why:
            raise Refused(f"{wanted.worker} cannot be updated: {why}")
        self._programs.keep(wanted.sha256)
        text = Manifest(size=size, **wanted.__dict__).text()
        try:
            manifests.parsed(text)
        except BadMessage as error:
            raise UsageError(f"update: {error}") from None
        install = msg.Install(text, manifests.mac(self._key(worker.name), text))
        self._sends.append(Send(worker.name, install))
        return {"worker_id": worker.name, "serial": wanted.serial}

    def push(self, wanted: msg.Push) -> Dict[str, Any]:
        """Tell a worker to take a skill; raise PibotError if it cannot be told."""
        if not (_SHA256 if wanted.form else _BEGINNING).fullmatch(wanted.version):
            raise UsageError("push: its version is no SHA-256")
        if not packing.NAME.fullmatch(wanted.name) or len(wanted.data) > PUSHED_CHARS:
            raise UsageError("push: its name is none of a skill, or it is too large")
        worker = self._pool.workers.get(wanted.worker)
        if worker is None or not worker.online:
            raise Refused(f"{wanted.worker} is not there")
        told = msg.SkillFile(wanted.name, wanted.form, wanted.version, wanted.data)
        self._sends.append(Send(worker.name, told))
        return {"worker_id": worker.name}

    def document(self) -> Dict[str, Any]:
        """What the master runs; every worker, what it runs, and how far its update is."""
        rows = [self._row(worker) for _, worker in sorted(self._pool.workers.items())]
        return {"version": __version__, "build": parts.build(), "workers": rows}

    def _row(self, worker: Worker) -> Dict[str, Any]:
        facts = worker.facts
        said = facts.get("update")
        return {
            "worker_id": worker.name,
            "state": worker.state,
            "draining": worker.draining,
            "current_tasks": sorted(worker.tasks),
            "version": _text(facts.get("version")),
            "build": _text(facts.get("build")),
            "obstacle": self._obstacle(worker),
            "update": _progress(said if isinstance(said, dict) else {}),
            "pushed": _pushed(facts.get("pushed")),
        }

    def _obstacle(self, worker: Worker) -> Optional[str]:
        """Why a worker cannot be updated over the fleet; None if it can."""
        said = worker.facts.get("update")
        if not isinstance(said, dict):
            return NO_SETUP
        if said.get("with_master") is True:
            return WITH_MASTER
        if not self._key(worker.name):
            return f"it has no update key: `pibot.pyz workers rotate {worker.name}` makes one"
        return None

    def _key(self, worker: str) -> str:
        found = self._roster.of_worker(worker)
        return found.update_key if found else ""

    # --- of workers -----------------------------------------------------------------------------

    def fetch(self, worker: str, wanted: msg.FetchProgram, now: float) -> None:
        """Answer a worker that fetches a program; one that asks too fast is not answered."""
        if now - self._counting_since >= 1.0:
            self._counting_since = now
            self._served.clear()
        self._served[worker] += 1
        if self._served[worker] > SLICES_A_SECOND:
            return
        try:
            raw = self._programs.read(wanted.sha256, wanted.offset, msg.FILE_SLICE_BYTES)
        except PibotError as error:
            part = msg.ProgramSlice(wanted.sha256, wanted.offset, error=str(error))
        else:
            data = base64.b64encode(raw).decode()
            part = msg.ProgramSlice(wanted.sha256, wanted.offset, data)
        self._sends.append(Send(worker, part))


def _progress(said: Dict[str, Any]) -> Dict[str, Any]:
    """What a worker says of its update, read with care."""
    return {
        **{key: _number(said.get(key)) for key in ("last", "serial", "have")},
        **{key: _text(said.get(key)) or "" for key in ("state", "why")},
    }


def _pushed(said: Any) -> Dict[str, Dict[str, str]]:
    """What a worker says of the skills that were pushed to it."""
    if not isinstance(said, dict):
        return {}
    rows = [(str(k)[:_TEXT], v) for k, v in list(said.items())[:_PUSHED] if isinstance(v, dict)]
    return {
        k: {n: _text(v.get(n)) or "" for n in ("version", "state", "tried", "why", "n")}
        for k, v in rows
    }


def _number(value: Any) -> int:
    return value if type(value) is int and 0 <= value <= 1 << 53 else 0


def _text(value: Any) -> Optional[str]:
    return value[:_TEXT] if isinstance(value, str) else None
