"""robots.txt (RFC 9309): what a site asks programs to leave alone.

Python's urllib.robotparser takes the first rule that fits instead of the longest, and knows no
wildcards.
"""

from __future__ import annotations

import re
from typing import Callable, List, NamedTuple, Optional, Tuple
from urllib.parse import quote, unquote_to_bytes

PRODUCT = "pibot"
MOST_BYTES = 500 * 1024  # of a robots.txt; what is beyond is not read
_MOST_RULE_CHARS = 2048
_LOOK_EVERY = 256
_LINES = re.compile(r"\r\n?|\n")


def _quoted(path: str) -> str:
    """A part of a path with everything quoted in one way, so that it can be compared."""
    kept = path.replace("%2F", "%252F").replace("%2f", "%252F")  # is not the same as a slash
    return quote(unquote_to_bytes(kept), safe="/?=&;,:@+!'()~")


class Pattern(NamedTuple):
    """Which paths a rule is for: `parts` in this order, with anything between."""

    parts: Tuple[str, ...]
    whole: bool  # not only the beginning of a path

    @classmethod
    def of(cls, text: str) -> Pattern:
        whole = text.endswith("$")
        return cls(tuple(map(_quoted, (text[:-1] if whole else text).split("*"))), whole)

    @property
    def length(self) -> int:
        return sum(map(len, self.parts)) + len(self.parts) - 1 + self.whole

    def fits(self, path: str) -> bool:
        first, *others = self.parts
        if not path.startswith(first):
            return False
        if not others:
            return not self.whole or path == first
        last = others.pop() if self.whole else ""
        at = len(first)
        for part in others:
            found = path.find(part, at)
            if found < 0:
                return False
            at = found + len(part)
        return path.endswith(last) and at + len(last) <= len(path)


class Rules(NamedTuple):
    """What one site asks of us: (may be fetched, pattern), and seconds between two requests."""

    rules: Tuple[Tuple[bool, Pattern], ...] = ()
    delay_s: float = 0.0

    def allows(self, path: str, check: Callable[[], None]) -> bool:
        """Whether a path (with its query) may be fetched: the longest pattern decides.

        `check` is called from time to time and raises when there is no time left.
        """
        wanted = _quoted(path)
        best: Tuple[int, bool] = (0, True)
        for number, (allowed, pattern) in enumerate(self.rules):
            if not number % _LOOK_EVERY:
                check()
            if (pattern.length, allowed) > best and pattern.fits(wanted):
                best = pattern.length, allowed
        return best[1]


NOTHING = Rules(((False, Pattern.of("/")),))  # may be fetched


def read(raw: bytes) -> Rules:
    """The rules of a robots.txt for PiBot: those of its own groups, else those for everyone."""
    own: Optional[_Group] = None
    everyone = _Group()
    current: List[_Group] = []
    naming = False  # the line before named a program, too: they share what follows
    for line in _LINES.split(raw[:MOST_BYTES].decode("utf-8", "replace").lstrip("\ufeff")):
        key, colon, value = line.partition("#")[0].partition(":")
        key, value = key.strip().lower(), value.strip()
        if key == "user-agent" and colon:
            current = current if naming else []
            if _product(value) == PRODUCT:
                own = own or _Group()
                current.append(own)
            elif value == "*":
                current.append(everyone)
        elif colon:
            for group in current:
                group.take(key, value)
        naming = (naming and not key) or key == "user-agent"
    return (own or everyone).rules()


class _Group:
    def __init__(self) -> None:
        self._rules: List[Tuple[bool, Pattern]] = []
        self._delay_s = 0.0

    def take(self, key: str, value: str) -> None:
        if key in ("allow", "disallow") and value and len(value) <= _MOST_RULE_CHARS:
            self._rules.append((key == "allow", Pattern.of(value)))
        elif key == "crawl-delay":
            try:
                self._delay_s = max(0.0, float(value))  # NaN is 0, as max() keeps its first
            except ValueError:
                pass

    def rules(self) -> Rules:
        return Rules(tuple(dict.fromkeys(self._rules)), self._delay_s)


def _product(value: str) -> str:
    """The name of a program without its version: "PiBot/1.0 (x)" is "pibot"."""
    return value.lower().split("/")[0].split(" ")[0]
