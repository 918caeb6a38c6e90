"""Skills as tools: how a function becomes one, and how a call of one becomes a result.

A skill is an ordinary function with type hints and a docstring. `Toolbox.call` is the one place
where it is run: whatever the function does (raise, hang, return the wrong thing), the caller
gets a `Result`, in time.
"""

from __future__ import annotations

import inspect
import json
import logging
import re
import threading
import time
import traceback
from dataclasses import dataclass, replace
from pathlib import Path
from typing import (
    Any,
    Callable,
    Collection,
    Dict,
    List,
    Mapping,
    Optional,
    Sequence,
    Tuple,
    TypeVar,
    Union,
)

from pibot.agent import schema
from pibot.errors import BadMessage, SkillError, UsageError
from pibot.permits import Available, Permits
from pibot.secrets import Redactor
from pibot.strictjson import parse

_LOG = logging.getLogger(__name__)
_LOOK_S = 0.05  # how often a running call looks whether it was cancelled
_GRACE_S = 0.12  # for a stopped skill to clean up and say how far it came
_NAME = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]{0,63}")
_FIRST_SENTENCE = re.compile(r".*?([.!?](?=\s|$)|[。！？])", re.DOTALL)

F = TypeVar("F", bound=Callable[..., Any])
Rule = Union[bool, Callable[[Permits], bool]]  # of this machine, when it depends on its settings
OWN = "own"  # the group of the skills of a machine's owner


def _drop(line: str) -> None:
    """Where live output goes when nobody listens."""


def _nobody(path: str) -> None:
    raise SkillError(f"{path}: files cannot be shared here")


class Guard:
    """What every call of an attempt passes, before and after. This one lets everything through."""

    @property
    def waited_s(self) -> float:
        """For how long the attempt has waited for people: that is no time of its own."""
        return 0.0

    def admit(self, called: Skill, args: Mapping[str, Any], ctx: Context) -> float:
        """Return when the call may be run, with the seconds that took; raise SkillError if not."""
        return 0.0

    def returned(self, called: Skill) -> None:
        """The call is over, well or badly."""


@dataclass(frozen=True)
class Context:
    """What one call may use. A skill asks for it with a parameter annotated `Context`.

    `workspace` exists and is the task's own; `cancelled` set means: stop now; `deadline` is the
    time.monotonic() at which the call must have ended; `key` is the same when the same step is
    done again ("task:step"); `on_output` shows a line to whoever watches; `share` gives a file of
    the workspace to the person who asked, or raises SkillError; `permits` are what the owner of the
    machine lets skills do; `guard` decides whether the call is run; `redactor` takes the secrets
    out of what the call shows and returns.
    """

    workspace: Path
    cancelled: threading.Event
    deadline: float
    key: str
    permits: Permits = Permits()
    on_output: Callable[[str], None] = _drop
    share: Callable[[str], None] = _nobody
    guard: Guard = Guard()
    redactor: Redactor = Redactor()


@dataclass(frozen=True)
class Output:
    """What a skill returns when its data and its summary for a person differ."""

    data: Mapping[str, Any]
    text: str


@dataclass(frozen=True)
class Result:
    """How a call ended. `output` is for a person and the model; on failure it is the reason."""

    success: bool
    data: Mapping[str, Any]
    output: str

    def to_json(self) -> Dict[str, Any]:
        return {"success": self.success, "data": dict(self.data), "output": self.output}


@dataclass(frozen=True)
class Skill:
    """A declared skill. `parameters` is a JSON schema; `timeout_s` bounds each call.

    `sensitive`: acts outside the workspace. `taints`: what it returns comes from outside and is
    not to be trusted. `repeatable` False: unsafe to do twice. `parallel`: may run beside other
    calls of the same turn. `available` returns why the skill cannot be had on this machine, or
    None; `note` says what the settings add to the description. `context` names the injected
    parameter, `group` what a task asks for when it names no skill.
    """

    name: str
    description: str
    parameters: Mapping[str, Any]
    function: Callable[..., Any]
    timeout_s: float
    phrases: Tuple[str, ...] = ()
    sensitive: Rule = False
    taints: Rule = False
    repeatable: bool = True
    parallel: bool = True
    available: Optional[Available] = None
    note: Union[str, Callable[[Permits], str]] = ""
    context: str = ""
    group: str = OWN

    def settled(self, permits: Permits, group: str) -> Skill:
        """The skill as it is on a machine with these permits."""
        return replace(
            self,
            sensitive=_ruled(self.sensitive, permits),
            taints=_ruled(self.taints, permits),
            note=self.note if isinstance(self.note, str) else self.note(permits),
            group=group,
        )

    def tool(self) -> Dict[str, Any]:
        """The skill as an entry of a chat completion's `tools`."""
        words = f"{self.description}\n{self.note}" if self.note else self.description
        described = {"name": self.name, "description": words}
        return {"type": "function", "function": {**described, "parameters": dict(self.parameters)}}

    def announcement(self) -> Dict[str, Any]:
        """The skill as a worker presents it to the master."""
        first = _FIRST_SENTENCE.match(self.description)
        sentence = first.group(0) if first else self.description
        return {
            "name": self.name,
            "description": " ".join(sentence.split()),
            "params": list(self.parameters["properties"]),
            "phrases": list(self.phrases),
            "repeatable": self.repeatable,
            "sensitive": self.sensitive is not False,
            "group": self.group,
            **({"taints": True} if self.taints else {}),
            **({"note": self.note} if self.note else {}),
        }


