"""Calls that wait for a person's approval: asked, decided, expired, void. Pure.

    approval, new             →  written down; the task is `waiting`, its time stands still
    approval, known           →  nothing; if it is decided, the decision again
    approved, denied          →  written down, `decision`; the task runs on when none is left
    an hour without an answer →  expired: the task fails, and nobody tries it again
    the attempt is over       →  void: whoever does the task next asks anew

What is asked stands in the task, one entry a call: {"step", "skill", "args", "why", "state", "by"}.
A decision is for one call of one attempt: neither another attempt's nor the next call profits.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Callable, Dict, Iterable, List, Optional

from pibot.fleet.events import Audited, Send
from pibot.fleet.records import WAITING, Task, changed
from pibot.messages import Approval, Decision

APPROVAL_S = 3_600.0
MAX_ASKS = 100  # of one attempt
TEXT_CHARS = 2_200  # of arguments and reasons; a worker cuts them itself
SKILL_CHARS = 64
ASKED, APPROVED, DENIED, EXPIRED, VOID = "asked", "approved", "denied", "expired", "void"
MASTER = "the master"  # decides what no person will


@dataclass
class Watch:
    """Soft state of one attempt that a worker holds."""

    lease_until: float
    deadline: float  # of the attempt; while it waits, of the person
    resend_at: float
    pause_s: float
    left_s: float = 0.0  # of the attempt's own time, when it began to wait
    asked_at: Dict[int, float] = field(default_factory=dict)  # by step

    def wait(self, step: int, since: float, now: float) -> None:
        """A call waits since then, perhaps for another master before this one."""
        if not self.asked_at:
            self.left_s = self.deadline - now
        self.asked_at[step] = min(since, self.asked_at.get(step, since))
        self.deadline = min(self.asked_at.values()) + APPROVAL_S

    def go_on(self, step: int, now: float) -> None:
        """The call waits no more; without another one the attempt's own time runs again."""
        self.asked_at.pop(step, None)
        still = self.asked_at.values()
        self.deadline = min(still) + APPROVAL_S if still else now + self.left_s


def pending(task: Task) -> List[Dict[str, Any]]:
    """The calls of a task that wait for a person."""
    return [ask for ask in task.asks if ask["state"] == ASKED]


def refused(task: Task) -> bool:
    """Whether a person did not want what this attempt wanted: nobody tries it again."""
    return any(ask["state"] in (DENIED, EXPIRED) for ask in task.asks)


def find(task: Task, step: int) -> Optional[Dict[str, Any]]:
    return next((ask for ask in task.asks if ask["step"] == step), None)


def row(task: Task, ask: Dict[str, Any]) -> Dict[str, Any]:
    """A call that waits, as clients get it. `id` is what `approve` takes."""
    told = {key: ask[key] for key in ("step", "skill", "args", "why")}
    place = {"task_id": task.id, "goal_id": task.goal, "attempt": task.attempt}
    return {"id": f"{task.id}:{ask['step']}", **place, "worker_id": task.assignee, **told}


def rows(tasks: Iterable[Task]) -> List[Dict[str, Any]]:
    return [row(task, ask) for task in tasks for ask in pending(task)]


class Approvals:
    def __init__(self, emit: Callable[[Any], None]) -> None:
        """`emit` takes facts (which are true at once), messages and entries of the audit log."""
        self._emit = emit

    def asked(self, task: Task, watch: Watch, said: Approval, now: float) -> None:
        """The worker says, perhaps again, that a call of the current attempt waits."""
        known = find(task, said.step)
        if task.cancel:
            return  # it is being stopped, and hears so until it has
        if known is None and len(task.asks) >= MAX_ASKS:
            self._tell(task, said.step, False, MASTER)
        elif known is not None and known["state"] != ASKED:
            self._tell(task, said.step, known["state"] == APPROVED, known["by"])
            if task.state != WAITING:  # it has waited until now, whenever it was decided
                watch.deadline = max(watch.deadline, now + watch.left_s)
        else:
            waited_s = min(max(said.waited_ms / 1000, 0.0), APPROVAL_S)
            watch.wait(said.step, now - waited_s, now)
            if known is None:
                self._write_down(task, said)

    def _write_down(self, task: Task, said: Approval) -> None:
        ask = {"step": said.step, "skill": said.skill[:SKILL_CHARS], "state": ASKED, "by": ""}
        ask.update(args=said.args[:TEXT_CHARS], why=said.why[:TEXT_CHARS])
        task = changed(task, state=WAITING, asks=[*task.asks, ask])
        self._emit(task)
        self._emit(audited(ASKED, task, ask))

    def decided(
        self, task: Task, watch: Watch, step: int, allow: bool, by: str, now: float
    ) -> None:
        """A person has decided. Who asked for it has checked, and has it in the audit log."""
        ask = find(task, step)
        if ask is None or ask["state"] != ASKED:
            return
        self._emit(_settled(task, [step], APPROVED if allow else DENIED, by))
        watch.go_on(step, now)
        self._tell(task, step, allow, by)

    def expired(self, task: Task) -> Task:
        """Nobody has answered in time."""
        return self._all(task, EXPIRED)

    def void(self, task: Task) -> Task:
        """The attempt is over or is to end: nothing of it waits any more."""
        return self._all(task, VOID)

    def _all(self, task: Task, state: str) -> Task:
        waiting = pending(task)
        for ask in waiting:
            self._emit(audited(state, task, ask))
        return _settled(task, [ask["step"] for ask in waiting], state, MASTER) if waiting else task

    def _tell(self, task: Task, step: int, allow: bool, by: str) -> None:
        self._emit(Send(task.assignee, Decision(task.id, task.attempt, step, allow, by)))


def audited(what: str, task: Task, ask: Dict[str, Any], by: str = "") -> Audited:
    """What the audit log keeps of a call."""
    about = {"task": task.id, "goal": task.goal, "attempt": task.attempt, "step": ask["step"]}
    return Audited(what, by, {**about, "worker": task.assignee, **_said(ask)})


def _said(ask: Dict[str, Any]) -> Dict[str, Any]:
    return {key: ask[key] for key in ("skill", "args", "why")}


def _settled(task: Task, steps: List[int], state: str, by: str) -> Task:
    """The task with these calls decided; it runs on when none is left."""
    new = {"state": state, "by": by}
    asks = [{**ask, **new} if ask["step"] in steps else ask for ask in task.asks]
    still = any(ask["state"] == ASKED for ask in asks)
    return changed(task, asks=asks, state=WAITING if still else "running")
