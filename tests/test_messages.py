"""Every message type byte for byte, and every way in which bytes can be wrong."""

from __future__ import annotations

import dataclasses
import json
import random
from pathlib import Path
from typing import Any, Dict, List

import pytest

from pibot import messages as msg
from pibot import strictjson
from pibot.errors import BadMessage
from pibot.manifest import Manifest

GOLDEN = Path(__file__).parent / "golden"
NONCE, NONCE_M, START = "0123456789abcdef", "fedcba9876543210", "00112233445566aa"
RESULT = {"success": True, "data": {"text": "grüße 你好"}, "output": "grüße 你好"}

FILE = {"path": "photos/door.jpg", "size": 5, "sha256": "ab" * 32}

MANIFEST = Manifest("worker-1", "ab" * 32, 19_100_000, "1.1.0", "cd" * 32, 4, 180).text()

EXAMPLES: List[msg.Message] = [
    msg.Hello(NONCE, START, 3, facts={"slots": 1, "tags": ["camera"], "model": False}),
    msg.Welcome(NONCE, NONCE_M, "0f0e0d0c0b0a0908", 5000, 30000),
    msg.Refusal("superseded", "the name worker-1 belongs to pi-a", NONCE),
    msg.Announce("0f0e0d0c0b0a0908"),
    msg.Inventory([["g1-1", 1]], [["g2-1", 2]]),
    msg.Heartbeat([["g1-1", 1]], {"cpu_temp_c": 48.3, "load1": 0, "throttled": None}, 81234567),
    msg.Accepted("g1-1", 1),
    msg.Declined("g1-1", 1, "busy"),
    msg.Result(
        "g1-1", 1, "succeeded", RESULT, None, {"input_tokens": 10}, [{"step": 1}], [FILE], True
    ),
    msg.Approval("g1-1", 1, 3, "restart_service", '{"unit": "nginx"}', "web_fetch was used", 2000),
    msg.Slice("g1-1", "photos/door.jpg", 0, 5, "aGVsbG8="),
    msg.FetchProgram("ab" * 32, 40_000),
    msg.Progress("g1-1", 1, {"kind": "tool", "name": "shell", "text": "ls", "ok": True}),
    msg.Will(START),
    msg.Bye(),
    msg.Assign("g1-1", 1, 300000, {"skill": "echo", "args": {"text": "hi"}}, True),
    msg.Cancel("g1-1", 1),
    msg.Decision("g1-1", 1, 3, True, "laptop"),
    msg.ResultAck("g1-1", 1, "succeeded"),
    msg.HbAck([["g1-1", 1]], 81234567),
    msg.Ping(),
    msg.Fetch("g1-1", "photos/door.jpg", 40000),
    msg.Install(MANIFEST, "ef" * 32),
    msg.ProgramSlice("ab" * 32, 40_000, "aGVsbG8="),
    msg.SkillFile("lamp", "py", "ab" * 32, "aGVsbG8="),
    msg.Submit("g1", skill="echo", args={"text": "hi"}, on="worker-1", timeout_s=60.0, follow=True),
    msg.Get("g1"),
    msg.Listing("workers"),
    msg.Retry("g1-1"),
    msg.Approve("g1-1", 1, 3, True),
    msg.Follow("g1"),
    msg.Manage(
        *("rotate", "worker-3", f"$7$101${'A' * 16}${'B' * 86}==", "0f" * 48),
        suffix="ab12",
        update_key="1e" * 48,
    ),
    msg.Upload("ab" * 32, 19_100_000, 40_000, "aGVsbG8="),
    msg.Update("worker-1", "ab" * 32, "1.1.0", "cd" * 32, 4, 180),
    msg.Push("worker-1", "lamp", "py", "ab" * 32, "aGVsbG8="),
    msg.Reply("laptop-7", {"goal_id": "g1", "state": "planning"}),
    msg.Event("g1", "step", {"text": "trying again"}),
    msg.Chunk("worker-1-9", 0, 2, 70000, "ab" * 32, "aGVsbG8="),
    msg.ChunkAck("worker-1-9", 1),
    msg.Unknown("sing"),
]
BY_TYPE = {m.t: m for m in EXAMPLES}


def header(t: str) -> msg.Header:
    return msg.Header(t, "worker-1-7", "worker-1", f"{NONCE}.{NONCE_M}", 4, 2)


def golden(t: str) -> bytes:
    return (GOLDEN / f"{t}.json").read_bytes()


def body(t: str, /, **changes: Any) -> bytes:
    """A golden body with some fields changed; None stays None, ... takes a field out."""
    fields: Dict[str, Any] = {**json.loads(golden(t)), **changes}
    return json.dumps({k: v for k, v in fields.items() if v is not ...}).encode()


