"""The audit log: who decided what, in a file to which is only added.

One JSON object a line, each with the SHA-256 of the one before it: a line that is changed, taken
out or put in breaks the chain. The newest link is also kept in a second file, so that an end that
was cut off is missed. Whoever can write as the master's user can write both anew; the last hash,
noted elsewhere, tells that, too.

A line is on the disk before what it tells of happens. A last line that a power cut has torn goes
at the next start, and that is noted; a broken chain is reported and left as it is.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from contextlib import suppress
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, NamedTuple, Optional, Tuple

from pibot.errors import BadMessage, PibotError
from pibot.files import write_all, write_private
from pibot.strictjson import parse

log = logging.getLogger("pibot.master")

NOTHING = "0" * 64  # before the first line
LISTED = 200
LINE_BYTES = 64 * 1024


class Unrecorded(PibotError):
    """What may not happen without a record of it."""

    code = "audit"


class Link(NamedTuple):
    """A line's place in the chain."""

    seq: int
    hash: str


class Audit:
    """`open()` first; an error there is told by `problem`, and by every `write`."""

    def __init__(self, path: Path, local_time: Callable[[], str]) -> None:
        self._path, self._head_path = path, path.with_suffix(".head")
        self._local_time = local_time
        self._last = Link(0, NOTHING)
        self._checked: Optional[Tuple[Any, str]] = None  # how the file was, and what is wrong

    def open(self) -> None:
        """Find the end of the chain, and mend a line that a power cut has torn."""
        try:
            torn = self._cut_torn()
            wrong, end, head = self._broken(), self._end(), self._head()
        except OSError as error:
            log.error("%s", _unwritten(self._path, error))
            return
        self._last = end
        if wrong:  # what comes now is added so that the break stays to be seen
            self._last = Link(max(end.seq, head.seq), head.hash or NOTHING)
            log.error("the audit log %s: %s", self._path, wrong)
        if torn:
            self.note("mended", bytes=torn)

    # --- writing --------------------------------------------------------------------------------

    def write(self, what: str, **about: Any) -> None:
        """Add an entry; it is on the disk when this returns. Raises Unrecorded."""
        try:
            self._add(what, about)
        except (OSError, ValueError, TypeError) as error:
            raise Unrecorded(_unwritten(self._path, error)) from None

    def note(self, what: str, **about: Any) -> None:
        """Add an entry about what happens in any case."""
        try:
            self.write(what, **about)
        except Unrecorded as error:
            log.error("%s", error)

    def _add(self, what: str, about: Dict[str, Any]) -> None:
        last = self._last
        entry = {"seq": last.seq + 1, "at": self._local_time(), "what": what, **about}
        text = _text(_sendable({**entry, "prev": last.hash}))
        digest = hashlib.sha256(text).hexdigest()
        line = text[:-1] + b',"hash":"' + digest.encode() + b'"}\n'
        if len(line) > LINE_BYTES:
            raise ValueError(f"an entry of {len(line):,} bytes is too long")
        self._append(line, Link(last.seq + 1, digest))

    def _append(self, line: bytes, link: Link) -> None:
        """All of the line with its link, or nothing of it."""
        self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
        fd = os.open(self._path, flags, 0o600)
        try:
            before = os.fstat(fd).st_size
            try:
                write_all(fd, line)
                os.fsync(fd)
                write_private(self._head_path, json.dumps(link))
            except OSError:
                with suppress(OSError):
                    os.ftruncate(fd, before)
                raise
        finally:
            os.close(fd)
        self._last = link

    # --- reading --------------------------------------------------------------------------------

    def document(self) -> Dict[str, Any]:
        """The newest entries, the newest last, and what is wrong with the chain."""
        entries: List[Dict[str, Any]] = []
        with suppress(OSError):
            entries = [_entry(line) or {"what": "unreadable"} for line in self._newest()]
        return {"entries": entries, "total": self._last.seq, "problem": self.problem()}

    def problem(self) -> Optional[str]:
        """Why the chain does not hold, None if it does."""
        try:
            state = self._state()
            if self._checked is None or self._checked[0] != state:
                self._checked = (state, self._broken() or "")
        except OSError as error:
            return f"it cannot be read ({error.strerror or error})"
        return self._checked[1] or None

    def _state(self) -> Any:
        """What changes with every change of the files; nobody can set the ctime back."""
        found = []
        for path in (self._path, self._head_path):
            with suppress(FileNotFoundError):
                s = path.stat()
                found.append((s.st_ino, s.st_size, s.st_ctime_ns))
        return (*found, self._last)

    def _broken(self) -> Optional[str]:
        number, last, head = 0, Link(0, NOTHING), self._head()
        passed = head.seq == 0
        for number, line in enumerate(self._lines(), 1):
            entry = _entry(line)
            if entry is None or entry["prev"] != last.hash or entry["seq"] != last.seq + 1:
                return f"the chain is broken at line {number}: it was changed there"
            last = Link(entry["seq"], entry["hash"])
            passed = passed or last == head
        if head.seq < 0:
            return f"{self._head_path.name} beside it, which has its end, cannot be read"
        if not passed or self._last.seq > last.seq:
            there_were = max(head.seq, self._last.seq)
            return f"{number} entries are there, and there were {there_were}: its end was cut off"
        return None

    def _lines(self) -> Iterator[bytes]:
        try:
            with open(self._path, "rb") as file:
                while line := file.readline(LINE_BYTES + 1):
                    yield line
        except FileNotFoundError:
            return

    def _newest(self) -> List[bytes]:
        """The last lines, without reading all that is before them."""
        with open(self._path, "rb") as file:
            begin = file.seek(max(0, file.seek(0, os.SEEK_END) - LISTED * LINE_BYTES // 8))
            lines = file.read().split(b"\n")
        whole = lines[1 if begin else 0 : -1]
        return [line + b"\n" for line in whole[-LISTED:]]

    def _end(self) -> Link:
        """The newest link that can be read; what comes now is added to that."""
        last = Link(0, NOTHING)
        for line in self._lines():
            entry = _entry(line)
            if entry is not None:
                last = Link(entry["seq"], entry["hash"])
        return last

    def _head(self) -> Link:
        try:
            seq, digest = json.loads(self._head_path.read_bytes())
            return Link(int(seq), str(digest))
        except FileNotFoundError:
            return Link(0, NOTHING)
        except (ValueError, TypeError):
            return Link(-1, "")  # in no chain

    def _cut_torn(self) -> int:
        """Take a last line without an end away; return how many bytes that were."""
        flags = os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            fd = os.open(self._path, flags)
        except FileNotFoundError:
            return 0
        try:
            size = os.fstat(fd).st_size
            tail = os.pread(fd, LINE_BYTES, max(0, size - LINE_BYTES))
            torn = len(tail) - (tail.rfind(b"\n") + 1)
            if torn:
                os.ftruncate(fd, size - torn)
                os.fsync(fd)
            return torn
        finally:
            os.close(fd)


def _sendable(entry: Dict[str, Any]) -> Dict[str, Any]:
    """With '?' for halves of characters, which nobody could read again."""
    text = json.dumps(entry, ensure_ascii=False, allow_nan=False)
    return dict(json.loads(text.encode("utf-8", "replace")))


def _text(entry: Dict[str, Any]) -> bytes:
    text = json.dumps(entry, ensure_ascii=True, separators=(",", ":"), allow_nan=False)
    return text.encode("ascii")


def _entry(line: bytes) -> Optional[Dict[str, Any]]:
    """What a line says, if it is byte for byte what was written."""
    try:
        entry = parse(line)
        digest = entry.pop("hash")
        text = _text(entry)
    except (BadMessage, KeyError, ValueError, RecursionError):
        return None
    sound = digest == hashlib.sha256(text).hexdigest()
    whole = line == text[:-1] + b',"hash":"' + str(digest).encode() + b'"}\n'
    typed = isinstance(entry.get("prev"), str) and type(entry.get("seq")) is int
    return {**entry, "hash": digest} if sound and whole and typed else None


def _unwritten(path: Path, error: Exception) -> str:
    why = getattr(error, "strerror", None) or str(error)
    return f"the audit log {path} takes no entry ({why.lower()}): make room or mend that first"
