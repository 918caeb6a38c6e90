"""Runs the planner's model calls beside the master's loop, and stops them with their goal."""

from __future__ import annotations

import logging
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Callable, Dict, List, Mapping, Optional, Tuple

from pibot.fleet.events import Answered, AnswerJob, Job, PlanJob, Planned
from pibot.fleet.planner import Planner

log = logging.getLogger(__name__)

AT_ONCE = 4
CALLS_S = 300.0  # for one plan or answer, corrections included


class Jobs:
    def __init__(self, planner: Optional[Planner], done: Callable[[Any], None]) -> None:
        """`done` gets the Planned or Answered event, in another thread."""
        self._planner, self._done = planner, done
        self._pool = ThreadPoolExecutor(AT_ONCE, thread_name_prefix="model")
        self._cancels: Dict[str, threading.Event] = {}

    def start(self, job: Job, fleet: Mapping[str, Any], chat: List[Tuple[str, str]]) -> None:
        """Begin a job; `fleet` is how it looks now, `chat` what was said before."""
        cancelled = self._cancels.setdefault(job.goal.id, threading.Event())
        self._pool.submit(self._run, job, fleet, chat, cancelled)

    def stop(self, goal_id: str) -> None:
        """The goal is over: nobody waits for its model calls any more."""
        cancelled = self._cancels.pop(goal_id, None)
        if cancelled is not None:
            cancelled.set()

    def close(self) -> None:
        for goal_id in list(self._cancels):
            self.stop(goal_id)
        self._pool.shutdown(wait=False)

    def _run(
        self,
        job: Job,
        fleet: Mapping[str, Any],
        chat: List[Tuple[str, str]],
        cancelled: threading.Event,
    ) -> None:
        try:
            self._done(self._result(job, fleet, chat, cancelled))
        except Exception as error:
            log.exception("a model call for %s failed", job.goal.id)
            self._done(_failed(job, f"an internal error: {error}"))

    def _result(
        self,
        job: Job,
        fleet: Mapping[str, Any],
        chat: List[Tuple[str, str]],
        cancelled: threading.Event,
    ) -> Any:
        if self._planner is None:
            return _failed(job, "no model is configured on the master: set VOLC_API_KEY")
        deadline = time.monotonic() + min(CALLS_S, job.goal.timeout_s)
        if isinstance(job, PlanJob):
            return self._planner.plan(job, fleet, chat, deadline, cancelled)
        return self._planner.answer(job, chat, deadline, cancelled)


def _failed(job: Job, why: str) -> Any:
    if isinstance(job, AnswerJob):
        return Answered(job.goal.id, job.goal.revision, None, why)
    return Planned(job.goal.id, job.goal.revision, error=why)
