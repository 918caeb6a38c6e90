"""A worker that fetches a program for root, with real files and no network."""

from __future__ import annotations

import base64
import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any, Dict, List

import pytest

from pibot import manifest
from pibot.agent.updating import Updating
from pibot.manifest import Manifest
from pibot.messages import FILE_SLICE_BYTES, FetchProgram, Install, ProgramSlice
from small_disk import small_disk

BODY = bytes(range(256)) * 700
SHA = hashlib.sha256(BODY).hexdigest()
WANTED = Manifest("worker-1", SHA, len(BODY), "1.1.0", "cd" * 32, 4, 180)


def start(folder: Path) -> Updating:
    one = Updating(folder, "worker-1", "ef" * 32, False, lambda: 0.5)
    one.begin()
    return one


@pytest.fixture
def home(tmp_path: Path) -> Path:
    (tmp_path / "update").mkdir()
    return tmp_path


def install(wanted: Manifest = WANTED) -> Install:
    return Install(wanted.text(), manifest.mac("k", wanted.text()))


def serve(one: Updating, body: bytes = BODY, rounds: int = 99, session: str = "s") -> None:
    """Answer what it asks for."""
    for _ in range(rounds):
        for wanted in one.due(session, 0.0):
            one.take(part(wanted, body), 0.0)


def part(wanted: FetchProgram, body: bytes = BODY) -> ProgramSlice:
    raw = body[wanted.offset : wanted.offset + FILE_SLICE_BYTES]
    return ProgramSlice(wanted.sha256, wanted.offset, base64.b64encode(raw).decode())


def said(one: Updating) -> Dict[str, Any]:
    return dict(one.facts()["update"])


def names(home: Path) -> List[str]:
    return sorted(path.name for path in (home / "update").iterdir())


def outcome(home: Path, **fields: Any) -> None:
    (home / "update" / "outcome.json").write_text(json.dumps(fields))


def test_a_program_is_fetched_and_given_to_root(home: Path) -> None:
    one = start(home)
    assert said(one)["state"] == "" and not one.is_news()
    one.take(install(), 0.0)
    assert said(one)["state"] == "fetching" and one.is_news() and not one.is_news()
    serve(one)
    assert (said(one)["state"], said(one)["serial"]) == ("placed", 4)
    assert names(home) == sorted([SHA, "manifest.json", "wanted"])
    assert (home / "update" / SHA).read_bytes() == BODY
    assert json.loads((home / "update" / "manifest.json").read_text()) == install().__dict__
    outcome(home, serial=4, state="rolled_back", why="it smells", last=4)
    assert said(one) == {
        "serial": 4,
        "state": "rolled_back",
        "why": "it smells",
        "last": 4,
        "have": 0,
        "with_master": False,
    }
    assert SHA not in names(home)


def test_a_restart_goes_on_where_it_was(home: Path) -> None:
    one = start(home)
    one.take(install(), 0.0)
    serve(one, rounds=1)
    have = said(one)["have"]
    assert 0 < have < len(BODY)
    one = start(home)
    assert said(one)["serial"] == 0
    one.take(install(), 0.0)
    assert said(one)["have"] == have and one.due("s", 0.0)[0].offset == have
    one.take(install(), 0.0)  # once more: it is under way
    one = start(home)
    one.take(install(), 0.0)
    serve(one)
    assert said(one)["state"] == "placed"
    (home / "update" / "wanted").unlink()
    assert said(start(home))["state"] == "placed"  # root is told again
    assert "wanted" in names(home)


def test_what_came_wrong_is_not_given_to_root(home: Path) -> None:
    one = start(home)
    one.take(install(), 0.0)
    serve(one, body=BODY[::-1])
    assert (said(one)["state"], "SHA-256" in said(one)["why"]) == ("failed", True)
    assert "wanted" not in names(home)
    one.take(install(), 0.0)  # the same number: it was tried
    assert said(one)["state"] == "failed"
    one.take(install(replace(WANTED, serial=5)), 0.0)
    serve(one)
    assert said(one)["state"] == "placed"


def test_the_master_may_not_have_it_any_more(home: Path) -> None:
    one = start(home)
    one.take(install(), 0.0)
    one.take(ProgramSlice(SHA, 0, error="not kept any more"), 0.0)
    assert (said(one)["state"], said(one)["why"]) == ("failed", "not kept any more")


@pytest.mark.parametrize(
    "wanted",
    [
        replace(WANTED, worker="worker-2"),
        replace(WANTED, serial=3),
        replace(WANTED, size=manifest.MAX_BYTES + 1),
    ],
)
def test_what_is_not_for_here_or_not_new_is_left_out(home: Path, wanted: Manifest) -> None:
    outcome(home, serial=2, state="done", why="", last=3)
    one = start(home)
    one.take(install(wanted), 0.0)
    assert said(one)["state"] == "done" and one.due("s", 0.0) == []


def test_without_the_directory_of_setup_nothing_is_taken(tmp_path: Path) -> None:
    one = start(tmp_path)
    one.take(install(), 0.0)
    one.answered()
    assert one.facts() == {} and one.due("s", 0.0) == [] and list(tmp_path.iterdir()) == []


def test_a_program_that_was_answered_is_healthy(home: Path) -> None:
    one = start(home)
    one.answered()
    assert (home / "update" / "healthy").read_text() == "ef" * 32
    (home / "update" / "healthy").unlink()
    one.answered()  # once for each start: root waits for a new one
    assert names(home) == []


@pytest.mark.parametrize("text", ["", "{", '{"serial":"x"}', '{"state":1}', "\xff" * 9_000])
def test_a_damaged_outcome_is_none(home: Path, text: str) -> None:
    (home / "update" / "outcome.json").write_text(text)
    assert said(start(home))["serial"] == 0


def test_a_disk_without_room_is_not_filled(tmp_path: Path) -> None:
    with small_disk(tmp_path / "small", "32m") as disk:
        (disk / "update").mkdir()
        one = start(disk)
        one.take(install(), 0.0)
        assert said(one)["state"] == "failed" and "no room for it" in said(one)["why"]
        assert one.due("s", 0.0) == []


def test_what_the_disk_does_not_take_ends_the_attempt(home: Path) -> None:
    (home / "update" / f"{SHA}.part").mkdir()
    one = start(home)
    one.take(install(), 0.0)
    assert said(one)["state"] == "failed" and "cannot keep it" in said(one)["why"]
