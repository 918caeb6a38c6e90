"""Why no master may answer on a connection that stands: what a guest can tell from its side.

A broker acknowledges what it does not let anybody write, and grants what it does not let anybody
read: a missing right looks like a missing master.
"""

from __future__ import annotations

from typing import Optional

SILENT_HELLOS = 5  # that nobody has answered: seven seconds and a half, or a little more


class Silence:
    """What one guest says about it: who it is for the broker, and what it must write and read."""

    def __init__(self, fleet: str, user: Optional[str], writes: str, reads: str) -> None:
        self._fleet, self._user, self._writes, self._reads = fleet, user, writes, reads

    def words(self, where: str = "", start: str = "") -> str:
        """One sentence; `where` is the broker, `start` what starts a master."""
        found = f"no master of the fleet {self._fleet!r} answers{where and f' at {where}'}: "
        start = start and f" ({start})"
        if self._user is None:
            return f"{found}none runs{start}"
        return (
            f"{found}none runs{start}, or the broker does not let the user {self._user} write "
            f"{self._writes} or read {self._reads}"
        )
