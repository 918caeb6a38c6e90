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
from typing import Any, Collection, Dict, List, NamedTuple, Sequence, Set, Tuple

from chaos_parties import CENTRE, Parties

TERMINAL = ("succeeded", "failed", "cancelled", "timed_out")
HELD = ("assigned", "running")
SETTLED_S = 5.0  # a process's memory counts once it has lived so long
SILENT_S = 300.0  # longer than any fault
CLEAR_S = 10.0  # so long a recovery is kept clear of other faults; later ones explain nothing


class Row(NamedTuple):
    """A task as the journal has it."""

    id: str
    goal: str
    state: str
    skill: str
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
        r.get("skill", ""),
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
    alone: bool  # no other fault could make it longer
    held: Dict[str, int]  # a worker's tasks and their attempts
    probes: Tuple[str, ...] = ()  # goals given then, for the master and the broker
    took_s: float = float("inf")


class Times(NamedTuple):
    """Recoveries: from a kill alone, and from one with another fault in its way."""

    clear: List[float]
    compound: List[float]


class Recoveries:
    def __init__(self, reader: Reader) -> None:
        self._reader = reader
        self.all: List[Recovery] = []

    def holding(self, worker: str) -> List[Row]:
        return [row for row in self._reader.tasks("state IN (?, ?)", HELD) if row.worker == worker]

    def queued(self) -> int:
        """How many tasks wait for a worker."""
        ((count,),) = self._reader.rows("SELECT count(*) FROM tasks WHERE state = 'queued'")
        return int(count)

    def add(self, recovery: Recovery) -> None:
        if recovery.held or recovery.probes:
            self.all.append(recovery)

    def look(self, troubled: Set[str]) -> List[Recovery]:
        """Return those that have just come to their end; `troubled` are all who have a fault."""
        now = time.monotonic()
        waiting = [r for r in self.all if r.took_s == float("inf")]
        for recovery in waiting:
            tasks = self._tasks(recovery)
            if _made_good(recovery, tasks):
                recovery.took_s = now - recovery.began
            elif now - recovery.began < CLEAR_S:
                recovery.alone &= not _in_the_way(recovery, tasks, troubled)
        return [r for r in waiting if r.took_s < float("inf")]

    def spared(self, everyone: Collection[str]) -> Set[str]:
        """Who is to have no new fault, so that it is one kill that is measured.

        After that of the master or broker it is everyone, as anybody may be given the probes.
        """
        since = time.monotonic() - CLEAR_S
        waiting = [r for r in self.all if r.took_s == float("inf") and r.began > since]
        if any(r.probes for r in waiting):
            return set(everyone)
        return {r.party for r in waiting}

    def _tasks(self, r: Recovery) -> List[Row]:
        if r.probes:
            return self._reader.tasks(f"goal IN ({_marks(r.probes)})", r.probes)
        return self._reader.tasks(f"id IN ({_marks(r.held)})", list(r.held))

    def never(self) -> List[str]:
        """Kills that nothing has made good. Probes that were refused say nothing of theirs."""
        waiting = [r for r in self.all if r.took_s == float("inf")]
        return [f"that of {r.party}" for r in waiting if self._tasks(r)]

    def times(self, of: str) -> Times:
        mine = [r for r in self.all if r.of == of]
        return Times(
            [r.took_s for r in mine if r.alone],
            [r.took_s for r in mine if not r.alone],
        )


def _made_good(r: Recovery, tasks: List[Row]) -> bool:
    """The first probe is done; or all that a worker held has ended or runs elsewhere."""
    if r.probes:
        return any(task.state == "succeeded" for task in tasks)
    return not _left(r, tasks)


def _left(r: Recovery, tasks: List[Row]) -> List[Row]:
    """What a worker held and nobody has begun again."""
    begun = {t.id for t in tasks if t.state == "running" and t.attempt > r.held[t.id]}
    return [t for t in tasks if t.state not in TERMINAL and t.id not in begun]


def _in_the_way(r: Recovery, tasks: List[Row], troubled: Set[str]) -> bool:
    """Whether another fault than this kill holds it up.

    Those with faults are known: the master or the broker, somebody to whom a dead worker's task
    was given, or everybody who was given a probe.
    """
    if troubled.intersection(CENTRE) - {r.party}:
        return True
    if r.probes:
        return bool(tasks) and all(t.worker in troubled for t in tasks)
    return any(t.worker in troubled and t.worker != r.party for t in _left(r, tasks))


class Patience:
    """Whether submits are still answered; without an answer for so long the fleet hangs."""

    def __init__(self, now: float) -> None:
        self._answered, self._since = 0, now

    def is_over(self, answered: int, now: float) -> bool:
        if answered > self._answered:
            self._answered, self._since = answered, now
        return now - self._since > SILENT_S


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
