"""What people see: lines, marks, colours and tables; and JSON for programs.

Text that comes from models, tools and other machines is made safe here, by `clean` or `line`,
before it reaches a terminal. Colours appear on a terminal only.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
import unicodedata
from typing import Any, List, Mapping, Optional, Sequence

from pibot.agent.text import clean, short
from pibot.errors import Refused

__all__ = ["clean", "is_terminal", "line", "mark", "note", "paint", "say", "say_json", "table"]

line = short
_CODES = {"bold": 1, "dim": 2, "red": 31, "green": 32, "yellow": 33, "cyan": 36}
_STYLES = {
    "succeeded": "green",
    "idle": "green",
    "running": "cyan",
    "busy": "cyan",
    "waiting": "yellow",
    "failed": "red",
    "timed_out": "red",
    "offline": "red",
    "incompatible": "red",
    "cancelled": "yellow",
    "draining": "yellow",
}
# What JSON leaves as it is, and a terminal may obey.
_RAW = re.compile(
    "[\x7f-\x9f\u00ad\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ud800-\udfff"
    "\U000e0000-\U000e007f]"
)
GAP = "  "
LEAST = 12  # cells that the last column keeps on a narrow terminal


def is_terminal() -> bool:
    """Whether a person reads standard output on a terminal that understands sequences."""
    return sys.stdout.isatty() and os.environ.get("TERM") != "dumb"


def say(text: str = "") -> None:
    """Print to standard output, at once: others may wait for it. Raises Refused."""
    try:
        print(text, flush=True)
    except BrokenPipeError:
        raise
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for what is still to come
        why = (error.strerror or str(error)).lower()
        raise Refused(f"standard output takes nothing ({why}): write to another place") from None


def note(text: str) -> None:
    """Print one line of progress or trouble to standard error."""
    print(text, file=sys.stderr, flush=True)


def say_json(document: Any) -> None:
    text = json.dumps(document, ensure_ascii=False, indent=2)
    say(_RAW.sub(_escaped, text))


def _escaped(found: "re.Match[str]") -> str:
    units = found[0].encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[at : at + 2].hex()}" for at in range(0, len(units), 2))


def paint(text: str, style: Optional[str]) -> str:
    """`text` in a colour, where there are colours."""
    if not style or not is_terminal() or os.environ.get("NO_COLOR"):
        return text
    return f"\x1b[{_CODES[style]}m{text}\x1b[0m"


def state(name: str) -> str:
    """A state of a goal, a task or a worker, in its colour."""
    return paint(line(name), style_of(name))


def style_of(name: str) -> Optional[str]:
    return _STYLES.get(name)


def mark(ok: bool) -> str:
    return paint("✓", "green") if ok else paint("✗", "red")


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Aligned columns; on a terminal the last one is cut so that each row fits on a line.

    Cells are safe text of one line. A cell that is a known state gets its colour.
    """
    grid = [list(header), *(list(row) for row in rows)]
    widths = [max(_cells(row[i]) for row in grid) for i in range(len(header))]
    if is_terminal():
        before = sum(widths[:-1]) + len(GAP) * (len(widths) - 1)
        room = shutil.get_terminal_size().columns - before
        widths[-1] = min(widths[-1], max(room, LEAST))
    lines = [_row(row, widths) for row in grid]
    return "\n".join([paint(lines[0], "bold"), *lines[1:]])


def _row(cells: List[str], widths: List[int]) -> str:
    last = len(cells) - 1
    parts = []
    for i, (text, width) in enumerate(zip(cells, widths)):
        text = _fit(text, width) if i == last else text
        padding = "" if i == last else " " * (width - _cells(text))
        parts.append(paint(text, style_of(text)) + padding)
    return GAP.join(parts).rstrip()


def _cells(text: str) -> int:
    """How wide a terminal shows the text: Chinese characters take two cells."""
    return sum(_width(c) for c in text)


def _width(character: str) -> int:
    if unicodedata.combining(character):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


def _fit(text: str, width: int) -> str:
    if _cells(text) <= width:
        return text
    kept = ""
    for character in text:
        if _cells(kept) + _width(character) > width - 1:
            break
        kept += character
    return kept + "…"


def indented(text: str, by: str = "  ") -> str:
    """Safe text of several lines, each moved to the right."""
    return by + clean(text).rstrip().replace("\n", "\n" + by)


def size(count: int) -> str:
    """A number of bytes, as people say it."""
    if count < 1_000:
        return f"{count} byte{'' if count == 1 else 's'}"
    return f"{count / 1e3:.1f} kB" if count < 999_950 else f"{count / 1e6:.1f} MB"


def file(shared: Mapping[str, Any]) -> str:
    """A file that a task shared, on one line: its size, or why it cannot be had."""
    name = line(str(shared["path"]))
    return f"{name} ({shared['error'] and line(str(shared['error'])) or size(shared['size'])})"


def duration(value: Optional[float]) -> str:
    """Seconds, as people say them."""
    if value is None:
        return "-"
    if value < 10:
        return f"{value:.1f} s"
    if value < 120:
        return f"{value:.0f} s"
    minutes = int(value // 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h"