def skill(
    *,
    timeout_s: float = 30.0,
    phrases: Sequence[str] = (),
    sensitive: Rule = False,
    taints: Rule = False,
    repeatable: bool = True,
    parallel: bool = True,
    available: Optional[Available] = None,
    note: Union[str, Callable[[Permits], str]] = "",
) -> Callable[[F], F]:
    """Declare the function below as a skill; it stays an ordinary function.

    Its name, docstring and type hints are what the model sees. Raises TypeError, naming the
    function and the parameter, when one of them is missing or cannot be used.
    """

    def declare(function: F) -> F:
        parameters, context = schema.parameters(function, Context)
        declared = Skill(
            name=_checked_name(function.__name__),
            description=_description(function),
            parameters=parameters,
            function=function,
            timeout_s=timeout_s,
            phrases=_checked_phrases(function.__name__, phrases),
            sensitive=sensitive,
            taints=taints,
            repeatable=repeatable,
            parallel=parallel,
            available=available,
            note=note,
            context=context,
        )
        setattr(function, "__skill__", declared)
        return function

    return declare


class Toolbox:
    """The skills that one machine offers, in a fixed order."""

    def __init__(self, skills: Sequence[Skill]) -> None:
        self._skills = {one.name: one for one in skills}
        if len(self._skills) != len(skills):
            raise ValueError("two skills have the same name")

    @property
    def names(self) -> List[str]:
        return list(self._skills)

    @property
    def skills(self) -> List[Skill]:
        return list(self._skills.values())

    def get(self, name: str) -> Optional[Skill]:
        return self._skills.get(name)

    def tools(self, only: Optional[Collection[str]] = None) -> List[Dict[str, Any]]:
        """The `tools` of a chat completion; `only` limits them, None means all."""
        chosen = self._skills.values()
        return [one.tool() for one in chosen if only is None or one.name in only]

    def announce(self) -> List[Dict[str, Any]]:
        """What a worker tells the master about its skills."""
        return [one.announcement() for one in self._skills.values()]

    def call(self, name: str, args: Mapping[str, Any], ctx: Context) -> Result:
        """Run a skill. Returns a failed Result instead of raising, whatever happens.

        Returns within 0.2 s of a cancel, the skill's time limit or the deadline of `ctx`, even
        when the function goes on: its thread is then left behind, and its `cancelled` is set.
        While a person is asked whether the call may be run, no time passes for it.
        """
        done = self._called(name, args, ctx)
        data, output = ctx.redactor.data([done.data, done.output])
        return Result(done.success, data, output)

    def _called(self, name: str, args: Mapping[str, Any], ctx: Context) -> Result:
        found = self._skills.get(name)
        if found is None:
            known = ", ".join(self._skills) or "none"
            return _failed(f"there is no skill {name!r} here; there are: {known}")
        try:
            checked = schema.check(found.parameters, args)
        except UsageError as error:
            return _failed(f"{name}: {error}")
        if (found.sensitive or found.taints) and ctx.redactor.holds(checked):
            return _failed(f"{name} was not run: its arguments hold a secret of this machine")
        try:
            waited_s = ctx.guard.admit(found, checked, ctx)
        except SkillError as error:
            return _failed(str(error))
        try:
            return _Call(found, checked, replace(ctx, deadline=ctx.deadline + waited_s)).run()
        finally:
            ctx.guard.returned(found)


