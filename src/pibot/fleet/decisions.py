"""What people decide about calls that wait; the audit log has it before anything follows."""

from __future__ import annotations

from typing import Any, Callable, Dict, Optional, Tuple

from pibot.errors import Refused
from pibot.fleet import approvals
from pibot.fleet.approvals import APPROVED, ASKED, DENIED
from pibot.fleet.audit import Audit
from pibot.fleet.events import Decided
from pibot.fleet.records import Task
from pibot.requests import Approve

FindTask = Callable[[str], Optional[Task]]


class Decisions:
    def __init__(self, find: FindTask, audit: Audit) -> None:
        """`find` a task by its id, also one that is over."""
        self._find, self._audit = find, audit

    def decide(self, wanted: Approve, client: str) -> Tuple[Optional[Decided], Dict[str, Any]]:
        """What a client's decision means for the scheduler, and its reply; raise PibotError."""
        name = f"{wanted.task}:{wanted.step}"
        task = self._find(wanted.task)
        ask = approvals.find(task, wanted.step) if task else None
        if task is None or ask is None or task.attempt != wanted.att:
            raise Refused(f"{name} does not wait for approval (any more): see `pibot.pyz tasks`")
        state = APPROVED if wanted.allow else DENIED
        if ask["state"] == ASKED:
            entry = approvals.audited(state, task, ask)
            self._audit.write(state, by=client, **entry.about)
            return Decided(wanted, client), _reply(task, ask, state, client)
        if ask["state"] != state:
            raise Refused(f"{name} is {ask['state']} already{_by(ask)}")
        return None, _reply(task, ask, state, ask["by"])  # asked twice: an answer may be lost


def _by(ask: Dict[str, Any]) -> str:
    return f", by {ask['by']}" if ask["by"] else ""


def _reply(task: Task, ask: Dict[str, Any], state: str, by: str) -> Dict[str, Any]:
    return {**approvals.row(task, ask), "state": state, "by": by}