def test_every_type_has_its_golden_file_and_every_file_its_type() -> None:
    assert set(BY_TYPE) == set(msg.TYPES)
    assert {p.stem for p in GOLDEN.glob("*.json")} == set(msg.TYPES)


@pytest.mark.parametrize("t", sorted(BY_TYPE))
def test_golden_bytes(t: str) -> None:
    assert msg.encode(header(t), BY_TYPE[t]) == golden(t)
    assert msg.decode(golden(t)) == (header(t), BY_TYPE[t])


@pytest.mark.parametrize("t", sorted(BY_TYPE))
def test_unknown_fields_are_ignored(t: str) -> None:
    assert msg.decode(body(t, later={"x": [1]}, zz=None)) == (header(t), BY_TYPE[t])


FIELDS = [(t, f) for t, m in sorted(BY_TYPE.items()) for f in dataclasses.fields(m)]
HEADER_FIELDS = [f for f in dataclasses.fields(msg.Header) if f.name != "t"]


def _required(field: "dataclasses.Field[Any]") -> bool:
    missing = dataclasses.MISSING
    return field.default is missing and field.default_factory is missing


@pytest.mark.parametrize("t, field", [p for p in FIELDS if _required(p[1])])
def test_a_missing_field_is_named(t: str, field: "dataclasses.Field[Any]") -> None:
    with pytest.raises(BadMessage, match=f"{t}: field '{field.name}' is missing"):
        msg.decode(body(t, **{field.name: ...}))


@pytest.mark.parametrize("t, field", FIELDS)
def test_a_wrong_typed_field_is_named(t: str, field: "dataclasses.Field[Any]") -> None:
    right = getattr(BY_TYPE[t], field.name)
    nullable = str(field.type).startswith("Optional")
    for wrong in (None, 7.5, "ß", True, [1], [["g1-1"]], [[1, 1]], {"a": 1}):
        fits = isinstance(wrong, type(right)) and not isinstance(wrong, (list, str))
        free = isinstance(wrong, (list, str)) and field.name in (
            *("store_id", "start", "reason", "detail", "to", "state", "error", "on", "tag", "goal"),
            *("skill", "chat", "key", "what", "re", "kind", "whole", "sha256", "data", "type"),
            *("trace", "action", "worker", "password_line", "artifacts", "path"),
            *("suffix", "update_key", "manifest", "mac", "version", "build"),
            *("args", "why", "by", "name", "form"),
        )
        if fits or free or (wrong is None and nullable) or (wrong == {"a": 1} and nullable):
            continue
        with pytest.raises(BadMessage, match=f"{t}: field '{field.name}' has a wrong value"):
            msg.decode(body(t, **{field.name: wrong}))


@pytest.mark.parametrize(
    "change, named",
    [
        ({"id": ...}, "'id' is missing"),
        ({"src": 5}, "'src'"),
        ({"n": 1.5}, "'n'"),
        ({"n": True}, "'n'"),
        ({"n": 2**60}, "'n'"),
        ({"ep": "1"}, "'ep'"),
        ({"t": 3}, "'t'"),
        ({"src": "Worker"}, "src, id or ses"),
        ({"id": "x" * 65}, "src, id or ses"),
        ({"ses": "x" * 65}, "src, id or ses"),
        ({"v": 2}, "version 2"),
    ],
)
def test_a_wrong_header_is_refused(change: Dict[str, Any], named: str) -> None:
    with pytest.raises(BadMessage, match=named):
        msg.decode(body("bye", **change))


@pytest.mark.parametrize(
    "t, change",
    [
        ("hello", {"nonce": "0123"}),
        ("hello", {"nonce": NONCE.upper()}),
        ("accepted", {"task": "../x"}),
        ("accepted", {"task": "a" * 41}),
        ("submit", {"goal_id": ""}),
        ("submit", {"timeout_s": 10**16}),
        ("heartbeat", {"running": [["../x", 1]]}),
        ("heartbeat", {"running": [["g1-1", True]]}),
        ("heartbeat", {"running": [["g1-1", 1, 1]]}),
    ],
)
def test_names_numbers_and_pairs_must_have_their_shape(t: str, change: Dict[str, Any]) -> None:
    with pytest.raises(BadMessage, match=next(iter(change))):
        msg.decode(body(t, **change))


def test_an_unknown_type_comes_back_as_such() -> None:
    assert msg.decode(body("bye", t="sing"))[1] == msg.Unknown("sing")
    assert msg.decode(body("bye", t="x" * 1000))[1] == msg.Unknown("x" * 40)


