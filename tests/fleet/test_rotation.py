"""New credentials for a worker, in two phases, at the master's desk with real files."""

from __future__ import annotations

import secrets
from pathlib import Path
from typing import Dict, List

import pytest

from fleet.office import OPEN, Office, wanted
from fleet.peers import Peer
from pibot import messages as msg
from pibot.errors import StoreError
from pibot.identities import Identities, Secret, new_secret
from pibot.signing import hide
from pibot.topics import RESERVED

OLD, NEW, THIRD = "worker-1", "worker-1.ab12", "worker-1.cd34"


def fresh(suffix: str = "ab12") -> Secret:
    return new_secret("w", "worker-1", suffix)


def users(office: Office) -> List[str]:
    """Whom the broker lets in as worker-1."""
    return [user for user in office.names() if user != RESERVED]


def is_rotating(office: Office) -> bool:
    (row,) = office.ask(msg.Listing("roster"))["workers"]
    return bool(row["rotating"])


def may_come(office: Office, secret: Secret) -> bool:
    nonce = secrets.token_hex(8)
    return Peer(office, "w", secret.name, key=secret.key).greet(nonce) is not None


def test_both_count_until_the_worker_has_come_with_the_new_ones(office: Office) -> None:
    old, new = office.add("worker-1"), fresh()
    worker = office.worker("worker-1", old.key)
    assert office.manage("rotate", "worker-1", new)["state"] == "rotating"
    assert users(office) == [OLD, NEW] and is_rotating(office)
    worker.send(msg.Heartbeat([]))
    assert office.told(worker, msg.HbAck), "the old session goes on"
    office.start()
    office.worker("worker-1", old.key)
    assert users(office) == [OLD, NEW], "it came with the old ones: nothing ends"
    assert may_come(office, new)
    assert users(office) == [OLD, NEW], "a hello alone ends nothing"
    office.worker("worker-1", new.key)
    assert users(office) == [NEW] and not is_rotating(office)
    assert not may_come(office, old) and may_come(office, new)
    office.start()
    assert users(office) == [NEW] and not may_come(office, old)


def test_what_stays_and_what_changes(office: Office) -> None:
    office.add("worker-1")
    before = Identities.load(office.identities).get("worker-1")
    new = fresh()
    office.manage("rotate", "worker-1", new)
    now = Identities.load(office.identities).get("worker-1")
    assert now == before, "the update key is the old one, too: the machine has no other yet"
    office.worker("worker-1", new.key)
    after = Identities.load(office.identities).get("worker-1")
    assert before is not None and after is not None and after.since == before.since
    assert (after.key, after.update_key) == (new.key, new.update_key)
    assert new.update_key and new.update_key != before.update_key


def test_rotate_that_comes_twice_is_one(office: Office) -> None:
    office.add("worker-1")
    new = fresh()
    request = wanted("rotate", new)
    assert office.ask(request) == office.ask(request)
    assert users(office) == [OLD, NEW]
    office.start()
    office.worker("worker-1", new.key)
    assert office.ask(request)["state"] == "rotated", "its worker has come meanwhile"
    assert users(office) == [NEW] and not is_rotating(office)


def test_another_rotation_takes_the_place_of_one_that_waits(office: Office) -> None:
    old, lost, new = office.add("worker-1"), fresh(), fresh("cd34")
    for secret in (lost, new):
        office.manage("rotate", "worker-1", secret)
    assert users(office) == [OLD, THIRD]
    assert may_come(office, old) and not may_come(office, lost)
    office.worker("worker-1", new.key)
    assert users(office) == [THIRD]


def test_now_ends_the_old_ones_at_once_and_those_that_waited(office: Office) -> None:
    old, waits, new = office.add("worker-1"), fresh(), fresh("cd34")
    office.manage("rotate", "worker-1", waits)
    stolen = office.worker("worker-1", old.key)
    assert office.manage("rotate", "worker-1", new, now=True)["state"] == "rotated"
    assert users(office) == [THIRD]
    assert not may_come(office, old) and not may_come(office, waits)
    stolen.send(msg.Heartbeat([]))
    assert office.told(stolen, msg.HbAck) == []
    office.worker("worker-1", new.key)
    assert office.states() == {"worker-1": "idle"}


def test_remove_ends_both(office: Office) -> None:
    old, new = office.add("worker-1"), fresh()
    office.manage("rotate", "worker-1", new)
    assert office.manage("remove", "worker-1")["state"] == "removed"
    assert users(office) == [] and not may_come(office, old) and not may_come(office, new)
    office.start()
    assert users(office) == [] and not may_come(office, new)


