"""Manifests: what is signed is what is read, and nothing else passes."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from pibot import manifest
from pibot.errors import BadMessage
from pibot.manifest import Manifest

KEY = "0f" * 32
GOOD = Manifest("worker-1", "ab" * 32, 4_000_000, "1.1.0", "cd" * 32, 4, 180)


def test_a_manifest_comes_back() -> None:
    assert manifest.parsed(GOOD.text()) == GOOD
    assert manifest.fits(KEY, GOOD.text(), manifest.mac(KEY, GOOD.text()))


def test_the_mac_is_what_the_protocol_says() -> None:
    assert manifest.mac("k", "text") == (
        "50226592975a3b6ff8046dcb684afcc4aff75e4ff1393c924cf693190641d9da"
    )


def test_a_field_of_a_later_version_is_signed_and_left_out() -> None:
    text = json.dumps({**json.loads(GOOD.text()), "later": [1]})
    assert manifest.parsed(text) == GOOD
    assert not manifest.fits(KEY, GOOD.text(), manifest.mac(KEY, text))


@pytest.mark.parametrize(
    "field",
    [
        {"worker": "worker-2"},
        {"sha256": "ac" * 32},
        {"size": 4_000_001},
        {"serial": 5},
        {"patience_s": 181},
    ],
)
def test_whatever_is_changed_does_not_fit(field: Any) -> None:
    signature = manifest.mac(KEY, GOOD.text())
    assert not manifest.fits(KEY, replace(GOOD, **field).text(), signature)


@pytest.mark.parametrize("signature", ["", "x", "ß" * 64, manifest.mac("1e" * 32, GOOD.text())])
def test_another_signature_does_not_fit(signature: str) -> None:
    assert not manifest.fits(KEY, GOOD.text(), signature)


@pytest.mark.parametrize(
    "field",
    [
        {"size": 0},
        {"size": manifest.MAX_BYTES + 1},
        {"serial": 0},
        {"serial": manifest.MAX_SERIAL + 1},
        {"patience_s": 0},
        {"patience_s": 901},
        {"sha256": "../../etc/passwd"},
        {"version": "1\n2"},
        {"build": ""},
        {"build": "x" * 65},
        {"serial": True},
    ],
)
def test_what_nobody_asks_for_is_no_manifest(field: Any) -> None:
    with pytest.raises(BadMessage):
        manifest.parsed(replace(GOOD, **field).text())


@pytest.mark.parametrize("text", ["", "[]", "{", "{}", "x" * 3_000, '{"worker":"w"}', "\ud800"])
def test_what_is_no_json_of_ours_is_no_manifest(text: str) -> None:
    with pytest.raises(BadMessage):
        manifest.parsed(text)
