"""Known bugs, for the tests of the simulator only: each must be found, or it does not see."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Callable, Dict, List, Optional, Type

from pibot import messages as msg
from pibot.agent import effects
from pibot.agent import worker_core as core
from pibot.errors import StoreError
from pibot.fleet import events as ev
from pibot.fleet.approvals import find as approvals_find
from pibot.fleet.desk import Desk, Turn
from pibot.fleet.gateway import Packet
from pibot.fleet.records import TERMINAL
from pibot.session import Guest

if TYPE_CHECKING:
    from sim.master import Master
    from sim.worker import Worker

NEVER = float("inf")


class Bugs:
    """None. A known bug is a subclass that makes something else of one of these."""

    new_desk: Callable[..., Desk] = Desk
    new_core: Callable[..., core.WorkerCore] = core.WorkerCore
    new_guest: Callable[..., Guest] = Guest

    def begun(self, desk: Desk, now: float) -> None:
        """The desk has read its journal, and has a scheduler and a gateway."""

    def store(self, master: "Master", now: float) -> None:
        master.desk.store(now)

    def store_worker(self, worker: "Worker", facts: List[effects.Fact]) -> None:
        worker.store(facts)


# --- the master -----------------------------------------------------------------------------------


class FencingOff(Bugs):
    """Whatever attempt a result is of, it is taken for the current one."""

    def begun(self, desk: Desk, now: float) -> None:
        def current(worker: str, task_id: str, att: int) -> Any:
            task = desk.scheduler.board.tasks.get(task_id)
            return task if task is not None and task.state in ("assigned", "running") else None

        desk.scheduler._current = current  # type: ignore[method-assign]


class ResultsAcknowledgedBeforeTheCommit(Bugs):
    def store(self, master: "Master", now: float) -> None:
        _tell_first(master, msg.ResultAck)
        master.desk.store(now)


class AssignsSentBeforeTheCommit(Bugs):
    def store(self, master: "Master", now: float) -> None:
        _tell_first(master, msg.Assign)
        master.desk.store(now)


def _tell_first(master: "Master", kind: Type[msg.Message]) -> None:
    turn = master.desk._turn
    early = [s for s in turn.sends if isinstance(s.message, kind)]
    turn.sends = [s for s in turn.sends if not isinstance(s.message, kind)]
    for send in early:
        master._send(master.desk._gateway.to_worker(send.worker, send.message, send.qos))


class GoalsAcknowledgedBeforeTheCommit(Bugs):
    def store(self, master: "Master", now: float) -> None:
        desk = master.desk
        turn, desk._turn = desk._turn, Turn(kept=desk._turn.promises)
        master._send(desk.tell(now).packets)
        desk._turn = copy.copy(turn)
        desk._turn.promises = []
        desk.store(now)


class PromisesKeptWhenTheDiskIsFull(Bugs):
    """A goal that could not be stored is acknowledged all the same."""

    def begun(self, desk: Desk, now: float) -> None:
        def refuse(error: StoreError) -> List[Packet]:
            turn, desk._turn = desk._turn, Turn()
            answers = turn.answers + turn.promises
            return [p for a in answers for p in desk._gateway.to_client(a.channel, a.message)]

        desk.refuse = refuse  # type: ignore[method-assign]


class HeartbeatsRenewNothing(Bugs):
    def begun(self, desk: Desk, now: float) -> None:
        desk.scheduler._renew = lambda worker, running: None  # type: ignore[method-assign]


class WillsBelievedBlindly(Bugs):
    def begun(self, desk: Desk, now: float) -> None:
        def will(name: str, start: str, now: float) -> None:
            worker = desk.pool.workers.get(name)
            if worker is not None:
                worker.silence_s = 0.0

        desk.pool.will = will  # type: ignore[method-assign]


class UnsafeWorkGivenAwayAfterAWill(Bugs):
    """After 8 s of silence, when its worker may go on with it for a lease."""

    def begun(self, desk: Desk, now: float) -> None:
        def fell_silent(worker: Any) -> None:
            desk.scheduler._lose_all(worker.name, "offline")

        desk.scheduler._fell_silent = fell_silent  # type: ignore[method-assign]


class InventoriesIgnored(Bugs):
    def begun(self, desk: Desk, now: float) -> None:
        def joined(event: ev.Joined) -> None:
            desk.pool.take(event.worker, event.hello, now)

        desk.scheduler._handlers[ev.Joined] = joined


class AssignsSaidOnce(Bugs):
    def begun(self, desk: Desk, now: float) -> None:
        _say_once(desk, lambda task: task.state == "assigned" and not task.cancel)


class CancelsSaidOnce(Bugs):
    """Neither again, nor in the answers to heartbeats."""

    def begun(self, desk: Desk, now: float) -> None:
        _say_once(desk, lambda task: bool(task.cancel))
        send = desk.scheduler._send

        def plain(worker: str, message: msg.Message, qos: int = 1) -> None:
            if isinstance(message, msg.HbAck):
                message = replace(message, cancels=[])
            send(worker, message, qos)

        desk.scheduler._send = plain  # type: ignore[method-assign]


def _say_once(desk: Desk, which: Callable[[Any], bool]) -> None:
    resend = desk.scheduler._resend

    def quiet(task: Any, watch: Any) -> None:
        if which(task):
            watch.resend_at = NEVER
        else:
            resend(task, watch)

    desk.scheduler._resend = quiet  # type: ignore[method-assign]


class NoLeaseAfterARestart(Bugs):
    def begun(self, desk: Desk, now: float) -> None:
        for watch in desk.scheduler._watches.values():
            watch.lease_until = now


class TwinsAcceptedAtOnce(Bugs):
    def begun(self, desk: Desk, now: float) -> None:
        refuse = desk.pool.refuse

        def hardly(name: str, hello: msg.Hello, at: float) -> Any:
            refused = refuse(name, hello, at)
            return None if refused and refused[0] == "superseded" else refused

        desk.pool.refuse = hardly  # type: ignore[method-assign]


class PlansForgottenAtARestart(Bugs):
    def begun(self, desk: Desk, now: float) -> None:
        desk._turn.jobs.clear()


class EndsTakenBack(Bugs):
    """A result that comes after the end of its task is recorded, too."""

    def begun(self, desk: Desk, now: float) -> None:
        ended = desk.scheduler._on_ended

        def late(event: ev.AttemptEnded) -> None:
            task = desk.scheduler.board.tasks.get(event.result.task)
            if task is not None and task.state in TERMINAL:
                desk.scheduler._set(task, state=event.result.state, result=event.result.result)
            ended(event)

        desk.scheduler._handlers[ev.AttemptEnded] = late


class TimersMissing(Bugs):
    """The loop is not told when a lease or a pause is over."""

    def begun(self, desk: Desk, now: float) -> None:
        desk.wake_at = lambda: NEVER  # type: ignore[method-assign]


class DecisionsToldOnce(Bugs):
    """Whoever asks again after the decision was lost hears nothing."""

    def begun(self, desk: Desk, now: float) -> None:
        approvals = desk.scheduler.approvals
        asked = approvals.asked

        def once(task: Any, watch: Any, said: msg.Approval, at: float) -> None:
            if approvals_find(task, said.step) is None:
                asked(task, watch, said, at)

        approvals.asked = once  # type: ignore[method-assign]


class ApprovalsOfLostAttemptsCount(Bugs):
    def begun(self, desk: Desk, now: float) -> None:
        scheduler = desk.scheduler
        assign = scheduler._assign

        def kept(task: Any, worker: Any) -> None:
            assign(task, worker)
            scheduler._set(scheduler.board.tasks[task.id], asks=task.asks)

        scheduler._assign = kept  # type: ignore[method-assign]


# --- workers --------------------------------------------------------------------------------------


class WorkersSpeakBeforeTheCommit(Bugs):
    def store_worker(self, worker: "Worker", facts: List[effects.Fact]) -> None:
        for out in worker._outs:
            for send in out.sends:
                worker._publish(send)
            out.sends = []
        worker.store(facts)


class WorkersBeginWhatTheyCannotStore(Bugs):
    class new_core(core.WorkerCore):
        def not_stored(self, outs: List[effects.Out], why: str) -> effects.Out:
            sends = [s for out in outs for s in out.sends]
            return effects.Out([], sends, [e for out in outs for e in out.effects])


class ResultsSaidOnce(Bugs):
    class new_core(core.WorkerCore):
        def _resend_results(self) -> None:
            self._results._resends.clear()


class ResultsForgottenOnceSaid(Bugs):
    class new_core(core.WorkerCore):
        def _say_result(self, held: effects.Held) -> None:
            super()._say_result(held)
            self.held.pop(held.task, None)


class DuplicatesNotRecognised(Bugs):
    class new_guest(Guest):
        def accepts(self, header: msg.Header) -> bool:
            return self.channel is not None and header.ses == self.channel.ses


class OldSessionsObeyed(Bugs):
    """An assign that comes after the next hello is taken, whichever session it is of."""

    class new_guest(Guest):
        def accepts(self, header: msg.Header) -> bool:
            channel = self.channel
            other = channel is not None and header.ses not in ("", channel.ses)
            return other or super().accepts(header)


class LowerAttemptsObeyed(Bugs):
    class new_core(core.WorkerCore):
        def _on_assign(self, assign: msg.Assign) -> None:
            held = self.held.get(assign.task)
            if held is not None and held.result is None and assign.att < held.att:
                self._keep(replace(held, att=assign.att))
            super()._on_assign(assign)


class GivenUpAndBegunAgain(Bugs):
    """A late copy of an assign begins what was declined or acknowledged."""

    class new_core(core.WorkerCore):
        def _give_up(self, task: str, att: int) -> None:
            pass


class UnsafeWorkGoesOnAlone(Bugs):
    """A worker that hears nothing from its master goes on with what is unsafe to repeat."""

    class new_core(core.WorkerCore):
        def _timers(self) -> None:
            self._acked_at = self._now
            super()._timers()


class GoodbyesBeforeTheWorkStops(Bugs):
    """What runs is told to stop, and is not waited for."""

    class new_core(core.WorkerCore):
        def leave(self, now: float) -> effects.Out:
            self._leave_by = now
            return super().leave(now)


class LateAnswersRenewALease(Bugs):
    """The lease counts from when an answer comes, not from what it answers."""

    class new_core(core.WorkerCore):
        def _in_session(self, header: msg.Header, message: msg.Message) -> None:
            self._acked_at = self._now
            super()._in_session(header, message)


def _all() -> Dict[str, Type[Bugs]]:
    return {_name(bug): bug for bug in Bugs.__subclasses__()}


def _name(bug: Type[Bugs]) -> str:
    return "".join(f"-{c.lower()}" if c.isupper() else c for c in bug.__name__).strip("-")


BUGS = _all()


def make(name: Optional[str]) -> Bugs:
    return BUGS[name]() if name else Bugs()
