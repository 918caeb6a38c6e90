"""Mosquitto's files: what is written when, and what a real Mosquitto makes of them."""

from __future__ import annotations

import os
import signal
import stat
from pathlib import Path
from typing import Callable, Iterator, List, Tuple

import pytest

from fleet_processes import FleetProcesses, Process, wait_for
from mqtt_party import Party
from pibot import identities
from pibot.errors import UsageError
from pibot.identities import Identities, Secret
from pibot.mosquitto import write_broker_files

ROOT = "pibot/1/home/"


def some() -> "Tuple[Identities, dict[str, Secret]]":
    """A master, two workers and a client."""
    made = Identities()
    names = (("m", "master"), ("w", "worker-1"), ("w", "worker-2"), ("c", "laptop"))
    return made, {name: made.add(kind, name) for kind, name in names}


# --- the broker's files ---------------------------------------------------------------------------


def stamps(folder: Path) -> "dict[str, tuple[int, int]]":
    return {p.name: (p.stat().st_ino, p.stat().st_mtime_ns) for p in folder.iterdir()}


def test_a_file_that_is_right_is_not_touched(tmp_path: Path) -> None:
    made, _ = some()
    folder = tmp_path / "broker"
    write_broker_files(made, "home", folder)
    before = stamps(folder)
    assert set(before) == {"passwd", "acl", "changed"}
    write_broker_files(made, "home", folder)
    assert stamps(folder) == before
    made.remove("worker-1")
    write_broker_files(made, "home", folder)
    after = stamps(folder)
    assert after["acl"] == before["acl"] and after["passwd"] != before["passwd"]


def test_the_mark_comes_back_only_with_a_change(tmp_path: Path) -> None:
    made, _ = some()
    for wanted in (True, False):
        write_broker_files(made, "home", tmp_path)
        assert (tmp_path / "changed").exists() is wanted
        (tmp_path / "changed").unlink(missing_ok=True)
    made.remove("worker-1")
    write_broker_files(made, "home", tmp_path)
    assert stat.S_IMODE((tmp_path / "changed").stat().st_mode) == 0o600


def test_a_crash_before_the_mark_is_made_good(tmp_path: Path) -> None:
    """The files are right, but nobody was told: the next call tells."""
    made, _ = some()
    write_broker_files(made, "home", tmp_path)
    (tmp_path / "changed").rename(tmp_path / "changed.new")
    write_broker_files(made, "home", tmp_path)
    assert set(stamps(tmp_path)) == {"passwd", "acl", "changed"}


def test_broker_files_are_private_even_after_someone_opened_them(tmp_path: Path) -> None:
    made, _ = some()
    write_broker_files(made, "home", tmp_path)
    (tmp_path / "passwd").chmod(0o644)
    write_broker_files(made, "home", tmp_path)
    assert {stat.S_IMODE(p.stat().st_mode) for p in tmp_path.iterdir()} == {0o600}


# --- a real Mosquitto with them -------------------------------------------------------------------


class Closed:
    """A Mosquitto that lets in whom the files name."""

    def __init__(self, fleet: FleetProcesses) -> None:
        self.folder = fleet.folder / "files"
        self.made, self.secrets = some()
        self.write()
        lines = (f"password_file {self.folder / 'passwd'}", f"acl_file {self.folder / 'acl'}")
        self.broker: Process = fleet.start_broker(*lines, "allow_anonymous false")
        self._port = fleet.port
        self._parties: List[Party] = []

    def write(self) -> None:
        write_broker_files(self.made, "home", self.folder)

    def reload(self) -> None:
        os.kill(self.broker.popen.pid, signal.SIGHUP)

    def join(self, name: str, password: str = "") -> Party:
        party = Party(self._port, name, password or self.secrets[name].password)
        self._parties.append(party)
        return party

    def close(self) -> None:
        for party in self._parties:
            party.close()


@pytest.fixture
def closed(tmp_path: Path) -> Iterator[Closed]:
    with FleetProcesses(tmp_path, broker="none") as fleet:
        made = Closed(fleet)
        yield made
        made.close()


def test_mosquitto_lets_in_whom_the_files_name(closed: Closed) -> None:
    assert all(closed.join(name).is_in for name in closed.secrets)
    assert not closed.join("worker-1", "wrong").is_in
    assert not closed.join("worker-1", closed.secrets["worker-2"].password).is_in
    assert not closed.join("stranger", "x").is_in


def test_everyone_reads_topics_of_the_own_name_only(closed: Closed) -> None:
    master, worker, laptop = (closed.join(n) for n in ("master", "worker-1", "laptop"))
    worker.subscribe("#")
    laptop.subscribe(ROOT + "#")
    master.publish(*(ROOT + t for t in ("w/worker-2/cmd", "c/laptop/rep", "w/worker-1/cmd")))
    master.publish(*(ROOT + t for t in ("w/worker-2/evt", "ask", "answer/g1", "m/all")))
    assert [worker.hear() for _ in range(2)] == [ROOT + "w/worker-1/cmd", ROOT + "m/all"]
    assert [laptop.hear() for _ in range(2)] == [ROOT + "c/laptop/rep", ROOT + "m/all"]
    master.publish(ROOT + "view/fleet")
    assert worker.hear() == laptop.hear() == ROOT + "view/fleet"


def test_a_name_with_wildcards_in_it_would_open_nothing(closed: Closed) -> None:
    """Such names cannot be made; Mosquitto itself refuses to fill a pattern with them."""
    for name in ("+", "#", "worker-1/cmd"):
        with pytest.raises(UsageError):
            closed.made.add("w", name)


def promote(made: Identities, name: str) -> None:
    """The end of a rotation."""
    made.follow(identities.identity(identities.new_secret("w", name, "ab12")))
    made.promote(name)


@pytest.mark.parametrize("end", [Identities.remove, Identities.rotate, promote])
def test_a_name_that_ends_is_thrown_out_and_the_others_stay(
    closed: Closed, end: Callable[[Identities, str], object]
) -> None:
    master, one, two = (closed.join(n) for n in ("master", "worker-1", "worker-2"))
    end(closed.made, "worker-1")
    closed.write()
    closed.reload()
    assert one.gone.wait(2.0), "still in after 2 s"
    assert not closed.join("worker-1").is_in
    two.subscribe(ROOT + "w/worker-2/cmd")
    master.publish(ROOT + "w/worker-2/cmd")
    assert two.hear() == ROOT + "w/worker-2/cmd"
    assert not (master.gone.is_set() or two.gone.is_set())


def test_an_added_name_is_let_in_after_a_reload(closed: Closed) -> None:
    closed.secrets["worker-3"] = closed.made.add("w", "worker-3")
    assert not closed.join("worker-3").is_in
    closed.write()
    closed.reload()
    wait_for(lambda: closed.join("worker-3").is_in, what="worker-3 is let in")


def test_while_a_worker_is_rotated_both_of_its_users_are_let_in(closed: Closed) -> None:
    master, old = closed.join("master"), closed.join("worker-1")
    master.subscribe(ROOT + "#")
    closed.secrets["worker-1.ab12"] = identities.new_secret("w", "worker-1", "ab12")
    closed.made.follow(identities.identity(closed.secrets["worker-1.ab12"]))
    closed.write()
    closed.reload()
    wait_for(lambda: closed.join("worker-1.ab12").is_in, what="the new user is let in")
    for party in (old, closed.join("worker-1.ab12")):
        party.publish(ROOT + "w/worker-1/evt")
        assert master.hear() == ROOT + "w/worker-1/evt"
    assert not old.gone.is_set()
