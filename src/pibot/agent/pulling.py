"""Which slices of a program to ask the master for, and in which order its bytes follow. Pure.

A few slices are asked for at once. What does not come is asked for again, with growing pauses, and
at once in a new session. The bytes come out in order, so that what is on the disk says where to go
on after a restart.
"""

from __future__ import annotations

import base64
from typing import Callable, Dict, Iterator, List

from pibot.messages import FILE_SLICE_BYTES, FetchProgram, ProgramSlice

WINDOW = 4  # slices that are asked for at once
RESEND_S = 1.0
RESEND_MAX_S = 8.0
TRIES = 24  # without a slice, in about three minutes: it never comes


class Pull:
    def __init__(
        self, sha256: str, size: int, have: int, now: float, jitter: Callable[[], float]
    ) -> None:
        """`have` bytes are there already; `jitter` returns numbers in [0, 1)."""
        self.sha256, self.size, self.have = sha256, size, have
        self._jitter = jitter
        self._asked = have  # everything before has been asked for
        self._early: Dict[int, bytes] = {}  # slices that overtook others
        self._tries, self._pause_s = 0, RESEND_S
        self._resend_at = now

    @property
    def done(self) -> bool:
        return self.have == self.size

    @property
    def hopeless(self) -> bool:
        return self._tries > TRIES

    def wake_at(self) -> float:
        return self._resend_at

    def again(self, now: float) -> None:
        """A new session: what was asked in the old one may be lost."""
        self._resend_at, self._pause_s = now, RESEND_S

    def due(self, now: float) -> List[FetchProgram]:
        """What to ask for now."""
        offsets: List[int] = []
        if now >= self._resend_at:
            self._tries += 1
            offsets += self._missing()
            self._later(now)
            self._pause_s = min(2 * self._pause_s, RESEND_MAX_S)
        end = min(self.size, self.have + WINDOW * FILE_SLICE_BYTES)
        while self._asked < end:
            offsets.append(self._asked)
            self._asked = min(self._asked + FILE_SLICE_BYTES, self.size)
        return [FetchProgram(self.sha256, offset) for offset in offsets]

    def came(self, part: ProgramSlice, now: float) -> Iterator[bytes]:
        """Take a slice; return what now follows on what is there. Anything else is left out."""
        data = self._data(part)
        if data:
            self._early[part.offset] = data
        while self.have in self._early:
            data = self._early.pop(self.have)
            self.have += len(data)
            self._tries, self._pause_s = 0, RESEND_S
            self._later(now)
            yield data

    def _data(self, part: ProgramSlice) -> bytes:
        """The slice's bytes; none unless they are exactly what was asked for."""
        if part.sha256 != self.sha256 or part.offset not in self._missing():
            return b""
        try:
            data = base64.b64decode(part.data, validate=True)
        except ValueError:
            return b""
        return data if len(data) == min(FILE_SLICE_BYTES, self.size - part.offset) else b""

    def _missing(self) -> List[int]:
        """The offsets that were asked for and have not come."""
        return [o for o in range(self.have, self._asked, FILE_SLICE_BYTES) if o not in self._early]

    def _later(self, now: float) -> None:
        self._resend_at = now + self._pause_s * (1 + 0.5 * self._jitter())
