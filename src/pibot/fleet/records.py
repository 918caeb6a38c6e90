"""The master's records and facts. A fact says how a record stands now; applying it twice is once.

    goal   planning → running → succeeded | failed | cancelled | timed_out
    task   blocked → queued → assigned → running → succeeded | failed | cancelled | timed_out

Both are `waiting`, and then `running` again, while a call of a task waits for a person's approval.
A loss of the worker takes a task back from `assigned`, `running` or `waiting` to `queued`.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import (
    Any,
    Callable,
    Dict,
    FrozenSet,
    List,
    Optional,
    Tuple,
    Type,
    TypeVar,
    Union,
    get_args,
    get_origin,
    get_type_hints,
)

TERMINAL: FrozenSet[str] = frozenset({"succeeded", "failed", "cancelled", "timed_out"})
WAITING = "waiting"  # for a person's approval
HELD: FrozenSet[str] = frozenset({"assigned", "running", WAITING})
STATES: FrozenSet[str] = TERMINAL | HELD | {"planning", "blocked", "queued"}

DRAINING = "draining"  # gets no new tasks
FORGOTTEN = "forgotten"  # nothing is known of it, and it may come (again)
REMOVED = "removed"  # and it may not come
GONE: FrozenSet[str] = frozenset({FORGOTTEN, REMOVED})

GOAL_TIMEOUT_S = 600.0
TASK_TIMEOUT_S = 300.0
RECOVERED = "(recovered after the master's journal was damaged)"  # the text of a lost goal


@dataclass(frozen=True)
class Goal:
    """What a user asked for. `route` says how it is done:

    direct: its tasks were known at once, their results are the answer;
    plan:   a model plans it, and puts the answer together;
    answer: the master answers it by itself;
    recovered: a worker named it after the journal was damaged, nobody knows what it was.
    """

    id: str
    text: str = ""
    skill: str = ""
    args: Dict[str, Any] = field(default_factory=dict)
    on: str = ""
    all: bool = False
    tag: str = ""
    timeout_s: float = GOAL_TIMEOUT_S
    chat: str = ""
    ask_id: Optional[str] = None
    asked: bool = False  # came over the `ask` topic: its answer goes to `answer/…`
    tainted: bool = False  # text from outside may have had a part in its words or its answer
    state: str = "planning"
    route: str = ""
    revision: int = 0  # of the plan: counts revisions and retries, fences late model calls
    retried_at: int = 0  # the revision at which the last retry began
    answer: Optional[str] = None
    error: Optional[str] = None
    usage: Dict[str, int] = field(default_factory=dict)  # of the master's own model calls
    seconds: float = 0.0
    created: str = ""  # ISO 8601 with offset, by the master's clock: for people only

    @property
    def ended(self) -> bool:
        return self.state in TERMINAL


@dataclass(frozen=True)
class Task:
    """The unit that one worker executes: a skill with its arguments, or words for an agent."""

    id: str
    goal: str
    name: str = ""  # the plan's own id for it
    text: str = ""
    skill: str = ""
    args: Dict[str, Any] = field(default_factory=dict)
    needs: Tuple[str, ...] = ()
    skills: Tuple[str, ...] = ()
    worker: str = ""  # the only worker that may do it
    tags: Tuple[str, ...] = ()
    acceptance: str = ""
    timeout_s: float = TASK_TIMEOUT_S
    on_lost: str = "rerun"
    tries: int = 1  # attempts that may fail before the task has
    needed: bool = True  # False once a revised plan or a retry took its place
    state: str = "blocked"
    attempt: int = 0
    assignee: str = ""
    failed_on: Tuple[str, ...] = ()
    losses: int = 0
    cancel: bool = False
    orphan: bool = False  # what it was to do is lost: it can be awaited, not done again
    result: Optional[Dict[str, Any]] = None
    error: Optional[str] = None
    usage: Dict[str, int] = field(default_factory=dict)
    artifacts: List[Dict[str, Any]] = field(default_factory=list)  # [{path, size, sha256, error}]
    asks: List[Dict[str, Any]] = field(default_factory=list)  # of its last attempt: approvals.py
    tainted: bool = False  # text from outside may have had a part in its result

    @property
    def ended(self) -> bool:
        return self.state in TERMINAL


@dataclass(frozen=True)
class Attempt:
    """How one attempt ended, with its trace: kept for `show`, never read by the scheduler."""

    task: str
    attempt: int
    worker: str
    state: str
    error: Optional[str] = None
    result: Optional[Dict[str, Any]] = None
    usage: Dict[str, int] = field(default_factory=dict)
    trace: List[Any] = field(default_factory=list)


@dataclass(frozen=True)
class Known:
    """A worker that this master has met."""

    worker: str
    facts: Dict[str, Any]


@dataclass(frozen=True)
class Standing:
    """What a person has decided about a worker; empty is nothing."""

    worker: str
    state: str = ""


Fact = Union[Goal, Task, Attempt, Known, Standing]


R = TypeVar("R")


def changed(record: R, **fields: Any) -> R:
    """The record with some fields replaced; `dataclasses.replace` takes five times as long."""
    fresh = object.__new__(type(record))
    fresh.__dict__.update(record.__dict__, **fields)
    return fresh


def add_usage(first: Dict[str, int], second: Dict[str, Any]) -> Dict[str, int]:
    """Sum two usages; what is not a count is left out."""
    total = dict(first)
    for key in ("input_tokens", "output_tokens", "model_calls"):
        value = second.get(key, 0)
        good = isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**40
        total[key] = total.get(key, 0) + (value if good else 0)
    return total


T = TypeVar("T")


_ENCODER = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"))


def to_json(record: Any) -> str:
    """A record as the journal keeps it; lone surrogates (of a model's words) become '?'."""
    return _ENCODER.encode(record.__dict__).encode("utf-8", "replace").decode("utf-8")


def from_json(cls: Type[T], text: str) -> T:
    """Read a record back; raise ValueError or TypeError if this is none.

    A field that this version does not know is left out.
    """
    stored = _DECODER.decode(text)
    if not isinstance(stored, dict):
        raise TypeError("it is no object")
    kept = {}
    for name, fits, listed in _fields(cls):
        if name in stored:
            value = stored[name]
            if not fits(value) or (name == "state" and value not in STATES):
                raise TypeError(f"{name} is {str(value)[:40]!r}")
            kept[name] = tuple(value) if listed else value
    return cls(**kept)


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no number")


_DECODER = json.JSONDecoder(parse_constant=_refuse)
Check = Callable[[Any], bool]
_FIELDS: Dict[Any, List[Tuple[str, Check, bool]]] = {}


def _fields(cls: Any) -> List[Tuple[str, Check, bool]]:
    """Each field's name, check, and whether JSON has a list for its tuple."""
    if cls not in _FIELDS:
        hints = get_type_hints(cls)
        _FIELDS[cls] = [(n, _check(h), get_origin(h) is tuple) for n, h in hints.items()]
    return _FIELDS[cls]


def _check(hint: Any) -> Check:
    """What tells whether a JSON value is one that a field with this type hint holds."""
    origin, inside = get_origin(hint), get_args(hint)
    if hint is Any:
        return lambda value: True
    if hint in (int, float):
        kinds = (int, float) if hint is float else int
        return lambda value: isinstance(value, kinds) and not isinstance(value, bool)
    if origin is Union:
        checks = [_check(one) for one in inside]
        return lambda value: any(check(value) for check in checks)
    if origin in (list, tuple):
        each = _check(inside[0])
        return lambda value: isinstance(value, list) and all(map(each, value))
    if origin is dict:
        each = _check(inside[1])
        return lambda value: isinstance(value, dict) and all(map(each, value.values()))
    return lambda value: isinstance(value, hint)
