"""What clients ask of the master, and what it answers: a part of the wire's messages."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar, Dict, Optional

from pibot.body import Message
from pibot.topics import WORKER


@dataclass(frozen=True)
class Submit(Message):
    """The client makes the goal's id, so that a submit sent twice is one goal."""

    t: ClassVar[str] = "submit"
    goal_id: str
    goal: str = ""
    skill: str = ""
    args: Dict[str, Any] = field(default_factory=dict)
    on: str = ""
    all: bool = False
    tag: str = ""
    timeout_s: float = 600.0
    chat: str = ""
    follow: bool = False


@dataclass(frozen=True)
class Get(Message):
    """One goal or task, with all that is known of it."""

    t: ClassVar[str] = "get"
    key: str


@dataclass(frozen=True)
class Listing(Message):
    t: ClassVar[str] = "list"
    what: str  # workers, roster, clients, updates, skills, tasks, waiting, audit


@dataclass(frozen=True)
class Retry(Message):
    t: ClassVar[str] = "retry"
    key: str


@dataclass(frozen=True)
class Approve(Message):
    """Let a call that waits happen, or not: exactly this one, as the list `waiting` has it."""

    t: ClassVar[str] = "approve"
    task: str
    att: int
    step: int
    allow: bool


@dataclass(frozen=True)
class Follow(Message):
    t: ClassVar[str] = "follow"
    goal_id: str


@dataclass(frozen=True)
class Manage(Message):
    """`action`: add, rotate, remove, drain or resume; of a client or viewer add and remove.

    To add or rotate, the client makes the secret and sends what checks it: a request that comes
    twice is one, and no password goes over the wire. The keys are hidden with the client's own.
    """

    t: ClassVar[str] = "manage"
    action: str
    worker: str  # or the name of a client
    password_line: str = ""
    key: str = ""
    kind: str = WORKER
    suffix: str = ""
    update_key: str = ""
    now: bool = False


@dataclass(frozen=True)
class Upload(Message):
    """A slice of a program for the master to keep; the reply says how much of it is there."""

    t: ClassVar[str] = "upload"
    sha256: str
    size: int
    offset: int
    data: str


@dataclass(frozen=True)
class Update(Message):
    """Have a worker install a program that the master keeps; `serial` makes it new to the worker.

    Within `patience_s` seconds after its start the new program has to reach the master.
    """

    t: ClassVar[str] = "update"
    worker: str
    sha256: str
    version: str
    build: str
    serial: int
    patience_s: int


@dataclass(frozen=True)
class Push(Message):
    """Have a worker take a version of a skill; `data` is base64, `form` says what of.

    `form` is `py`, `zip`, or empty: back to the version before. `version` is its SHA-256.
    """

    t: ClassVar[str] = "push"
    worker: str
    name: str
    form: str = ""
    version: str = ""
    data: str = ""


@dataclass(frozen=True)
class Reply(Message):
    """The answer to the request `re`; `error` is set if it was refused."""

    t: ClassVar[str] = "reply"
    re: str
    data: Dict[str, Any] = field(default_factory=dict)
    error: Optional[Dict[str, Any]] = None


@dataclass(frozen=True)
class Event(Message):
    """To those who follow a goal: `kind` and what belongs to it.

    goal, task or step: what is new; asked: `asks`, the calls that wait for a person; done: the
    document.
    """

    t: ClassVar[str] = "event"
    goal_id: str
    kind: str
    data: Dict[str, Any]
