"""What a check has found: one line for a person, and the command that mends it."""

from __future__ import annotations

from typing import Iterable, NamedTuple, Optional

OK, WARN, FAIL = "ok", "warn", "fail"


class Finding(NamedTuple):
    """`state` is ok, warn or fail; `fix` is what mends it, None where nothing is to be done."""

    check: str
    state: str
    message: str
    fix: Optional[str] = None


Findings = Iterable[Finding]


def ok(check: str, message: str) -> Finding:
    return Finding(check, OK, message)


def warn(check: str, message: str, fix: str) -> Finding:
    return Finding(check, WARN, message, fix)


def fail(check: str, message: str, fix: str) -> Finding:
    return Finding(check, FAIL, message, fix)
