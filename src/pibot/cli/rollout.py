"""How one worker gets a new program, as seen by whoever drives it. Pure: rows and time come in.

drain  →  its tasks end  →  update, again until it says that it fetches  →  it restarts
it says `done`, and runs the new build    →  updated
it says that it failed, or nothing at all →  that, in words
whatever happened                         →  resume, unless somebody had drained it before
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Dict, List, Optional

from pibot import messages as msg
from pibot.cli.release import Release

REPEAT_S = 2.0  # between two requests to install
SILENT_S = 60.0  # without a slice
START_S = 120.0  # for stopping, starting and going back, beyond the patience with the new program
UPDATED, CURRENT, NOT_TRIED, AWAY = "updated", "up to date", "not tried", "not reachable"
ROLLED_BACK, FAILED, IMPOSSIBLE = "rolled back", "failed", "cannot be updated"
Row = Dict[str, Any]


@dataclass(frozen=True)
class Terms:
    """What is to be installed, and how long to wait for what."""

    release: Release
    timeout_s: float  # for the tasks of a worker
    patience_s: int  # for the new program


def verdict(row: Row, release: Release) -> "tuple[str, str]":
    """What can be said of a worker before anything was done: a word and why; "" to go on."""
    if row["build"] == release.build and row["state"] != "offline":
        return CURRENT, ""
    if row["state"] in ("offline", "incompatible"):
        return AWAY, row["state"]
    if row["obstacle"]:
        return IMPOSSIBLE, row["obstacle"]
    return "", ""


class One:
    """One worker on its way. `outcome` is "" until it is over; then it is to be resumed."""

    def __init__(self, row: Row, terms: Terms, now: float) -> None:
        self.name, self._terms = str(row["worker_id"]), terms
        self.drained_before = bool(row["draining"])
        self.outcome, self.why, self.doing = "", "", "waiting for its tasks"
        said = row["update"]
        self._serial = max(said["serial"], said["last"]) + 1
        self._sent = False
        self._send_at = 0.0
        self._give_up_at = now + terms.timeout_s
        self._have = -1
        self._build_before = row["build"]

    def step(self, row: Optional[Row], now: float) -> List[msg.Message]:
        """Look at its row, which may be gone; return what to ask the master for now."""
        if self.outcome:
            return []
        if row is None:
            self._end(AWAY, "it was removed from the fleet")
            return []
        if not self._sent:
            return self._before(row, now)
        return self._after(row, now)

    def refused(self, why: str) -> None:
        """The master did not take what was asked."""
        self._end(FAILED, why)

    # --- stages -----------------------------------------------------------------------------------

    def _before(self, row: Row, now: float) -> List[msg.Message]:
        if row["state"] == "offline":
            self._end(AWAY, "offline")
        elif not row["current_tasks"] and row["draining"]:
            self._sent = True
            self._give_up_at = now + SILENT_S
            return self._ask(now)
        elif now >= self._give_up_at:
            tasks = ", ".join(row["current_tasks"]) or "what comes: somebody has resumed it"
            self._end(FAILED, f"it was still busy with {tasks} after {self._terms.timeout_s:g} s")
        return []

    def _after(self, row: Row, now: float) -> List[msg.Message]:
        said = row["update"]
        if said["serial"] > self._serial:
            self._end(FAILED, "somebody else has begun another update of it")
        elif said["serial"] < self._serial:
            return self._again(row, now)
        elif said["state"] == "fetching":
            self._fetching(said["have"], now)
        elif said["state"] == "placed":
            self._placed(now)
        elif said["state"] == "done":
            self._done(row, now)
        else:
            word = ROLLED_BACK if said["state"] == "rolled_back" else FAILED
            self._end(word, said["why"] or said["state"])
        return []

    def _again(self, row: Row, now: float) -> List[msg.Message]:
        """It does not know of it: the request was lost, or the worker was restarted."""
        if now >= self._give_up_at:
            gone = row["state"] == "offline"
            self._end(AWAY if gone else FAILED, "it did not begin to fetch the program")
        elif now >= self._send_at and row["state"] != "offline":
            return self._ask(now)
        return []

    def _ask(self, now: float) -> List[msg.Message]:
        self._send_at = now + REPEAT_S
        self.doing = "asking it to fetch the program"
        r = self._terms.release
        wanted = (self.name, r.sha256, r.version, r.build, self._serial, self._terms.patience_s)
        return [msg.Update(*wanted)]

    def _fetching(self, have: int, now: float) -> None:
        self.doing = f"fetching, {100 * have // self._terms.release.size} %"
        if self._have < have <= self._terms.release.size:  # else it is only said
            self._have, self._give_up_at = have, now + SILENT_S
        elif now >= self._give_up_at:
            self._end(FAILED, "it does not get on with fetching the program")

    def _placed(self, now: float) -> None:
        if self.doing != "restarting":
            self.doing = "restarting"
            self._give_up_at = now + self._terms.patience_s + START_S
        elif now >= self._give_up_at:
            self._end(
                FAILED, "nothing came back from its root unit: see journalctl -u pibot-update"
            )

    def _done(self, row: Row, now: float) -> None:
        if row["build"] == self._terms.release.build:
            self._end(UPDATED, "")
        elif row["state"] != "offline" and row["build"] != self._build_before:
            self._end(FAILED, "somebody else has updated it meanwhile")
        else:
            self._placed(now)

    def _end(self, outcome: str, why: str) -> None:
        self.outcome, self.why, self.doing = outcome, why, outcome


def groups(names: List[str]) -> List[List[str]]:
    """One first, and then a quarter of all at a time, but at least two."""
    size = max(2, -(-len(names) // 4))
    rest = names[1:]
    return [names[:1], *(rest[i : i + size] for i in range(0, len(rest), size))] if names else []
