"""Workers added, rotated and removed at the master's desk: journal, identities, broker files.

The real desk with real files. A crash is a desk that is begun again on files as the crash leaves
them.
"""

from __future__ import annotations

import itertools
import shutil
from pathlib import Path
from typing import Any, Dict, Iterator, List, Optional

import pytest

from fleet.peers import TOPICS, Peer, Wire
from pibot import identities
from pibot import messages as msg
from pibot.errors import StoreError
from pibot.fleet.artifacts import Artifacts
from pibot.fleet.desk import Desk, Surroundings
from pibot.fleet.journal import Journal
from pibot.fleet.roster import Own, Roster
from pibot.identities import Identities, Secret, fits
from pibot.signing import Unsigned
from pibot.topics import RESERVED
from pibot.wire import Packet

OWN = Own(RESERVED, "the master's password", "k" * 64)
OPEN = Own(None, None, None)


class Office(Wire):
    """A master without its socket; `wire` sees what is published."""

    def __init__(self, folder: Path, own: Own = OWN) -> None:
        super().__init__()
        self.folder, self.now = folder, 10.0
        self.views: Dict[str, bytes] = {}  # as a broker retains them
        self._numbers = itertools.count(1)
        self.start(own)

    def start(self, own: Own = OWN) -> None:
        """Begin, or begin again after a kill."""
        if hasattr(self, "journal"):
            self.journal.close()
        self.journal = Journal(self.folder / RESERVED / "journal.db")
        epoch, store_id = self.journal.open("store")
        around = Surroundings(
            fleet="home",
            epoch=epoch,
            store_id=store_id,
            model=False,
            keyring=Unsigned(),
            nonce=lambda: f"{next(self._numbers):016x}",
            goal_id=lambda: f"g{next(self._numbers)}",
            jitter=lambda: 0.5,
            local_time=lambda: "2026-11-22T10:30:00+01:00",
        )
        roster, artifacts = Roster(self.folder, "home", own), Artifacts(self.folder / "artifacts")
        self.desk = Desk(TOPICS, self.journal, roster, around, artifacts)
        self.desk.begin(self.now)
        self._publish(self.desk.connected())

    def receive(self, topic: str, payload: bytes) -> None:
        self.now += 2.0
        self.desk.take_packet(topic, payload, self.now)
        try:
            self.desk.store(self.now)
        except StoreError as error:
            self._publish(self.desk.refuse(error))
            self.desk.begin(self.now)
            self._publish(self.desk.connected())
        else:
            self._publish(self.desk.tell(self.now).packets)

    def _publish(self, packets: List[Packet]) -> None:
        self.packets += packets
        for packet in packets:
            if packet.retain:
                self.views.pop(packet.topic, None)
                if packet.payload:
                    self.views[packet.topic] = packet.payload

    # --- what people and files say --------------------------------------------------------------

    def ask(self, message: msg.Message, client: str = "laptop") -> Dict[str, Any]:
        """A client's request and what it is answered."""
        peer = Peer(self, "c", client)
        peer.greet(f"{next(self._numbers):016x}")
        peer.send(message)
        (reply,) = self.told(peer, msg.Reply)
        return reply.error or reply.data

    def manage(self, action: str, worker: str, secret: Optional[Secret] = None) -> Dict[str, Any]:
        if secret is None:
            return self.ask(msg.Manage(action, worker))
        kept = identities.identity(secret)
        return self.ask(msg.Manage(action, worker, kept.password_line, kept.key))

    def add(self, worker: str) -> Secret:
        secret = identities.new_secret("w", worker)
        assert self.manage("add", worker, secret)["state"] == "added"
        return secret

    def worker(self, name: str) -> Peer:
        peer = Peer(self, "w", name)
        peer.join(f"{next(self._numbers):016x}")
        return peer

    def states(self) -> Dict[str, Optional[str]]:
        rows = self.ask(msg.Listing("roster"))["workers"]
        return {row["worker_id"]: row["state"] for row in rows}

    def names(self) -> List[str]:
        """Whom the file of identities has; the broker's file has the same."""
        found = Identities.load(self.identities)
        text = (self.folder / "broker" / "passwd").read_text()
        assert text == identities.passwd_text(found)
        return [line.partition(":")[0] for line in text.splitlines()]

    @property
    def identities(self) -> Path:
        return self.folder / RESERVED / "identities.json"


@pytest.fixture
def office(tmp_path: Path) -> Iterator[Office]:
    made = Office(tmp_path)
    yield made
    made.journal.close()


@pytest.fixture
def open_office(tmp_path: Path) -> Iterator[Office]:
    made = Office(tmp_path, OPEN)
    yield made
    made.journal.close()


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


def test_rotate_ends_the_old_credentials(office: Office) -> None:
    office.add("worker-1")
    fresh = identities.new_secret("w", "worker-1")
    for _ in range(2):
        assert office.manage("rotate", "worker-1", fresh)["state"] == "rotated"
    kept = Identities.load(office.identities).get("worker-1")
    assert kept is not None and fits(kept.password_line, fresh.password) and kept.since
    office.worker("worker-2")
    said = office.manage("rotate", "worker-2", identities.new_secret("w", "worker-2"))
    assert "workers add worker-2" in said["message"]


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
    office.manage(action, name, identities.new_secret("w", name))
    wanted = (office.folder / "broker" / "passwd").read_text()
    put_back(office, saved, "broker/passwd")
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
    kept = identities.identity(identities.new_secret("w", "worker-1"))
    request = msg.Manage(action, "worker-1", kept.password_line, kept.key)
    office.ask(request)
    put_back(office, saved, "master/identities.json", "broker/passwd")
    office.start()
    assert office.names() == ([RESERVED, "worker-1"] if action == "rotate" else [RESERVED])
    assert "code" not in office.ask(request)
    there = Identities.load(office.identities).get("worker-1")
    if action == "remove":
        assert there is None and Peer(office, "w", "worker-1").greet() is None
    else:
        assert there is not None and there.password_line == kept.password_line
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
