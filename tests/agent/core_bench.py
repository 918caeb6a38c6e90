"""A worker's rules in virtual time, with a master at the other end."""

from __future__ import annotations

import itertools
from typing import Any, List, Optional, Tuple

from pibot import messages as msg
from pibot.agent.effects import Held, Interrupt, Out, Start
from pibot.agent.worker_core import WorkerCore
from pibot.messages import HEARTBEAT_S
from pibot.session import Guest

OK = {"success": True, "data": {}, "output": "x"}
NO = {"success": False, "data": {}, "output": "x"}


def result(task: str = "g1-1", att: int = 1, state: str = "succeeded") -> msg.Result:
    return msg.Result(task, att, state, OK if state == "succeeded" else NO)


class Bench:
    """A worker core and the master's end of its session, both in one virtual time."""

    def __init__(self, slots: int = 1, held: Tuple[Held, ...] = (), welcome: bool = True) -> None:
        self.now = 100.0
        numbers = itertools.count(1)
        guest = Guest(lambda: f"{next(numbers):016x}", lambda: 0.0)
        self.core = WorkerCore(
            lambda nonce: msg.Hello(nonce, "start", 1), slots, guest, lambda: 0.0, list(held)
        )
        self.n = 0
        self.last = Out()
        if welcome:
            self.welcome()

    def welcome(self, nonce: Optional[str] = None, ep: int = 1) -> Out:
        """Let it say hello and answer it."""
        if nonce is None:
            self.core.guest.again(self.now)
            nonce = said(self.core.tick(self.now), msg.Hello)[-1].nonce
        self.n = 0
        answer = msg.Welcome(nonce, "e" * 16, "store", 5000, 30000)
        head = msg.Header("welcome", "m-1", "master", ep=ep)
        return self._kept(self.core.received(head, answer, self.now))

    def _kept(self, out: Out) -> Out:
        self.last = out
        return out

    def get(self, message: msg.Message, ses: Optional[str] = None, n: Optional[int] = None) -> Out:
        """Receive a message of the master, on the session unless told."""
        channel = self.core.guest.channel
        self.n += 1
        head = msg.Header(
            message.t,
            "m-2",
            "master",
            ses if ses is not None else channel.ses if channel else "",
            self.n if n is None else n,
        )
        return self._kept(self.core.received(head, message, self.now))

    def assign(self, task: str = "g1-1", att: int = 1, **fields: Any) -> Out:
        return self.get(msg.Assign(task, att, 1000, {"skill": "echo"}, **fields))

    def end(self, task: str = "g1-1", state: str = "succeeded") -> Out:
        return self._kept(self.core.ended(result(task, 0, state), self.now))

    def tick(self, seconds: float) -> Out:
        self.now += seconds
        return self._kept(self.core.tick(self.now))

    def acked(self, seconds: float) -> List[Out]:
        """Time passes while the master answers each heartbeat."""
        outs = []
        for _ in range(int(seconds / HEARTBEAT_S)):
            outs.append(self.tick(HEARTBEAT_S))
            self.get(msg.HbAck([]))
        return outs


def said(out: Out, kind: type) -> List[Any]:
    return [s.message for s in out.sends if isinstance(s.message, kind)]


def starts(out: Out) -> List[Tuple[str, int]]:
    return [(e.assign.task, e.assign.att) for e in out.effects if isinstance(e, Start)]


def at_ms(bench: Bench) -> int:
    return int(bench.now * 1000)


def interrupts(out: Out) -> List[str]:
    return [e.task for e in out.effects if isinstance(e, Interrupt)]
