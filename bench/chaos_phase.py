"""One fleet under fire: its work, its faults, and what they come to."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any, Dict, List, Set, Tuple

from chaos_faults import Plan
from chaos_parties import CENTRE, SLOTS, Parties
from chaos_watch import (
    TERMINAL,
    Memory,
    Patience,
    Reader,
    Recoveries,
    Recovery,
    Results,
    Row,
    Times,
    executions,
    p95,
)
from chaos_work import LASTS, ONCE, Order, Work

from pibot.fleet.pool import AFTER_WILL_S
from pibot.messages import LEASE_S

TURN_S = 0.05
LOOK_S = 1.0
PROBES = 3  # the next worker may be in trouble, too
MAX_WAITING = 200  # goals that are not answered yet
DRAIN_S = 180.0
SHOW_S = 60.0
STRIKES = ("SIGKILL", "SIGKILL, away", "clock +-10 years")
LIMITS_S = {"worker": 10.0, "master": 5.0, "broker": 10.0}
ENOUGH = 20  # of fewer times, the 95th percentile is but the slowest
LONGEST_S = 1800.0  # a phase that waits for enough times ends then
MORE_RATE = 6.0  # goals a second meanwhile, such as a worker holds for a while
GROWTH_MB = 8.0  # from the first quarter to the last
LONG_S = 300.0  # a shorter run says nothing about memory


@dataclass
class Count:
    """What one phase comes to. Lists name what must not be."""

    broker: str
    seconds: float = 0.0
    faults: "Counter[str]" = field(default_factory=Counter)
    packets: "Counter[str]" = field(default_factory=Counter)
    goals: int = 0
    refused: int = 0
    tasks: int = 0
    results: int = 0
    executions: int = 0
    repeated: int = 0  # executions beyond one for each task
    lost: List[str] = field(default_factory=list)
    stuck: List[str] = field(default_factory=list)
    second: List[str] = field(default_factory=list)
    wrong: List[str] = field(default_factory=list)
    unfenced: List[str] = field(default_factory=list)
    recovery: Dict[str, Times] = field(default_factory=dict)
    never: List[str] = field(default_factory=list)
    lacking: List[str] = field(default_factory=list)  # roles with too few times
    memory: Dict[str, Tuple[float, float]] = field(default_factory=dict)

    def violations(self) -> List[str]:
        named = {
            "acknowledged goals lost": self.lost,
            "tasks stuck": self.stuck,
            "second results": self.second,
            "goals that ended otherwise than their skill": self.wrong,
            "attempts executed twice": self.unfenced,
            "kills that were never made good": self.never,
        }
        found = [
            f"{what}: {len(those)}, first {those[0]}" for what, those in named.items() if those
        ]
        for role in self.lacking:
            found.append(f"too few recoveries of a {role}: {len(self.recovery[role].clear)}")
        for role, times in self.recovery.items():
            if len(times.clear) >= ENOUGH and p95(times.clear) > LIMITS_S[role]:
                found.append(f"recovery after SIGKILL of a {role}: p95 {p95(times.clear):.1f} s")
        for role, (first, last) in self.memory.items():
            if self.seconds >= LONG_S and last > first + GROWTH_MB:
                found.append(f"memory of a {role}: from {first:.1f} to {last:.1f} MB")
        return found


class Phase:
    """`samples`: it goes on until a recovery from each kind of kill was measured so often."""

    def __init__(
        self, parties: Parties, tasks: int, samples: int, seed: int, longest_s: float
    ) -> None:
        self._parties, self._tasks, self._samples = parties, tasks, samples
        self._plan = Plan(parties, seed, longest_s)
        self._reader = Reader(parties.journal())
        self._results, self._recoveries = Results(self._reader), Recoveries(self._reader)
        self._memory, self._work = Memory(parties), Work(parties, seed)
        self._began = self._due_at = time.monotonic()
        self._looked = self._due = 0.0
        self._log = (parties.folder / "chaos.log").open("w", encoding="utf-8", buffering=1)
        self.count = Count(parties.broker)

    def run(self, rate: float) -> Count:
        """Submit goals at that rate under fire; then let all come to its end, and reckon."""
        try:
            self._under_fire(rate)
            self._calm_down()
            self._reckon()
        finally:
            self._work.close()
            self._log.close()
        return self.count

    def _under_fire(self, rate: float) -> None:
        """All the tasks at that rate; then a few more as long as times are lacking."""
        patience = Patience(self._began)
        while (missing := self._tasks - len(self._work.acknowledged())) > 0:
            if patience.is_over(self._tasks - missing, time.monotonic()):
                self.count.stuck.append(f"submits are not answered: {missing} are missing")
                return
            self._fire(rate, missing)
        while self._lacking() and time.monotonic() - self._began < LONGEST_S:
            self._fire(MORE_RATE, MAX_WAITING, LASTS)

    def _fire(self, rate: float, wanted: int, kind: str = "") -> None:
        """One turn: the goals that are due, but no more than are wanted, and faults."""
        now = time.monotonic()
        self._due = min(self._due + rate * (now - self._due_at), 2 * rate)
        self._due_at = now
        for _ in range(min(int(self._due), min(wanted, MAX_WAITING) - self._work.waiting())):
            self._due -= 1
            self._work.submit(kind)
        self._faults()
        self._turn()

    def _lacking(self) -> List[str]:
        """The roles with too few recoveries from their kill alone, the fewest first."""
        count = {
            role: sum(took_s < float("inf") for took_s in self._recoveries.times(role).clear)
            for role in LIMITS_S
            if role == "worker" or role in self._parties.processes
        }
        return sorted(
            (role for role in count if count[role] < self._samples), key=count.__getitem__
        )

    def _calm_down(self) -> None:
        """All faults end, everybody comes back, and what is open may come to its end."""
        self._say("calm")
        self._plan.stop()
        until = time.monotonic() + DRAIN_S
        while time.monotonic() < until and not self._is_over():
            self._parties.away = {
                n: min(at, time.monotonic()) for n, at in self._parties.away.items()
            }
            self._turn()
        self._turn()  # what has just ended may make a kill good
        self._say("over")
        self.count.seconds = time.monotonic() - self._began

    def _is_over(self) -> bool:
        return (
            not self._work.waiting()
            and not self._work.followed()
            and all(state in TERMINAL for state in self._reader.goals().values())
        )

    def _turn(self) -> None:
        died, back = self._parties.tend()
        for name in died:
            self._struck(name)
        for name in back:
            self._say(f"{name} is back")
        self._work.look()
        for recovery in self._recoveries.look(self._troubled()):
            among = "" if recovery.alone else ", among other faults"
            self._say(f"{recovery.party} is made good after {recovery.took_s:.1f} s{among}")
        if time.monotonic() - self._looked >= LOOK_S:
            self._looked = time.monotonic()
            self._results.look()
            self._memory.look()
        time.sleep(TURN_S)

    # --- faults -----------------------------------------------------------------------------------

    def _faults(self) -> None:
        spared = self._recoveries.spared(self._parties.everyone())
        begun, ended = self._plan.step(spared, self._lacking())
        for fault in ended:
            self._say(f"over: {fault}")
        for fault in begun:
            self._say(str(fault))
            self.count.faults[fault.kind] += 1
            if fault.kind in STRIKES:
                self._struck(fault.party)

    def _struck(self, name: str) -> None:
        """A process has just died: from now on it is measured when the fleet has recovered."""
        self._say(f"{name} is dead, status {self._parties.processes[name].popen.returncode}")
        now = time.monotonic()
        alone = not self._troubled().intersection(CENTRE) - {name} and not self._piled_up()
        if name in CENTRE:
            probes = tuple(self._work.probe().id for _ in range(PROBES))
            self._recoveries.add(Recovery(name, name, now, alone, {}, probes))
        else:
            held = self._recoveries.holding(name)
            alone &= not self._is_in_doubt(name, held)
            attempts = {task.id: task.attempt for task in held}
            self._recoveries.add(Recovery("worker", name, now, alone, attempts))

    def _piled_up(self) -> bool:
        """Whether other faults have left more tasks than can begin: new ones wait behind them."""
        return self._recoveries.queued() > SLOTS * len(self._parties.names)

    def _is_in_doubt(self, worker: str, held: List[Row]) -> bool:
        """Whether an earlier fault made it connect anew, so that its will may be of before.

        For what is unsafe to repeat the master then waits for a lease, or until it is back.
        """
        unsafe = any(task.skill == ONCE for task in held)
        long = self._parties.away.get(worker, 0.0) > time.monotonic() + AFTER_WILL_S
        return unsafe and long and bool(self._plan.lately(LEASE_S).intersection({worker, *CENTRE}))

    def _troubled(self) -> Set[str]:
        """Who has a fault, or is down."""
        down = {n for n in self._parties.everyone() if not self._parties.processes[n].alive}
        return down | {f.party for f in self._plan.active}

    def _say(self, text: str) -> None:
        self._log.write(f"{time.monotonic() - self._began:8.2f}  {text}\n")

    # --- reckoning --------------------------------------------------------------------------------

    def _reckon(self) -> None:
        count, work = self.count, self._work
        self._results.look()
        count.second += self._results.second()
        tasks = {row.id: row for row in self._reader.tasks()}
        orders = work.acknowledged()
        count.goals, count.refused = len(orders), sum(bool(o.refused) for o in work.orders.values())
        count.tasks = len(tasks)
        count.results = sum(row.state in TERMINAL for row in tasks.values())
        count.stuck += [f"{r.id} {r.state}" for r in tasks.values() if r.state not in TERMINAL]
        self._reckon_goals(orders, tasks)
        self._reckon_executions(tasks)
        for role in LIMITS_S:
            count.recovery[role] = self._recoveries.times(role)
        count.lacking, count.never = self._lacking(), self._recoveries.never()
        count.memory = {role: self._memory.quarters(role) for role in ("master", "worker")}
        for lane in self._parties.lanes.values():
            count.packets += lane.did

    def _reckon_goals(self, orders: List[Order], tasks: Dict[str, Row]) -> None:
        """Each is known and over, and what its clients saw is what is recorded."""
        states, shown = self._reader.goals(), self._work.show_all(SHOW_S)
        for order in orders:
            state = states.get(order.id, "unknown")
            document = shown[order.id].get("document", {})
            if state not in TERMINAL or document.get("state") != state:
                says = document.get("state", "nothing")
                self.count.lost.append(f"{order.id}: {state} in the journal, {says} by show")
                continue
            if state != order.expected:
                why = [t.error for t in tasks.values() if t.goal == order.id]
                self.count.wrong.append(f"{order.id} ({order.kind}): {state}, {why}")
            for seen in order.seen:
                if _essence(seen) != _essence(document):
                    self.count.second.append(f"{order.id}: a client saw another outcome")

    def _reckon_executions(self, tasks: Dict[str, Row]) -> None:
        executed = executions(self._parties.executions)
        self.count.executions = sum(executed.values())
        self.count.repeated = sum(n - 1 for n in executed.values())
        self.count.unfenced += [
            f"{i}: {n} executions, {tasks[i].attempt if i in tasks else 0} attempts"
            for i, n in executed.items()
            if i not in tasks or n > tasks[i].attempt
        ]


def _essence(document: Dict[str, Any]) -> Any:
    """What of a document may never change; large results are left out of some."""
    rows = [(t["task_id"], t["state"], t["attempt"], t["worker_id"]) for t in document["tasks"]]
    return document["state"], rows
