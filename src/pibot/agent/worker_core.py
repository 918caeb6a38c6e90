"""The worker's rules, pure: what it accepts, keeps, says again and stops.

An event and the time (seconds, monotonic) come in; facts to store, messages to send and effects
come out, to be done in this order.

    assign, a free slot            →  store, start, `accepted` unless it is done at once
    assign of what it holds        →  say again what is true of it (also under a higher attempt)
    assign, no free slot           →  `declined`
    assign of what was given up    →  `declined`: it is late, the master has gone on
    the attempt ended              →  store, `result`, again with growing pauses until result_ack
    cancel                         →  interrupt; its `result` says how it ended
    a call waits for a person      →  `approval`, again with growing pauses until `decision`
    fetch                          →  a slice of a file that a result names, read by the driver
    install, program_slice         →  to whoever fetches a new program for this worker
    no answer on a connection      →  make another
    no hb_ack for almost a lease   →  stop what is unsafe to repeat, before others begin it
    welcome                        →  inventory: all that it holds; then its results once more
    the process is to end          →  interrupt all, begin no more; goodbye once all has stopped
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import replace
from typing import Any, Callable, Dict, List, Set

from pibot import messages as msg
from pibot.agent.approval import Ask
from pibot.agent.asking import Asking
from pibot.agent.effects import (
    Decide,
    Deliver,
    Dropped,
    Held,
    Interrupt,
    Out,
    Program,
    Renew,
    Say,
    Send,
    Start,
    Unheard,
)
from pibot.agent.repeats import Repeats
from pibot.messages import HEARTBEAT_S, LEASE_S
from pibot.session import Doubt, Guest
from pibot.silence import SILENT_HELLOS

STOP_S = 0.9 * LEASE_S  # before the master gives it away: clocks differ, stopping takes time
DEAF_S = 12.0  # without hb_ack: the session may be gone on the other side
REFUSED_S = 5.0
CANCELLED = "cancelled"
ANNOUNCE_WITHIN_S = 0.5
REMEMBERED = 2_000  # attempts that were given up
KEY_REFUSED = (
    "it seems that the master does not know the PIBOT_KEY of this worker: `pibot.pyz workers list` "
    "on the master shows whether it was added, `pibot.pyz workers rotate` makes a new file for it"
)
WIND_UP_S = 5.0  # for what runs to stop when the process ends
ACCEPT_S = 0.02  # a task that is done within this is not accepted first: its result says enough


class WorkerCore:
    def __init__(
        self,
        hello: Callable[[str], msg.Hello],
        slots: int,
        guest: Guest,
        jitter: Callable[[], float],
        held: List[Held],
        now: float = 0.0,
    ) -> None:
        """`hello` makes the greeting around a nonce; `held` is what the store kept: results."""
        self.guest, self._hello, self._slots, self._jitter = guest, hello, slots, jitter
        self.held: Dict[str, Held] = {h.task: h for h in held}
        self.facts: Dict[str, Any] = {}
        self.answered = False  # whether the master has ever answered a heartbeat of this process
        self._stopping: Dict[str, str] = {}  # interrupted attempts, and why
        self._results: Repeats[str] = Repeats(jitter)  # tasks whose result is not acknowledged
        self._asking = Asking(jitter)
        self._accept_at: Dict[str, float] = {}
        self._given_up: "OrderedDict[str, int]" = OrderedDict()
        self._unsaved: Set[str] = set()  # held, but not as the store has it
        self._doubt = Doubt(jitter)
        self._refused = ""
        self._connected = False
        self._unheard = 0  # hellos on a connection that nobody has answered
        self._heartbeat_at = 0.0
        self._heard_at = now  # when the master has answered last
        self._acked_at = now  # when we said what it had then: its lease for us began no earlier
        self._joined_at = now
        self._leave_by = 0.0  # when the goodbye is due at the latest, once the process is to end
        self._now = 0.0
        self._out = Out()

    @property
    def running(self) -> List[str]:
        # A list at once: /health asks from a thread of its own.
        return [h.task for h in list(self.held.values()) if h.result is None]

    def silent_s(self, now: float) -> float:
        """Seconds since the master last answered."""
        return now - self._heard_at

    @property
    def is_unheard(self) -> bool:
        """Whether nobody answers our hellos."""
        return self._unheard >= SILENT_HELLOS

    @property
    def key_refused(self) -> bool:
        """Whether somebody has said that the master does not know our key."""
        return self._refused == msg.KEY

    def _begin(self, now: float) -> Out:
        self._now, self._out = now, Out()
        return self._out

    def _send(self, message: msg.Message, channel: str = "evt", qos: int = 1) -> None:
        if self.guest.channel is not None:
            self._out.sends.append(Send(channel, message, qos))

    def _keep(self, held: Held) -> None:
        self.held[held.task] = held
        self._unsaved.discard(held.task)
        self._out.facts.append(held)

    # --- what happens ---------------------------------------------------------------------------

    def connected(self, now: float) -> Out:
        """The broker took us (again): a session of before is worth nothing now."""
        out = self._begin(now)
        self._connected = True
        self.guest.channel = None
        self.guest.again(now)
        self._doubt.connected(now)
        self._timers()
        return out

    def disconnected(self) -> None:
        """The connection to the broker is gone, and known to be."""
        self._connected = False
        self._doubt.lost()

    def tick(self, now: float) -> Out:
        out = self._begin(now)
        self._timers()
        return out

    def ended(self, result: msg.Result, now: float) -> Out:
        """An attempt came to its end. `result.att` does not matter: it may have been raised."""
        out = self._begin(now)
        held = self.held.get(result.task)
        if held is not None and held.result is None:
            self._accept_at.pop(held.task, None)
            self._asking.drop(held.task)
            why = self._stopping.pop(held.task, CANCELLED)
            if why != CANCELLED and result.state != "succeeded":
                self._let_go(held)
                return out
            held = replace(held, result=replace(result, att=held.att))
            self._keep(held)
            self._say_result(held)
        return out

    def leave(self, now: float) -> Out:
        """The process is to end, on purpose: have what runs here stopped first."""
        out = self._begin(now)
        self._leave_by = self._leave_by or now + WIND_UP_S
        for task in self.running:
            self._interrupt(task, "this worker stops")
        return out

    def may_go(self, now: float) -> bool:
        """Whether the goodbye can be said: after it, others begin at once what ran here."""
        return bool(self._leave_by) and (not self.running or now >= self._leave_by)

    def goodbye(self, now: float) -> Out:
        """The last word."""
        out = self._begin(now)
        self._send(msg.Bye())
        return out

    def step(self, task: str, step: Dict[str, Any], now: float) -> Out:
        out = self._begin(now)
        held = self.held.get(task)
        if held is not None:
            self._send(msg.Progress(task, held.att, step), "prog", 0)
        return out

    def asked(self, task: str, ask: Ask, now: float) -> Out:
        """A call of an attempt waits for a person."""
        out = self._begin(now)
        held = self.held.get(task)
        if held is not None and held.result is None and task not in self._stopping:
            self._send(self._asking.ask(task, held.att, ask, now))
        return out

    def received(self, header: msg.Header, message: msg.Message, now: float) -> Out:
        """A message of the master, already opened."""
        out = self._begin(now)
        if isinstance(message, msg.Welcome):
            self._on_welcome(header, message)
        elif isinstance(message, msg.Announce):
            self.guest.again(now, ANNOUNCE_WITHIN_S)
        elif isinstance(message, msg.Refusal):
            self._on_refusal(message)
        elif self.guest.accepts(header):
            self._doubt.heard(now)
            self._in_session(header, message)
        return out

    def arrived(self, header: msg.Header, message: msg.Message, now: float) -> Out:
        """A message that came in chunks, which the session has accepted."""
        out = self._begin(now)
        self._in_session(header, message)
        return out

    def beat(self, now: float) -> Out:
        """What a heartbeat says is new: say it now."""
        out = self._begin(now)
        if self.guest.channel is not None:
            self._beat()
        return out

    def _in_session(self, header: msg.Header, message: msg.Message) -> None:
        # Whatever comes in a session proves that its inventory has arrived.
        self._acked_at = max(self._acked_at, self._joined_at)
        if isinstance(message, msg.Assign):
            self._on_assign(message)
        elif isinstance(message, msg.Cancel):
            self._on_cancel(message.task, message.att)
        elif isinstance(message, msg.ResultAck):
            self._on_result_ack(message)
        elif isinstance(message, msg.Decision):
            self._on_decision(message)
        elif isinstance(message, msg.Fetch):
            self._on_fetch(message)
        elif isinstance(message, (msg.Install, msg.ProgramSlice, msg.SkillFile)):
            self._out.effects.append(Program(message))
        elif isinstance(message, msg.HbAck):
            self.answered = True
            self._heard_at = self._now
            said_at = message.at_ms / 1000 or self._now  # 0: from a master that does not say
            self._acked_at = max(self._acked_at, min(said_at, self._now))
            for task, att in message.cancels:
                self._on_cancel(task, att)
        elif isinstance(message, msg.Ping):
            self._beat()
        elif isinstance(message, msg.Unknown) and header.t != message.t:
            self._send(message)

    def not_stored(self, outs: List[Out], why: str) -> Out:
        """What follows when the facts of `outs` could not be stored: no new attempt begins.

        Results are sent all the same: they are repeated from memory until the master has them,
        and stored as soon as the disk takes them. The facts that are returned may wait.
        """
        effects = [e for out in outs for e in out.effects]
        fresh = [e.assign for e in effects if isinstance(e, Start)]
        unstored = {f.task for out in outs for f in out.facts if isinstance(f, Held)}
        self._unsaved |= unstored.intersection(self.held)
        for assign in fresh:
            self.held.pop(assign.task, None)
            self._unsaved.discard(assign.task)
            self._give_up(assign.task, assign.att)
            self._accept_at.pop(assign.task, None)
            self._stopping.pop(assign.task, None)
        sends = [s for out in outs for s in out.sends if not _accepts(s.message, unstored)]
        sends += [Send("evt", msg.Declined(a.task, a.att, why)) for a in fresh]
        replaced = [Dropped(a.task) for a in fresh]  # failures that the master knows
        return Out([*replaced], sends, [e for e in effects if not isinstance(e, Start)])

    # --- the session ----------------------------------------------------------------------------

    def _on_welcome(self, header: msg.Header, message: msg.Welcome) -> None:
        if not self.guest.welcomed(header, message, self._hello(message.nonce)):
            return
        self._heard_at = self._joined_at = self._now
        self._refused, self._unheard = "", 0
        self._doubt.heard(self._now)
        done = [h for h in self.held.values() if h.result is not None]
        running = [[h.task, h.att] for h in self.held.values() if h.result is None]
        self._send(msg.Inventory(running, [[h.task, h.att] for h in done]))
        self._beat()
        for held in done:
            self._say_result(held)
        for held in self.held.values():
            self._ask_anew(held)

    def _on_refusal(self, message: msg.Refusal) -> None:
        if message.reason == "session":
            self.guest.again(self._now, ANNOUNCE_WITHIN_S)
            return
        if message.reason == msg.KEY:
            self._on_key_refused()
            return
        if not self.guest.asked(message.to):
            return  # it answers a hello of before: whoever repeats it stops nothing here
        self._doubt.heard(self._now)
        self._unheard = 0
        if message.reason != self._refused:
            self._out.effects.append(Say(message.detail or f"the master refused: {message.reason}"))
        self._refused = message.reason
        self.guest.later(self._now, REFUSED_S)
        for task in self.running:
            self._interrupt(task, message.reason)

    def _on_key_refused(self) -> None:
        """Anybody may have said that: it changes nothing, but its operator should look."""
        if self.guest.channel is None and self._refused != msg.KEY:
            self._refused = msg.KEY
            self._out.effects.append(Say(KEY_REFUSED))

    def _beat(self) -> None:
        held = [[h.task, h.att] for h in self.held.values()]
        self._send(msg.Heartbeat(held, self.facts, int(self._now * 1000)), "hb", 0)
        self._heartbeat_at = self._now + HEARTBEAT_S

    # --- attempts -------------------------------------------------------------------------------

    def _on_assign(self, assign: msg.Assign) -> None:
        held = self.held.get(assign.task)
        new = held is None or assign.att > held.att
        if new and assign.att <= self._given_up.get(assign.task, 0):
            self._decline(assign.task, assign.att, "over")
        elif held is None:
            self._begin_attempt(assign)
        elif assign.att >= held.att:
            self._again(held, assign)

    def _begin_attempt(self, assign: msg.Assign) -> None:
        if self._leave_by:
            self._decline(assign.task, assign.att, "stopping")
            return
        if len(self.running) >= self._slots:
            self._decline(assign.task, assign.att, "busy")
            return
        if assign.unsafe and self._now - self._acked_at >= STOP_S:  # it may be another's by now
            self._decline(assign.task, assign.att, "late")
            return
        self._keep(Held(assign.task, assign.att, assign.unsafe))
        self._accept_at[assign.task] = self._now + ACCEPT_S
        self._out.effects.append(Start(assign))

    def _again(self, held: Held, assign: msg.Assign) -> None:
        """Report what is held under the attempt that is asked for; redo it only if it failed."""
        if held.result is None and held.task in self._stopping:
            if assign.att > held.att:
                self._decline(assign.task, assign.att, "stopping")
        elif held.result is not None and held.result.state != "succeeded" and assign.att > held.att:
            self._begin_attempt(assign)
        else:
            if assign.att > held.att:
                result = held.result and replace(held.result, att=assign.att)
                held = replace(held, att=assign.att, result=result)
                self._keep(held)
                self._ask_anew(held)
            if held.result is None:
                self._accept(held)
            else:
                self._say_result(held)

    def _decline(self, task: str, att: int, why: str) -> None:
        self._give_up(task, att)
        self._send(msg.Declined(task, att, why))

    def _give_up(self, task: str, att: int) -> None:
        """Whatever still comes of this attempt is late: it never begins here (again)."""
        self._given_up[task] = max(att, self._given_up.pop(task, 0))
        if len(self._given_up) > REMEMBERED:
            self._given_up.popitem(last=False)

    def _accept(self, held: Held) -> None:
        self._accept_at.pop(held.task, None)
        self._keep_again(held)
        self._send(msg.Accepted(held.task, held.att))

    def _keep_again(self, held: Held) -> None:
        """Before something is said (again): perhaps the disk takes it now."""
        if held.task in self._unsaved:
            self._keep(held)

    def _on_cancel(self, task: str, att: int) -> None:
        held = self.held.get(task)
        if held is None:
            self._give_up(task, att)
            nothing = {"success": False, "data": {}, "output": ""}
            self._send(msg.Result(task, att, "cancelled", nothing, "cancelled"))
        elif held.result is not None:
            self._say_result(held)
        elif att >= held.att:
            self._interrupt(task, CANCELLED)

    def _interrupt(self, task: str, why: str) -> None:
        if task not in self._stopping:
            self._stopping[task] = why
            self._asking.drop(task)
            self._out.effects.append(Interrupt(task, why))

    def _let_go(self, held: Held) -> None:
        """We stopped it ourselves, nobody asked: that is a loss, and the master's to mend."""
        del self.held[held.task]
        self._unsaved.discard(held.task)
        self._out.facts.append(Dropped(held.task))
        self._decline(held.task, held.att, "stopped")

    def _on_result_ack(self, ack: msg.ResultAck) -> None:
        held = self.held.get(ack.task)
        if held is not None and held.result is not None and held.att == ack.att:
            del self.held[ack.task]
            self._unsaved.discard(ack.task)
            self._results.drop(ack.task)
            self._out.facts.append(Dropped(ack.task))
            self._give_up(ack.task, ack.att)

    def _on_decision(self, decision: msg.Decision) -> None:
        """It counts for the very call of the very attempt that waits, and once."""
        held = self.held.get(decision.task)
        if held is None or held.att != decision.att or held.result is not None:
            return
        if self._asking.decided(decision.task, decision.step):
            self._out.effects.append(Decide(decision))

    def _ask_anew(self, held: Held) -> None:
        """Whoever is to decide may not know of it (any more)."""
        for waiting in self._asking.of(held.task, held.att, self._now):
            self._send(waiting)

    def _on_fetch(self, fetch: msg.Fetch) -> None:
        """Only what a result names that is not acknowledged: nothing else is anybody's business."""
        held = self.held.get(fetch.task)
        files = held.result.artifacts if held and held.result else []
        if any(file["path"] == fetch.path for file in files):
            self._out.effects.append(Deliver(fetch))
        else:
            why = "its worker does not have it any more"
            self._send(msg.Slice(fetch.task, fetch.path, fetch.offset, error=why))

    def _say_result(self, held: Held) -> None:
        assert held.result is not None
        self._keep_again(held)
        self._send(held.result)
        self._results.said(held.task, self._now)

    # --- time -----------------------------------------------------------------------------------

    def wake_at(self) -> float:
        times = [self._results.wake_at(), self._asking.wake_at()] if self.guest.channel else []
        hello_at = self.guest.wake_at()
        if hello_at is not None:
            times.append(hello_at)
        if self.guest.channel is not None:
            times += [self._heartbeat_at, *self._accept_at.values()]
        if any(self.held[t].unsafe and t not in self._stopping for t in self.running):
            times.append(self._acked_at + STOP_S)
        if self._leave_by:
            times.append(self._leave_by)
        return min(times, default=self._now + HEARTBEAT_S)

    def _timers(self) -> None:
        now = self._now
        if self.guest.channel is not None:
            if now >= self._heartbeat_at:
                self._beat()
            for task in [t for t, at in self._accept_at.items() if now >= at]:
                self._accept(self.held[task])
            self._resend_results()
            for waiting in self._asking.due(self.held, now):
                self._send(waiting)
            if now - self._heard_at >= DEAF_S and self.guest.wake_at() is None:
                self.guest.again(now, 1.0)
        if self._doubt.due(now):
            self._out.effects.append(Renew())
        if self.guest.due(now):
            hello = self._hello(self.guest.hello_nonce(now))
            self._out.sends.append(Send("evt", hello, joining=True))
            self._count_hello()
        if now - self._acked_at >= STOP_S:
            for task in self.running:
                if self.held[task].unsafe:
                    self._interrupt(task, "the master was silent for a lease")

    def _count_hello(self) -> None:
        self._unheard += self._connected
        if self._connected and self._unheard == SILENT_HELLOS and not self.key_refused:
            self._out.effects.append(Unheard())

    def _resend_results(self) -> None:
        for task in self._results.due(self._now):
            held = self.held.get(task)
            if held is None or held.result is None:
                self._results.drop(task)
            else:
                self._keep_again(held)
                self._send(held.result)


def _accepts(message: msg.Message, tasks: Set[str]) -> bool:
    return isinstance(message, msg.Accepted) and message.task in tasks
