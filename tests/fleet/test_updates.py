"""New programs for workers, as the master's desk passes them on."""

from __future__ import annotations

import base64
import hashlib
from pathlib import Path
from typing import Any, Dict

import pytest

from fleet.office import OPEN, Office
from fleet.peers import Peer
from pibot import manifest
from pibot import messages as msg
from pibot.fleet.pool import Pool
from pibot.fleet.programs import Programs
from pibot.fleet.roster import Roster
from pibot.fleet.updates import NO_SETUP, SLICES_A_SECOND, WITH_MASTER, Updates
from pibot.manifest import Manifest
from pibot.messages import FILE_SLICE_BYTES

BODY = bytes(range(256)) * 400
SHA, SIZE = hashlib.sha256(BODY).hexdigest(), len(BODY)
UPDATE = msg.Update("w1", SHA, "1.1.0", "cd" * 32, 4, 180)
FACTS = {"version": "1.0.0", "build": "ef" * 32, "update": {"serial": 3, "last": 3}}


@pytest.fixture
def office(tmp_path: Path) -> Office:
    return Office(tmp_path)


KEYS: Dict[str, str] = {}  # the update keys, as the workers' files have them


def worker(office: Office, name: str = "w1", facts: Any = FACTS) -> Peer:
    secret = office.add(name)
    KEYS[name] = secret.update_key
    peer = Peer(office, "w", name, key=secret.key)
    peer.facts = facts
    peer.join(f"{len(KEYS):016d}")
    return peer


def upload(office: Office, body: bytes = BODY, sha256: str = SHA) -> Dict[str, Any]:
    have: Dict[str, Any] = {"have": 0}
    while have.get("have", SIZE) < len(body):
        offset = have["have"]
        data = base64.b64encode(body[offset : offset + FILE_SLICE_BYTES]).decode()
        have = office.ask(msg.Upload(sha256, len(body), offset, data))
    return have


def test_a_worker_is_told_with_its_own_key_and_gets_what_it_asks_for(office: Office) -> None:
    one, other = worker(office), worker(office, "w2")
    assert upload(office) == {"have": SIZE}
    assert office.ask(UPDATE) == {"worker_id": "w1", "serial": 4}
    (told,) = office.told(one, msg.Install)
    assert office.told(other, msg.Install) == []
    wanted = manifest.parsed(told.manifest)
    assert wanted == Manifest("w1", SHA, SIZE, "1.1.0", "cd" * 32, 4, 180)
    assert manifest.fits(KEYS["w1"], told.manifest, told.mac)
    assert not manifest.fits(KEYS["w2"], told.manifest, told.mac)
    one.send(msg.FetchProgram(SHA, FILE_SLICE_BYTES))
    (part,) = office.told(one, msg.ProgramSlice)
    assert part.offset == FILE_SLICE_BYTES and part.error is None
    assert base64.b64decode(part.data) == BODY[FILE_SLICE_BYTES : 2 * FILE_SLICE_BYTES]
    one.send(msg.FetchProgram("ab" * 32, 0))
    (part,) = office.told(one, msg.ProgramSlice)
    assert part.data == "" and part.error == "the master does not keep this program any more"


def test_the_list_has_what_each_runs_and_how_far_it_is(office: Office) -> None:
    worker(office, facts={**FACTS, "update": {"serial": 4, "state": "fetching", "have": 7}})
    found = office.ask(msg.Listing("updates"))
    (row,) = found["workers"]
    assert row["update"] == {"last": 0, "serial": 4, "have": 7, "state": "fetching", "why": ""}
    assert (row["version"], row["build"], row["obstacle"]) == ("1.0.0", "ef" * 32, None)
    assert found["version"]


