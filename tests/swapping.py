"""Somebody who exchanges two names, over and over, while others work with them."""

from __future__ import annotations

import ctypes
import threading
from contextlib import contextmanager
from pathlib import Path
from typing import Iterator, List

import pytest

_EXCHANGE = 2


@contextmanager
def swapping(one: Path, other: Path) -> Iterator[List[int]]:
    """As fast as he can; the list holds how often he has."""
    exchange = getattr(ctypes.CDLL(None), "renameat2", None)
    if exchange is None:
        pytest.skip("this C library cannot exchange two names")
    stop, swaps = threading.Event(), [0]

    def swap() -> None:
        while not stop.is_set():
            swaps[0] += exchange(-1, bytes(one), -1, bytes(other), _EXCHANGE) == 0

    attacker = threading.Thread(target=swap, daemon=True)
    attacker.start()
    try:
        yield swaps
    finally:
        stop.set()
        attacker.join(10)
