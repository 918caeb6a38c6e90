"""The scheduler: which worker does which task, and what is true when messages and machines fail.

Pure. An event and the time come in; facts to store, messages to send and model work come out. It
reads no clock, socket, thread or random source; times are seconds on the master's monotonic clock.

    event                        rule
    a task is queued          →  the least loaded worker that suits gets the next attempt (assign)
    no `accepted` comes       →  assign again, with growing pauses, until the lease is over
    heartbeat names attempt   →  its lease runs anew; an attempt that is not current is cancelled
    result of the current     →  recorded, acknowledged; the first one wins
    result of any other       →  acknowledged with the true state, nothing recorded
    a new session's inventory →  what it does not hold is released at once
    silence for a lease       →  the worker is offline, its tasks go to others (or wait, or fail)
    unsafe to repeat          →  given away when its worker says so, or after a full lease's silence
    a call waits for a person →  the task is waiting, and its time stands still (approvals.py)
    failed, tries left        →  queued again, elsewhere if there is somebody else
    cancel                    →  repeated until the attempt is over
    a worker is removed       →  lost at once; what only it may do has failed
    an attempt is found       →  after damage to the journal: it is believed, with its worker

Goals (routing, plans, answers) live beside this, in `goals.py`.
"""

from __future__ import annotations

from typing import Any, Callable, Dict, List, Optional

from pibot.fleet import events as ev
from pibot.fleet.approvals import Approvals, Watch, pending, refused
from pibot.fleet.board import Board
from pibot.fleet.goals import Goals
from pibot.fleet.pool import Pool, Worker, was_removed
from pibot.fleet.records import (
    FORGOTTEN,
    GONE,
    HELD,
    REMOVED,
    TERMINAL,
    WAITING,
    Attempt,
    Fact,
    Known,
    Standing,
    Task,
    add_usage,
    changed,
)
from pibot.messages import LEASE_S, Assign, Cancel, HbAck, Message, Refusal, Result, ResultAck

RESEND_S = 1.0
RESEND_MAX_S = 8.0
GRACE_S = 15.0  # beyond an attempt's own deadline, for its worker to say so
FILES_S = 90.0  # without news of an attempt's files: whoever fetches them has given up before
MAX_ERROR_CHARS = 4_000  # the whole story is in the result
MAX_NAMED = 200  # attempts that one heartbeat may name
MAX_LOSSES = 5  # a task that keeps losing its workers may be what kills them


