"""Entries of the systemd journal: which are asked for, and what of them is shown."""

from __future__ import annotations

import glob
import json
import os
import re
import time
from datetime import datetime
from typing import Any, Dict, List, Optional, Sequence

from pibot.agent.text import clean
from pibot.permits import Available, Permits
from pibot.skills import Context, SkillError
from pibot.skills import _program as program
from pibot.skills._hardware import label

PLACES = ("/var/log/journal", "/run/log/journal")
PRIORITIES = ("emerg", "alert", "crit", "err", "warning", "notice", "info", "debug")
_FIELDS = "MESSAGE,PRIORITY,SYSLOG_IDENTIFIER,_SYSTEMD_UNIT,_COMM"
_LIMIT_S = 40.0
_MOST_BYTES = 24 << 20
_MESSAGE_CHARS = 1000
_AGO = re.compile(r"(\d{1,6}) ?(s|m|min|h|d|w)(?:ago)?")
_UNIT_S = {"s": 1, "m": 60, "min": 60, "h": 3600, "d": 86400, "w": 604800}
_DATES = ("%Y-%m-%d", "%Y-%m-%d %H:%M", "%Y-%m-%d %H:%M:%S", "%Y-%m-%dT%H:%M:%S")
_LAST_S = 2**33  # systemd takes no later one


def closed() -> Optional[str]:
    """Why the journal cannot be read, with what to do; None when it can."""
    if program.find("journalctl") is None:
        return "there is no systemd journal here"
    files = [one for place in PLACES for one in glob.glob(f"{place}/*/system.journal")]
    if not files:
        return f"no journal of the system was found in {' or '.join(PLACES)}"
    if any(os.access(one, os.R_OK) for one in files):
        return None
    return (
        "the worker's user may not read the journal: put it into the group, sudo usermod -aG "
        "systemd-journal pibot, and restart the worker"
    )


def off(skill: str) -> Available:
    def why_not(permits: Permits) -> Optional[str]:
        why = closed()
        return f"{skill} is off: {why}" if why else None

    return why_not


def read(ctx: Context, matches: Sequence[str], entries: int) -> List[Dict[str, Any]]:
    """The last entries, the oldest first. `matches` are words such as "--unit=ssh.service"."""
    found = program.find("journalctl")
    if found is None:
        raise SkillError("there is no systemd journal here")
    words = [found, "--no-pager", "--quiet", "--output=json", f"--output-fields={_FIELDS}"]
    words += [f"--lines={entries}", *matches]
    printed = program.run(ctx, words, _LIMIT_S, most_bytes=_MOST_BYTES)
    if printed.status:
        raise SkillError(f"the journal cannot be read: {printed.said}")
    read = (_entry(line) for line in printed.out.splitlines())
    return [one for one in read if one is not None]


def since(text: str) -> str:
    """What a person calls a time, as a word for journalctl."""
    return f"--since=@{_moment(text.strip().lower())}"


def _moment(text: str) -> int:
    """Seconds since 1970 of "30m", "2 h", "today" and "2026-01-31 12:00"."""
    ago = _AGO.fullmatch(text)
    if ago:
        return max(0, int(time.time()) - int(ago[1]) * _UNIT_S[ago[2]])
    if text == "today":
        text = time.strftime("%Y-%m-%d")
    for form in _DATES:
        try:
            moment = int(datetime.strptime(text.upper(), form).timestamp())
        except (ValueError, OverflowError, OSError):
            continue
        if 0 <= moment < _LAST_S:
            return moment
    raise SkillError(f"{text[:60]!r} is no time; write such as 30m, 2h, 3d or 2026-01-31 12:00")


def _entry(line: bytes) -> Optional[Dict[str, Any]]:
    try:
        raw = json.loads(line)
        moment = int(raw["__REALTIME_TIMESTAMP"]) / 1e6
        at = datetime.fromtimestamp(moment).astimezone().isoformat(timespec="seconds")
    except (ValueError, TypeError, KeyError, OverflowError, OSError, RecursionError):
        return None  # a line that is cut, or of another kind
    priority = _text(raw.get("PRIORITY"))
    return {
        "time": at,
        "unit": label(_text(raw.get("_SYSTEMD_UNIT"))) or None,
        "from": label(_text(raw.get("SYSLOG_IDENTIFIER")) or _text(raw.get("_COMM"))),
        "priority": PRIORITIES[int(priority)] if priority in set("01234567") else None,
        "message": _message(raw.get("MESSAGE")),
    }


def _message(value: Any) -> str:
    if value is None:
        return "(a message that is too long to be shown)"
    text = clean(_text(value))
    return text if len(text) <= _MESSAGE_CHARS else text[: _MESSAGE_CHARS - 1] + "…"


def _text(value: Any) -> str:
    """A field: text, bytes that are no UTF-8 as a list of numbers, or the first of several."""
    if isinstance(value, list) and value and all(isinstance(one, int) for one in value):
        return bytes(one & 0xFF for one in value).decode("utf-8", "replace")
    if isinstance(value, list):
        value = value[0] if value else ""
    return value if isinstance(value, str) else ""


def line(entry: Dict[str, Any]) -> str:
    return f"{entry['time']} {entry['from']}: {entry['message']}"
