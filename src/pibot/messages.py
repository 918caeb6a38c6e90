"""The wire's messages: dataclasses; what is decoded is checked by fields.py.

A body is a header (`v t id src ses n ep`) and, beside it, the fields of its type. Unknown fields
are ignored, missing or wrong-typed ones are rejected with the field's name. `docs/protocol.md`
shows one example a type; golden files in the tests hold their bytes.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar, Dict, List, Optional, Type

from pibot.body import Header, Message
from pibot.errors import BadMessage
from pibot.fields import Pairs, read
from pibot.requests import (
    Approve,
    Event,
    Follow,
    Get,
    Listing,
    Manage,
    Push,
    Reply,
    Retry,
    Submit,
    Update,
    Upload,
)
from pibot.strictjson import ENCODER, MAX_DEPTH, parse
from pibot.topics import NAME, PROTOCOL

# What other modules define and everyone reads from here, beside the messages below.
__all__ = [
    "Header",
    "Message",
    "Approve",
    "Event",
    "Follow",
    "Get",
    "Listing",
    "Manage",
    "Push",
    "Reply",
]
__all__ += ["Retry", "Submit", "Update", "Upload"]

RESULT_BYTES = 16 * 1024 * 1024  # of a task's result
SHARED_BYTES = 32 * 1024 * 1024  # of the files that a task shares, together
SHARED_FILES = 100
FILE_SLICE_BYTES = 40_000  # becomes 53 340 characters of base64: a slice fits into a packet
HEARTBEAT_S = 5.0  # a worker says that it lives
LEASE_S = 30.0  # for so long an attempt is its worker's, without a word from it
KEY = "key"  # the reason of a refusal that nobody can sign


# --- joining: workers and clients alike -----------------------------------------------------


@dataclass(frozen=True)
class Hello(Message):
    """Guest → master. `start` and `inc` name this start of the process; `nonce` this hello."""

    t: ClassVar[str] = "hello"
    nonce: str
    start: str
    inc: int = 0
    proto_min: int = PROTOCOL
    proto_max: int = PROTOCOL
    facts: Dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Welcome(Message):
    """Master → guest: the session is `nonce.nonce_m`."""

    t: ClassVar[str] = "welcome"
    nonce: str
    nonce_m: str
    store_id: str
    heartbeat_ms: int
    lease_ms: int


@dataclass(frozen=True)
class Refusal(Message):
    """Master → guest. `reason`: session, superseded, quarantined, incompatible, removed,
    full or key.

    That a key is refused comes unsigned: it is a hint for people.
    """

    t: ClassVar[str] = "refused"
    reason: str
    detail: str = ""
    to: str = ""  # the nonce of the hello that is refused


@dataclass(frozen=True)
class Announce(Message):
    """Master → all: a hint to say hello again."""

    t: ClassVar[str] = "announce"
    store_id: str = ""


# --- worker → master ------------------------------------------------------------------------


@dataclass(frozen=True)
class Inventory(Message):
    t: ClassVar[str] = "inventory"
    running: Pairs = field(default_factory=list)
    results: Pairs = field(default_factory=list)


@dataclass(frozen=True)
class Heartbeat(Message):
    """`running` names every attempt that the worker holds, finished ones included.

    `at_ms` is the worker's own clock; it comes back in the answer.
    """

    t: ClassVar[str] = "heartbeat"
    running: Pairs = field(default_factory=list)
    facts: Dict[str, Any] = field(default_factory=dict)
    at_ms: int = 0


@dataclass(frozen=True)
class Accepted(Message):
    t: ClassVar[str] = "accepted"
    task: str
    att: int


@dataclass(frozen=True)
class Declined(Message):
    t: ClassVar[str] = "declined"
    task: str
    att: int
    reason: str


@dataclass(frozen=True)
class Result(Message):
    """How an attempt ended; `state` is succeeded, failed, cancelled or timed_out."""

    t: ClassVar[str] = "result"
    task: str
    att: int
    state: str
    result: Dict[str, Any]
    error: Optional[str] = None
    usage: Dict[str, Any] = field(default_factory=dict)
    trace: List[Any] = field(default_factory=list)
    artifacts: List[Any] = field(default_factory=list)  # [{"path","size","sha256"}]: shared files
    tainted: bool = False  # what came from outside may have had a part in it


@dataclass(frozen=True)
class Approval(Message):
    """A call of this attempt waits for a person; said again until the decision comes.

    `args` are JSON text, for people to read; `waited_ms` is how long it has waited already.
    """

    t: ClassVar[str] = "approval"
    task: str
    att: int
    step: int
    skill: str
    args: str
    why: str
    waited_ms: int = 0


@dataclass(frozen=True)
class Slice(Message):
    """The answer to a `fetch`: a part of a file, or why there is none. `data` is base64."""

    t: ClassVar[str] = "slice"
    task: str
    path: str
    offset: int
    size: int = 0  # of the whole file
    data: str = ""
    error: Optional[str] = None


@dataclass(frozen=True)
class FetchProgram(Message):
    """Send a slice of the program that an `install` has named."""

    t: ClassVar[str] = "fetch_program"
    sha256: str
    offset: int


@dataclass(frozen=True)
class Progress(Message):
    t: ClassVar[str] = "progress"
    task: str
    att: int
    step: Dict[str, Any]


@dataclass(frozen=True)
class Will(Message):
    t: ClassVar[str] = "will"
    start: str


@dataclass(frozen=True)
class Bye(Message):
    """The worker stops, on purpose."""

    t: ClassVar[str] = "bye"


# --- master → worker ------------------------------------------------------------------------


@dataclass(frozen=True)
class Assign(Message):
    """`spec` holds either `skill` and `args`, or `goal` and what its agent needs to know."""

    t: ClassVar[str] = "assign"
    task: str
    att: int
    ttl_ms: int
    spec: Dict[str, Any]
    unsafe: bool = False


@dataclass(frozen=True)
class Cancel(Message):
    """To a worker: stop this attempt, sent until the task is terminal.

    From a client: stop this task or goal; `att` is 0 then.
    """

    t: ClassVar[str] = "cancel"
    task: str
    att: int = 0


@dataclass(frozen=True)
class Decision(Message):
    """What a person, the client `by`, has decided about this one call of this attempt."""

    t: ClassVar[str] = "decision"
    task: str
    att: int
    step: int
    allow: bool
    by: str


@dataclass(frozen=True)
class ResultAck(Message):
    """`state` is the true state of the task; whatever it says, the worker may forget it."""

    t: ClassVar[str] = "result_ack"
    task: str
    att: int
    state: str


@dataclass(frozen=True)
class HbAck(Message):
    """`at_ms` is that of the heartbeat: an answer that comes late makes no lease longer."""

    t: ClassVar[str] = "hb_ack"
    cancels: Pairs = field(default_factory=list)
    at_ms: int = 0


@dataclass(frozen=True)
class Ping(Message):
    """Master → worker: answer with a heartbeat now."""

    t: ClassVar[str] = "ping"


@dataclass(frozen=True)
class Fetch(Message):
    """Send a slice of a file that this task has shared: to a worker, and from a client."""

    t: ClassVar[str] = "fetch"
    task: str
    path: str
    offset: int


@dataclass(frozen=True)
class Install(Message):
    """Fetch a program and have root put it in place.

    `manifest` is JSON text: `mac` covers its bytes, and root checks it with this worker's update
    key, which the worker itself does not have.
    """

    t: ClassVar[str] = "install"
    manifest: str
    mac: str


@dataclass(frozen=True)
class SkillFile(Message):
    """Take a skill, as a client has pushed it; without a form: leave this version of it."""

    t: ClassVar[str] = "skill"
    name: str
    form: str
    version: str
    data: str


@dataclass(frozen=True)
class ProgramSlice(Message):
    """The answer to a `fetch_program`; `data` is base64."""

    t: ClassVar[str] = "program_slice"
    sha256: str
    offset: int
    data: str = ""
    error: Optional[str] = None


# --- any direction --------------------------------------------------------------------------


@dataclass(frozen=True)
class Chunk(Message):
    """A slice of a body that is too large for one packet; `data` is base64."""

    t: ClassVar[str] = "chunk"
    whole: str
    i: int
    of: int
    size: int
    sha256: str
    data: str


@dataclass(frozen=True)
class ChunkAck(Message):
    """Receiver → sender: the first `have` chunks of `whole` are here; all of them: it is done."""

    t: ClassVar[str] = "chunk_ack"
    whole: str
    have: int


@dataclass(frozen=True)
class Unknown(Message):
    """The answer to a type that the receiver does not know."""

    t: ClassVar[str] = "unknown"
    type: str


TYPES: Dict[str, Type[Message]] = {cls.t: cls for cls in Message.__subclasses__()}


def encode(header: Header, message: Message) -> bytes:
    """Return a body's bytes: compact JSON, readable Unicode."""
    body = {"v": header.v, "t": message.t, "id": header.id, "src": header.src, "ses": header.ses}
    body.update(n=header.n, ep=header.ep, **message.__dict__)
    return ENCODER.encode(body).encode("utf-8", "replace")


def decode(data: bytes) -> "tuple[Header, Message]":
    """Return a body's header and message; raise BadMessage naming the field that is wrong.

    A type that this version does not know comes back as `Unknown`.
    """
    body = parse(data, MAX_DEPTH)
    header = read(Header, body)
    if not NAME.fullmatch(header.src) or len(header.id) > 64 or len(header.ses) > 64:
        raise BadMessage("src, id or ses is malformed")
    if header.v != PROTOCOL:
        raise BadMessage(f"version {header.v} of the protocol is not spoken here")
    cls = TYPES.get(header.t)
    return header, Unknown(header.t[:40]) if cls is None else read(cls, body)
