"""A worker of the simulation: the real core on a simulated disk, and what its role does.

Attempts take some virtual time; what they did is in their result, so that the witness can tell
whose it is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Dict, List, Optional, Tuple

from pibot import messages as msg
from pibot.agent import effects
from pibot.agent.approval import Ask
from pibot.errors import BadMessage, StoreError
from pibot.line import GuestLine
from pibot.session import Guest
from pibot.signing import GuestKeys
from pibot.wire import Packet, Writer
from sim.disk import WorkerDisk
from sim.master import TOPICS, key_of
from sim.party import Party

if TYPE_CHECKING:
    from sim.world import World

SKILLS = [
    {"name": name, "phrases": [], "params": [], "repeatable": name != "unlock"}
    for name in ("echo", "measure", "unlock", "break", "switch")
]
LEAVE = object()  # in the inbox: SIGTERM has come
LARGE = "x" * 70_000  # does not fit into one packet


ASK = Ask(0, "switch", "{}", "it acts outside")


class Run:
    """One attempt that really runs, on one process. One of `switch` waits for a person first."""

    def __init__(self, number: int, worker: "Worker", assign: msg.Assign) -> None:
        self.number, self.worker, self.assign = number, worker, assign
        self.life = worker.lives
        self.began = worker.loop.now
        self.stopped: Optional[float] = None  # when it was interrupted
        self.over = self.decided = False

    @property
    def active(self) -> bool:
        return not self.over and self.worker.alive and self.worker.lives == self.life


class Worker(Party):
    disk: WorkerDisk

    def __init__(
        self,
        world: "World",
        name: str,
        label: str = "",
        disk: Optional[WorkerDisk] = None,
        **about: Any,
    ) -> None:
        """`about`: slots, tags, proto (min, max) and host, where they are not the usual ones."""
        super().__init__(world, label or name, disk or WorkerDisk())
        self.name, self.about = name, about
        self.filters = (TOPICS.worker(name, "cmd"), TOPICS.announce)
        self.disk.witness = lambda facts: world.witness.worker_committed(self, facts)
        self.slots = about.get("slots", 1)
        self.proto = about.get("proto", (1, 1))
        self.runs: Dict[str, Run] = {}
        self._again_s: Optional[float] = None  # after a polite end

    def boot(self) -> None:
        inc, held = self.disk.open()
        self.start_id = self.world.nonce()
        facts = {
            "slots": self.slots,
            "tags": self.about.get("tags", []),
            "model": True,
            "skills": SKILLS,
            "host": self.about.get("host", self.label),
            "machine": self.label,
            "of the future": [1, {"unknown": None}],
        }
        self.core = self.world.bugs.new_core(
            lambda nonce: msg.Hello(nonce, self.start_id, inc, *self.proto, facts),
            self.slots,
            self.world.bugs.new_guest(self.world.nonce, self.chance.random),
            self.chance.random,
            held,
            self.clock.read(),
        )
        keys = GuestKeys(key_of(self.name))
        self._writer = Writer(f"w:{self.name}", self.name, keys)
        topic, guest, jitter = TOPICS.worker(self.name, "evt"), self.guest, self.chance.random
        self._line = GuestLine(self._writer, keys, topic, self.filters, guest, jitter)
        self._unstored: List[effects.Fact] = []
        self._outs: List[effects.Out] = []
        self.world.witness.worker_begins(self)

    @property
    def guest(self) -> Guest:
        return self.core.guest

    def will(self) -> "Optional[Tuple[str, bytes]]":
        topic = TOPICS.worker(self.name, "will")
        return topic, self._writer.packet(topic, msg.Will(self.start_id))

    def wake_at(self) -> float:
        return min(self.core.wake_at(), self._line.wake_at())

    def ended(self) -> None:
        self.runs.clear()

    def leave(self, again_s: Optional[float]) -> None:
        """SIGTERM: have all stopped, say goodbye, end."""
        if self.alive:
            self._again_s = again_s
            self.put(LEAVE)

    def _go(self, life: int) -> None:
        if life != self.lives:
            return
        self.world.witness.says_goodbye(self)
        for send in self.core.goodbye(self.clock.read()).sends:
            self._publish(send)
        self.kill(self._again_s, politely=True)

    # --- a turn -----------------------------------------------------------------------------------

    def take(self, items: List[Any], now: float) -> None:
        self._outs = [out for item in items for out in self._taken(item, now)]
        self._outs.append(self.core.tick(now))

    def _taken(self, item: Any, now: float) -> List[effects.Out]:
        if item is LEAVE:
            return [self.core.leave(now)]
        if isinstance(item, Run):
            return [self.core.asked(item.assign.task, ASK, now)] if item.active else []
        if isinstance(item, msg.Result):
            self.runs.pop(item.task, None)
            return [self.core.ended(item, now)]
        if isinstance(item[0], bool):
            if item[0]:
                return [self.core.connected(now)]
            self.core.disconnected()
            return []
        try:
            found = self._line.receive(item[0], item[1], now)
        except BadMessage as error:
            raise AssertionError(f"{self.label} was sent what it cannot read: {error}") from None
        if found is None:
            return []
        take = self.core.arrived if found.whole else self.core.received
        out = take(found.header, found.message, now)
        self.note("←", found.message)
        self.world.witness.worker_heard(self, found, out)
        return [out]

    def finish(self, now: float) -> None:
        facts = [fact for out in self._outs for fact in out.facts]
        outs = self._outs
        try:
            self.world.bugs.store_worker(self, facts)
        except StoreError as error:
            self.note("cannot store")
            outs = [self.core.not_stored(outs, str(error))]
            self._unstored = [f for f in self._unstored if isinstance(f, effects.Dropped)]
            self._unstored += outs[0].facts
        for out in outs:
            for send in out.sends:
                self.disk.point("while telling")
                self._publish(send)
            for effect in out.effects:
                self._do(effect)
        for fact in facts:
            if isinstance(fact, effects.Dropped):
                self._line.withdraw(("result", fact.task))
        self._hand_over(self._line.due(now))
        self.world.witness.worker_turn(self, now)
        if self.core.may_go(now):
            self.loop.at(self.loop.now, self._go, self.lives)

    def store(self, facts: List[effects.Fact]) -> None:
        self._unstored += facts
        if any(isinstance(f, effects.Held) for f in facts):
            self.disk.commit(self._unstored)
            self._unstored = []

    def drops(self, task: str) -> bool:
        """Whether the next commit will forget this result."""
        return any(isinstance(f, effects.Dropped) and f.task == task for f in self._unstored)

    def _publish(self, send: effects.Send) -> None:
        topic = TOPICS.worker(self.name, send.channel)
        self.note("→", send.message)
        self._hand_over(self._line.send(topic, send.message, send.qos, send.joining))

    def _hand_over(self, packets: List[Packet]) -> None:
        for packet in packets:
            self.publish(packet.topic, packet.payload, packet.qos)

    # --- attempts ---------------------------------------------------------------------------------

    def _do(self, effect: effects.Effect) -> None:
        if isinstance(effect, effects.Start):
            self._start(effect.assign)
        elif isinstance(effect, effects.Interrupt):
            self.note("interrupts", effect.task, effect.why)
            run = self.runs.get(effect.task)
            if run is not None and run.stopped is None:
                run.stopped = self.loop.now
                self.loop.after(self.chance.uniform(0.0, 0.2), self._end, run, "cancelled")
        elif isinstance(effect, effects.Decide):
            self._decide(effect.decision)
        elif isinstance(effect, effects.Renew):
            self.note("connects anew")
            self.renew()
        elif isinstance(effect, effects.Say):
            self.note("says", effect.text)
        elif isinstance(effect, effects.Unheard):
            self.note("is not heard")
        else:
            raise AssertionError(f"{effect}: nothing here shares files")

    def _start(self, assign: msg.Assign) -> None:
        self.world.run_count += 1
        run = self.runs[assign.task] = Run(self.world.run_count, self, assign)
        self.note("begins", f"{assign.task}/{assign.att}")
        self.world.witness.run_begins(run)
        took_s, state = self.world.fate.work(assign.spec, self.chance)
        if assign.spec.get("skill") == "switch":
            self.loop.after(took_s, self._ask, run)
        else:
            self.loop.after(took_s, self._end, run, state)

    def _ask(self, run: Run) -> None:
        if run.active and run.stopped is None:
            self.note("asks", run.assign.task)
            self.put(run)

    def _decide(self, decision: msg.Decision) -> None:
        run = self.runs.get(decision.task)
        if run is not None and run.active and run.stopped is None:
            self.note("is allowed" if decision.allow else "is denied", decision.task)
            self.world.witness.decided(run, decision)
            run.decided = True
            state = "succeeded" if decision.allow else "failed"
            self.loop.after(self.chance.uniform(0.0, 3.0), self._end, run, state)

    def _end(self, run: Run, state: str) -> None:
        if not run.active:
            return
        if self.loop.now < self.frozen_until:
            self.loop.at(self.frozen_until, self._end, run, state)
            return
        run.over = True
        ok = state == "succeeded"
        large = LARGE if ok and self.world.fate.large else ""
        data = {"by": self.name, "task": run.assign.task, "run": run.number}
        result = {"success": ok, "data": data, "output": large}
        self.put(msg.Result(run.assign.task, run.assign.att, state, result, None if ok else state))
