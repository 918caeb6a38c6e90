"""`clients`, with real processes: from the file to the first command, viewers, and the end."""

from __future__ import annotations

import stat
import subprocess
from pathlib import Path
from typing import Dict, Iterator, List

import pytest

from closed_fleet import ClosedFleet
from fleet_processes import command, environment, wait_for
from mqtt_party import Party

OUT_S = 2.0
ROOT = "pibot/1/home/"


@pytest.fixture(scope="module")
def closed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ClosedFleet]:
    with ClosedFleet(tmp_path_factory.mktemp("closed")) as made:
        yield made


@pytest.fixture
def added(closed: ClosedFleet) -> Iterator[List[str]]:
    """Names that are removed at the end of a test, with their files."""
    names: List[str] = []
    yield names
    for name in names:
        (closed.folder / f"{name}.env").unlink(missing_ok=True)
        closed.run("clients", "remove", name, check=None)


def add(closed: ClosedFleet, added: List[str], name: str, *more: str) -> Dict[str, str]:
    added.append(name)
    closed.run("clients", "add", name, "--host", "127.0.0.1", *more)
    return closed.settings(name)


def elsewhere(
    closed: ClosedFleet, home: Path, name: str, *args: str
) -> "subprocess.CompletedProcess[str]":
    """A command on the person's machine, as `clients add` says: the file is client.env there."""
    folder = home / ".config" / "pibot"
    folder.mkdir(parents=True)
    (closed.folder / f"{name}.env").rename(folder / "client.env")
    return subprocess.run(
        command(*args),
        env=environment(HOME=str(home)),
        cwd=home,
        capture_output=True,
        encoding="utf-8",
        timeout=60,
    )


def test_add_makes_a_file_with_which_a_person_uses_the_fleet(
    closed: ClosedFleet, added: List[str], tmp_path: Path
) -> None:
    added.append("phone")
    done = closed.run("clients", "add", "phone", "--host", "127.0.0.1", json=False)
    path = closed.folder / "phone.env"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert "mv phone.env ~/.config/pibot/client.env" in done.out and done.err == ""
    known = closed.settings("phone")
    assert known["MQTT_USERNAME"] == "phone" and "WORKER_ID" not in known
    for secret in (known["MQTT_PASSWORD"], known["PIBOT_KEY"]):
        assert secret not in done.out + closed.logs()
    assert "PIBOT_UPDATE_KEY" not in known
    said = elsewhere(closed, tmp_path, "phone", "status")
    assert said.returncode == 0 and said.stdout.startswith("fleet home: "), said.stderr


def test_list_says_who_may_what(closed: ClosedFleet, added: List[str]) -> None:
    document = closed.run("clients", "add", "tablet", "--view", "--host", "127.0.0.1").document
    added.append("tablet")
    assert document == {
        "client": "tablet",
        "view": True,
        "state": "added",
        "file": str(closed.folder / "tablet.env"),
        "ca_file": None,
        "fleet": "home",
        "host": "127.0.0.1",
        "port": closed.port,
    }
    table = closed.run("clients", "list", json=False).out.splitlines()
    assert table[0].split() == ["CLIENT", "MAY", "ADDED"]
    assert [line.split()[:2] for line in table[1:]] == [
        ["laptop", "all"],
        ["tablet", "look"],
    ]


def test_a_viewer_sees_the_views_and_nothing_else(closed: ClosedFleet, added: List[str]) -> None:
    known = add(closed, added, "tablet", "--view")
    wait_for(lambda: _is_let_in(closed, known), what="tablet is let in")
    args = ["mosquitto_sub", "-h", "127.0.0.1", "-p", str(closed.port), "-u", "tablet"]
    args += ["-P", known["MQTT_PASSWORD"], "-t", f"{ROOT}view/#", "-C", "1", "-W", "20"]
    seen = subprocess.run(args, capture_output=True, encoding="utf-8", timeout=30)
    assert seen.returncode == 0 and '"fleet":"home"' in seen.stdout
    party = Party(closed.port, "tablet", known["MQTT_PASSWORD"])
    party.subscribe(f"{ROOT}#")
    closed.run("status")
    party.publish(f"{ROOT}view/fleet", f"{ROOT}c/tablet/req", f"{ROOT}m/all")
    closed.run("status")
    party.close()
    assert party.heard.qsize() > 0
    while not party.heard.empty():
        assert party.hear().startswith(f"{ROOT}view/")
    said = closed.run("status", env=known, json=False, check=3).err  # after 5 s without an answer
    assert "the broker does not let the user tablet write" in said and len(said.splitlines()) == 1


def test_a_removed_client_is_refused_at_once(closed: ClosedFleet, added: List[str]) -> None:
    known = add(closed, added, "phone")
    party = Party(closed.port, "phone", known["MQTT_PASSWORD"])
    assert closed.run("status", env=known).document["fleet"] == "home"
    done = closed.run("clients", "remove", "phone", json=False)
    assert done.out == "phone is removed: its credentials have ended\n"
    assert party.gone.wait(OUT_S), "still in after 2 s"
    party.close()
    assert not _is_let_in(closed, known)
    assert [r["client"] for r in closed.run("clients", "list").document["clients"]] == ["laptop"]


def test_nobody_cuts_himself_off(closed: ClosedFleet) -> None:
    said = closed.run("clients", "remove", "laptop", json=False, check=1).err
    assert "laptop is the client that this command uses" in said
    assert closed.run("status").document["fleet"] == "home"


def test_a_name_that_is_taken_leaves_no_file(closed: ClosedFleet) -> None:
    said = closed.run("clients", "add", "laptop", "--host", "pi", json=False, check=2).err
    assert "laptop is there already" in said and not (closed.folder / "laptop.env").exists()


@pytest.mark.parametrize(
    ("args", "words"),
    [
        ((), "required: list|add|remove: see `pibot.pyz clients --help`"),
        (("rotate", "phone"), "invalid choice"),
        (("add",), "needs the NAME"),
        (("list", "phone"), "takes no NAME"),
        (("add", "../x"), "is not a client name"),
        (("add", "master"), "master's own name"),
        (("remove", "phone", "--view"), "--view and --host go with add only"),
        (("list", "--host", "pi"), "--view and --host go with add only"),
        (("remove", "nobody"), "no client is called 'nobody': known are laptop"),
    ],
)
def test_wrong_use_is_one_line_and_status_2(
    closed: ClosedFleet, args: "tuple[str, ...]", words: str
) -> None:
    done = closed.run("clients", *args, json=False, check=2)
    assert words in done.err and len(done.err.splitlines()) == 1


def _is_let_in(closed: ClosedFleet, known: Dict[str, str]) -> bool:
    party = Party(closed.port, known["MQTT_USERNAME"], known["MQTT_PASSWORD"])
    party.close()
    return party.is_in