DEEP = b"[" * 200 + b"]" * 200
HOSTILE = [
    (b"", "nothing"),
    (b"null", "null"),
    (b"[]", "a list"),
    (b'"x"', "a string"),
    (b"{", "cut"),
    (b"[" * 100_000, "brackets"),
    (b'{"a":' * 100_000, "braces"),
    (b'{"x":' + DEEP + b"}", "deep"),
    (b'{"x":NaN}', "NaN"),
    (b'{"x":-Infinity}', "infinity"),
    (b'{"x":1e999}', "beyond a double"),
    (b'{"x":-1e999}', "beyond a double, negative"),
    (b'{"x":' + b"9" * 301 + b"}", "a huge integer"),
    (b'{"x":' + b"9" * 5000 + b"}", "a very huge integer"),
    (b'{"x":"\\ud800"}', "a lone surrogate"),
    (b'{"x":{"y":["\\uDFFF"]}}', "a lone surrogate inside"),
    (b'{"\\ud83d":1}', "a lone surrogate as a name"),
    (b'{"x":1,"x":2}', "a name twice"),
    (b'{"y":{"x":1,"x":1}}', "a name twice inside"),
    ('{"x":1}'.encode("utf-16"), "UTF-16"),
    ('{"x":1}'.encode("utf-16-le"), "UTF-16 without a mark"),
    ('{"x":1}'.encode("utf-8-sig"), "a byte order mark"),
    (b'{"x":"\xff"}', "no UTF-8"),
    (b'{"x":"\xed\xa0\x80"}', "a surrogate in UTF-8"),
    (b'{"x":"a\nb"}', "a raw control character"),
    (b"{'x':1}", "single quotes"),
    (b'{"x":1,}', "a comma too many"),
    (b'{"x":1}{}', "two documents"),
]


@pytest.mark.parametrize("data", [d for d, _ in HOSTILE], ids=[name for _, name in HOSTILE])
def test_hostile_bytes_are_bad_messages_and_nothing_else(data: bytes) -> None:
    with pytest.raises(BadMessage):
        strictjson.parse(data)
    inside = golden("heartbeat").replace(b'{"cpu_temp_c":48.3,"load1":0,"throttled":null}', data)
    assert data in inside
    with pytest.raises(BadMessage):
        msg.decode(inside)


def test_what_is_allowed_can_be_written_again() -> None:
    """Whatever passes the decoder must never make an encoder, a copier or a printer fail."""
    depth = strictjson.MAX_DEPTH - 3
    deep: Any = "x"
    for _ in range(depth):
        deep = [deep]
    facts = {"deep": deep, "big": int("9" * 300), "small": 1e-300, "smile": "\U0001f600"}
    _, message = msg.decode(body("heartbeat", facts=facts))
    assert isinstance(message, msg.Heartbeat) and message.facts == facts
    float(message.facts["big"])
    dataclasses.asdict(message)
    repr(message)
    assert msg.decode(msg.encode(header("heartbeat"), message))[1] == message


def test_what_one_parses_by_itself_fits_into_a_message() -> None:
    args: Any = "x"
    while True:
        try:
            strictjson.parse(json.dumps({"args": [args]}).encode())
        except BadMessage:
            break
        args = [args]
    found = msg.decode(body("assign", spec={"skill": "x", "args": {"args": args}}))[1]
    assert isinstance(found, msg.Assign)


def test_lone_surrogates_of_our_own_are_replaced_not_sent() -> None:
    sent = msg.encode(header("declined"), msg.Declined("g1-1", 1, "a\udcff"))
    assert msg.decode(sent)[1] == msg.Declined("g1-1", 1, "a?")


def _mutated(source: random.Random, data: bytes) -> bytes:
    """A golden with one to four bytes changed, cut out, doubled or swapped for something nasty."""
    nasty = [
        b"[",
        b"{",
        b"}",
        b'"',
        b"\\",
        b"\\ud800",
        b"1e999",
        b"-",
        b"null",
        b"\xff",
        b"\0",
        b"9",
    ]
    for _ in range(source.randint(1, 4)):
        at, end = sorted(source.randrange(len(data) + 1) for _ in range(2))
        end = min(end, at + source.randint(0, 8))
        piece = source.choice([b"", source.choice(nasty), data[at:end] * 2, source.randbytes(2)])
        data = (data[:at] + piece + data[end:]) or b"x"
    return data


@pytest.mark.parametrize("t", sorted(BY_TYPE))
def test_fuzzed_bodies_are_understood_or_bad_never_worse(t: str) -> None:
    source = random.Random(t)
    understood = 0
    for _ in range(5_000):
        data = _mutated(source, golden(t))
        try:
            head, message = msg.decode(data)
        except BadMessage:
            continue
        understood += 1
        msg.encode(dataclasses.replace(head, t=message.t), message)
    assert understood > 0, "a fuzz that only ever breaks everything finds nothing"