@pytest.mark.parametrize(
    "facts",
    [
        {"serial": "4", "have": -1, "state": 7, "why": ["x"]},
        {"serial": True, "last": 1e9, "why": "y" * 9_000, "more": {}},
    ],
)
def test_what_a_worker_says_is_read_with_care(office: Office, facts: Any) -> None:
    worker(office, facts={"version": 5, "build": None, "update": facts})
    (row,) = office.ask(msg.Listing("updates"))["workers"]
    said = row["update"]
    assert (said["serial"], said["last"], said["have"], said["state"]) == (0, 0, 0, "")
    assert len(said["why"]) <= 300 and row["version"] is None


@pytest.mark.parametrize(
    ("facts", "why"),
    [
        ({}, NO_SETUP),
        ({"update": "yes"}, NO_SETUP),
        ({"update": {"with_master": True}}, WITH_MASTER),
    ],
)
def test_who_cannot_be_updated_is_not(office: Office, facts: Any, why: str) -> None:
    one = worker(office, facts=facts)
    upload(office)
    (row,) = office.ask(msg.Listing("updates"))["workers"]
    assert row["obstacle"] == why
    assert why in office.ask(UPDATE)["message"]
    assert office.told(one, msg.Install) == []


def test_without_credentials_there_is_no_update_key(tmp_path: Path) -> None:
    office = Office(tmp_path, OPEN)
    one = Peer(office, "w", "w1")
    one.facts = FACTS
    one.join("0" * 16)
    upload(office)
    assert "no update key: `pibot.pyz workers rotate w1`" in office.ask(UPDATE)["message"]


@pytest.mark.parametrize(
    ("wanted", "words"),
    [
        (msg.Update("w9", SHA, "1", "b", 4, 180), "w9 is not there"),
        (msg.Update("w1", "ab" * 32, "1", "b", 4, 180), "upload it first"),
        (msg.Update("w1", SHA, "1", "b", 0, 180), "out of its range"),
        (msg.Update("w1", SHA, "1", "b", 4, 10_000), "out of its range"),
        (msg.Update("w1", SHA, "1\n", "b", 4, 180), "malformed"),
    ],
)
def test_what_cannot_be_asked_for(office: Office, wanted: msg.Update, words: str) -> None:
    one = worker(office)
    upload(office)
    assert words in office.ask(wanted)["message"]
    assert office.told(one, msg.Install) == []


def test_an_upload_that_is_wrong_is_refused_and_begins_anew(office: Office) -> None:
    assert "SHA-256" in upload(office, BODY[::-1])["message"]
    assert "base64" in office.ask(msg.Upload(SHA, SIZE, 0, "*"))["message"]
    assert upload(office) == {"have": SIZE}


def test_a_restart_of_the_master_keeps_what_came(office: Office) -> None:
    data = base64.b64encode(BODY[:1_000]).decode()
    assert office.ask(msg.Upload(SHA, SIZE, 0, data)) == {"have": 1_000}
    office.start()
    assert office.ask(msg.Upload(SHA, SIZE, 0, "")) == {"have": 1_000}


@pytest.mark.parametrize("request_", [msg.Upload(SHA, SIZE, 0, ""), UPDATE])
def test_the_credentials_of_a_worker_are_not_for_that(
    office: Office, request_: msg.Message
) -> None:
    worker(office)
    assert "are a worker's" in office.ask(request_, "w1")["message"]


def test_a_worker_that_asks_too_fast_is_not_answered(tmp_path: Path) -> None:
    updates = Updates(Pool(), Roster(tmp_path, "home", OPEN), Programs(tmp_path / "programs"))

    def answers(worker: str, count: int, now: float) -> int:
        for _ in range(count):
            updates.fetch(worker, msg.FetchProgram(SHA, 0), now)
        return len(updates.take_sends())

    assert answers("w1", 2 * SLICES_A_SECOND, 10.0) == SLICES_A_SECOND
    assert answers("w1", 1, 10.9) == 0 and answers("w2", 1, 10.9) == 1
    assert answers("w1", 1, 11.0) == 1
