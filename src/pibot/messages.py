"""The wire's messages: dataclasses; what is decoded is checked by fields.py.

A body is a header (`v t id src ses n ep`) and, beside it, the fields of its type. Unknown fields
are ignored, missing or wrong-typed ones are rejected with the field's name. `docs/protocol.md`
shows one example a type; golden files in the tests hold their bytes.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar, Dict, List, Optional, Type

from pibot.errors import BadMessage
from pibot.fields import Pairs, read
from pibot.strictjson import ENCODER, MAX_DEPTH, parse
from pibot.topics import NAME, PROTOCOL, WORKER

RESULT_BYTES = 16 * 1024 * 1024  # of a task's result
SHARED_BYTES = 32 * 1024 * 1024  # of the files that a task shares, together
SHARED_FILES = 100
FILE_SLICE_BYTES = 40_000  # becomes 53 340 characters of base64: a slice fits into a packet
HEARTBEAT_S = 5.0  # a worker says that it lives
LEASE_S = 30.0  # for so long an attempt is its worker's, without a word from it
KEY = "key"  # the reason of a refusal that nobody can sign


@dataclass(frozen=True)
class Header:
    """What every body begins with. `ses` and `n` are empty and 0 outside a session."""

    t: str
    id: str
    src: str
    ses: str = ""
    n: int = 0
    ep: int = 0
    v: int = PROTOCOL


@dataclass(frozen=True)
class Message:
    t: ClassVar[str] = ""


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
class ProgramSlice(Message):
    """The answer to a `fetch_program`; `data` is base64."""

    t: ClassVar[str] = "program_slice"
    sha256: str
    offset: int
    data: str = ""
    error: Optional[str] = None


# --- client ↔ master ------------------------------------------------------------------------


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
    what: str  # workers, roster, clients, updates, skills, tasks


@dataclass(frozen=True)
class Retry(Message):
    t: ClassVar[str] = "retry"
    key: str


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
class Reply(Message):
    """The answer to the request `re`; `error` is set if it was refused."""

    t: ClassVar[str] = "reply"
    re: str
    data: Dict[str, Any] = field(default_factory=dict)
    error: Optional[Dict[str, Any]] = None


@dataclass(frozen=True)
class Event(Message):
    """To those who follow a goal. `kind`: goal, task, step or done (`data` has the document)."""

    t: ClassVar[str] = "event"
    goal_id: str
    kind: str
    data: Dict[str, Any]


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
