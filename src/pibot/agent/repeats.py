"""What is said again, with growing pauses, until it is answered. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Callable, Dict, Generic, Hashable, List, TypeVar

RESEND_S = 1.0
RESEND_MAX_S = 20.0
K = TypeVar("K", bound=Hashable)


@dataclass
class _Resend:
    at: float
    pause_s: float = RESEND_S


class Repeats(Generic[K]):
    def __init__(self, jitter: Callable[[], float]) -> None:
        """`jitter` returns numbers in [0, 1)."""
        self._jitter = jitter
        self._resends: Dict[K, _Resend] = {}

    def __len__(self) -> int:
        return len(self._resends)

    def said(self, key: K, now: float) -> None:
        """It was said just now, whenever it is due otherwise."""
        self._resends.setdefault(key, _Resend(0.0)).at = now + RESEND_S

    def drop(self, key: K) -> None:
        """It is answered, or nobody wants it any more."""
        self._resends.pop(key, None)

    def due(self, now: float) -> List[K]:
        """What is to be said again now; its next pause is longer."""
        found = [key for key, resend in self._resends.items() if now >= resend.at]
        for key in found:
            resend = self._resends[key]
            resend.pause_s = min(resend.pause_s * 2, RESEND_MAX_S)
            resend.at = now + resend.pause_s * (1 + 0.5 * self._jitter())
        return found

    def wake_at(self) -> float:
        return min((resend.at for resend in self._resends.values()), default=float("inf"))
