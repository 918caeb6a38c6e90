"""What pibot-update.service does on a worker: a new program in place of the old, or the old back.

    update/wanted         the worker has fetched a program, and a manifest that the master signed
    checked               →  a copy for root alone; `attempt.json`; the copy becomes pibot.pyz
    the worker restarts   →  in time it writes `healthy` with the new build's name, or it does not
    healthy               →  proven.pyz becomes the new program, too: it is where one returns to
    not healthy           →  pibot.pyz becomes proven.pyz again, and the worker restarts
    outcome.json          →  how it ended, for the worker and through it for the master

Nothing in the worker's directory is trusted: everything is checked on the copy, with a key that
only root has. Each step can be done twice, and what is left to do is told by files alone: whatever
ends this process, the path unit starts it again, and it goes on. It runs from proven.pyz, so a new
program that is broken cannot keep it from returning to the old one.
"""

from __future__ import annotations

import hashlib
import json
import os
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import IO, Optional

from pibot import manifest as manifests
from pibot import messages as msg
from pibot.agent import updating
from pibot.agent.updating import DONE, REFUSED, ROLLED_BACK, Outcome
from pibot.deploy import layout
from pibot.deploy.restarting import restart, restart_until
from pibot.deploy.untrusted import Untrusted, untrusted
from pibot.errors import BadMessage, PibotError, Refused, StoreError
from pibot.fields import read
from pibot.files import name_twice, sync_folder, write_private
from pibot.manifest import Manifest
from pibot.strictjson import parse
from pibot.values import parse_env

TRYING = "trying"
_MANIFEST_BYTES = 8_000
_COPY_BYTES = 1 << 20


@dataclass(frozen=True)
class Attempt:
    """A program that is being put in place; `state` is trying, done or rolled_back."""

    manifest: str
    state: str = TRYING
    why: str = ""


class Places:
    """Where everything is, on this machine or below a directory that stands for it."""

    def __init__(self, root: Path) -> None:
        def at(path: str) -> Path:
            return root / path.lstrip("/")

        self.program, self.proven = at(layout.PROGRAM), at(layout.PROVEN)
        self.fresh = self.program.with_name(f".{self.program.name}.new")
        self.key, self.settings = at(layout.UPDATE_KEY), at(layout.settings_file("worker"))
        self.master = at(layout.settings_file("master"))
        self.attempt = at(layout.UPDATES) / "attempt.json"
        self.record = at(layout.UPDATES) / "record.json"
        self.folder = at(layout.STATE_UPDATE)


def place_and_restart(root: Path = Path("/")) -> None:
    """Finish what was begun, then take what the worker wants; raise PibotError if it failed."""
    places = Places(root)
    try:
        places.record.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        attempt = _under_way(places) or _begun(places)
        if attempt is not None:
            _finish(places, attempt)
    except OSError as error:
        raise StoreError(
            f"The new program could not be put in place: {error.filename or places.program}: "
            f"{error.strerror}."
        ) from None


# --- checking -------------------------------------------------------------------------------------


def _begun(places: Places) -> Optional[Attempt]:
    """Check what the worker wants and begin with it; None if it is nothing new."""
    with untrusted(places.folder) as folder:
        if not folder.take_mark(updating.WANTED):  # before reading: what comes now makes a new one
            return None
        before = _record(places)
        last = before.serial
        try:
            signed = parse(folder.read(updating.MANIFEST, _MANIFEST_BYTES))
            told = read(msg.Install, signed)
            wanted = manifests.parsed(told.manifest)
        except BadMessage as error:
            raise Refused(f"The worker's manifest is refused: {error}.") from None
        if wanted.serial == last:  # a mark that was made twice, or a worker that has forgotten
            _tell(folder, before)
            return None
        try:
            _check(places, told, wanted, last)
            _copy(places, folder, wanted)
        except (PibotError, OSError) as error:
            why = str(error) if isinstance(error, PibotError) else _words(error)
            _tell(folder, Outcome(wanted.serial, REFUSED, why, last))
            raise
    name_twice(places.program, places.proven)  # what runs has fetched this: one can return to it
    attempt = Attempt(told.manifest)
    _write(places.attempt, attempt)
    return attempt


def _check(places: Places, told: msg.Install, wanted: Manifest, last: int) -> None:
    if places.master.exists():
        raise Refused(
            "The master of this machine runs the same program: update both with `sudo python3 "
            "pibot.pyz setup --role master` and the new file."
        )
    if not manifests.fits(_key(places), told.manifest, told.mac):
        raise Refused(
            "The manifest is not signed with the update key of this machine: make new credentials "
            "on the master (`pibot.pyz workers rotate`) and run setup with them here."
        )
    if wanted.worker != _name(places):
        raise Refused(f"The manifest is for {wanted.worker}, which is not this worker.")
    if wanted.serial <= last:
        raise Refused(f"The manifest has number {wanted.serial}, and {last} was here already.")