class Scheduler:
    def __init__(
        self, jitter: Callable[[], float], model: bool = False, recovers: bool = False
    ) -> None:
        """`jitter` returns numbers in [0, 1); `model`: whether the master can plan.

        `recovers`: the journal was damaged lately, and workers may know more than it does.
        """
        self.board = Board()
        self.pool = Pool()
        self.goals = Goals(self.board, self.pool, self._emit, self._stop_tasks, model, recovers)
        self.approvals = Approvals(self._emit)
        self._jitter = jitter
        self._watches: Dict[str, Watch] = {}
        self._out = ev.Out()
        self._now = 0.0
        self._handlers: Dict[type, Callable[[Any], None]] = {
            ev.Submitted: lambda e: self.goals.submitted(e.goal, self._now),
            ev.Planned: lambda e: self.goals.planned(e, self._now),
            ev.Answered: lambda e: self.goals.answered(e, self._now),
            ev.CancelWanted: self._on_cancel,
            ev.RetryWanted: lambda e: self.goals.retry(e.goal, e.tasks, e.key, self._now),
            ev.Joined: self._on_joined,
            ev.Beat: self._on_beat,
            ev.Left: self._on_left,
            ev.StandingWanted: lambda e: self._stand(e.worker, e.state),
            ev.WillSeen: lambda e: self.pool.will(e.worker, e.start, self._now),
            ev.AssignMoves: self._on_assign_moves,
            ev.AttemptAccepted: self._on_accepted,
            ev.AttemptDeclined: self._on_declined,
            ev.ApprovalAsked: self._on_approval,
            ev.Decided: self._on_decided,
            ev.AttemptEnded: self._on_ended,
            ev.FilesMove: self._on_files,
            ev.Found: self._on_found,
            ev.Tick: lambda e: self._timers(),
        }

    # --- the two ways in ----------------------------------------------------------------------

    def load(self, facts: List[Fact], now: float) -> ev.Out:
        """Start from what the journal holds: full leases, everything is to be reconciled."""
        self._now, self._out = now, ev.Out()
        for fact in facts:
            self.board.apply(fact)
        for name, known in self.board.known.items():
            self.pool.restored(name, known)
        for name, state in self.board.standings.items():
            self.pool.stand(name, state)
        for task in list(self.board.tasks.values()):
            if task.state in HELD:
                self._watch(task)
                self.pool.get(task.assignee).tasks.add(task.id)
        self.goals.resume(now)
        return self._out

    def handle(self, event: ev.FleetEvent, now: float) -> ev.Out:
        """Take one event; return what follows from it. What time brings, follows from a Tick."""
        self._now, self._out = now, ev.Out()
        self._handlers[type(event)](event)
        self._dispatch()
        return self._out

    def wake_at(self) -> Optional[float]:
        """When `Tick` is next needed, if nothing else happens."""
        times = [min(w.lease_until, w.deadline, w.resend_at) for w in self._watches.values()]
        for time in (self.pool.next_silence(), self.goals.next_deadline()):
            if time is not None:
                times.append(time)
        return min(times, default=None)

    # --- writing down ---------------------------------------------------------------------------

    def _emit(self, item: Any) -> None:
        """Collect what follows: a fact (applied at once), a message, a job or a note."""
        if isinstance(item, ev.Send):
            self._out.sends.append(item)
        elif isinstance(item, (ev.PlanJob, ev.AnswerJob)):
            self._out.jobs.append(item)
        elif isinstance(item, ev.Note):
            self._out.notes.append(item)
        elif isinstance(item, ev.Audited):
            self._out.audits.append(item)
        else:
            self.board.apply(item)
            self._out.facts.append(item)
            if isinstance(item, Task):
                self.goals.task_changed(item, self._now)

    def _set(self, task: Task, **changes: Any) -> Task:
        task = changed(task, **changes)
        self._emit(task)
        return task

    def _send(self, worker: str, message: Message, qos: int = 1) -> None:
        self._emit(ev.Send(worker, message, qos))

    # --- workers --------------------------------------------------------------------------------

    def _on_joined(self, event: ev.Joined) -> None:
        """Compare what the worker has with what we believe, and mend both sides."""
        changed_start = self.pool.take(event.worker, event.hello, self._now)
        if self.board.known.get(event.worker) != event.hello.facts:
            self._emit(Known(event.worker, dict(event.hello.facts)))
        if self.pool.gone.get(event.worker) == FORGOTTEN:
            self._stand(event.worker, "")
        has = {(str(t), int(a)) for t, a in event.inventory.running + event.inventory.results}
        has |= event.coming
        for task_id in sorted(self.pool.get(event.worker).tasks):
            task = self.board.tasks[task_id]
            if (task.id, task.attempt) in has:
                continue
            if task.state == "assigned" and not changed_start:  # never arrived: nothing was lost
                self._requeue(self._release(task))
            else:
                self._lost(task, f"{event.worker} restarted")
        for task_id, att in sorted(event.coming):
            if self._current(event.worker, task_id, att) is None:  # lost while it was away
                self._send(event.worker, Cancel(task_id, att))
        self._renew(event.worker, event.inventory.running)

    def _on_beat(self, event: ev.Beat) -> None:
        worker = self.pool.heard(event.worker, self._now)
        self.pool.learn(worker, event.heartbeat.facts)
        self._renew(event.worker, event.heartbeat.running)
        mine = (self.board.tasks[t] for t in sorted(worker.tasks))
        cancels = [[t.id, t.attempt] for t in mine if t.cancel]
        self._send(event.worker, HbAck(cancels, event.heartbeat.at_ms), qos=0)

    def _on_left(self, event: ev.Left) -> None:
        self.pool.left(event.worker)
        self._lose_all(event.worker, f"{event.worker} was stopped")

    def _stand(self, name: str, state: str) -> None:
        """What a person wants of a worker; of one that is gone nothing is left to wait for."""
        if self.board.standings.get(name, "") == state:
            return
        if state in GONE and name in self.pool.workers:
            self._dismiss(name, state)
        self._emit(Standing(name, state))
        self.pool.stand(name, state)

    def _dismiss(self, name: str, state: str) -> None:
        hello, why = self.pool.workers[name].hello, f"{name} was removed from the fleet"
        if hello is not None and state == REMOVED:
            self._send(name, Refusal(REMOVED, was_removed(name), hello.nonce))
        self._lose_all(name, why)
        for task_id in [t.id for t in self.board.tasks.values() if t.worker == name]:
            task = self.board.tasks.get(task_id)  # one that ended may have ended others
            if task is not None and not task.ended:
                self._end(task, "failed", why)

    def _lose_all(self, worker: str, why: str) -> None:
        for task_id in sorted(self.pool.get(worker).tasks):
            self._lost(self.board.tasks[task_id], why)

    def _renew(self, worker: str, running: List[List[Any]]) -> None:
        """Attempts that the worker names live on; those that are not current are stopped."""
        for task_id, att in running[:MAX_NAMED]:
            task = self._current(worker, task_id, att)
            if task is None:
                self._send(worker, Cancel(task_id, att))
                continue
            self._watches[task_id].lease_until = self._now + LEASE_S
            if task.state == "assigned":
                self._set(task, state="running")

    def _current(self, worker: str, task_id: str, att: int) -> Optional[Task]:
        """The fence: the task, if this is its current attempt on the worker that holds it."""
        task = self.board.tasks.get(task_id)
        if task is None or task.state not in HELD:
            return None
        return task if (task.assignee, task.attempt) == (worker, att) else None

    # --- attempts -------------------------------------------------------------------------------

    def _dispatch(self) -> None:
        """Give queued tasks to free workers, the longest waiting first."""
        for wish in self.board.queues():
            while (task := self.board.first(wish)) is not None:
                worker = self.pool.pick(wish)
                if worker is None:
                    break
                self._assign(task, worker)

    def _assign(self, task: Task, worker: Worker) -> None:
        task = self._set(
            task,
            state="assigned",
            attempt=task.attempt + 1,
            assignee=worker.name,
            error=None,
            asks=[],
        )
        worker.tasks.add(task.id)
        self._watch(task)
        self._send_assign(task)

    def _watch(self, task: Task) -> None:
        self._watches[task.id] = Watch(
            lease_until=self._now + LEASE_S,
            deadline=self._now + task.timeout_s + GRACE_S,
            resend_at=self._now + RESEND_S * (1 + self._jitter()),
            pause_s=RESEND_S,
        )
        for ask in pending(task):  # of before a restart: the worker will say since when
            self._watches[task.id].wait(ask["step"], self._now, self._now)

    def _send_assign(self, task: Task) -> None:
        left_s = self._watches[task.id].deadline - GRACE_S - self._now
        spec = self.goals.spec(task)
        unsafe = self._unsafe(task)
        ttl_ms = max(1, round(left_s * 1000))
        self._send(task.assignee, Assign(task.id, task.attempt, ttl_ms, spec, unsafe))

    def _unsafe(self, task: Task) -> bool:
        """Whether the worker says that this skill must not run twice at once."""
        skills = self.pool.get(task.assignee).announced
        return any(s["name"] == task.skill and s.get("repeatable") is False for s in skills)

    def _on_assign_moves(self, event: ev.AssignMoves) -> None:
        """What takes long to arrive is not lost while it arrives."""
        if self._current(event.worker, event.task, event.att) is not None:
            self._watches[event.task].lease_until = self._now + LEASE_S

    def _on_accepted(self, event: ev.AttemptAccepted) -> None:
        task = self._current(event.worker, event.task, event.att)
        if task is None:
            self._send(event.worker, Cancel(event.task, event.att))
            return
        self._watches[task.id].lease_until = self._now + LEASE_S
        if task.state == "assigned":
            self._set(task, state="running")

    def _on_declined(self, event: ev.AttemptDeclined) -> None:
        task = self._current(event.worker, event.task, event.att)
        if task is not None:
            task = self._release(task)
            self.pool.get(event.worker).full = True
            self._requeue(task)

    def _on_approval(self, event: ev.ApprovalAsked) -> None:
        said = event.approval
        task = self._current(event.worker, said.task, said.att)
        if task is None:
            self._send(event.worker, Cancel(said.task, said.att))
            return
        watch = self._watches[task.id]
        watch.lease_until = self._now + LEASE_S
        self.approvals.asked(task, watch, said, self._now)

    def _on_decided(self, event: ev.Decided) -> None:
        wanted, task = event.wanted, self.board.tasks.get(event.wanted.task)
        if task is not None and task.state == WAITING and task.attempt == wanted.att:
            watch = self._watches[task.id]
            self.approvals.decided(task, watch, wanted.step, wanted.allow, event.by, self._now)

    def _on_ended(self, event: ev.AttemptEnded) -> None:
        """A result: record it if it is the current attempt's; tell the true state in any case."""
        r = event.result
        task = self._current(event.worker, r.task, r.att)
        if task is not None and r.state == "cancelled" and not task.cancel:
            self._lost(task, f"{event.worker} stopped it")  # nobody asked it to
        elif task is not None and r.state in TERMINAL:
            self._record(task, r.state, r.error and r.error[:MAX_ERROR_CHARS], r)
        self._send(event.worker, ResultAck(r.task, r.att, self.board.state_of(r.task)))

    def _on_files(self, event: ev.FilesMove) -> None:
        """The work is done: while its files come, the attempt's own time does not matter."""
        task = self._current(event.worker, event.task, event.att)
        if task is not None:
            watch = self._watches[task.id]
            watch.deadline = max(watch.deadline, self._now + FILES_S)

    def _on_found(self, event: ev.Found) -> None:
        if self.board.state_of(event.task) != "unknown" or self.board.room() < 1:
            return
        task = self.goals.found(event, self._now)
        if task is not None:
            self.pool.get(event.worker).tasks.add(task.id)
            self._watch(task)

    def _record(
        self,
        task: Task,
        state: str,
        error: Optional[str],
        said: Optional[Result] = None,
    ) -> None:
        """The attempt is over: note it, then end the task or let it be tried again.

        `said` is its worker's last word, if there was one.
        """
        task = self._release(task)
        result = said.result if said else None
        if task.cancel and state != "succeeded":
            state, error = "cancelled", "cancelled"
        elif state == "succeeded" and (result or {}).get("success") is not True:
            state = "failed"
        spent, steps = (said.usage, said.trace) if said else ({}, [])
        partial = None if state == "succeeded" else result  # the task itself keeps a success
        self._emit(
            Attempt(task.id, task.attempt, task.assignee, state, error, partial, spent, steps)
        )
        kept = said.artifacts if said and state == "succeeded" else []
        tainted = self.goals.is_tainted(task) or bool(said and said.tainted)
        spent = add_usage(task.usage, spent)
        task = changed(task, usage=spent, artifacts=kept, tainted=tainted)
        again = state in ("failed", "timed_out") and task.tries > 1 and not refused(task)
        if again:
            failed_on = (*task.failed_on, task.assignee)
            self._set(task, state="queued", tries=task.tries - 1, failed_on=failed_on, error=error)
            self._emit(ev.Note(task.goal, f"{task.assignee} failed, trying again: {error}"))
        else:
            self._end(task, state, error, result)

    def _end(
        self, task: Task, state: str, error: Optional[str], result: Optional[Dict[str, Any]] = None
    ) -> None:
        task = self._set(task, state=state, error=error, result=result)
        self.goals.task_ended(task, self._now)

    def _release(self, task: Task) -> Task:
        """Its worker holds it no more, and nothing that it asked for there counts."""
        self._watches.pop(task.id, None)
        self.pool.get(task.assignee).tasks.discard(task.id)
        return self.approvals.void(task)

    def _lost(self, task: Task, why: str) -> None:
        """The attempt is gone with its worker; what then is the task's own choice."""
        task = self._release(task)
        self._emit(Attempt(task.id, task.attempt, task.assignee, "failed", why))
        task = changed(task, losses=task.losses + 1)
        if task.cancel:
            self._end(task, "cancelled", "cancelled")
        elif task.on_lost == "fail" or task.losses > MAX_LOSSES:
            self._end(task, "failed", f"{why} ({task.losses} losses)")
        elif task.on_lost == "wait":
            self._requeue(changed(task, worker=task.assignee))
        else:
            self._requeue(task)
            if not task.worker:
                self._emit(ev.Note(task.goal, f"{why}: its task goes to another worker"))

    def _requeue(self, task: Task) -> None:
        if task.cancel:
            self._end(task, "cancelled", "cancelled")
        elif task.orphan:
            self._end(task, "failed", f"{task.assignee} stopped it, and what it was is lost")
        else:
            self._set(task, state="queued")

    # --- cancelling -----------------------------------------------------------------------------

    def _on_cancel(self, event: ev.CancelWanted) -> None:
        task = self.board.tasks.get(event.key)
        if task is not None:
            self._stop_tasks([task], "cancelled", "cancelled")
        else:
            self.goals.end_early(event.key, "cancelled", "cancelled", self._now)

    def _stop_tasks(self, tasks: List[Task], state: str, why: str) -> None:
        """End what no worker holds; ask for the end of what one does."""
        for task in tasks:
            task = self.board.tasks.get(task.id, task)
            if task.state in HELD:
                self._set(self._unasked(task), cancel=True)
                self._watches[task.id].resend_at = self._now + RESEND_S
                self._send(task.assignee, Cancel(task.id, task.attempt))
            elif not task.ended:
                self._end(changed(task, cancel=True), state, why)

    def _unasked(self, task: Task) -> Task:
        """Nobody is asked any more, and its own time runs again."""
        for ask in pending(task):
            self._watches[task.id].go_on(ask["step"], self._now)
        return self.approvals.void(task)

    # --- time -----------------------------------------------------------------------------------

    def _timers(self) -> None:
        for worker in self.pool.fell_silent(self._now):
            self._fell_silent(worker)
        for task_id, watch in list(self._watches.items()):
            if task_id in self._watches:
                self._check(self.board.tasks[task_id], watch)
        self.goals.deadlines(self._now)

    def _fell_silent(self, worker: Worker) -> None:
        """Its tasks go to others; what is unsafe to repeat, when it must have stopped it itself.

        A socket that was closed tells of its process's death. A will that comes late only tells
        that nothing gets through, and behind that the worker may go on for a lease.
        """
        stopped_at = worker.heard_at + LEASE_S
        for task_id in sorted(worker.tasks):
            task = self.board.tasks[task_id]
            if self._unsafe(task) and not worker.closed and self._now < stopped_at:
                self._watches[task_id].lease_until = stopped_at
            else:
                self._lost(task, f"{worker.name} is offline")

    def _check(self, task: Task, watch: Watch) -> None:
        if self._now >= watch.deadline:
            self._send(task.assignee, Cancel(task.id, task.attempt))
            self._time_is_over(task)
        elif self._now >= watch.lease_until:
            self._send(task.assignee, Cancel(task.id, task.attempt))
            if self._unsafe(task) and self.pool.get(task.assignee).online:
                watch.lease_until = self._now + RESEND_MAX_S  # it may come late: its word decides
            else:
                self._lost(task, f"{task.assignee} lost the task")
        elif self._now >= watch.resend_at:
            self._resend(task, watch)

    def _time_is_over(self, task: Task) -> None:
        waiting = pending(task)
        if waiting:
            why = f"nobody has approved {waiting[0]['skill']} within an hour"
            self._record(self.approvals.expired(task), "failed", why)
        else:
            self._record(task, "timed_out", f"no result within {task.timeout_s:g} s")

    def _resend(self, task: Task, watch: Watch) -> None:
        """What has not been answered is said again, with growing pauses."""
        if task.cancel:
            self._send(task.assignee, Cancel(task.id, task.attempt))
        elif task.state == "assigned":
            self._send_assign(task)
        else:
            watch.resend_at = float("inf")
            return
        watch.pause_s = min(watch.pause_s * 2, RESEND_MAX_S)
        watch.resend_at = self._now + watch.pause_s * (1 + 0.5 * self._jitter())
