"""Bent payloads for every decoder; the long form is bench/fuzz.py."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any, Dict, List, get_type_hints

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fuzzing.decoder import Decoder, Target, text
from fuzzing.running import run
from fuzzing.targets import DECODERS, PARTIES, PLAIN
from pibot import messages
from pibot.errors import BadMessage

PAYLOADS = 300
OF_PARTIES = 800
# What was found once, by the decoder's name.
FOUND = {
    "model chunk": [
        b'{"choices":[{"delta":{"content":7}}]}',
        b'{"choices":[{"delta":{"tool_calls":[{"index":0,"function":{"arguments":7}}]}}]}',
        b'{"usage":{"prompt_tokens":1e999}}',
    ],
    "printed calls": [b'{"a": 1e999}', b'{"a": ' + b"[" * 200 + b"]" * 200 + b"}"],
    "web page": [b"<p>&#" + b"9" * 5000 + b";"],
    "stored record": [b"[" * 2000, b'{"id":"g1","state":[]}', b'{"id":null}', b"7"],
}


def named(name: str) -> Decoder:
    return next(d for d in DECODERS if d.name == name)


@pytest.mark.parametrize("decoder", DECODERS, ids=lambda d: str(d.name))
def test_nothing_bent_goes_through_or_does_harm(decoder: Decoder, tmp_path: Path) -> None:
    count = OF_PARTIES if decoder in PARTIES else PAYLOADS
    report = run(decoder, count, seed=1, folder=tmp_path)
    assert report.findings == []
    assert report.accepted > 0, "no payload came as far as that"


@pytest.mark.parametrize("name", sorted(FOUND))
def test_what_was_found_stays_mended(name: str, tmp_path: Path) -> None:
    target = named(name).make(tmp_path)
    for payload in FOUND[name]:
        assert target.take(payload) in (True, False), "taken or refused, never raised"
    target.still_works()


@pytest.mark.parametrize("decoder", PLAIN, ids=lambda d: str(d.name))
def test_any_bytes_and_any_text(decoder: Decoder, tmp_path: Path) -> None:
    target = decoder.make(tmp_path)

    @settings(max_examples=30, derandomize=True, database=None, deadline=None)
    @given(st.one_of(st.binary(max_size=200), st.text(max_size=100)))
    def takes(payload: Any) -> None:
        data = payload.encode("utf-8", "surrogatepass") if isinstance(payload, str) else payload
        assert target.take(data) in (True, False), "taken or refused, never raised"

    takes()


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inside: st.lists(inside, max_size=4) | st.dictionaries(st.text(max_size=8), inside),
    max_leaves=12,
)


def bodies(t: str) -> "st.SearchStrategy[Dict[str, Any]]":
    """Bodies of one type: each field as it should be, or any JSON, or nothing."""
    fields = {f.name for f in dataclasses.fields(messages.TYPES[t])}
    header = {"v": st.just(1), "t": st.just(t), "id": st.just("a-1"), "src": st.just("a")}
    good = {"n": st.integers(), "ep": st.integers(), "ses": st.just("")}
    hints = get_type_hints(messages.TYPES[t])
    body = {name: _JSON | _like(name, hints[name]) for name in fields}
    return st.fixed_dictionaries(header, optional={**good, **body})


def _like(name: str, hint: Any) -> "st.SearchStrategy[Any]":
    if name in ("task", "goal_id", "nonce", "nonce_m"):
        return st.sampled_from(["g1-1", "0123456789abcdef", ""])
    if hint == messages.Pairs:
        return st.lists(st.tuples(st.just("g1-1"), st.integers(0, 9)).map(list), max_size=3)
    known = {str: st.text(max_size=10), bool: st.booleans(), int: st.integers(), float: st.floats()}
    return known.get(hint, st.dictionaries(st.text(max_size=5), _JSON, max_size=3))


@pytest.mark.parametrize("t", sorted(messages.TYPES))
def test_a_body_is_refused_or_means_what_it_says(t: str) -> None:
    @settings(
        max_examples=40,
        derandomize=True,
        database=None,
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    )
    @given(bodies(t))
    def decodes(body: Dict[str, Any]) -> None:
        try:
            header, message = messages.decode(json.dumps(body).encode())
        except BadMessage:
            return
        for f in dataclasses.fields(message):
            if f.name in body:
                assert getattr(message, f.name) == body[f.name]
        assert messages.decode(messages.encode(header, message)) == (header, message)

    decodes()


# --- that the harness sees ------------------------------------------------------------------------


class _Planted(Target):
    kept: List[bytes] = []

    def __init__(self, kind: str) -> None:
        self._kind = kind

    def take(self, payload: bytes) -> bool:
        if self._kind == "raises" and b"\xff" in payload:
            raise KeyError("planted")
        if self._kind == "hangs" and text(payload).count("x") > 100:
            while True:
                pass
        if self._kind == "keeps":
            self.kept.append(payload * 5)
        return True

    def still_works(self) -> None:
        assert self._kind != "breaks", "planted"


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("raises", "KeyError: 'planted'"),
        ("hangs", "TooSlow"),
        ("keeps", "blocks of memory stay behind"),
        ("breaks", "AssertionError: planted"),
        ("nothing", ""),
    ],
)
def test_a_planted_fault_is_found(
    kind: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fuzzing.running.SLOW_S", 0.1)
    monkeypatch.setattr("fuzzing.running.MOST_FINDINGS", 1)
    monkeypatch.setattr("fuzzing.running.FULL", 2_000)
    decoder = Decoder("planted", [b'{"a": "x"}'], lambda _: _Planted(kind))
    report = run(decoder, 2_000, seed=1, folder=tmp_path)
    _Planted.kept.clear()
    assert [said in finding for finding in report.findings] == ([True] if said else [])