def test_an_open_fleet_has_no_phases(tmp_path: Path) -> None:
    office = Office(tmp_path, OPEN)
    office.add("worker-1")
    assert office.manage("rotate", "worker-1", fresh())["state"] == "rotated"
    office.journal.close()


def test_whom_nobody_added_cannot_be_rotated(office: Office) -> None:
    office.worker("worker-1")
    assert "workers add worker-1" in office.manage("rotate", "worker-1", fresh())["message"]
    said = office.manage("rotate", "worker-9", new_secret("w", "worker-9", "ab12"))
    assert said["message"] == "no worker is called 'worker-9': known are worker-1"


def test_credentials_that_would_take_another_users_place_are_refused(office: Office) -> None:
    office.add("worker-1")
    for suffix in ("", "abc", "ab12:x", "../x", "ab12\n"):
        assert "code" in office.manage("rotate", "worker-1", fresh(suffix))
        assert users(office) == [OLD]


# --- crashes ------------------------------------------------------------------------------------


def copies(office: Office) -> Dict[Path, bytes]:
    """What a crash can leave as it was."""
    parts = (office.identities, *(office.folder / "broker" / name for name in ("passwd", "acl")))
    return {path: path.read_bytes() for path in parts}


def test_killed_after_the_new_ones_came_and_before_that_was_stored(office: Office) -> None:
    old, new = office.add("worker-1"), fresh()
    office.manage("rotate", "worker-1", new)
    saved = copies(office)
    office.worker("worker-1", new.key)
    for path, content in saved.items():
        path.write_bytes(content)
    office.start()
    assert users(office) == [OLD, NEW] and may_come(office, old)
    office.worker("worker-1", new.key)
    assert users(office) == [NEW]


def test_killed_before_the_broker_knew_that_the_old_ones_have_ended(office: Office) -> None:
    office.add("worker-1")
    new = fresh()
    office.manage("rotate", "worker-1", new)
    saved = copies(office)
    office.worker("worker-1", new.key)
    for path, content in saved.items():
        if path != office.identities:
            path.write_bytes(content)
    (office.folder / "broker" / "changed").unlink()
    office.start()
    assert users(office) == [NEW] and (office.folder / "broker" / "changed").exists()


def test_a_disk_that_takes_nothing_ends_nobody(office: Office) -> None:
    old, new = office.add("worker-1"), fresh()
    office.manage("rotate", "worker-1", new)
    blocked = office.identities.with_name("identities.json.new")
    blocked.mkdir()  # where the new file would be written: root heeds no modes
    office.worker("worker-1", new.key)
    assert users(office) == [OLD, NEW] and may_come(office, old) and may_come(office, new)
    blocked.rmdir()
    office.worker("worker-1", new.key)
    assert users(office) == [NEW]


# --- on the way ---------------------------------------------------------------------------------


def test_keys_are_hidden_with_the_key_of_the_client(office: Office) -> None:
    phone, new = office.add("phone", "c"), new_secret("w", "worker-1")
    request = wanted("add", new)
    key, update_key = (hide(phone.key, text, bytes(16)) for text in (new.key, new.update_key))
    hidden = msg.Manage(**{**vars(request), "key": key, "update_key": update_key})
    assert office.ask(hidden, "phone", phone.key)["state"] == "added"
    found = Identities.load(office.identities).get("worker-1")
    assert found is not None and (found.key, found.update_key) == (new.key, new.update_key)


@pytest.mark.parametrize("key", ["0f" * 32, "0f" * 47, "zz" * 48, "x", "0f" * 5_000])
def test_a_key_that_is_not_hidden_by_who_signs_is_refused(office: Office, key: str) -> None:
    phone = office.add("phone", "c")
    plain = wanted("add", new_secret("w", "worker-1"))
    request = msg.Manage(**{**vars(plain), "key": key})
    said = office.ask(request, "phone", phone.key)
    assert said["code"] == "usage" and "make them again" in said["message"]
    assert office.states() == {}


def test_a_rotation_that_cannot_be_stored_is_refused(office: Office) -> None:
    office.add("worker-1")
    office.identities.with_name("identities.json.new").mkdir()
    assert office.manage("rotate", "worker-1", fresh())["code"] == StoreError.code
    assert users(office) == [OLD]
