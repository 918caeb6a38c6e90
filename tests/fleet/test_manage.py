"""Workers added, rotated and removed at the master's desk: journal, identities, broker files.

The real desk with real files. A crash is a desk that is begun again on files as the crash leaves
them.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from fleet.office import OPEN, OWN, Office, wanted
from fleet.peers import TOPICS, Peer
from pibot import identities
from pibot import messages as msg
from pibot.errors import StoreError
from pibot.identities import Identities, fits
from pibot.topics import RESERVED

# --- the master's own line ------------------------------------------------------------------------


def test_the_master_enrols_itself_with_the_password_that_it_was_given(office: Office) -> None:
    assert office.names() == [RESERVED]
    own = Identities.load(office.identities).get(RESERVED)
    assert own is not None and fits(own.password_line, "the master's password")
    assert own.key == "k" * 64


def test_a_new_password_of_the_master_replaces_its_line_only(office: Office) -> None:
    office.add("worker-1")
    before = Identities.load(office.identities)
    office.start()
    again = Identities.load(office.identities)
    assert again.get(RESERVED) == before.get(RESERVED), "the same password: the same line"
    office.start(OWN._replace(password="another"))
    after = Identities.load(office.identities)
    assert after.get("worker-1") == before.get("worker-1")
    assert fits(after.get(RESERVED).password_line, "another")  # type: ignore[union-attr]
    assert office.names() == [RESERVED, "worker-1"]


def test_a_master_with_another_user_name_leaves_its_line_to_its_broker(tmp_path: Path) -> None:
    office = Office(tmp_path, OWN._replace(username="boss"))
    office.add("worker-1")
    assert office.names() == ["worker-1"]
    office.journal.close()


def test_an_open_fleet_has_no_files_until_somebody_adds_a_worker(open_office: Office) -> None:
    assert not open_office.identities.exists() and not (open_office.folder / "broker").exists()
    open_office.add("worker-1")
    assert open_office.names() == ["worker-1"]


def test_what_the_journal_has_is_promised_whatever_becomes_of_the_roster(office: Office) -> None:
    """A goal that was called refused and is done all the same would be typed again."""
    laptop = Peer(office, "c", "laptop")
    laptop.greet()
    secret = identities.new_secret("w", "worker-1")
    submit = msg.Submit("g1", skill="echo", args={"text": "x"}, timeout_s=60)
    for message in (submit, wanted("add", secret)):
        for payload in laptop.packets(message):
            office.desk.take_packet(laptop.topic(), payload, office.now)
    office.identities.with_name(f"{office.identities.name}.new").mkdir()  # it cannot be written
    with pytest.raises(StoreError) as failed:
        office.desk.store(office.now)
    office.packets += office.desk.refuse(failed.value)
    submitted, added = office.told(laptop, msg.Reply)
    assert submitted.error is None and submitted.data["goal_id"] == "g1"
    assert added.error is not None and added.error["code"] == "store"
    assert [g.id for g in office.journal.recent(9)] == ["g1"]


# --- add and rotate -------------------------------------------------------------------------------


def test_an_added_worker_is_listed_before_it_comes_and_counts_nowhere(office: Office) -> None:
    secret = office.add("worker-1")
    kept = Identities.load(office.identities).get("worker-1")
    assert kept is not None and fits(kept.password_line, secret.password)
    assert (kept.kind, kept.key, kept.since) == ("w", secret.key, "2026-11-22T10:30:00+01:00")
    assert office.states() == {"worker-1": None}
    assert office.ask(msg.Listing("workers"))["total"] == 0
    office.worker("worker-1")
    assert office.states() == {"worker-1": "idle"}
    assert office.ask(msg.Listing("workers"))["total"] == 1


def test_no_answer_and_no_message_has_the_secret(office: Office) -> None:
    secret = identities.new_secret("w", "worker-1")
    answers = [office.manage("add", "worker-1", secret), office.ask(msg.Listing("roster"))]
    for hidden in (secret.password, secret.key, "$7$"):
        assert hidden not in str(answers)
        assert all(hidden.encode() not in p.payload for p in office.packets)


def test_add_that_comes_twice_is_one_and_another_one_is_refused(office: Office) -> None:
    secret = identities.new_secret("w", "worker-1")
    kept = identities.identity(secret)
    request = msg.Manage("add", "worker-1", kept.password_line, kept.key)
    assert office.ask(request) == office.ask(request)
    office.start()
    assert office.ask(request)["state"] == "added"
    refused = office.manage("add", "worker-1", identities.new_secret("w", "worker-1"))
    assert refused["code"] == "usage" and "workers rotate worker-1" in refused["message"]
    after = Identities.load(office.identities).get("worker-1")
    assert after is not None and after.password_line == kept.password_line


@pytest.mark.parametrize(
    "worker", ["", "../x", "master", "a" * 33, "x" * 50_000, "a:b", "a\nb:c", "Ä", "laptop"]
)
@pytest.mark.parametrize("action", ["add", "remove", "drain"])
def test_names_that_cannot_be_a_workers_change_nothing(
    office: Office, action: str, worker: str
) -> None:
    made = Identities.load(office.identities)
    made.add("c", "laptop")
    made.save(office.identities)
    office.start()
    kept = identities.identity(identities.new_secret("w", "worker-1"))
    said = office.ask(msg.Manage(action, worker, kept.password_line, kept.key), "desk")
    assert said["code"] == "usage" and len(said["message"]) < 300
    assert office.names() == [RESERVED, "laptop"]


@pytest.mark.parametrize(
    "line, key",
    [
        ("", ""),
        ("$7$101$short$x", "0f"),
        ("x\nmallory:$7$101$" + "A" * 16 + "$" + "B" * 86 + "==", "0f"),
        ("$7$101$" + "A" * 16 + "$" + "B" * 86 + "==", "two\nlines"),
        ("$7$101$" + "A" * 16 + "$" + "B" * 86 + "==", ""),
    ],
)
def test_credentials_that_would_break_a_file_are_refused(
    office: Office, line: str, key: str
) -> None:
    assert "malformed" in office.ask(msg.Manage("add", "worker-1", line, key))["message"]
    assert office.names() == [RESERVED]


def test_an_unknown_action_and_an_unknown_worker_say_what_there_is(office: Office) -> None:
    office.add("worker-2")
    office.worker("worker-1")
    said = office.manage("explode", "worker-1")["message"]
    assert "add, rotate, remove, drain, resume" in said
    for action in ("remove", "drain", "resume"):
        said = office.manage(action, "worker-9")["message"]
        assert said == "no worker is called 'worker-9': known are worker-1, worker-2"
    assert "has not come yet" in office.manage("drain", "worker-2")["message"]


# --- remove ---------------------------------------------------------------------------------------


def test_a_removed_worker_is_out_everywhere_and_refused(office: Office) -> None:
    office.add("worker-1")
    worker = office.worker("worker-1")
    office.ask(msg.Listing("workers"))  # time passes
    assert TOPICS.view("worker", "worker-1") in office.views
    assert office.manage("remove", "worker-1")["state"] == "removed"
    (told,) = office.told(worker, msg.Refusal)
    assert told.reason == "removed" and worker.channel is not None
    assert told.to == worker.channel.hello.nonce
    assert office.names() == [RESERVED] and office.states() == {}
    office.ask(msg.Listing("workers"))
    assert TOPICS.view("worker", "worker-1") not in office.views
    worker.send(msg.Heartbeat([]))
    assert worker.greet("9" * 16) is None
    assert {r.reason for r in office.told(worker, msg.Refusal)} == {"session", "removed"}
    assert office.ask(msg.Listing("workers"))["total"] == 0


def test_it_stays_refused_over_a_restart_until_it_is_added_again(office: Office) -> None:
    office.add("worker-1")
    office.worker("worker-1")
    office.manage("remove", "worker-1")
    office.start()
    peer = Peer(office, "w", "worker-1")
    assert peer.greet("8" * 16) is None and office.states() == {}
    office.add("worker-1")
    assert office.states() == {"worker-1": None}
    office.start()
    assert office.states() == {"worker-1": None}
    office.worker("worker-1")
    assert office.states() == {"worker-1": "idle"}


def test_remove_that_comes_twice_is_one(office: Office) -> None:
    office.add("worker-1")
    assert office.manage("remove", "worker-1") == office.manage("remove", "worker-1")
    office.start()
    assert office.manage("remove", "worker-1")["state"] == "removed"


def test_a_view_is_cleared_even_if_the_master_died_before_it_could(office: Office) -> None:
    office.add("worker-1")
    office.worker("worker-1")
    office.ask(msg.Listing("workers"))
    left = dict(office.views)
    office.manage("remove", "worker-1")
    office.views = left  # the broker never saw it
    office.start()
    office.ask(msg.Listing("workers"))
    assert TOPICS.view("worker", "worker-1") not in office.views


def test_a_worker_whose_credentials_were_not_made_here_is_refused_all_the_same(
    office: Office,
) -> None:
    peer = office.worker("worker-1")
    assert office.manage("remove", "worker-1")["state"] == "removed"
    assert peer.greet("7" * 16) is None


def test_an_open_fleet_forgets_only_who_is_away(open_office: Office) -> None:
    worker = open_office.worker("worker-1")
    said = open_office.manage("remove", "worker-1")
    assert said["code"] == "refused" and "worker-1 is online" in said["message"]
    worker.send(msg.Bye())
    assert open_office.states() == {"worker-1": "offline"}
    assert open_office.manage("remove", "worker-1")["state"] == "forgotten"
    assert open_office.states() == {}
    open_office.start(OPEN)
    assert open_office.states() == {}
    open_office.worker("worker-1")
    assert open_office.states() == {"worker-1": "idle"}
