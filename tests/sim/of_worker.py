"""What the witness knows of one start of one worker."""

from __future__ import annotations

from typing import TYPE_CHECKING, Dict, List, Set, Tuple

from pibot import messages as msg
from pibot.agent import effects, repeats
from pibot.line import Received

if TYPE_CHECKING:
    from sim.witness import Witness
    from sim.worker import Run, Worker

AGAIN_S = repeats.RESEND_MAX_S * 1.5 + 1.5


class WorkerWatch:
    """One start of one worker."""

    def __init__(self, witness: Witness, worker: "Worker") -> None:
        self._w, self._worker, self._must = witness, worker, witness._must
        self._acked: Set[Tuple[str, int]] = set()
        self._seen: Set[Tuple[str, int]] = set()
        self._gone: Dict[str, int] = {}  # attempts that it has given up
        self.held = {h.task: h for h in worker.core.held.values()}  # as stored
        self._said: Dict[str, float] = {}

    def committed(self, facts: List[effects.Fact]) -> None:
        for fact in facts:
            old = self.held.get(fact.task)
            if isinstance(fact, effects.Dropped):
                self.held.pop(fact.task, None)
                if old is not None and old.result is not None:
                    acked = self._has_ack(fact.task, old.att)
                    self._must(
                        acked, "acknowledged", fact.task, "a result is forgotten unacknowledged"
                    )
                continue
            lower = old is not None and fact.att < old.att
            self._must(not lower, "one result", fact.task, "a lower attempt took over")
            self.held[fact.task] = fact
            self._w.worker_stored(self._worker.name, fact)

    def heard(self, found: Received, out: effects.Out) -> None:
        header, message = found.header, found.message
        if isinstance(
            message, msg.Assign
        ):  # the master has gone on: it has this failure, or lost it
            old = self.held.get(message.task)
            if old and old.result and old.result.state != "succeeded" and message.att > old.att:
                self._acked.add((message.task, old.att))
        if not header.ses:
            return
        did = bool(out.facts or out.sends or out.effects)
        key = (header.ses, header.n)
        self._must(not (did and key in self._seen), "once", "", f"{message.t} is handled twice")
        self._seen.add(key)
        channel = self._worker.guest.channel
        mine = channel is not None and header.ses == channel.ses
        self._must(mine or not did, "once", "", f"{message.t} of another session is obeyed")
        if isinstance(message, msg.ResultAck) and mine:
            self._acked.add((message.task, message.att))

    def run_begins(self, run: "Run") -> None:
        task, att = run.assign.task, run.assign.att
        stored = self.held.get(task)
        self._must(stored and stored.att >= att, "stored first", task, "begins and is not stored")
        given_up = att <= self._gone.get(task, 0)
        self._must(not given_up, "once", task, f"{self._worker.label} begins what it had given up")
        others = [r for r in self._w._runs.get(task, ()) if r.worker is self._worker and r.active]
        self._must(not others, "once", task, f"{self._worker.label} runs it twice")

    def turn(self, now: float) -> None:
        """After each turn of the worker; `now` is when it took what came."""
        worker = self._worker
        outs = worker._outs
        for send in (s for out in outs for s in out.sends):
            if isinstance(send.message, msg.Result):
                self._said[send.message.task] = now
                if send.message.task not in worker.core.held:
                    self._give_up(send.message.task, send.message.att)
            elif isinstance(send.message, msg.Declined):
                self._give_up(send.message.task, send.message.att)
            elif isinstance(send.message, msg.Inventory):
                self._said.update((t, now) for t, _ in send.message.results)
        for out in outs:
            for fact in out.facts:
                if isinstance(fact, effects.Dropped):
                    att = max([a for t, a in self._acked if t == fact.task], default=0)
                    self._give_up(fact.task, att)
        for task, held in self.held.items():
            here = worker.core.held.get(task)
            if held.result is not None and here is None:
                acked = self._has_ack(task, held.att)
                self._must(acked, "acknowledged", task, "a result is forgotten unacknowledged")
            if held.result is not None and here is not None and worker.guest.channel is not None:
                late = now - self._said.get(task, now) > AGAIN_S
                self._must(not late, "said again", task, "a result is not said again")

    def _has_ack(self, task: str, att: int) -> bool:
        return any(t == task and a >= att for t, a in self._acked)

    def _give_up(self, task: str, att: int) -> None:
        self._gone[task] = max(att, self._gone.get(task, 0))
