"""The table of rights: what it says, and that both brokers give exactly that."""

from __future__ import annotations

import sys
from contextlib import closing
from pathlib import Path
from typing import Callable, Dict, Iterator, List, NamedTuple, Set

import pytest

from fleet_processes import FleetProcesses, free_port
from mqtt_party import Party
from pibot.identities import Identities, Secret, identity, new_secret
from pibot.mosquitto import write_broker_files
from pibot.rights import rights_of

ROOT = "pibot/1/home/"
NAMES = ("worker-1", "worker-2", "laptop", "tablet", "master")
# Every topic of the protocol, for every name.
TOPICS = [f"w/{name}/{what}" for name in NAMES for what in ("cmd", "evt", "hb", "prog", "will")]
TOPICS += [f"c/{name}/{what}" for name in NAMES for what in ("req", "rep")]
TOPICS += ["m/all", "ask", "answer/g1", "view/worker/worker-1", "view/task/t1", "view/fleet"]
LAST = "view/fleet"  # which everybody may read
END = f"{ROOT}end"  # which only the master may write


class Who(NamedTuple):
    kind: str
    name: str
    user: str


MASTER = Who("m", "master", "master")
WORKER = Who("w", "worker-1", "worker-1")
OLD, ROTATED = Who("w", "worker-2", "worker-2"), Who("w", "worker-2", "worker-2.ab12")
CLIENT, VIEWER = Who("c", "laptop", "laptop"), Who("v", "tablet", "tablet")
EVERYONE = (MASTER, WORKER, OLD, ROTATED, CLIENT, VIEWER)


def writes(who: Who) -> Set[str]:
    """What the protocol says."""
    if who.kind == "m":
        return set(TOPICS)
    own = [f"w/{who.name}/{what}" for what in ("evt", "hb", "prog", "will")]
    return set() if who.kind == "v" else {*own, f"c/{who.name}/req"}


def reads(who: Who) -> Set[str]:
    if who.kind == "m":
        return set(TOPICS)
    views = {topic for topic in TOPICS if topic.startswith("view/")}
    own = {"m/all", f"w/{who.name}/cmd", f"c/{who.name}/rep"}
    return views if who.kind == "v" else views | own


# --- the table ----------------------------------------------------------------------------------


@pytest.mark.parametrize("who", EVERYONE, ids=lambda who: who.user)
def test_the_table(who: Who) -> None:
    rights = rights_of("home", who.kind, who.name)
    assert {t for t in TOPICS if rights.may_publish(ROOT + t)} == writes(who)
    assert {t for t in TOPICS if rights.may_subscribe(ROOT + t)} == reads(who)
    for elsewhere in ("x", "#", "+/1/home/m/all", "$SYS/#", "pibot/1/other/m/all", "pibot/1"):
        assert not rights.may_publish(elsewhere) and not rights.may_subscribe(elsewhere)


@pytest.mark.parametrize(
    ("wanted", "may"),
    [
        ("view/#", True),
        ("view/+/worker-1", True),
        ("view/+", True),
        ("view", True),  # which view/# matches, too
        ("w/worker-1/cmd", True),
        ("#", False),
        ("+/worker-1/cmd", False),
        ("w/+/cmd", False),
        ("w/worker-1/+", False),
        ("w/worker-1/#", False),
        ("w/worker-1/cmd/#", False),
        ("w/worker-1/cmd/x", False),
        ("w/worker-1", False),
        ("m/+", False),
    ],
)
def test_a_filter_is_allowed_if_all_that_it_matches_is(wanted: str, may: bool) -> None:
    assert rights_of("home", "w", "worker-1").may_subscribe(ROOT + wanted) is may
    shared = f"$share/g/{ROOT}{wanted}"
    assert not rights_of("home", "w", "worker-1").may_subscribe(shared)


# --- both brokers -------------------------------------------------------------------------------


def enrolled() -> "tuple[Identities, Dict[str, Secret]]":
    made = Identities()
    kinds = {who.name: who.kind for who in EVERYONE}
    secrets = {name: made.add(kind, name) for name, kind in kinds.items()}
    secrets[ROTATED.user] = new_secret("w", ROTATED.name, "ab12")
    made.follow(identity(secrets[ROTATED.user]))
    return made, secrets


def mosquitto(folder: Path, made: Identities) -> Iterator[int]:
    with FleetProcesses(folder, broker="none") as fleet:
        write_broker_files(made, "home", folder / "files")
        files = folder / "files"
        lines = (f"password_file {files / 'passwd'}", f"acl_file {files / 'acl'}")
        fleet.start_broker(*lines, "allow_anonymous false")
        yield fleet.port


def embedded(folder: Path, made: Identities) -> Iterator[int]:
    if sys.version_info < (3, 10):
        pytest.skip("amqtt needs Python 3.10")
    from pibot.admission import Admission
    from pibot.embedded import EmbeddedBroker

    made.save(folder / "identities.json")
    port = free_port()
    broker = EmbeddedBroker(port, Admission(folder / "identities.json", "home"))
    broker.start()
    with closing(broker):
        yield port


@pytest.fixture(scope="module", params=[mosquitto, embedded], ids=["mosquitto", "embedded"])
def join(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[[Who], Party]]:
    made, secrets = enrolled()
    parties: List[Party] = []
    for port in request.param(tmp_path_factory.mktemp("rights"), made):

        def come(who: Who, port: int = port) -> Party:
            parties.append(Party(port, who.user, secrets[who.user].password))
            assert parties[-1].is_in
            return parties[-1]

        yield come
        for party in parties:
            party.close()


@pytest.mark.parametrize("who", EVERYONE, ids=lambda who: who.user)
def test_a_broker_gives_what_the_table_says(who: Who, join: Callable[[Who], Party]) -> None:
    """A denied publish is acknowledged and dropped, a denied subscription granted and silent."""
    listener, party = join(MASTER), join(who)
    listener.subscribe(f"{ROOT}#")
    party.publish(*(ROOT + topic for topic in TOPICS))
    listener.publish(END)
    assert set(listener.hear_until(END)) == {ROOT + topic for topic in writes(who)} | {END}
    party.subscribe(*(ROOT + topic for topic in TOPICS))
    listener.publish(*(ROOT + topic for topic in TOPICS if topic != LAST), ROOT + LAST)
    assert set(party.hear_until(ROOT + LAST)) == {ROOT + topic for topic in reads(who)}
