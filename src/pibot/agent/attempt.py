"""One attempt, from its assignment to its result: a skill by name, or the agent loop."""

from __future__ import annotations

import json
import os
import threading
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Callable, Dict, List, Mapping

from pibot.agent import approval, loop
from pibot.agent.gate import Gate
from pibot.agent.model import Model, Usage
from pibot.agent.sharing import Shared
from pibot.agent.tools import Context, Toolbox
from pibot.errors import ModelError
from pibot.messages import RESULT_BYTES, Assign, Result
from pibot.permits import Permits
from pibot.secrets import Redactor

TRACE_STEPS = 200
ERROR_CHARS = 10_000
Step = Mapping[str, Any]


@dataclass(frozen=True)
class Tools:
    """What attempts on this worker have in common. `model()` raises ModelError without one."""

    toolbox: Toolbox
    model: Callable[[], Model]
    soul: str
    permits: Permits
    workspaces: Path
    approval: str = approval.TAINTED  # which sensitive calls wait for a person
    redactor: Redactor = Redactor()


@dataclass
class Attempt:
    """Runs in a thread of its own; `interrupt` stops it at the next opportunity."""

    assign: Assign
    tools: Tools
    on_step: Callable[[Step], None]
    on_ask: Callable[[approval.Ask], None] = lambda ask: None
    cancelled: threading.Event = field(default_factory=threading.Event)
    trace: List[Step] = field(default_factory=list)

    def __post_init__(self) -> None:
        tainted = self.assign.spec.get("tainted") is True
        hide = self.tools.redactor.text
        self.gate = Gate(self.tools.approval, tainted, self.on_ask, self._step, hide)

    def interrupt(self) -> None:
        self.cancelled.set()
        self.gate.wake()

    def run(self) -> Result:
        """Do it; whatever happens comes back as a Result."""
        deadline = time.monotonic() + self.assign.ttl_ms / 1000
        shared = Shared(self.tools.workspaces / self.assign.task, self.tools.redactor)
        try:
            ctx = self._context(deadline, shared)
            is_skill = self.assign.spec.get("skill")  # its result holds no secret: see Toolbox
            outcome = self._skill(ctx) if is_skill else self._hidden(self._agent(ctx))
        except ModelError as error:
            outcome = self._hidden(_failure(str(error)))
        except OSError as error:
            outcome = _failure(f"the workspace cannot be used: {error}")
        if self.gate.expired:
            outcome = replace(_failure(self.gate.expired), usage=outcome.usage, steps=outcome.steps)
        files, missing = shared.record() if outcome.success else ([], "")
        outcome = replace(outcome, output=outcome.output + missing)
        late = time.monotonic() >= deadline + self.gate.waited_s
        return self._result(outcome, files, late)

    def _context(self, deadline: float, shared: Shared) -> Context:
        if self._needs_workspace():
            shared.workspace.mkdir(mode=0o700, parents=True, exist_ok=True)
            if os.listdir(shared.workspace):  # nobody knows what an attempt that was lost read
                self.gate.taint("files of an earlier attempt are in its workspace")
        return Context(
            workspace=shared.workspace,
            cancelled=self.cancelled,
            deadline=deadline,
            key=f"{self.assign.task}:0",
            permits=self.tools.permits,
            on_output=lambda text: self.on_step({"kind": "output", "text": text[:400]}),
            share=shared.add,
            guard=self.gate,
            redactor=self.tools.redactor,
        )

    def _needs_workspace(self) -> bool:
        """A skill without a context sees no files: a directory would cost half its time."""
        skill = self.tools.toolbox.get(str(self.assign.spec.get("skill")))
        return skill is None or bool(skill.context)

    def _skill(self, ctx: Context) -> loop.Outcome:
        """The skill itself, with as much time as the task has."""
        spec = self.assign.spec
        args = spec.get("args")
        done = self.tools.toolbox.call(
            str(spec["skill"]), args if isinstance(args, dict) else {}, ctx
        )
        error = None if done.success else done.output
        return loop.Outcome(done.success, done.data, done.output, error, Usage(), 1)

    def _agent(self, ctx: Context) -> loop.Outcome:
        spec = self.assign.spec
        job = loop.Job(
            task=self.assign.task,
            goal=str(spec.get("goal", "")),
            context=str(spec.get("context", "")),
            skills=tuple(str(s) for s in spec.get("skills") or ()),
            acceptance=str(spec.get("acceptance", "")),
        )
        return loop.run(
            job,
            model=self.tools.model(),
            toolbox=self.tools.toolbox,
            soul=self.tools.soul,
            limits=loop.Limits(),
            ctx=ctx,
            on_step=self._step,
        )

    def _step(self, step: Step) -> None:
        step = self.tools.redactor.data(step)
        if len(self.trace) < TRACE_STEPS:
            self.trace.append(dict(step))
        self.on_step(step)

    def _result(self, outcome: loop.Outcome, files: List[Any], late: bool) -> Result:
        outcome = _bounded(outcome)
        result: Dict[str, Any] = {
            "success": outcome.success,
            "data": dict(outcome.data),
            "output": outcome.output,
        }
        state, error = "succeeded", None
        if not outcome.success:
            state = self._why_not(late)
            error = (outcome.error or outcome.output or state)[:ERROR_CHARS]
        usage = outcome.usage.to_json()
        task, att, trace = self.assign.task, self.assign.att, list(self.trace)
        tainted = self.gate.tainted
        return Result(task, att, state, result, error, usage, trace, files, tainted)

    def _hidden(self, outcome: loop.Outcome) -> loop.Outcome:
        shown = [outcome.data, outcome.output, outcome.error]
        data, output, error = self.tools.redactor.data(shown)
        return replace(outcome, data=data, output=output, error=error)

    def _why_not(self, late: bool) -> str:
        """The state of an attempt that did not succeed."""
        if self.gate.expired:
            return "failed"
        return "cancelled" if self.cancelled.is_set() else "timed_out" if late else "failed"


def _bounded(outcome: loop.Outcome) -> loop.Outcome:
    """Refuse here what the protocol would not carry."""
    size = len(json.dumps([dict(outcome.data), outcome.output], ensure_ascii=False).encode())
    if size <= RESULT_BYTES:
        return outcome
    why = f"the result has {size:,} bytes, more than {RESULT_BYTES:,}: write it to a file instead"
    return replace(outcome, success=False, data={}, output=why, error=why)


def _failure(why: str) -> loop.Outcome:
    return loop.Outcome(False, {}, why, why, Usage(), 0)


def no_model() -> Model:
    raise ModelError("this worker has no model: set VOLC_API_KEY in its .env")


def lazily(make: Callable[[], Model]) -> Callable[[], Model]:
    """Make the model when the first attempt needs it, and keep it."""
    lock = threading.Lock()
    made: List[Model] = []

    def get() -> Model:
        with lock:
            if not made:
                made.append(make())
            return made[0]

    return get