class _Call:
    """One run of a skill's function in a thread of its own."""

    def __init__(self, called: Skill, args: Mapping[str, Any], ctx: Context) -> None:
        self._skill = called
        self._args = args
        self._outer = ctx
        self._stop = threading.Event()
        self._ended = threading.Event()
        self._result = _failed(f"{called.name} did not end")

    def run(self) -> Result:
        skill_ends = time.monotonic() + self._skill.timeout_s
        deadline = min(skill_ends, self._outer.deadline)
        if self._outer.cancelled.is_set() or deadline <= time.monotonic():
            return _failed(f"{self._skill.name} was not started: no time is left")
        work = threading.Thread(
            target=self._work, args=(deadline,), name=f"skill-{self._skill.name}", daemon=True
        )
        try:
            work.start()
        except RuntimeError as error:  # the machine has no memory or no thread left
            return _failed(f"{self._skill.name} could not be started: {error}")
        stopped = self._wait(deadline)
        return self._stopped(stopped) if stopped else self._result

    def _wait(self, deadline: float) -> str:
        """Wait for the function; returns why it has to stop, or "" when it has ended."""
        while True:
            left_s = deadline - time.monotonic()
            if self._ended.wait(max(0.0, min(_LOOK_S, left_s))):
                return ""
            if self._outer.cancelled.is_set():
                return "was cancelled"
            if left_s <= 0:
                return "did not end in time and was stopped"

    def _stopped(self, why: str) -> Result:
        self._stop.set()
        reason = f"{self._skill.name} {why}"
        if not self._ended.wait(_GRACE_S):
            return _failed(reason)
        if self._result.success:  # what it returned after the stop is at best a part
            return replace(self._result, success=False, output=reason)
        return self._result

    def _work(self, deadline: float) -> None:
        kwargs = dict(self._args)
        if self._skill.context:
            kwargs[self._skill.context] = replace(
                self._outer, cancelled=self._stop, deadline=deadline, on_output=self._show
            )
        try:
            self._result = _outcome(self._skill.name, self._skill.function(**kwargs))
        except SkillError as error:
            self._result = _failed(str(error), error.data)
        except BaseException as error:  # also SystemExit: nothing a skill does ends the agent
            _LOG.debug("skill %s failed", self._skill.name, exc_info=True)
            self._result = _failed(_explained(self._skill.name, error))
        finally:
            self._ended.set()

    def _show(self, line: str) -> None:
        if not self._stop.is_set():
            self._outer.on_output(self._outer.redactor.text(line))


def _ruled(rule: Rule, permits: Permits) -> bool:
    return rule if isinstance(rule, bool) else rule(permits)


# --- declaration -----------------------------------------------------------------------------


def _checked_name(name: str) -> str:
    if not _NAME.fullmatch(name):
        raise TypeError(f"skill {name}: a name is 1-64 letters, digits and _ of plain ASCII")
    return name


def _checked_phrases(name: str, phrases: Sequence[str]) -> Tuple[str, ...]:
    if isinstance(phrases, str) or not all(isinstance(one, str) for one in phrases):
        raise TypeError(f'skill {name}: phrases must be a list of texts, such as ["door status"]')
    return tuple(phrases)


def _description(function: Callable[..., Any]) -> str:
    if inspect.iscoroutinefunction(function):
        raise TypeError(f"skill {function.__name__}: is async; write it as an ordinary function")
    lines = [line.strip() for line in (function.__doc__ or "").strip().splitlines()]
    if not lines:
        raise TypeError(f"skill {function.__name__}: has no docstring; say in it what it does")
    return "\n".join(lines)


# --- results ---------------------------------------------------------------------------------


def _failed(reason: str, data: Optional[Mapping[str, Any]] = None) -> Result:
    try:
        return Result(False, _json_copy(dict(data or {})), _clean(reason))
    except (TypeError, ValueError, RecursionError):
        return Result(False, {}, _clean(reason))


def _outcome(name: str, returned: Any) -> Result:
    try:
        data, text = _parts(returned)
        return Result(True, _json_copy(data), _clean(text))
    except (TypeError, ValueError, RecursionError) as error:
        return _failed(f"{name} returned something that is not JSON: {error}")


def _parts(returned: Any) -> Tuple[Dict[str, Any], str]:
    if isinstance(returned, Output):
        return dict(returned.data), returned.text
    if isinstance(returned, str):
        return {"text": returned}, returned
    if isinstance(returned, dict):
        return returned, _readable(returned)
    return {"value": returned}, "done" if returned is None else str(returned)


def _readable(data: Mapping[str, Any]) -> str:
    def shown(value: Any) -> str:
        return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)

    return "\n".join(f"{key}: {shown(value)}" for key, value in data.items())


def _json_copy(data: Mapping[str, Any]) -> Dict[str, Any]:
    """The data as any reader of the result gets it; no part is shared with the skill."""
    text = _clean(json.dumps(data, ensure_ascii=False, allow_nan=False))
    try:
        return parse(text.encode("utf-8"))
    except BadMessage as error:
        raise ValueError(error) from None


def _clean(text: str) -> str:
    """Text that can be sent: lone surrogates (bytes that were no characters) become '?'."""
    return text.encode("utf-8", "replace").decode("utf-8")


def _explained(name: str, error: BaseException) -> str:
    """One line for an exception nobody foresaw, with the place that a skill's author needs."""
    frames = traceback.extract_tb(error.__traceback__)
    place = f" ({Path(frames[-1].filename).name}, line {frames[-1].lineno})" if frames else ""
    said = " ".join(str(error).split())
    return f"{name} failed: {type(error).__name__}{': ' + said if said else ''}{place}"
