"""What the chaos sees of the fleet while it runs: recorded results, recoveries, memory.

It reads the master's journal by itself and so believes nothing that the fleet says.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
import time
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any, Collection, Dict, List, NamedTuple, Sequence, Tuple

from chaos_parties import Parties

TERMINAL = ("succeeded", "failed", "cancelled", "timed_out")
HELD = ("assigned", "running")
SETTLED_S = 5.0  # a process's memory counts once it has lived so long


class Row(NamedTuple):
    """A task as the journal has it."""

    id: str
    goal: str
    state: str
    attempt: int
    worker: str
    losses: int
    error: str
    digest: str  # of the whole record


class Reader:
    """The master's journal, read beside the master."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def rows(self, sql: str, values: Sequence[Any] = ()) -> List[Tuple[Any, ...]]:
        with closing(sqlite3.connect(f"file:{self._path}?mode=ro", uri=True, timeout=10)) as db:
            return db.execute(sql, values).fetchall()

    def tasks(self, where: str = "1", values: Sequence[Any] = ()) -> List[Row]:
        sql = f"SELECT record FROM tasks WHERE {where}"
        return [_row(text) for (text,) in self.rows(sql, values)]

    def goals(self) -> Dict[str, str]:
        """Every goal and its state."""
        return dict(self.rows("SELECT id, state FROM goals"))


def _row(text: str) -> Row:
    r = json.loads(text)
    digest = hashlib.sha256(text.encode()).hexdigest()
    return Row(
        r["id"],
        r["goal"],
        r["state"],
        r.get("attempt", 0),
        r.get("assignee", ""),
        r.get("losses", 0),
        r.get("error") or "",
        digest,
    )


class Results:
    """The first recorded end of every task, to be compared with the last."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader
        self.first: Dict[str, Row] = {}

    def look(self) -> None:
        ended = ",".join(f"'{s}'" for s in TERMINAL)
        ids = self._reader.rows(f"SELECT id FROM tasks WHERE state IN ({ended})")
        new = [i for (i,) in ids if i not in self.first]
        for start in range(0, len(new), 200):
            part = new[start : start + 200]
            for row in self._reader.tasks(f"id IN ({_marks(part)})", part):
                self.first[row.id] = row

    def second(self) -> List[str]:
        """Tasks whose recorded end is another one now."""
        last = {row.id: row for row in self._reader.tasks()}
        return [
            f"{i}: {row.state} of attempt {row.attempt} became {last[i].state} of {last[i].attempt}"
            if i in last
            else f"{i}: {row.state} is gone"
            for i, row in self.first.items()
            if last.get(i) != row
        ]


@dataclass
class Recovery:
    """From a SIGKILL until the fleet has made it good."""

    of: str  # the party's role
    party: str
    began: float
    alone: bool  # neither the master nor the broker had a fault meanwhile
    held: Dict[str, int]  # a worker's tasks and their attempts
    probes: Tuple[str, ...] = ()  # goals given then, for the master and the broker
    took_s: float = float("inf")


class Times(NamedTuple):
    """Recoveries: from a kill alone, and from one while master or broker had a fault, too."""

    clear: List[float]
    compound: List[float]


class Recoveries:
    def __init__(self, reader: Reader) -> None:
        self._reader = reader
        self.all: List[Recovery] = []

    def holding(self, worker: str) -> Dict[str, int]:
        held = self._reader.tasks("state IN (?, ?)", HELD)
        return {row.id: row.attempt for row in held if row.worker == worker}

    def add(self, recovery: Recovery) -> None:
        if recovery.held or recovery.probes:
            self.all.append(recovery)

    def look(self, centre_is_well: bool) -> List[Recovery]:
        """Return those that have just come to their end."""
        waiting = [r for r in self.all if r.took_s == float("inf")]
        for recovery in waiting:
            if recovery.of == "worker":
                recovery.alone &= centre_is_well
            if self._made_good(recovery):
                recovery.took_s = time.monotonic() - recovery.began
        return [r for r in waiting if r.took_s < float("inf")]

    def _made_good(self, r: Recovery) -> bool:
        if r.probes:
            sql = f"SELECT 1 FROM goals WHERE state = 'succeeded' AND id IN ({_marks(r.probes)})"
            return bool(self._reader.rows(sql, r.probes))
        marks = _marks(r.held)
        rows = self._reader.tasks(f"id IN ({marks})", list(r.held))
        return all(
            row.state in TERMINAL or (row.attempt > r.held[row.id] and row.state == "running")
            for row in rows
        )

    def times(self, of: str) -> Times:
        mine = [r for r in self.all if r.of == of]
        return Times(
            [r.took_s for r in mine if r.alone],
            [r.took_s for r in mine if not r.alone],
        )


class Memory:
    """Resident memory of master and workers, in quarters of the run."""

    def __init__(self, parties: Parties) -> None:
        self._parties = parties
        self._samples: List[Tuple[float, str, float]] = []
        self._since: Dict[str, Tuple[int, float]] = {}

    def look(self) -> None:
        now = time.monotonic()
        for name in ("master", *self._parties.names):
            pid = self._parties.processes[name].popen.pid
            if self._since.get(name, (0, 0.0))[0] != pid:
                self._since[name] = (pid, now)
            used = self._parties.memory_mb(name)
            if used and now - self._since[name][1] >= SETTLED_S:
                self._samples.append((now, "master" if name == "master" else "worker", used))

    def quarters(self, role: str) -> Tuple[float, float]:
        """The medians of the first and of the last quarter, in MB."""
        mine = [s for s in self._samples if s[1] == role]
        if not mine:
            return 0.0, 0.0
        begin, length = mine[0][0], mine[-1][0] - mine[0][0]
        first = [used for at, _, used in mine if at <= begin + length / 4]
        last = [used for at, _, used in mine if at >= begin + length * 3 / 4]
        return median(first), median(last)


def _marks(values: Collection[str]) -> str:
    return ",".join("?" * len(values))


def executions(path: Path) -> Dict[str, int]:
    """How often each task was executed, by what the skills wrote down themselves."""
    count: Dict[str, int] = {}
    for line in path.read_text("ascii").splitlines():
        task = line.partition(":")[0]
        count[task] = count.get(task, 0) + 1
    return count


def p95(seconds: List[float]) -> float:
    """The nearest-rank 95th percentile."""
    ranked = sorted(seconds)
    return ranked[-(-len(ranked) * 95 // 100) - 1] if ranked else 0.0
