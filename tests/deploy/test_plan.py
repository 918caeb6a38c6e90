"""What setup decides, on made-up machines: no file is read or written."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, List, Optional, Tuple

import pytest

from deploy.made_up import (
    FRESH,
    PIBOT,
    WORKER,
    afterwards,
    changed,
    commands,
    content,
    given,
    install,
    installed,
    paths,
    settings,
    with_file,
)
from pibot.deploy import layout
from pibot.deploy.facts import Account, Facts, Old
from pibot.deploy.previous import read
from pibot.deploy.steps import File, Folder, Give, Link, Program, Remove
from pibot.deploy.tree import FILE, Entry
from pibot.errors import ConfigError

FRESH_TO_PI = replace(FRESH, may_give=False)  # a dry run without sudo
RESTARTED = "systemctl restart pibot-master.service"


# --- a fresh machine --------------------------------------------------------------------------


def test_a_fresh_master_gets_everything_of_the_layout() -> None:
    made = install(FRESH, "master")
    assert paths(made.steps, File) == [
        "/etc/sysusers.d/pibot.conf",
        "/etc/pibot/ca.key",
        "/var/lib/pibot/master/identities.json",
        "/var/lib/pibot/broker/passwd",
        "/var/lib/pibot/broker/acl",
        "/etc/pibot/master.env",
        "/etc/mosquitto/pibot/passwd",
        "/etc/mosquitto/pibot/acl",
        "/etc/mosquitto/pibot/ca.crt",
        "/etc/mosquitto/pibot/server.key",
        "/etc/mosquitto/pibot/server.crt",
        "/etc/mosquitto/conf.d/pibot.conf",
        "/etc/systemd/system/pibot-broker.path",
        "/etc/systemd/system/pibot-broker.service",
        "/etc/systemd/system/pibot-master.service",
        "/home/pi/.config/pibot/client.env",
    ]
    assert paths(made.steps, Program) == ["/opt/pibot/pibot.pyz"]
    assert paths(made.steps, Link) == [
        "/usr/local/bin/pibot.pyz",
        "/etc/systemd/system/x.target.wants/pibot-broker.path",
        "/etc/systemd/system/x.target.wants/pibot-master.service",
    ]
    assert commands(made.steps) == [
        "systemd-sysusers /etc/sysusers.d/pibot.conf",
        "systemctl daemon-reload",
        "systemctl restart mosquitto.service",
        "systemctl restart pibot-broker.path",
        "systemctl restart pibot-master.service",
    ]


def test_a_fresh_worker_gets_no_file_of_the_master() -> None:
    made = install(WORKER, "worker")
    assert paths(made.steps, File) == [
        "/etc/sysusers.d/pibot.conf",
        "/etc/pibot/worker.env",
        "/etc/systemd/system/pibot-worker.service",
        "/etc/systemd/system/pibot-update.path",
        "/etc/systemd/system/pibot-update.service",
    ]
    assert commands(made.steps)[-1] == "systemctl restart pibot-worker.service"


OWNERS = [
    ("/var/lib/pibot", 0o700, ("pibot", "pibot")),
    ("/var/lib/pibot/master/identities.json", 0o600, ("pibot", "pibot")),
    ("/var/lib/pibot/broker/passwd", 0o600, ("pibot", "pibot")),
    ("/var/cache/pibot", 0o700, ("pibot", "pibot")),
    ("/etc/pibot", 0o755, ("root", "root")),
    ("/etc/pibot/master.env", 0o600, ("root", "root")),
    ("/etc/mosquitto/pibot/passwd", 0o640, ("root", "mosquitto")),
    ("/etc/pibot/ca.key", 0o600, ("root", "root")),
    ("/etc/mosquitto/pibot/server.key", 0o640, ("root", "mosquitto")),
    ("/etc/mosquitto/pibot/server.crt", 0o644, ("root", "root")),
    ("/etc/mosquitto/pibot/ca.crt", 0o644, ("root", "root")),
    ("/etc/mosquitto/conf.d/pibot.conf", 0o644, ("root", "root")),
    ("/etc/systemd/system/pibot-master.service", 0o644, ("root", "root")),
    ("/home/pi/.config/pibot", 0o700, (1000, 1000)),
    ("/home/pi/.config/pibot/client.env", 0o600, (1000, 1000)),
]


@pytest.mark.parametrize(("path", "mode", "owner"), OWNERS)
def test_each_path_has_its_mode_and_owner(path: str, mode: int, owner: Tuple[Any, Any]) -> None:
    steps = [s for s in install(FRESH, "master").steps if isinstance(s, (File, Folder))]
    (step,) = [s for s in steps if s.path == path]
    assert (step.mode, step.owner) == (mode, owner)


def test_the_files_of_a_master_fit_together() -> None:
    made = install(FRESH, "master", fleet="lab")
    mine = settings(made, "master")
    assert mine["PIBOT_FLEET"] == "lab" and mine["MQTT_HOST"] == "127.0.0.1"
    assert mine["PIBOT_KEY"] in content(made, layout.IDENTITIES)
    assert mine["MQTT_PASSWORD"] not in content(made, layout.IDENTITIES)
    client = content(made, "/home/pi/.config/pibot/client.env")
    assert "MQTT_USERNAME=pi\n" in client and "PIBOT_FLEET=lab\n" in client
    for name in ("passwd", "acl"):
        theirs = content(made, f"/etc/mosquitto/pibot/{name}")
        assert theirs == content(made, f"/var/lib/pibot/broker/{name}")
    assert content(made, "/etc/mosquitto/pibot/passwd").count(":$7$101$") == 2
    assert " pibot/1/lab/" in content(made, "/etc/mosquitto/pibot/acl")


def test_no_secret_is_said() -> None:
    for facts, role in ((FRESH, "master"), (WORKER, "worker")):
        made = install(facts, role)
        values = settings(made, role)
        said = "\n".join([*(step.said for step in made.steps), *made.notes, repr(made.steps)])
        for key in ("MQTT_PASSWORD", "PIBOT_KEY"):
            assert len(values[key]) > 5 and values[key] not in said


# --- the second time ---------------------------------------------------------------------------


@pytest.mark.parametrize("role", ["master", "worker"])
def test_a_second_setup_has_nothing_to_do(role: str) -> None:
    assert install(installed(role), role).steps == []


DAMAGED = [
    # what is wrong now, what is written, which commands run
    ("/etc/pibot/master.env", {"mode": 0o644}, [RESTARTED]),
    ("/etc/pibot/master.env", {"uid": 1000}, [RESTARTED]),
    (layout.PROGRAM, {"mode": 0o700}, [RESTARTED]),
    (
        "/etc/systemd/system/pibot-master.service",
        {"content": b"LoadCredential=pibot.env:/etc/pibot/master.env\n"},
        ["systemctl daemon-reload", RESTARTED],
    ),
    ("/etc/mosquitto/pibot/passwd", {"content": b""}, ["systemctl reload mosquitto.service"]),
    ("/etc/mosquitto/pibot/acl", {"gid": 0}, ["systemctl reload mosquitto.service"]),
    (
        "/etc/mosquitto/conf.d/pibot.conf",
        {"content": b"#"},
        ["systemctl restart mosquitto.service"],
    ),
    ("/etc/mosquitto/conf.d/pibot.conf", {"half": True}, ["systemctl restart mosquitto.service"]),
    ("/etc/mosquitto/pibot/server.key", {"mode": 0o644}, ["systemctl restart mosquitto.service"]),
    (layout.AUTHORITY, {"mode": 0o644}, []),
    ("/var/lib/pibot/broker/passwd", {"mode": 0o644}, []),
    ("/home/pi/.config/pibot/client.env", {"mode": 0o644}, []),
    (layout.COMMAND, {"content": b"/elsewhere"}, []),
]


@pytest.mark.parametrize(("path", "what", "runs"), DAMAGED)
def test_what_is_wrong_is_mended_and_nothing_else(
    path: str, what: "dict[str, Any]", runs: List[str]
) -> None:
    made = install(changed(installed("master"), path, **what), "master")
    touched = [p for p in paths(made.steps) if p != layout.IDENTITIES]
    assert touched == ([path] if "client.env" not in path else [])
    assert commands(made.steps) == runs


def test_a_service_that_does_not_run_is_started() -> None:
    facts = installed("master")
    down = replace(facts, units={**facts.units, "pibot-master.service": "failed"})
    assert commands(install(down, "master").steps) == [RESTARTED]


def test_what_systemd_has_given_up_is_started_again() -> None:
    facts = installed("master")
    units = {"pibot-broker.path": "failed", "pibot-broker.service": "failed"}
    down = replace(facts, units={**facts.units, **units})
    assert commands(install(down, "master").steps) == [
        "systemctl reset-failed pibot-broker.service",
        "systemctl restart pibot-broker.path",
    ]


def test_after_an_interrupted_setup_everything_is_started_anew() -> None:
    unfinished = changed(installed("master"), layout.AT_WORK, kind=FILE)
    assert commands(install(unfinished, "master").steps) == [
        "systemctl daemon-reload",
        "systemctl restart mosquitto.service",
        "systemctl restart pibot-broker.path",
        RESTARTED,
    ]


def test_a_new_program_restarts_the_other_role_as_well() -> None:
    facts = installed("master")
    units = {**facts.units, "pibot-worker.service": "active"}
    made = install(replace(facts, units=units, same_program=False), "master")
    assert commands(made.steps) == [RESTARTED, "systemctl restart pibot-worker.service"]


def test_the_identities_change_only_while_the_master_is_stopped() -> None:
    anne = Account("anne", 1001, 1001, "/home/anne")
    made = install(replace(installed("master"), person=anne), "master")
    runs = commands(made.steps)
    assert runs[0] == "systemctl stop pibot-master.service" and runs[-1] == RESTARTED
    assert made.steps[0].said == "stop pibot-master.service"
    names = [line.split(":")[0] for line in content(made, "/etc/mosquitto/pibot/passwd").split()]
    assert names == ["master", "anne", "pi"]


def test_records_of_an_earlier_setup_are_taken_up_again() -> None:
    facts = installed("master")
    kept = {p: e for p, e in facts.entries.items() if p.startswith("/var/lib")}
    state = kept["/var/lib/pibot"]._replace(uid=0, gid=0)
    again = replace(FRESH, entries={**FRESH.entries, **kept, "/var/lib/pibot": state})
    made = install(again, "master")
    assert paths(made.steps, Give) == ["/var/lib/pibot"]
    mine = settings(made, "master")
    assert mine["PIBOT_KEY"] in content(made, layout.IDENTITIES)
    assert mine["PIBOT_KEY"] not in facts.entry(layout.IDENTITIES).text
    assert install(afterwards(again, made.steps), "master").steps == []


# --- the person --------------------------------------------------------------------------------

LOGINS = [
    ("pi", "pi"),
    ("Anne.Müller", "anne-m-ller"),
    ("DOMAIN\\bob", "domain-bob"),
    ("master", "user"),
    ("_", "user"),
    ("-rf", "rf"),
    ("x" * 40, "x" * 32),
]


@pytest.mark.parametrize(("login", "name"), LOGINS)
def test_a_login_becomes_a_clients_name(login: str, name: str) -> None:
    person = Account(login, 1000, 1000, "/home/pi")
    made = install(replace(FRESH, person=person), "master")
    assert f"MQTT_USERNAME={name}\n" in content(made, "/home/pi/.config/pibot/client.env")


def test_a_name_that_is_a_workers_is_not_taken() -> None:
    made = install(FRESH, "master")
    text = content(made, layout.IDENTITIES).replace('"kind": "c"', '"kind": "w"')
    facts = with_file(FRESH, layout.IDENTITIES, text)
    assert "MQTT_USERNAME=pi-2\n" in content(
        install(facts, "master"), "/home/pi/.config/pibot/client.env"
    )


def test_a_client_file_for_another_fleet_is_left_alone() -> None:
    path = "/home/pi/.config/pibot/client.env"
    theirs = given(path, "MQTT_HOST=192.168.9.9\nMQTT_USERNAME=pi\nMQTT_PASSWORD=x\n").source
    made = install(replace(FRESH, clients={path: theirs}), "master")
    assert path not in paths(made.steps)
    assert any(path in note for note in made.notes)


def test_without_a_person_there_is_no_client_file() -> None:
    made = install(replace(FRESH, person=None), "master")
    assert not [path for path in paths(made.steps) if "client.env" in path]


# --- the broker --------------------------------------------------------------------------------


def test_without_mosquitto_the_error_says_what_to_install() -> None:
    with pytest.raises(ConfigError, match="sudo apt install mosquitto.*--no-broker"):
        install(replace(FRESH, mosquitto=False), "master")


def test_a_broker_with_settings_of_the_users_own_is_not_touched() -> None:
    busy = replace(FRESH, obstacle="/etc/mosquitto/conf.d/ha.conf line 3 says 'listener'")
    with pytest.raises(ConfigError, match="ha.conf line 3.*docs/own-broker.md"):
        install(busy, "master")
    made = install(busy, "master", broker=False)
    assert not [path for path in paths(made.steps) if "mosquitto" in path or "broker" in path]


def test_a_broker_elsewhere_gets_its_users_by_hand() -> None:
    brought = given("/home/pi/.env", "MQTT_HOST=broker.lan\n")
    made = install(replace(FRESH, beside=(brought,), mosquitto=False), "master")
    mine = settings(made, "master")
    assert mine["MQTT_HOST"] == "broker.lan" and len(mine["MQTT_PASSWORD"]) > 40
    assert "/etc/mosquitto/pibot/passwd" not in paths(made.steps)
    assert "/var/lib/pibot/broker/passwd" in paths(made.steps)
    assert any("broker.lan" in note for note in made.notes)
    assert install(afterwards(FRESH, made.steps), "master").steps == []


def test_a_password_at_a_broker_of_ones_own_stays() -> None:
    text = "MQTT_HOST=broker.lan\nMQTT_USERNAME=me\nMQTT_PASSWORD=mine\nPIBOT_KEY=any-word\n"
    made = install(replace(FRESH, beside=(given("/home/pi/.env", text),)), "master")
    mine = settings(made, "master")
    assert (mine["MQTT_USERNAME"], mine["MQTT_PASSWORD"]) == ("me", "mine")
    assert mine["PIBOT_KEY"] in content(made, layout.IDENTITIES)
    assert install(afterwards(FRESH, made.steps), "master").steps == []


def test_mosquitto_is_enabled_and_started_where_it_is_not() -> None:
    facts = replace(FRESH, entries={}, units={})
    runs = commands(install(facts, "master").steps)
    assert "systemctl enable mosquitto.service" in runs


# --- the user ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "person",
    [Account("pibot", 1001, 1001, "/home/pibot", "/bin/bash"), replace(PIBOT, shell="/bin/bash")],
)
def test_a_person_called_pibot_does_not_become_the_services_user(person: Account) -> None:
    with pytest.raises(ConfigError, match="usermod --login"):
        install(replace(FRESH, users={**FRESH.users, "pibot": person}), "master")


def test_without_sysusers_the_user_is_added() -> None:
    (add,) = [
        c
        for c in commands(install(replace(FRESH, sysusers=False), "master").steps)
        if "useradd" in c
    ]
    assert "--system" in add and "/usr/sbin/nologin" in add and "--user-group" in add


IMAGE = replace(FRESH, root="/mnt/image", systemd=False, sysusers=False, person=None, units={})


def test_in_an_image_the_user_is_written_into_its_files() -> None:
    facts = with_file(IMAGE, "/etc/passwd", "root:x:0:0::/root:/bin/sh")
    facts = with_file(facts, "/etc/group", "root:x:0:\nlast:x:999:\n")
    facts = replace(facts, groups={"root": 0, "last": 999})
    made = install(facts, "master")
    assert commands(made.steps) == []
    assert content(made, "/etc/passwd").splitlines()[1].startswith("pibot:x:998:998:PiBot:")
    assert content(made, "/etc/group").splitlines()[2] == "pibot:x:998:"
    assert "/etc/shadow" not in paths(made.steps)


def test_what_an_interrupted_removal_left_in_an_image_is_made_good() -> None:
    text = "root:x:0:\npibot:x:9:\n"
    half = Entry(FILE, 0o644, content=text.encode(), half=True)
    facts = replace(IMAGE, entries={**IMAGE.entries, "/etc/group": half})
    assert content(install(facts, "master"), "/etc/group") == text


def test_an_empty_image_gets_no_user_file() -> None:
    made = install(IMAGE, "master")
    assert [p for p in paths(made.steps) if p in layout.USER_FILES] == []


def test_who_is_not_root_gives_nothing_away_and_is_told() -> None:
    made = install(replace(IMAGE, may_give=False), "master")
    assert any("Only root" in note for note in made.notes)
    assert not any("Only root" in note for note in install(FRESH_TO_PI, "master").notes)
    again = replace(afterwards(IMAGE, made.steps), may_give=False)
    mine = {path: entry._replace(uid=1234, gid=1234) for path, entry in again.entries.items()}
    assert install(replace(again, entries=mine), "master").steps == []


# --- what was deployed by hand ------------------------------------------------------------------

V3 = """\
[Service]
User=pi
WorkingDirectory=/home/pi/pibot
ExecStart=/usr/bin/python3 /home/pi/pibot/pibot.pyz --role worker --worker-id worker-7 --port 5000
"""
UNIT = "/etc/systemd/system/pibot-worker.service"


def by_hand(text: str, worker_id: Optional[str] = None) -> Facts:
    values = given("/home/pi/pibot/.env", text).source._replace(lenient=True)
    first = given(UNIT, f"WORKER_ID={worker_id}\n" if worker_id else "").source
    sources = (first._replace(lenient=True), values)
    files = ((UNIT, V3.encode()), ("/home/pi/pibot/.env", text.encode()))
    old = Old(UNIT, read(V3, {"pi": "/home/pi"}), files, sources)
    facts = with_file(WORKER, UNIT, V3)
    return replace(facts, old=old, units={"pibot-worker.service": "active"})


def test_an_older_service_is_kept_stopped_and_replaced() -> None:
    facts = by_hand("VOLC_API_KEY=k\nMODEL_NAME=m\n")
    other = "/etc/systemd/system/default.target.wants/pibot-worker.service"
    facts = replace(with_file(facts, other, ""), links=(other,))
    made = install(facts, "worker")
    backup = "/etc/pibot/backup-20260102-030405"
    kept = {s.path: s.mode for s in made.steps if isinstance(s, File) and backup in s.path}
    assert kept == {f"{backup}{UNIT}": 0o600, f"{backup}/home/pi/pibot/.env": 0o600}
    assert content(made, f"{backup}{UNIT}") == V3
    assert paths(made.steps, Remove) == [other]
    assert commands(made.steps)[0] == "systemctl stop pibot-worker.service"
    assert commands(made.steps)[-1] == "systemctl restart pibot-worker.service"
    assert settings(made, "worker")["VOLC_API_KEY"] == "k"
    said = "\n".join(made.notes)
    assert "/home/pi/pibot/pibot.pyz as pi" in said and "called worker-7" in said


def test_of_an_older_service_what_does_not_fit_is_left_out_and_named() -> None:
    text = (
        "VOLC_API_KEY=your_actual_api_key_here\nVOLC_BASE_URL=https://ark.example/v3\n"
        "WORKER_1_IP=192.168.1.xxx\nWORKER_2_IP=192.168.1.12\nDEBUG=1\nPIBOT_MODE=fast\n"
    )
    made = install(by_hand(text), "worker")
    mine = settings(made, "worker")
    assert set(mine) & {"VOLC_API_KEY", "VOLC_BASE_URL", "WORKER_1_IP", "DEBUG"} == set()
    assert mine["WORKER_2_IP"] == "192.168.1.12"
    said = "\n".join(made.notes)
    for key in ("VOLC_API_KEY", "VOLC_BASE_URL", "WORKER_1_IP", "DEBUG", "PIBOT_MODE"):
        assert f"{key} in /home/pi/pibot/.env line " in said
    assert "your_actual_api_key_here" not in said


def test_an_older_worker_without_new_credentials_is_told_its_own_name() -> None:
    with pytest.raises(ConfigError, match="workers add worker-7"):
        install(replace(by_hand("VOLC_API_KEY=k\n", "worker-7"), beside=()), "worker")


def test_the_other_role_of_an_older_deployment_is_left_alone() -> None:
    made = install(with_file(FRESH, UNIT, V3), "master")
    assert UNIT not in paths(made.steps)
