"""What is taken away, on made-up machines: all that setup made, and nothing else."""

from __future__ import annotations

from dataclasses import replace
from typing import Set

import pytest

from deploy.made_up import FRESH, PI, PIBOT, afterwards, commands, given, paths, with_file
from deploy.test_plan import IMAGE, UNIT, V3, WORKER, install
from pibot.deploy import layout
from pibot.deploy.facts import Facts
from pibot.deploy.removal import uninstall
from pibot.deploy.steps import Step
from pibot.deploy.tree import FILE, FOLDER, Entry

CONF = "/etc/mosquitto/conf.d/pibot.conf"


def set_up(*roles: str) -> Facts:
    """A machine with these roles."""
    facts = FRESH
    for role in roles:
        ready = replace(facts, beside=WORKER.beside if role == "worker" else ())
        facts = afterwards(ready, install(ready, role).steps)
    return facts


def left(facts: Facts) -> Set[str]:
    """What is there besides what a fresh machine has."""
    return set(facts.entries) - set(FRESH.entries)


def below(folder: str, facts: Facts) -> Set[str]:
    return {path for path in facts.entries if path == folder or path.startswith(f"{folder}/")}


@pytest.mark.parametrize("roles", [("master",), ("worker",), ("master", "worker")])
def test_all_that_setup_made_goes_but_the_records(roles: "tuple[str, ...]") -> None:
    facts = set_up(*roles)
    made = uninstall(facts, "")
    after = afterwards(facts, made.steps)
    assert left(after) == below(layout.STATE, after)
    assert after.entry(layout.STATE)[:4] == (FOLDER, 0o700, 0, 0)
    assert "pibot" not in after.users
    assert any(note.startswith("/var/lib/pibot stays") for note in made.notes)
    assert uninstall(after, "").steps == []


def test_the_program_goes_last() -> None:
    steps = uninstall(set_up("master"), "").steps
    assert paths(steps)[-3:] == [layout.COMMAND, layout.PROGRAM, layout.FOLDER]
    assert commands(steps) == [
        "systemctl stop pibot-master.service",
        "systemctl stop pibot-broker.path",
        "systemctl daemon-reload",
        "systemctl restart mosquitto.service",
        "userdel pibot",
    ]


@pytest.mark.parametrize(("role", "other"), [("master", "worker"), ("worker", "master")])
def test_of_two_roles_the_other_one_keeps_what_both_share(role: str, other: str) -> None:
    facts = set_up("master", "worker")
    made = uninstall(facts, role)
    after = afterwards(facts, made.steps)
    ready = replace(after, beside=WORKER.beside if other == "worker" else ())
    assert install(ready, other).steps == []
    assert not [path for path in after.entries if path.endswith((f"{role}.env", f"{role}.service"))]
    assert made.notes == [f"The {other} of this machine stays, and with it what both share."]
    last = afterwards(after, uninstall(after, "").steps)
    assert left(last) == below(layout.STATE, last)


def test_half_a_setup_is_taken_away_as_well() -> None:
    steps = install(FRESH, "master").steps
    for count in range(len(steps)):
        facts = afterwards(FRESH, steps[:count])
        after = afterwards(facts, uninstall(facts, "").steps)
        assert left(after) == below(layout.STATE, after), steps[count].said


def test_half_a_removal_is_finished() -> None:
    facts = set_up("master")
    steps = uninstall(facts, "").steps
    for count in range(len(steps)):
        half = afterwards(facts, steps[:count])
        after = afterwards(half, uninstall(half, "").steps)
        assert left(after) == below(layout.STATE, after), steps[count].said


def test_what_a_killed_write_left_goes_too() -> None:
    path = layout.settings_file("master")
    facts = with_file(set_up("worker"), "/etc/pibot/.master.env.new", "secret")
    half = Entry(half=True)
    facts = replace(facts, entries={**facts.entries, path: half})
    assert path in paths(uninstall(facts, "").steps)
    assert "/etc/pibot" in paths(uninstall(facts, "").steps)


OWN = [
    "/etc/pibot/notes.txt",
    "/etc/mosquitto/pibot/notes.txt",
    "/opt/pibot/skills",
    "/etc/systemd/system/pibot-master.service.d/camera.conf",
]


@pytest.mark.parametrize("path", OWN)
def test_a_file_of_somebodys_own_stays_and_is_named(path: str) -> None:
    facts = with_file(set_up("master"), path, "mine")
    made = uninstall(facts, "")
    folder, _, name = path.rpartition("/")
    assert not {path, folder} & set(paths(made.steps))
    assert any(folder in note and name in note for note in made.notes)


def test_the_copy_of_an_older_service_stays_and_is_named() -> None:
    facts = with_file(set_up("worker"), "/etc/pibot/backup-20260102-030405", "")
    made = uninstall(facts, "")
    assert any("/etc/pibot/backup-20260102-030405 stays" in note for note in made.notes)


def test_what_others_made_under_our_names_is_left_alone() -> None:
    facts = with_file(with_file(FRESH, UNIT, V3), CONF, "listener 1883\n")
    facts = with_file(facts, layout.COMMAND, "#!/bin/sh\n")
    facts = replace(facts, units={"pibot-worker.service": "active"})
    assert uninstall(facts, "").steps == []


def test_a_person_called_pibot_stays() -> None:
    person = replace(PIBOT, uid=1001, shell="/bin/bash")
    facts = set_up("master")
    assert "userdel pibot" in commands(uninstall(facts, "").steps)
    facts = replace(facts, users={**facts.users, "pibot": person})
    assert "userdel pibot" not in commands(uninstall(facts, "").steps)


def test_client_files_go_from_everybody_but_not_those_for_other_fleets() -> None:
    facts = set_up("master")
    anne, bob = (f"/home/{name}/.config/pibot/client.env" for name in ("anne", "bob"))
    clients = {
        **facts.clients,
        anne: given(anne, "MQTT_HOST=127.0.0.1\n").source,
        bob: given(bob, "MQTT_HOST=192.168.9.9\n").source,
    }
    for path in (anne, bob):
        facts = with_file(facts, path, "x")
    gone = paths(uninstall(replace(facts, clients=clients), "").steps)
    assert {anne, f"{PI.home}/.config/pibot/client.env"} <= set(gone)
    assert bob not in gone and "/home/bob/.config/pibot" not in gone


def test_a_service_that_has_failed_is_forgotten() -> None:
    facts = set_up("worker")
    failed = replace(facts, units={"pibot-worker.service": "failed"})
    assert commands(uninstall(failed, "").steps)[0] == "systemctl reset-failed pibot-worker.service"


def test_in_an_image_the_users_lines_go() -> None:
    facts = with_file(
        IMAGE, "/etc/passwd", "root:x:0:0::/root:/bin/sh\npibot:x:9:9:::\nz:x:8:8:::\n"
    )
    made = uninstall(facts, "")
    (step,) = made.steps
    assert b"pibot" not in getattr(step, "content", b"pibot")
    assert isinstance(step, Step) and commands(made.steps) == []


def test_where_nothing_is_there_is_nothing_to_do() -> None:
    made = uninstall(FRESH, "")
    assert made.steps == [] and made.notes == []
    assert FILE not in {entry.kind for entry in FRESH.entries.values()}
