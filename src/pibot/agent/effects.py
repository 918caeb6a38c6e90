"""What the worker's rules answer with: facts to store, messages to send, effects to do, so ordered.

`worker_core` makes them, the worker's role does them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import List, Optional, Union

from pibot import messages as msg


@dataclass(frozen=True)
class Held:
    """One attempt that this worker answers for. `result` is None while it runs."""

    task: str
    att: int
    unsafe: bool = False
    result: Optional[msg.Result] = None


@dataclass(frozen=True)
class Dropped:
    """The master has the result: this task may be forgotten."""

    task: str


Fact = Union[Held, Dropped]


@dataclass(frozen=True)
class Send:
    """`channel` is evt, hb or prog; `joining` marks what is said outside a session."""

    channel: str
    message: msg.Message
    qos: int = 1
    joining: bool = False


@dataclass(frozen=True)
class Start:
    assign: msg.Assign


@dataclass(frozen=True)
class Interrupt:
    task: str
    why: str


@dataclass(frozen=True)
class Decide:
    """A person has decided about a call that waits."""

    decision: msg.Decision


@dataclass(frozen=True)
class Say:
    """Something that the operator of this machine should read in its log."""

    text: str


@dataclass(frozen=True)
class Unheard:
    """We are connected and say hello, and nobody answers."""


@dataclass(frozen=True)
class Deliver:
    """Read a slice of a shared file and send it."""

    fetch: msg.Fetch


@dataclass(frozen=True)
class Program:
    """Something about a new program or skill for this worker."""

    message: Union[msg.Install, msg.ProgramSlice, msg.SkillFile]


@dataclass(frozen=True)
class Renew:
    """The connection stands, but nobody answers on it: make another."""


Effect = Union[Start, Interrupt, Decide, Say, Unheard, Deliver, Program, Renew]


@dataclass
class Out:
    facts: List[Fact] = field(default_factory=list)
    sends: List[Send] = field(default_factory=list)
    effects: List[Effect] = field(default_factory=list)
