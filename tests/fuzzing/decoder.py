"""What a decoder under test is: good payloads for it, and a target that eats bad ones.

A target takes a payload and says whether it was accepted; it may refuse in the ways that its
callers know, and raises AssertionError when what it accepted is not sound. Anything else that it
raises is a finding.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable, Sequence, Tuple, Type


class Target:
    """Something that eats payloads. Made for one run."""

    def take(self, payload: bytes) -> bool:
        raise NotImplementedError

    def rest(self) -> None:
        """Empty caches that are bounded, before memory is looked at."""

    def still_works(self) -> None:
        """After all payloads: raise AssertionError if it does not serve good ones any more."""

    def close(self) -> None:
        """Give back what it holds."""


@dataclass(frozen=True)
class Decoder:
    name: str
    good: Sequence[bytes]
    make: Callable[[Path], Target]


class _Function(Target):
    def __init__(self, take: Callable[[bytes], Any], refusals: Tuple[Type[Exception], ...]) -> None:
        self._take, self._refusals = take, refusals

    def take(self, payload: bytes) -> bool:
        try:
            return self._take(payload) is not False
        except self._refusals:
            return False


def plain(
    name: str, good: Sequence[bytes], take: Callable[[bytes], Any], *refusals: Type[Exception]
) -> Decoder:
    return Decoder(name, good, lambda _: _Function(take, refusals))


def text(payload: bytes) -> str:
    """A payload as text that may hold lone surrogates, as JSON escapes in a model's words do."""
    try:
        return payload.decode("utf-8", "surrogatepass")
    except UnicodeDecodeError:
        return payload.decode("utf-8", "replace")
