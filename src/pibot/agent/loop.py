"""The agent loop: ask the model, run the calls, append, until an answer, a limit or a cancel.

What a step may do wrong (an unknown tool, bad arguments, a failing skill) goes back to the model
as an error; what ends the attempt (a limit, a cancel, a model that cannot be reached) becomes a
failed Outcome. `run` itself raises only for bugs.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, replace
from typing import Any, Callable, Iterator, Mapping, Optional, Sequence, Tuple

from pibot.agent import answers, schemacalls, textcalls
from pibot.agent.calls import GIVE_UP, arguments, for_model, given_up, sendable
from pibot.agent.context import Conversation, first_message
from pibot.agent.failures import EndpointError
from pibot.agent.kit import MORE, Kit
from pibot.agent.model import Cancelled, Model, Reply, ToolCall, Usage
from pibot.agent.text import clean, cut, short
from pibot.agent.tools import Context, Result, Toolbox
from pibot.errors import ModelError

PARALLEL_CALLS = 8

OnStep = Callable[[Mapping[str, Any]], None]


@dataclass(frozen=True)
class Limits:
    """What an attempt may use. A step is one model call or one tool call.

    `tokens` are input and output together; `same_calls` is how often in a row the same call may
    be made; `tool_chars` bounds one tool output, `window_chars` the whole conversation.
    """

    steps: int = 25
    tokens: int = 200_000
    output_chars: int = 100_000
    same_calls: int = 3
    tool_chars: int = 8_000
    window_chars: int = 200_000


@dataclass(frozen=True)
class Job:
    """What an attempt is to do.

    `task` is the task's id (for people; the model does not see it), `goal` what to do in words,
    `context` the results of the tasks before it, `skills` the tools to offer (empty: all),
    `acceptance` when it is done.
    """

    task: str
    goal: str
    context: str = ""
    skills: Tuple[str, ...] = ()
    acceptance: str = ""


@dataclass(frozen=True)
class Outcome:
    """How an attempt ended. On failure `error` and `output` are the reason, `data` is empty."""

    success: bool
    data: Mapping[str, Any]
    output: str
    error: Optional[str]
    usage: Usage
    steps: int


class _Stop(Exception):
    """The attempt ends here without an answer; the message says why."""


def run(
    job: Job,
    *,
    model: Model,
    toolbox: Toolbox,
    soul: str,
    limits: Limits,
    ctx: Context,
    on_step: OnStep,
) -> Outcome:
    """Work on `job` until there is an answer or a reason why there is none.

    `on_step` gets {"step", "kind": "model" | "tool" | "note", "name", "text", "ok", "ms"} after
    each step, in this thread. The idempotency key of a call is the task and its step's number.
    """
    attempt = _Attempt(job, model, toolbox, soul, limits, ctx, on_step)
    try:
        while True:
            reply = attempt.ask()
            if reply.calls:
                attempt.act(reply.calls)
            elif attempt.accepts(reply):
                return attempt.succeeded(reply.text)
    except (_Stop, Cancelled, ModelError) as end:
        return attempt.failed(str(end))


class _Attempt:
    def __init__(
        self,
        job: Job,
        model: Model,
        toolbox: Toolbox,
        soul: str,
        limits: Limits,
        ctx: Context,
        on_step: OnStep,
    ) -> None:
        self._kit = Kit(toolbox, job.skills, f"{job.goal}\n{job.acceptance}")
        self._began_with = ctx
        context = cut(self._told(job.context), limits.window_chars // 2)
        task = first_message(self._told(job.goal), context, self._told(job.acceptance))
        self._talk = Conversation(soul, task)
        self._model = model
        self._toolbox = toolbox
        self._limits = limits
        self._task = job.task
        self._on_step = on_step
        self._usage = Usage()
        self._steps = 0
        self._last_call = ""
        self._same_calls = 0
        self._questioned: Optional[str] = None  # the text that was not taken as an answer
        self._printed = False  # whether the last calls were printed as text
        self._by_schema = False  # the last of the three forms: see `_changed_form`
        self._tried_schema = False

    @property
    def _ctx(self) -> Context:
        """What calls may use; time in which a person was asked has not passed."""
        ctx = self._began_with
        return replace(ctx, deadline=ctx.deadline + ctx.guard.waited_s)

    def ask(self) -> Reply:
        """One model call; its reply is in the conversation afterwards."""
        step = self._step()
        self._make_room()
        began = time.monotonic()
        reply = self._chat()
        self._usage += reply.usage
        text = self._told(reply.text)
        calls = reply.calls or textcalls.find(text, self._kit.names)
        if len(text) + sum(len(call.arguments) for call in calls) > self._limits.output_chars:
            raise _Stop(f"The model wrote more than {self._limits.output_chars} characters.")
        if calls:
            self._printed = not reply.calls
            text = "" if self._printed else text  # a printed call is not said once more
            self._talk.called(text, [sendable(self._without_secrets(call)) for call in calls])
        else:
            self._talk.answered(text)
        said = " ".join([text, *(f"{call.name}({call.arguments})" for call in calls)])
        self._show(step, "model", "model", said, True, _ms_since(began))
        return replace(reply, text=text, calls=calls)

    def act(self, calls: Sequence[ToolCall]) -> None:
        """Run the calls of one turn; the results are appended in the order of the calls."""
        self._questioned = None
        if all(call.name == GIVE_UP for call in calls):
            raise _Stop(given_up(calls[0]))
        for call in calls:
            self._check_repetition(call)
            self._kit.reach(call.name)
        steps = [self._step() for _ in calls]
        useful = False
        for call, step, (result, ms) in zip(calls, steps, self._results(calls, steps)):
            text = self._told(for_model(result))
            self._talk.result(call, cut(text, self._tool_chars, self._kept(call.name, text, step)))
            self._show(step, "tool", call.name, result.output, result.success, ms)
            useful = useful or result.success
        if self._printed and not useful:
            self._changed_form("The calls that the model printed failed.", calls=True)
        elif self._printed and self._same_calls > 1:
            self._changed_form("The model prints the same call again.")

    def accepts(self, reply: Reply) -> bool:
        """Whether a reply without calls is the answer; if not, the model is asked once more."""
        names = [*self._kit.names, schemacalls.FINAL]
        complaint = answers.complaint(reply.text, reply.finish, names)
        if complaint is None or (complaint.doubtful and reply.text == self._questioned):
            return True
        again = self._questioned is not None
        hopeless = complaint is answers.PRINTED or (complaint.form and again)
        if hopeless and self._changed_form(complaint.error):
            return False
        if again:
            raise _Stop(complaint.error)
        self._questioned = reply.text
        self._talk.say(complaint.request)
        self._note(complaint.error)
        return False

    def _changed_form(self, why: str, calls: bool = False) -> bool:
        """Go over to the last form, once in an attempt; False when that was tried already.

        The forms are native calls, calls printed as text (`ask` takes both) and one schema for
        all tools. The first two do not work when what is printed cannot be read, fails or is
        repeated, or when asking again does not help. What went wrong is forgotten, the last turn
        of calls only with `calls`: a weak model does as it has done.
        """
        if self._tried_schema:
            return False
        self._by_schema = self._tried_schema = True
        self._questioned = None
        self._talk.take_back(calls)
        self._same_calls = 0
        self._note(f"{why} From here it is asked for one JSON step at a time.")
        return True

    def succeeded(self, text: str) -> Outcome:
        data, output = answers.parsed(text)
        return Outcome(True, data, output, None, self._usage, self._steps)

    def failed(self, why: str) -> Outcome:
        self._note(why)
        return Outcome(False, {}, why, why, self._usage, self._steps)

    def _step(self) -> int:
        """The number of the next step, if there may be one."""
        if time.monotonic() >= self._ctx.deadline:
            raise _Stop("The task's time was over before there was an answer.")
        if self._ctx.cancelled.is_set():
            raise _Stop("The task was cancelled.")
        if self._steps >= self._limits.steps:
            raise _Stop(f"There was no answer after {self._steps} steps, which is the limit.")
        if self._usage.input_tokens + self._usage.output_tokens >= self._limits.tokens:
            raise _Stop(f"There was no answer after {self._limits.tokens} tokens, the limit.")
        self._steps += 1
        return self._steps

    def _make_room(self) -> None:
        window = self._limits.window_chars
        if self._talk.chars > window:
            # Far below the limit, so that the prefix then stays the same for many steps.
            left_out = self._talk.compact(window // 2)
            self._note(f"{left_out} characters of old steps were left out to make room.")
        if self._talk.chars > window:
            raise _Stop("The task and its last step are larger than the model's window.")

    def _chat(self) -> Reply:
        try:
            return self._asked()
        except EndpointError as error:
            # The model's window is smaller than we believe: once more with half of it.
            if not error.overflow or not self._talk.compact(self._talk.chars // 2):
                raise
            return self._asked()

    def _asked(self) -> Reply:
        messages, ctx = self._talk.messages, self._ctx
        if self._by_schema:
            try:
                return schemacalls.ask(self._model, messages, self._kit.tools, ctx)
            except EndpointError as error:
                if error.overflow or error.status not in schemacalls.REFUSALS:
                    raise
                self._by_schema = False
                self._note("The endpoint knows no schemas; the model is asked as before.")
        try:
            return self._model.chat(
                messages,
                tools=self._kit.tools,
                deadline=ctx.deadline,
                cancelled=ctx.cancelled,
                on_text=textcalls.Watch(self._kit.names),
            )
        except textcalls.RunsOn as printed:
            return Reply(str(printed), (), Usage(model_calls=1), "stop")

    def _check_repetition(self, call: ToolCall) -> None:
        args = arguments(call)
        this = f"{call.name} {call.arguments if args is None else json.dumps(args, sort_keys=True)}"
        self._same_calls = self._same_calls + 1 if this == self._last_call else 1
        self._last_call = this
        if self._same_calls > self._limits.same_calls:
            times = self._same_calls
            raise _Stop(f"The model made the same call {times} times in a row: {short(this)}")

    def _results(
        self, calls: Sequence[ToolCall], steps: Sequence[int]
    ) -> Iterator[Tuple[Result, int]]:
        skills = [self._toolbox.get(call.name) for call in calls]
        if len(calls) > 1 and all(skill is None or skill.parallel for skill in skills):
            from concurrent.futures import ThreadPoolExecutor

            with ThreadPoolExecutor(PARALLEL_CALLS) as pool:
                yield from pool.map(self._call, calls, steps)
        else:
            yield from map(self._call, calls, steps)

    def _call(self, call: ToolCall, step: int) -> Tuple[Result, int]:
        began = time.monotonic()
        args = arguments(call)
        if call.name == GIVE_UP:
            result = Result(False, {}, "not taken, as other calls came with it: see their results")
        elif call.name not in self._kit.names:
            told = ", ".join(self._kit.told)
            why = f"there is no tool {short(call.name, 60)!r}; there are: {told}"
            result = Result(False, {}, why)
        elif args is None:
            why = f"the arguments are not a JSON object: {short(call.arguments)}"
            result = Result(False, {}, why)
        elif call.name == MORE:
            result = self._kit.more(args)
        else:
            ctx = replace(self._ctx, key=f"{self._task}:{step}")
            result = self._toolbox.call(call.name, args, ctx)
        return result, _ms_since(began)

    @property
    def _tool_chars(self) -> int:
        return min(self._limits.tool_chars, self._limits.window_chars // 4)

    def _kept(self, name: str, text: str, step: int) -> str:
        """Keep an output that will be cut as a file; returns where, for the note in the cut."""
        if len(text) <= self._tool_chars or "read_file" not in self._kit.told:
            return ""
        if name == "read_file":
            return "; read it in smaller parts"
        # Through the skill, which does not follow a link that a command may have left there.
        path = f".steps/{step}.txt"
        kept = self._toolbox.call("write_file", {"path": path, "content": text}, self._ctx)
        return f"; all of it is in the file {path}" if kept.success else ""

    def _told(self, text: str) -> str:
        """What the model is told: nothing that it should not repeat."""
        return self._began_with.redactor.text(clean(text))

    def _without_secrets(self, call: ToolCall) -> ToolCall:
        return replace(call, arguments=self._began_with.redactor.text(call.arguments))

    def _note(self, text: str) -> None:
        self._show(self._steps, "note", "", text, True, 0)

    def _show(self, step: int, kind: str, name: str, text: str, ok: bool, ms: int) -> None:
        said = short(self._told(text))  # what is cut in the middle could not be found any more
        event = {"step": step, "kind": kind, "name": name, "text": said, "ok": ok, "ms": ms}
        self._on_step(event)


def _ms_since(began: float) -> int:
    return int((time.monotonic() - began) * 1000)
