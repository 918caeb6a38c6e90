"""Clients and viewers at the master's desk: added, listed, removed; and what they may do."""

from __future__ import annotations

from pathlib import Path

import pytest

from fleet.office import OPEN, Office, wanted
from fleet.peers import Peer
from pibot import messages as msg
from pibot.errors import StoreError
from pibot.identities import new_secret
from pibot.topics import RESERVED


def listed(office: Office) -> "dict[str, bool]":
    """The clients, and which of them only look."""
    return {row["client"]: row["view"] for row in office.ask(msg.Listing("clients"))["clients"]}


def test_added_and_listed_with_what_they_may(office: Office) -> None:
    office.add("phone", "c")
    office.add("tablet", "v")
    office.add("worker-1")
    assert listed(office) == {"phone": False, "tablet": True}
    rows = office.ask(msg.Listing("clients"))["clients"]
    assert {row["added"] for row in rows} == {"2026-11-22T10:30:00+01:00"}
    assert office.names() == [RESERVED, "worker-1", "phone", "tablet"]
    assert "user tablet\ntopic deny " in (office.folder / "broker" / "acl").read_text()
    assert office.states() == {"worker-1": None}


def test_a_client_gives_goals_with_its_key_and_with_no_other(office: Office) -> None:
    phone = office.add("phone", "c")
    assert "total" in office.ask(msg.Listing("workers"), "phone", phone.key)
    stranger = Peer(office, "c", "phone", key="0f" * 32)
    assert stranger.greet() is None


@pytest.mark.parametrize("kind", ["w", "c", "v"])
def test_a_name_is_one_whatever_its_kind(office: Office, kind: str) -> None:
    office.add("phone", "c")
    office.add("tablet", "v")
    office.add("worker-1")
    for taken in ("phone", "tablet", "worker-1"):
        said = office.manage("add", taken, new_secret(kind, taken))
        assert said["code"] == "usage" and ("already" in said["message"])
    assert office.names() == [RESERVED, "worker-1", "phone", "tablet"]


def test_a_worker_that_nobody_added_keeps_its_name(office: Office) -> None:
    office.worker("worker-1")
    assert (
        "name of a worker"
        in office.manage("add", "worker-1", new_secret("c", "worker-1"))["message"]
    )


def test_add_that_comes_twice_is_one(office: Office) -> None:
    request = wanted("add", new_secret("c", "phone"))
    assert office.ask(request) == office.ask(request)
    office.start()
    assert office.ask(request)["state"] == "added" and listed(office) == {"phone": False}


def test_a_removed_client_is_refused_and_its_session_is_over(office: Office) -> None:
    phone = office.add("phone", "c")
    peer = Peer(office, "c", "phone", key=phone.key)
    peer.greet()
    request = msg.Manage("remove", "phone", kind="c")
    assert office.ask(request) == office.ask(request), "asked twice, it is one"
    peer.send(msg.Listing("workers"))
    assert office.told(peer, msg.Reply) == []
    assert peer.greet("2" * 16) is None and listed(office) == {}
    assert office.names() == [RESERVED]
    office.start()
    assert "no client is called 'phone': known are none" in office.ask(request)["message"]
    office.add("phone", "v")
    assert listed(office) == {"phone": True}


def test_nobody_removes_the_client_that_he_uses(office: Office) -> None:
    phone = office.add("phone", "c")
    said = office.ask(msg.Manage("remove", "phone", kind="c"), "phone", phone.key)
    assert said["code"] == "refused" and "that this command uses" in said["message"]
    said = office.ask(msg.Manage("remove", "phone", kind="c"), "master")
    assert said["state"] == "removed", "who has the master's own credentials may"


def test_clients_are_neither_workers_nor_the_master(office: Office) -> None:
    office.add("worker-1")
    office.add("phone", "c")
    for name, kind in (("worker-1", "c"), ("master", "c"), ("phone", "w"), ("nobody", "v")):
        assert office.ask(msg.Manage("remove", name, kind=kind))["code"] == "usage"
    for kind in ("m", "x", "", "w" * 5_000):
        said = office.ask(msg.Manage("remove", "phone", kind=kind))
        assert said["code"] == "usage" and len(said["message"]) < 300
    for action in ("rotate", "drain", "resume", "explode", ""):
        said = office.ask(msg.Manage(action, "phone", kind="c"))
        assert said["code"] == "usage" and "add, remove" in said["message"]
    assert office.names() == [RESERVED, "worker-1", "phone"]


@pytest.mark.parametrize(("name", "kind"), [("worker-1", "w"), ("tablet", "v")])
def test_only_clients_decide(office: Office, name: str, kind: str) -> None:
    office.add(name, kind)
    wishes = [msg.Manage(action, "phone", kind="c") for action in ("add", "remove")]
    wishes += [msg.Manage(action, "worker-1") for action in ("add", "rotate", "remove", "drain")]
    for wish in (*wishes, msg.Listing("clients"), msg.Listing("tasks"), msg.Submit("g1", "hi")):
        said = office.ask(wish, name)
        assert said["code"] == "refused" and name in said["message"]
    assert office.names() == [RESERVED, name]


def test_a_viewer_has_no_requests_at_all(office: Office) -> None:
    secret = office.add("tablet", "v")
    for what in ("workers", "roster", "skills"):
        said = office.ask(msg.Listing(what), "tablet")
        assert said["code"] == "refused" and "may only look" in said["message"]
    assert Peer(office, "c", "tablet", key=secret.key).greet() is None, "its key signs nothing"


def test_what_cannot_be_stored_is_refused(office: Office) -> None:
    office.add("phone", "c")
    office.identities.with_name("identities.json.new").mkdir()
    assert office.manage("add", "desk", new_secret("c", "desk"))["code"] == StoreError.code
    assert office.ask(msg.Manage("remove", "phone", kind="c"))["code"] == StoreError.code
    assert listed(office) == {"phone": False}


def test_an_open_fleet_keeps_them_for_later(tmp_path: Path) -> None:
    office = Office(tmp_path, OPEN)
    assert office.manage("add", "phone", new_secret("c", "phone"))["credentials"] is False
    assert listed(office) == {"phone": False}
    office.journal.close()
