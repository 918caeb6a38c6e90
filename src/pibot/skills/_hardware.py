"""What skills see of the hardware: the small files of /sys and /proc, and device files in /dev.

Every read is bounded and never waits for a writer, and what a device says of itself (a USB stick
can have any name) is one short line without control characters.
"""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path
from typing import Callable, List, Optional

from pibot.agent.text import clean, short
from pibot.permits import Available, Permits

ROOT = Path("/")  # of the files that are looked at; tests put a recorded machine here
DROP_IN = "see docs/hardware.md"
_MOST_BYTES = 4096  # a file of /sys has at most a page
_MOST_ENTRIES = 256
_NAME_CHARS = 64


def path(name: str) -> Path:
    """The place of a file such as sys/class/hwmon."""
    return ROOT / name


def read(file: Path) -> Optional[str]:
    """The text of a small ordinary file; None when there is none or it cannot be read."""
    raw = read_bytes(file)
    return None if raw is None else raw.decode("utf-8", "replace")


def read_bytes(file: Path) -> Optional[bytes]:
    try:
        fd = os.open(file, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
    except (OSError, ValueError):
        return None
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            return None
        return os.read(fd, _MOST_BYTES)
    except OSError:  # a sensor that does not answer
        return None
    finally:
        os.close(fd)


def name(file: Path) -> Optional[str]:
    """What a file calls a thing, in one short line; None when it says nothing."""
    return label(read(file) or "") or None


def label(text: str) -> str:
    """A name that came from a device, fit to be shown."""
    shown = "".join(one if one.isprintable() else " " for one in clean(text))
    return short(shown, _NAME_CHARS)


def number(file: Path) -> Optional[float]:
    """The number that a file holds; None when it does not."""
    words = (read(file) or "").split()
    if not words or not re.fullmatch(r"[+-]?\d{1,18}(\.\d{1,18})?", words[0]):
        return None
    return float(words[0])


def below(folder: Path, pattern: str) -> List[Path]:
    """What is in a directory and has such a name, in the order in which people count."""
    try:
        with os.scandir(folder) as found:
            names = [entry.name for entry in found if re.fullmatch(pattern, entry.name)]
    except OSError:
        return []
    return [folder / one for one in sorted(names, key=_counting)[:_MOST_ENTRIES]]


def target(link: Path) -> Optional[str]:
    """The last name of what a symbolic link leads to, such as that of a device's driver."""
    try:
        return label(os.path.basename(os.readlink(link)))
    except OSError:
        return None


def closed(device: Path, group: str) -> Optional[str]:
    """Why a device that the kernel has cannot be used, with what to do; None when it can."""
    shown = "/" + os.path.relpath(device, ROOT)
    if not device.exists():
        return f"the worker's unit hides {shown}: give it the drop-in, {DROP_IN}"
    if not os.access(device, os.R_OK | os.W_OK):
        return f"the worker's user may not use {shown}: put it into the group {group}, {DROP_IN}"
    return None


def off(skill: str, problem: Callable[[], Optional[str]]) -> Available:
    """Says that a skill is off, and why, when its hardware cannot be used."""

    def why_not(permits: Permits) -> Optional[str]:
        why = problem()
        return f"{skill} is off: {why}" if why else None

    return why_not


def _counting(text: str) -> List[object]:
    """gpiochip2 comes before gpiochip10."""
    parts = re.split(r"(\d+)", text)
    return [int(part) if i % 2 else part for i, part in enumerate(parts)]
