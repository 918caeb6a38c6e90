"""The memory of a service: what is freed goes back to the system, and nobody else looks into it.

By default glibc serves large pieces from its heap once it has seen a few, and keeps a heap for each
thread: a worker that has sent one result of 4 MB stayed 40 MB larger.
"""

from __future__ import annotations

# From malloc.h.
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -3, -8
LARGE_BYTES = 64 * 1024
_SET_DUMPABLE = 4  # from linux/prctl.h


def give_back() -> None:
    """Set this process's malloc so; where the C library is another one, nothing changes."""
    try:
        from ctypes import CDLL

        mallopt = CDLL(None).mallopt
    except (ImportError, OSError, AttributeError):
        return
    for option, value in (
        (_MMAP_THRESHOLD, LARGE_BYTES),
        (_TRIM_THRESHOLD, LARGE_BYTES),
        (_ARENA_MAX, 1),
    ):
        mallopt(option, value)


def close() -> None:
    """Keep other processes of this user out of the memory and the environment of this one.

    Else a program that a skill starts reads the secrets in /proc/PID/environ. Root still can.
    """
    try:
        from ctypes import CDLL

        CDLL(None).prctl(_SET_DUMPABLE, 0, 0, 0, 0)
    except (ImportError, OSError, AttributeError):
        return
