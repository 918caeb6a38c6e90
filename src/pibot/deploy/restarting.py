"""Restarts the worker's service and watches it, with systemctl."""

from __future__ import annotations

import subprocess
import time
from typing import Callable

from pibot.deploy import layout
from pibot.errors import PibotError

UNIT = layout.service("worker")
LOOK_S = 0.25
ASK_EVERY = 8  # looks
CRASHES = 3
RUN_S = 120.0
_COUNT = ("show", "--property=NRestarts", "--value", UNIT)


def restart_until(condition: Callable[[], bool], patience_s: float) -> str:
    """Restart the worker; return "" once the condition holds, else why it never did.

    A program that ends again and again right after its start is given up early.
    """
    until = time.monotonic() + patience_s
    _insist(until, "stop", UNIT)
    before = _insist(until, *_COUNT)
    _insist(until, "start", "--no-block", UNIT)
    until = time.monotonic() + patience_s
    looks = 0
    while time.monotonic() < until:
        if condition():
            return ""
        time.sleep(LOOK_S)
        looks += 1
        if looks % ASK_EVERY == 0 and _since(before, _insist(until, *_COUNT)) >= CRASHES:
            return f"it ended {CRASHES} times right after its start; see journalctl -u {UNIT}"
    return f"it did not reach the master within {patience_s:g} s"


def restart() -> None:
    """Restart the worker and do not wait."""
    _systemctl("restart", "--no-block", UNIT)


def _since(before: str, now: str) -> int:
    """How often systemd has restarted it; an ordinary start may begin the count anew."""
    first, last = (int(said) if said.isdecimal() else 0 for said in (before.strip(), now.strip()))
    return last if last < first else last - first


def _insist(until: float, *args: str) -> str:
    """What fails is tried again: a machine that is going down says nothing about the program."""
    while True:
        try:
            return _systemctl(*args)
        except PibotError:
            if time.monotonic() >= until:
                raise
        time.sleep(LOOK_S)


def _systemctl(*args: str) -> str:
    command = ["systemctl", *args]
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=RUN_S
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise PibotError(f"`{' '.join(command)}` failed ({error})") from None
    if done.returncode:
        said = " ".join(done.stderr.split()) or f"status {done.returncode}"
        raise PibotError(f"`{' '.join(command)}` failed ({said})")
    return done.stdout
