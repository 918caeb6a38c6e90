"""What comes over the wire, and what lies in files."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any, List, Tuple

from fuzzing.decoder import Decoder, Target, plain, text
from pibot import config, identities, messages, rights, signing
from pibot.agent import journal as agent_journal
from pibot.deploy import broker_files
from pibot.errors import BadMessage, PibotError, Refused, StoreError
from pibot.fleet import asks
from pibot.fleet.events import Tick
from pibot.fleet.records import Attempt, Goal, Task, from_json, to_json
from pibot.fleet.scheduler import Scheduler
from pibot.messages import Header
from pibot.rights import Special
from pibot.signing import Unsigned
from pibot.topics import Topics

GOLDEN = [p.read_bytes().rstrip() for p in sorted(Path(__file__).parents[1].glob("golden/*.json"))]
SEALED = [b'{"sig":"%s","kid":"w:worker-1","body":%s}' % (b"a" * 64 * (i % 2), body)
          for i, body in enumerate(GOLDEN)]  # fmt: skip
TOPIC = "pibot/1/home/w/worker-1/evt"


# --- the wire -------------------------------------------------------------------------------------


def _unseal(payload: bytes) -> None:
    envelope = signing.unseal(_AnySignature(), TOPIC, payload)
    assert b'{"sig":"%s","kid":"%s","body":%s}' % (
        envelope.sig.encode(), envelope.kid.encode(), envelope.body,
    ) == payload  # fmt: skip


class _AnySignature(Unsigned):
    def verify(self, envelope: signing.Envelope, topic: str) -> bool:
        return True


def _decode(payload: bytes) -> None:
    header, message = messages.decode(payload)
    again = messages.decode(messages.encode(Header(message.t, *_rest(header)), message))[1]
    assert again == message, "what was accepted is not what was sent on"


def _rest(header: Header) -> Tuple[Any, ...]:
    return header.id, header.src, header.ses, header.n, header.ep


def _parse(payload: bytes) -> None:
    json.dumps(messages.parse(payload), ensure_ascii=False, allow_nan=False).encode()


_TOPICS = Topics("home")


def _topic(payload: bytes) -> bool:
    address = _TOPICS.parse(text(payload)[:200])
    assert address is None or address.kind in "wcm"
    return address is not None


TOPIC_NAMES = [
    f"pibot/1/home/{rest}".encode()
    for rest in ("w/worker-1/cmd", "w/a/evt", "c/laptop/req", "m/all", "ask", "view/worker/w1")
]
ASKS = [
    b"what time is it",
    b'{"id":"n-1","goal":"disk space on all workers"}',
    "所有工作机的磁盘空间".encode(),
    b'{"goal":"x","id":7}',
]


def _ask(payload: bytes) -> None:
    goal = asks.Asks().read(payload, "g1", 0.0)
    if goal is not None:
        assert from_json(Goal, to_json(goal)).asked


# --- files ----------------------------------------------------------------------------------------

RECORDS = [
    to_json(Goal("g1", text="do it", args={"a": 1}, chat="c", usage={"model_calls": 1})).encode(),
    to_json(Task("g1-1", "g1", skill="echo", needs=("g1-0",), tags=("a",), state="running",
                 attempt=2, assignee="worker-1")).encode(),
    to_json(Attempt("g1-1", 1, "worker-1", "failed", "no", {"success": False}, {}, [{}])).encode(),
]  # fmt: skip
RESULTS = [p for p in GOLDEN if b'"t":"result"' in p]
ENV_FILES = [
    (
        b"# a comment\nVOLC_API_KEY=ark-0123456789\nMODEL_NAME='doubao'\nMQTT_HOST=192.168.1.2\n"
        b"MQTT_PORT=1883\nPIBOT_FLEET=home\nPIBOT_SLOTS=2\nPIBOT_TAGS=camera,fast\nPIBOT_ASK=1\n"
    ),
    (
        b'export WORKER_ID=worker-1\nMQTT_USERNAME="w"\nMQTT_PASSWORD=passw0rd-0123456789\n'
        b"PIBOT_HEALTH_PORT=5000\n"
    ),
    (
        b"WORKER_1_IP=10.0.0.1\nPIBOT_STATE_DIR=~/x\nPIBOT_HTTP_HOST=0.0.0.0\n"
        b"PIBOT_HTTP_TOKEN=t0ken-0123456789\n"
    ),
]
SECRETS = ("ark-0123456789", "t0ken-0123456789", "passw0rd-0123456789")
_LINE = identities.password_line("p")
PASSWD = [f"worker-1:{_LINE}\nworker-1.ab12:{_LINE}\nlaptop:{_LINE}\n".encode()]
ACL = [
    rights.acl_text("home").encode(),
    rights.acl_text("home", [Special("worker-1.ab12", "w"), Special("tablet", "v")]).encode(),
]


def _roster() -> List[bytes]:
    known = identities.Identities()
    for kind, name in (("m", "master"), ("w", "worker-1"), ("c", "laptop"), ("v", "tablet")):
        known.add(kind, name)
    known.follow(identities.identity(identities.new_secret("w", "worker-1", "ab12")))
    return [known.text().encode()]


def _record(payload: bytes) -> bool:
    """A stored record; one that is taken must be one with which the master can start."""
    taken = [record for cls in (Goal, Task, Attempt) for record in _read(cls, text(payload))]
    for record in taken:
        to_json(record)
        around = [Goal(record.goal, state="running")] if isinstance(record, Task) else []
        facts = [record, *around] if not isinstance(record, Attempt) else []
        scheduler = Scheduler(lambda: 0.5, True)
        scheduler.load(facts, 0.0)
        scheduler.handle(Tick(), 1.0)
    return bool(taken)


def _read(cls: type, said: str) -> List[Any]:
    try:
        return [from_json(cls, said)]
    except (ValueError, TypeError, RecursionError):
        return []


def _held(payload: bytes) -> None:
    """What a worker's journal gives back is what it can send."""
    held = agent_journal._held("g1-1", 1, text(payload))
    assert held.result is not None
    messages.encode(Header("result", "w-1", "w"), held.result)


class _Settings(Target):
    """A .env as it lies on the disk, read for one role after the other."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / ".env"
        self._path.touch(0o600)
        self._roles = itertools.cycle(("master", "worker", "client"))

    def take(self, payload: bytes) -> bool:
        self._path.write_bytes(payload[:16_384])
        environ, program = {"HOME": "/nowhere"}, Path("/nowhere/pibot.pyz")
        try:
            config.load(next(self._roles), {}, environ, self._path, program)
        except PibotError as error:
            assert not any(secret in str(error) for secret in SECRETS), "an error shows a secret"
            return False
        return True


DECODERS: Tuple[Decoder, ...] = (
    plain("envelope", SEALED, _unseal, BadMessage),
    plain("message", GOLDEN, _decode, BadMessage),
    plain("strict JSON", GOLDEN, _parse, BadMessage),
    plain("topic", TOPIC_NAMES, _topic),
    plain("ask", ASKS, _ask, BadMessage),
    plain("stored record", RECORDS, _record),
    plain("stored result", RESULTS, _held, BadMessage),
    plain("identities", _roster(), lambda p: identities.Identities.parse(Path("x"), text(p)),
           StoreError),
    Decoder("settings", ENV_FILES, _Settings),
    plain("broker users", PASSWD, lambda p: broker_files.check_passwd(text(p)), Refused),
    plain("broker rights", ACL, lambda p: broker_files.check_acl(text(p)), Refused),
)  # fmt: skip
