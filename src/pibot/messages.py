"""The wire's messages: dataclasses, and a decoder that checks every field.

A body is a header (`v t id src ses n ep`) and, beside it, the fields of its type. Unknown fields
are ignored, missing or wrong-typed ones are rejected with the field's name. `docs/protocol.md`
shows one example a type; golden files in the tests hold their bytes.
"""

from __future__ import annotations

import dataclasses
import json
import re
from dataclasses import dataclass, field
from typing import Any, Callable, ClassVar, Dict, List, Optional, Type, TypeVar, get_type_hints

from pibot.errors import BadMessage
from pibot.topics import ID, NAME, PROTOCOL

RESULT_BYTES = 16 * 1024 * 1024  # of a task's result
Pairs = List[List[Any]]  # [[task, attempt], …]
MAX_DEPTH = 100  # of nesting: what is deeper ends recursive readers, here and elsewhere
MAX_DIGITS = 300  # of an integer: it still fits into a double
_NONCE = re.compile(r"[0-9a-f]{16}")
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")


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
    """Master → guest. `reason`: session, superseded, quarantined, incompatible or removed."""

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
    """`running` names every attempt that the worker holds, finished ones included."""

    t: ClassVar[str] = "heartbeat"
    running: Pairs = field(default_factory=list)
    facts: Dict[str, Any] = field(default_factory=dict)


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
    t: ClassVar[str] = "hb_ack"
    cancels: Pairs = field(default_factory=list)


@dataclass(frozen=True)
class Ping(Message):
    """Master → worker: answer with a heartbeat now."""

    t: ClassVar[str] = "ping"


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
    what: str  # workers, roster, skills, tasks


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
    """`action`: add, rotate, remove, drain or resume.

    To add or rotate, the client makes the secret and sends what checks it: a request that comes
    twice is one, and no password goes over the wire.
    """

    t: ClassVar[str] = "manage"
    action: str
    worker: str
    password_line: str = ""
    key: str = ""


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
class Unknown(Message):
    """The answer to a type that the receiver does not know."""

    t: ClassVar[str] = "unknown"
    type: str


TYPES: Dict[str, Type[Message]] = {cls.t: cls for cls in Message.__subclasses__()}

# Fields that name things: the value must look like a name or an id, not just be a string.
_SHAPES: Dict[str, Any] = {"task": ID, "goal_id": ID, "nonce": _NONCE, "nonce_m": _NONCE}


def _once(pairs: "list[tuple[str, Any]]") -> Dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name stands twice in one object")
    return found


def _finite(digits: str) -> float:
    number = float(digits)
    if number - number != 0.0:
        raise ValueError("a number is beyond a double")
    return number


def _integer(digits: str) -> int:
    if len(digits) > MAX_DIGITS:
        raise ValueError(f"a number has {len(digits)} digits")
    return int(digits)


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no number")


# Made once: json.dumps and json.loads would make new ones for each message.
_ENCODER = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), allow_nan=False)
_DECODER = json.JSONDecoder(
    object_pairs_hook=_once,
    parse_float=_finite,
    parse_int=_integer,
    parse_constant=_no_constant,
)


def encode(header: Header, message: Message) -> bytes:
    """Return a body's bytes: compact JSON, readable Unicode."""
    body = {"v": header.v, "t": message.t, "id": header.id, "src": header.src, "ses": header.ses}
    body.update(n=header.n, ep=header.ep, **message.__dict__)
    return _ENCODER.encode(body).encode("utf-8", "replace")


def parse(data: bytes, depth: int = MAX_DEPTH - 10) -> Dict[str, Any]:
    """Parse one JSON object strictly; raise BadMessage for anything that others might misread.

    That is: other encodings than UTF-8, names that stand twice, NaN, numbers beyond a double,
    lone surrogates, and nesting deeper than `depth` (by default so that it fits into a message).
    """
    try:
        text = data.decode("utf-8")
        found = _DECODER.decode(text)
        if not isinstance(found, dict):
            raise ValueError("it is not an object")
        if data.count(b"[") + data.count(b"{") > depth and _is_deeper(found, depth):
            raise ValueError(f"it is nested more than {depth} deep")
        if _SURROGATE.search(text):
            json.dumps(found, ensure_ascii=False).encode("utf-8")
    except (ValueError, RecursionError) as error:
        raise BadMessage(f"not JSON as PiBot speaks it: {error}") from None
    return found


def _is_deeper(value: Any, depth: int) -> bool:
    """Whether lists and objects are nested more than `depth` deep; without recursion."""
    level = [value]
    for _ in range(depth):
        inside = (v.values() if isinstance(v, dict) else v for v in level)
        level = [v for values in inside for v in values if isinstance(v, (dict, list))]
        if not level:
            return False
    return True


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


T = TypeVar("T")
Check = Callable[[Any], bool]


def read(cls: Type[T], values: Dict[str, Any]) -> T:
    """Build a record from JSON values, checking each field's type and shape."""
    picked = {}
    for name, required, fits in _fields(cls):
        if name in values:
            if not fits(values[name]):
                raise BadMessage(f"{_label(cls)}: field {name!r} has a wrong value")
            picked[name] = values[name]
        elif required:
            raise BadMessage(f"{_label(cls)}: field {name!r} is missing")
    return cls(**picked)


def _label(cls: type) -> str:
    return getattr(cls, "t", "") or cls.__name__.lower()


_CACHE: Dict[type, "list[tuple[str, bool, Check]]"] = {}


def _fields(cls: Any) -> "list[tuple[str, bool, Check]]":
    if cls not in _CACHE:
        hints = get_type_hints(cls)
        _CACHE[cls] = [
            (f.name, _required(f), _check(f.name, hints[f.name])) for f in dataclasses.fields(cls)
        ]
    return _CACHE[cls]


def _required(f: "dataclasses.Field[Any]") -> bool:
    return f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING


def _check(name: str, hint: Any) -> Check:
    if name in _SHAPES:
        shape = _SHAPES[name]
        return lambda v: isinstance(v, str) and bool(shape.fullmatch(v))
    if hint == Pairs:
        return _is_pairs
    return _BY_HINT[hint]


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**53


def _is_number(value: Any) -> bool:
    return _is_int(value) or (isinstance(value, float) and abs(value) < 1e15)


def _is_id(value: Any) -> bool:
    return isinstance(value, str) and ID.fullmatch(value) is not None


def _is_pairs(value: Any) -> bool:
    return isinstance(value, list) and all(
        isinstance(p, list) and len(p) == 2 and _is_id(p[0]) and _is_int(p[1]) for p in value
    )


_BY_HINT: Dict[Any, Check] = {
    str: lambda v: isinstance(v, str),
    bool: lambda v: isinstance(v, bool),
    int: _is_int,
    float: _is_number,
    Dict[str, Any]: lambda v: isinstance(v, dict),
    List[Any]: lambda v: isinstance(v, list),
    Optional[str]: lambda v: v is None or isinstance(v, str),
    Optional[Dict[str, Any]]: lambda v: v is None or isinstance(v, dict),
}
