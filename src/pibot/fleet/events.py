"""What the scheduler is told, and what it answers with: facts to store, messages to send, work.

The driver commits `facts`, then sends `sends`, then does `jobs`; in this order and never another.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Dict, FrozenSet, List, Optional, Tuple, Union

from pibot.fleet.records import Fact, Goal, Task
from pibot.messages import Approval, Approve, Heartbeat, Hello, Inventory, Message, Result

# --- events -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Submitted:
    goal: Goal


@dataclass(frozen=True)
class Planned:
    """The planner's answer to a PlanJob: tasks as the plan has them, an answer, or an error."""

    goal: str
    revision: int
    tasks: Tuple[Dict[str, Any], ...] = ()
    answer: Optional[str] = None
    error: Optional[str] = None
    usage: Dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Answered:
    """The model's answer to an AnswerJob; None if it gave none."""

    goal: str
    revision: int
    answer: Optional[str]
    error: Optional[str] = None
    usage: Dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class CancelWanted:
    key: str  # a goal's or a task's id


@dataclass(frozen=True)
class RetryWanted:
    """`goal` and `tasks` as the journal has them: what ended is no longer in memory."""

    key: str
    goal: Goal
    tasks: Tuple[Task, ...]


@dataclass(frozen=True)
class Joined:
    """A worker's session has become live: its inventory came."""

    worker: str
    hello: Hello
    inventory: Inventory
    coming: FrozenSet[Tuple[str, int]] = frozenset()  # attempts whose assign is on its way yet


@dataclass(frozen=True)
class Beat:
    worker: str
    heartbeat: Heartbeat


@dataclass(frozen=True)
class Left:
    """A worker has said goodbye."""

    worker: str


@dataclass(frozen=True)
class StandingWanted:
    """A person decides about a worker: `state` as in records.Standing."""

    worker: str
    state: str


@dataclass(frozen=True)
class WillSeen:
    worker: str
    start: str


@dataclass(frozen=True)
class AssignMoves:
    """The assignment of this attempt is large, and its worker has received more of it."""

    worker: str
    task: str
    att: int


@dataclass(frozen=True)
class AttemptAccepted:
    worker: str
    task: str
    att: int


@dataclass(frozen=True)
class AttemptDeclined:
    worker: str
    task: str
    att: int
    reason: str


@dataclass(frozen=True)
class ApprovalAsked:
    """A call of an attempt waits for a person."""

    worker: str
    approval: Approval


@dataclass(frozen=True)
class Decided:
    """A person, the client `by`, has decided about a call."""

    wanted: Approve
    by: str


@dataclass(frozen=True)
class AttemptEnded:
    worker: str
    result: Result


@dataclass(frozen=True)
class FilesMove:
    """The files of this attempt's result are being fetched: it is done, and soon recorded."""

    worker: str
    task: str
    att: int


@dataclass(frozen=True)
class Found:
    """A worker holds an attempt that the master's journal knew before it was damaged."""

    worker: str
    task: str
    att: int
    created: str  # as of a goal: for people only


@dataclass(frozen=True)
class Tick:
    """Time has passed."""


FleetEvent = Union[
    Submitted,
    Planned,
    Answered,
    CancelWanted,
    RetryWanted,
    Joined,
    Beat,
    Left,
    StandingWanted,
    WillSeen,
    AssignMoves,
    AttemptAccepted,
    AttemptDeclined,
    ApprovalAsked,
    Decided,
    AttemptEnded,
    FilesMove,
    Found,
    Tick,
]

# --- what comes out ---------------------------------------------------------------------------


@dataclass(frozen=True)
class Send:
    worker: str
    message: Message
    qos: int = 1


@dataclass(frozen=True)
class PlanJob:
    """Ask the planner; answered with Planned. `history` is what came of the earlier plans."""

    goal: Goal
    history: Tuple[Dict[str, Any], ...] = ()


@dataclass(frozen=True)
class AnswerJob:
    """Put the results together, or answer without any; answered with Answered."""

    goal: Goal
    results: Tuple[Dict[str, Any], ...] = ()


@dataclass(frozen=True)
class Note:
    """Something to say to those who follow a goal."""

    goal: str
    text: str


@dataclass(frozen=True)
class Audited:
    """Something for the audit log; `by` is a client's name, empty if nobody did it."""

    what: str
    by: str
    about: Dict[str, Any]


Job = Union[PlanJob, AnswerJob]


@dataclass
class Out:
    facts: List[Fact] = field(default_factory=list)
    sends: List[Send] = field(default_factory=list)
    jobs: List[Job] = field(default_factory=list)
    notes: List[Note] = field(default_factory=list)
    audits: List[Audited] = field(default_factory=list)
