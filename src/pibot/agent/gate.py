"""The gate of one attempt: its calls pass here, and some wait for a person's approval."""

from __future__ import annotations

import threading
import time
from typing import Any, Callable, Dict, Mapping, Tuple

from pibot.agent.approval import Ask, needed, shown
from pibot.agent.tools import Context, Guard, Skill
from pibot.errors import SkillError

LIMIT_S = 3_660.0  # the master gives up after an hour; this is for when it cannot be reached
_LOOK_S = 0.5  # how often a waiting call looks whether it was cancelled; mostly it is woken
_FROM_BEGINNING = "the task has to do with text from outside"
_OPEN = (False, "")
Step = Mapping[str, Any]


class Gate(Guard):
    """`decide` and `wake` come from another thread than the calls."""

    def __init__(
        self,
        mode: str,
        tainted: bool,
        ask: Callable[[Ask], None],
        on_step: Callable[[Step], None],
        hide: Callable[[str], str] = str,
        limit_s: float = LIMIT_S,
    ) -> None:
        """`ask` tells who can reach a person; `hide` takes secrets out of what is told."""
        self._mode, self._ask, self._on_step, self._hide = mode, ask, on_step, hide
        self._limit_s = limit_s
        self._why = _FROM_BEGINNING if tainted else ""
        self._changed = threading.Condition()
        self._waiting: Dict[int, Tuple[bool, str]] = {}  # step -> decision; empty name: none yet
        self._waiting_since = self._waited_s = 0.0
        self.expired = ""  # why the attempt has to end, once nobody has answered for too long

    @property
    def tainted(self) -> bool:
        return bool(self._why)

    @property
    def waited_s(self) -> float:
        """For how long the attempt has waited for people: that is no time of its own."""
        with self._changed:
            now = time.monotonic() - self._waiting_since if self._waiting else 0.0
            return self._waited_s + now

    def admit(self, called: Skill, args: Mapping[str, Any], ctx: Context) -> float:
        """Wait until the call may be run; return the seconds. Raises SkillError if it may not."""
        if not needed(self._mode, called.sensitive is not False, self.tainted):
            return 0.0
        step = _step_of(ctx.key)
        why = self._why or "this worker asks before each such call (PIBOT_APPROVAL=always)"
        ask = Ask(step, called.name, shown(args, self._hide), why)
        began = time.monotonic()
        self._note(ask, f"waits for approval: {ask.args}, because {why}", 0.0)
        allow, by = self._answer(ask, ctx)
        waited_s = time.monotonic() - began
        self._note(ask, f"{'approved' if allow else 'not approved'} ({by})", waited_s)
        if not allow:
            raise SkillError(f"{called.name} was not run: {by}")
        return waited_s

    def returned(self, called: Skill) -> None:
        """The call is over; also one that failed may have brought words of a stranger."""
        if called.taints:
            self.taint(f"{called.name} has brought text from outside")

    def taint(self, why: str) -> None:
        """From now on the attempt is not to be trusted; the first reason stays."""
        self._why = self._why or why

    def decide(self, step: int, allow: bool, by: str) -> None:
        """A person has decided about a call; the first decision counts."""
        with self._changed:
            if self._waiting.get(step) == _OPEN:
                self._waiting[step] = (allow, f"by {by}" if allow else f"{by} has denied it")
                self._changed.notify_all()

    def wake(self) -> None:
        """The attempt was cancelled: nobody waits any more."""
        with self._changed:
            self._changed.notify_all()

    def _answer(self, ask: Ask, ctx: Context) -> Tuple[bool, str]:
        give_up = time.monotonic() + self._limit_s
        with self._changed:
            if not self._waiting:
                self._waiting_since = time.monotonic()
            self._waiting[ask.step] = _OPEN
            self._ask(ask)
            try:
                while self._waiting[ask.step] == _OPEN and not ctx.cancelled.is_set():
                    left_s = give_up - time.monotonic()
                    if left_s <= 0:
                        self.expired = f"nobody has approved {ask.skill} within an hour"
                        ctx.cancelled.set()
                        break
                    self._changed.wait(min(left_s, _LOOK_S))
                decided = self._waiting[ask.step]
            finally:
                del self._waiting[ask.step]
                if not self._waiting:
                    self._waited_s += time.monotonic() - self._waiting_since
        return (False, self.expired or "the task was cancelled") if decided == _OPEN else decided

    def _note(self, ask: Ask, text: str, waited_s: float) -> None:
        said = {"step": ask.step, "kind": "note", "name": ask.skill, "text": text, "ok": True}
        self._on_step({**said, "ms": round(waited_s * 1000)})


def _step_of(key: str) -> int:
    digits = key.rpartition(":")[2]
    return int(digits) if digits.isdecimal() else 0