def _key(places: Places) -> str:
    try:
        key = places.key.read_text("ascii").strip()
    except FileNotFoundError:
        key = ""
    if not key:
        raise Refused(
            f"This machine has no update key ({layout.UPDATE_KEY}): make new credentials on the "
            "master (`pibot.pyz workers rotate`) and run setup with them here."
        )
    return key


def _name(places: Places) -> str:
    found = parse_env(places.settings.read_text("utf-8"), places.settings).get("WORKER_ID")
    return found.text.strip() if found else ""


def _copy(places: Places, folder: Untrusted, wanted: Manifest) -> None:
    """Copy the program to where only root writes, and check the copy."""
    with suppress(FileNotFoundError):
        places.fresh.unlink()
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
    try:
        fresh = os.open(places.fresh, flags, 0o755)
        with open(fresh, "wb") as target, folder.opened(wanted.sha256) as source:
            digest = _copied(source, target, wanted.size)
            os.fchmod(target.fileno(), 0o755)
            target.flush()
            os.fsync(target.fileno())
        if digest != wanted.sha256:
            raise Refused("The program is not the one that the manifest names.")
        sync_folder(places.fresh.parent)
    except BaseException:
        with suppress(OSError):
            places.fresh.unlink()
        raise


def _copied(source: IO[bytes], target: IO[bytes], size: int) -> str:
    """Copy up to `size` bytes and one more; return their SHA-256."""
    digest, left = hashlib.sha256(), size + 1
    while data := source.read(min(_COPY_BYTES, left)):
        target.write(data)
        digest.update(data)
        left -= len(data)
    return digest.hexdigest()


# --- doing ----------------------------------------------------------------------------------------


def _finish(places: Places, attempt: Attempt) -> None:
    """From wherever an attempt is to its end."""
    wanted = manifests.parsed(attempt.manifest)
    if attempt.state == TRYING:
        why = _tried(places, wanted)
        attempt = replace(attempt, state=ROLLED_BACK if why else DONE, why=why)
        if why:  # this needs no room, and what the new program did may have left none
            name_twice(places.proven, places.program)
        try:
            _write(places.attempt, attempt)
        except OSError:
            restart()
            raise
    if attempt.state == DONE:
        name_twice(places.program, places.proven)
    else:
        name_twice(places.proven, places.program)
    outcome = Outcome(wanted.serial, attempt.state, attempt.why, wanted.serial)
    _write(places.record, outcome)
    with suppress(OSError), untrusted(places.folder) as folder:
        _tell(folder, outcome)
    if attempt.state == ROLLED_BACK:
        restart()
    places.attempt.unlink()
    sync_folder(places.attempt.parent)
    if attempt.state == ROLLED_BACK:
        raise PibotError(f"Version {wanted.version} was taken back: {attempt.why}.")


def _tried(places: Places, wanted: Manifest) -> str:
    """Let the new program run; return why it is no good, "" if it is."""

    def is_healthy() -> bool:
        return _is_healthy(places, wanted.build)

    if places.fresh.exists():
        with suppress(OSError), untrusted(places.folder) as folder:
            folder.take_mark(updating.HEALTHY)
        os.replace(places.fresh, places.program)
        sync_folder(places.program.parent)
    elif is_healthy():
        return ""
    try:
        return restart_until(is_healthy, wanted.patience_s)
    except PibotError as error:
        return str(error)


def _is_healthy(places: Places, build: str) -> bool:
    try:
        with untrusted(places.folder) as folder:
            return folder.read(updating.HEALTHY, len(build)) == build.encode()
    except (OSError, Refused):
        return False


# --- what is written down -------------------------------------------------------------------------


def _under_way(places: Places) -> Optional[Attempt]:
    try:
        return read(Attempt, parse(places.attempt.read_bytes()))
    except FileNotFoundError:
        return None


def _record(places: Places) -> Outcome:
    """How the last attempt has ended; its number is the highest one that was tried here."""
    try:
        return read(Outcome, parse(places.record.read_bytes()))
    except FileNotFoundError:
        return Outcome()


def _write(path: Path, what: object) -> None:
    write_private(path, json.dumps(what.__dict__))


def _tell(folder: Untrusted, outcome: Outcome) -> None:
    folder.put(updating.OUTCOME, json.dumps(asdict(outcome)).encode())


def _words(error: OSError) -> str:
    return f"{error.filename or 'the program'}: {error.strerror}"
