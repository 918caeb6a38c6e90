"""The calls of this worker that wait for a person: said again until each is decided. Pure."""

from __future__ import annotations

from typing import Callable, Dict, Iterator, Mapping, Tuple

from pibot.agent.approval import Ask
from pibot.agent.effects import Held
from pibot.agent.repeats import Repeats
from pibot.messages import Approval

Call = Tuple[str, int]  # task, step


class Asking:
    def __init__(self, jitter: Callable[[], float]) -> None:
        self._asks: Dict[Call, Tuple[Ask, float]] = {}
        self._repeats: Repeats[Call] = Repeats(jitter)

    def ask(self, task: str, att: int, ask: Ask, now: float) -> Approval:
        """A call begins to wait."""
        self._asks[task, ask.step] = (ask, now)
        return self._said((task, ask.step), att, now)

    def decided(self, task: str, step: int) -> bool:
        """Whether this call has waited; it does so no more."""
        self._repeats.drop((task, step))
        return self._asks.pop((task, step), None) is not None

    def drop(self, task: str) -> None:
        """The attempt is over, or will be soon."""
        for call in [call for call in self._asks if call[0] == task]:
            self.decided(*call)

    def of(self, task: str, att: int, now: float) -> Iterator[Approval]:
        """Everything that waits in this attempt, to be said anew."""
        for call in [call for call in self._asks if call[0] == task]:
            yield self._said(call, att, now)

    def due(self, held: Mapping[str, Held], now: float) -> Iterator[Approval]:
        """What is to be said again now; `held` are the attempts that the worker answers for."""
        for call in self._repeats.due(now):
            found = held.get(call[0])
            if found is not None and found.result is None:
                yield self._said(call, found.att, now, again=True)
            else:
                self.decided(*call)

    def wake_at(self) -> float:
        return self._repeats.wake_at()

    def _said(self, call: Call, att: int, now: float, again: bool = False) -> Approval:
        ask, since = self._asks[call]
        if not again:
            self._repeats.said(call, now)
        waited_ms = round((now - since) * 1000)
        return Approval(call[0], att, ask.step, ask.skill, ask.args, ask.why, waited_ms)
