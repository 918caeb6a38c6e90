"""Logging for a role: one line a record on standard error, and a file when one is wanted."""

from __future__ import annotations

import logging
import os
import re
import sys
from pathlib import Path
from typing import Dict, List, Tuple

from pibot.config import Settings
from pibot.errors import ConfigError
from pibot.secrets import Redactor

FILE_BYTES = 5_000_000
FILES = 3  # the current one and two older
_PLAIN = "%(levelname)s %(name)s: %(message)s"
_TIMED = "%(asctime)s " + _PLAIN
ALIKE = 50  # records of one kind that are written …
ALIKE_S = 60.0  # … within this time: a flood of messages must not become one of lines
KINDS = 1_000
# Control characters, and what turns the direction or the line of the text that follows.
_UNSAFE = re.compile(
    "[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"
)


def setup(role: str, settings: Settings, *, debug: bool = False) -> None:
    """Send this process's log records to standard error and, with a log_dir, to a file.

    Secrets of the settings become ***, and no record can hold a second line or a control
    character. Raises ConfigError when the file cannot be written. Clients log warnings only.
    """
    redactor = Redactor(settings.secrets)
    screen = logging.StreamHandler(sys.stderr)
    screen.setFormatter(_OneLine(_PLAIN if _is_journal() else _TIMED, redactor, debug))
    handlers: List[logging.Handler] = [screen]
    if settings.log_dir is not None and role in ("master", "worker"):
        handlers.append(_file(settings.log_dir, _file_name(role, settings), redactor))
    root = logging.getLogger()
    for old in [h for h in root.handlers if isinstance(h.formatter, _OneLine)]:
        root.removeHandler(old)
        old.close()
    calm = _Calm()
    for handler in handlers:
        handler.addFilter(calm)
        root.addHandler(handler)
    root.setLevel(logging.WARNING)  # libraries; PiBot's own records have their own level
    usual = logging.INFO if role in ("master", "worker") else logging.WARNING
    logging.getLogger("pibot").setLevel(logging.DEBUG if debug else usual)
    logging.raiseExceptions = False  # a full disk must not fill the journal with tracebacks


class _Calm(logging.Filter):
    """Lets so many records of one kind pass within a time; the next one says how many it were."""

    def __init__(self) -> None:
        super().__init__()
        self._kinds: Dict[Tuple[str, str], List[float]] = {}  # since when, passed, left out

    def filter(self, record: logging.LogRecord) -> bool:
        facts = record.__dict__  # several handlers ask
        if "passes" not in facts:
            facts["passes"], facts["left_out"] = self._judge(record)
        return bool(facts["passes"])

    def _judge(self, record: logging.LogRecord) -> Tuple[bool, int]:
        if record.levelno <= logging.DEBUG:
            return True, 0
        if len(self._kinds) > KINDS:
            self._kinds.clear()
        kind, now, left_out = (record.name, str(record.msg)), record.created, 0
        seen = self._kinds.setdefault(kind, [now, 0, 0])
        if not 0 <= now - seen[0] < ALIKE_S:
            left_out = int(seen[2])
            seen[:] = [now, 0, 0]
        seen[1 if seen[1] < ALIKE else 2] += 1
        return seen[2] == 0, left_out


class _OneLine(logging.Formatter):
    """A record as one safe line; `traces` keeps the tracebacks, with their lines escaped."""

    def __init__(self, form: str, redactor: Redactor, traces: bool) -> None:
        super().__init__(form)
        self._redactor = redactor
        self._traces = traces

    def format(self, record: logging.LogRecord) -> str:
        plain = logging.makeLogRecord(record.__dict__)  # handlers share a record's cached text
        plain.exc_text = None
        if record.exc_info and not self._traces:
            error = record.exc_info[1]
            plain.msg = f"{record.getMessage()} ({type(error).__name__}: {error})"
            plain.args, plain.exc_info, plain.stack_info = None, None, None
        line = super().format(plain)
        left_out = record.__dict__.get("left_out")
        if left_out:
            line += f" ({left_out} more like it were left out)"
        return _UNSAFE.sub(_escape, self._redactor.text(line))


def _escape(match: re.Match[str]) -> str:
    return match[0].encode("unicode_escape").decode("ascii")


def _is_journal() -> bool:
    """Whether standard error itself is the journal, which adds the time.

    The variable alone proves nothing: a terminal opened from a desktop session inherits it.
    """
    try:
        status = os.fstat(sys.stderr.fileno())
    except (OSError, ValueError, AttributeError):
        return False
    return os.environ.get("JOURNAL_STREAM") == f"{status.st_dev}:{status.st_ino}"


def _file_name(role: str, settings: Settings) -> str:
    return "worker.log" if role == "worker" else f"master_{settings.fleet}.log"


def _file(folder: Path, name: str, redactor: Redactor) -> logging.Handler:
    from logging.handlers import RotatingFileHandler  # 0.6 MB of memory, only for who wants it

    try:
        folder.mkdir(mode=0o750, parents=True, exist_ok=True)
        handler = RotatingFileHandler(
            folder / name, maxBytes=FILE_BYTES, backupCount=FILES - 1, encoding="utf-8"
        )
    except OSError as error:
        raise ConfigError(
            f"Cannot write {folder / name} ({error.strerror}): make the directory writable for"
            " this user, or set PIBOT_LOG_DIR to another."
        ) from None
    handler.setFormatter(_OneLine(_TIMED, redactor, traces=True))
    return handler
