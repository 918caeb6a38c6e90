"""Whose credentials may what, and files that a crash leaves behind."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from fleet.office import Office, wanted
from fleet.peers import Peer
from pibot import identities
from pibot import messages as msg
from pibot.errors import StoreError
from pibot.identities import Identities
from pibot.topics import RESERVED

# --- whose credentials may what -------------------------------------------------------------------


def test_the_credentials_of_a_worker_may_look_and_ask_for_nothing(office: Office) -> None:
    office.add("worker-1")
    office.worker("worker-2")
    for what in ("workers", "roster", "skills"):
        assert "code" not in office.ask(msg.Listing(what), "worker-1")
    kept = identities.identity(identities.new_secret("w", "worker-3"))
    requests = [
        msg.Manage("remove", "worker-2"),
        msg.Manage("add", "worker-3", kept.password_line, kept.key),
        msg.Submit("g1", skill="echo", args={}),
        msg.Listing("tasks"),
        msg.Get("g1"),
        msg.Fetch("g1-1", "a", 0),
        msg.Cancel("g1"),
        msg.Retry("g1"),
        msg.Follow("g1"),
    ]
    for request in requests:
        said = office.ask(request, "worker-1")
        assert said["code"] == "refused" and "are a worker's" in said["message"], request
    assert office.states() == {"worker-1": None, "worker-2": "idle"}


def test_a_removed_worker_may_not_even_look_while_its_broker_still_lets_it_in(
    office: Office,
) -> None:
    office.add("worker-1")
    office.add("worker-2")
    office.worker("worker-2")
    office.manage("remove", "worker-1")
    for _ in range(2):
        for request in (msg.Manage("drain", "worker-2"), msg.Listing("workers")):
            said = office.ask(request, "worker-1")
            assert said["code"] == "refused" and "was removed" in said["message"]
        office.start()


def test_a_worker_whose_credentials_were_not_made_here_may_look_only(office: Office) -> None:
    office.worker("worker-1")
    assert "code" not in office.ask(msg.Listing("workers"), "worker-1")
    assert office.ask(msg.Manage("drain", "worker-1"), "worker-1")["code"] == "refused"


def test_a_client_stays_one_whatever_it_says_on_a_workers_topics(office: Office) -> None:
    known = Identities.load(office.identities)
    known.add("c", "laptop")
    known.save(office.identities)
    office.start()
    office.worker("laptop")
    assert office.manage("drain", "laptop")["state"] == "draining"


def test_in_an_open_fleet_names_mean_nothing(open_office: Office) -> None:
    open_office.add("worker-1")
    open_office.worker("worker-1")
    assert open_office.ask(msg.Manage("drain", "worker-1"), "worker-1")["state"] == "draining"


# --- crashes --------------------------------------------------------------------------------------


def copy_of(office: Office) -> Path:
    """The files as they are now, to put parts of them back later."""
    saved = office.folder.with_name("saved")
    shutil.rmtree(saved, ignore_errors=True)
    shutil.copytree(office.folder, saved)
    return saved


def put_back(office: Office, saved: Path, *parts: str) -> None:
    for part in parts:
        shutil.copy(saved / part, office.folder / part)
    (office.folder / "broker" / "changed").unlink(missing_ok=True)


@pytest.mark.parametrize("action", ["add", "rotate", "remove"])
def test_killed_between_identities_and_broker_files(office: Office, action: str) -> None:
    office.add("worker-1")
    saved = copy_of(office)
    name = "worker-2" if action == "add" else "worker-1"
    office.manage(action, name, identities.new_secret("w", name, "ab12"))
    wanted = (office.folder / "broker" / "passwd").read_text()
    put_back(office, saved, "broker/passwd", "broker/acl")
    office.start()
    assert (office.folder / "broker" / "passwd").read_text() == wanted
    assert (office.folder / "broker" / "changed").exists()


@pytest.mark.parametrize("action", ["add", "rotate", "remove"])
def test_killed_between_journal_and_identities(office: Office, action: str) -> None:
    """A removal is completed; the others never were, and the client's repetition does them."""
    office.add("worker-1")
    if action == "add":
        office.manage("remove", "worker-1")
    saved = copy_of(office)
    request = wanted(action, identities.new_secret("w", "worker-1", "ab12"))
    office.ask(request)
    put_back(office, saved, "master/identities.json", "broker/passwd")
    office.start()
    assert office.names() == ([RESERVED, "worker-1"] if action == "rotate" else [RESERVED])
    assert "code" not in office.ask(request)
    there = Identities.load(office.identities).valid("worker-1")
    if action == "remove":
        assert there == [] and Peer(office, "w", "worker-1").greet() is None
    else:
        assert there[-1].password_line == request.password_line
        office.worker("worker-1")
        assert office.states() == {"worker-1": "idle"}


def test_what_cannot_be_stored_is_refused_and_nothing_has_changed(office: Office) -> None:
    office.add("worker-1")
    # A directory where the new file would be written: root heeds no modes.
    office.identities.with_name("identities.json.new").mkdir()
    said = office.manage("add", "worker-2", identities.new_secret("w", "worker-2"))
    assert said["code"] == "store" and "cannot store this" in said["message"]
    assert office.names() == [RESERVED, "worker-1"]
    assert office.states() == {"worker-1": None}


def test_a_removal_that_could_not_be_stored_is_completed_when_it_can(office: Office) -> None:
    office.add("worker-1")
    blocked = office.identities.with_name("identities.json.new")
    blocked.mkdir()
    with pytest.raises(StoreError):  # the master's loop begins again until it can
        office.manage("remove", "worker-1")
    assert office.names() == [RESERVED, "worker-1"]
    blocked.rmdir()
    office.start()
    assert office.names() == [RESERVED]
    assert Peer(office, "w", "worker-1").greet() is None


def test_what_setup_has_changed_meanwhile_is_kept(office: Office) -> None:
    made = Identities.load(office.identities)
    made.add("c", "phone")
    made.save(office.identities)
    office.add("worker-1")
    assert office.names() == [RESERVED, "worker-1", "phone"]


def test_a_damaged_file_stops_a_start_and_refuses_a_change(office: Office) -> None:
    good = office.identities.read_text()
    office.identities.write_text("{")
    said = office.manage("remove", "worker-1")
    assert said["code"] == "store" and "identities.json is damaged" in said["message"]
    with pytest.raises(StoreError, match="damaged"):
        office.start()
    office.identities.write_text(good)
    office.identities.chmod(0o644)
    with pytest.raises(StoreError, match="chmod 600"):
        office.start()
    office.identities.chmod(0o600)
    office.start()
    office.add("worker-1")
