"""Which settings setup gives a role, on made-up machines: no file is read or written."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import List, Tuple

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
    worker_file,
)
from pibot.deploy import layout
from pibot.deploy.facts import Given
from pibot.deploy.plan import Plan
from pibot.deploy.steps import Mend
from pibot.errors import ConfigError, UsageError
from pibot.identities import Identities, env_text
from pibot.rights import acl_text


def test_the_masters_model_comes_from_the_file_beside_the_program() -> None:
    brought = given("/home/pi/.env", "VOLC_API_KEY=key-1\nMQTT_HOST=127.0.0.1\nMQTT_PASSWORD=own\n")
    made = install(replace(FRESH, beside=(brought,)), "master")
    mine = settings(made, "master")
    assert mine["VOLC_API_KEY"] == "key-1"
    assert mine["MQTT_PASSWORD"] != "own"


def test_what_stands_in_the_masters_file_stays_with_its_comments() -> None:
    facts = installed("master")
    path = layout.settings_file("master")
    text = f"# mine\nexport VOLC_API_KEY='key-1'  # of Anne\n\n{facts.entry(path).text}"
    facts = changed(facts, path, content=text.encode())
    assert install(facts, "master").steps == []
    brought = given("/home/pi/.env", "VOLC_API_KEY=key-2\nMODEL_NAME=m\n")
    made = install(replace(facts, beside=(brought,)), "master")
    assert content(made, path) == f"{text}MODEL_NAME=m\n"


def test_a_file_that_is_named_wins() -> None:
    facts = installed("master")
    path = layout.settings_file("master")
    facts = changed(facts, path, content=facts.entry(path).content + b"VOLC_API_KEY=key-1\n")
    named = given("/home/pi/new.env", "VOLC_API_KEY=key-2\nPIBOT_KEY=not-from-here\n")
    mine = settings(install(replace(facts, named=named), "master"), "master")
    assert mine["VOLC_API_KEY"] == "key-2"
    assert mine["PIBOT_KEY"] != "not-from-here"


def test_new_credentials_of_a_worker_win_and_the_rest_stays() -> None:
    facts = installed("worker")
    path = layout.settings_file("worker")
    facts = changed(facts, path, content=facts.entry(path).content + b"PIBOT_SLOTS=4\n")
    text = "WORKER_ID=worker-1\nMQTT_HOST=192.168.1.11\nMQTT_PASSWORD=new\nPIBOT_SLOTS=2\n"
    made = install(replace(facts, beside=(given("/home/pi/worker-1.env", text),)), "worker")
    mine = settings(made, "worker")
    assert mine["MQTT_PASSWORD"] == "new" and mine["MQTT_HOST"] == "192.168.1.11"
    assert mine["PIBOT_SLOTS"] == "4"


def test_a_worker_takes_its_file_and_the_rest_from_the_other() -> None:
    beside = (given("/home/pi/.env", "OPENAI_BASE_URL=http://10.0.0.9/v1\nOPENAI_MODEL=m\n"),)
    made = install(replace(WORKER, beside=(*beside, worker_file(mode=0o644))), "worker")
    mine = settings(made, "worker")
    assert mine["WORKER_ID"] == "worker-1" and mine["OPENAI_MODEL"] == "m"
    assert paths(made.steps, Mend) == ["/home/pi/worker-1.env"]


def test_a_workers_file_may_be_called_dot_env() -> None:
    made = install(replace(WORKER, beside=(worker_file(path="/home/pi/.env"),)), "worker")
    assert settings(made, "worker")["WORKER_ID"] == "worker-1"


BESIDE: List[Tuple[List[Given], type, List[str]]] = [
    ([], ConfigError, ["workers add worker-1", "/home/pi/pibot.pyz"]),
    ([given("/home/pi/.env", "VOLC_API_KEY=k\n")], ConfigError, ["workers add worker-1"]),
    (
        [worker_file("worker-1"), worker_file("worker-2")],
        UsageError,
        ["worker-1.env, worker-2.env", "--env-file /home/pi/worker-1.env"],
    ),
    (
        [given("/home/pi/w.env", "WORKER_ID=w\nMQTT_HOST=m\nPIBOT_SLOT=2\n")],
        ConfigError,
        ["PIBOT_SLOT", "/home/pi/w.env line 3", "PIBOT_SLOTS"],
    ),
    (
        [given("/home/pi/w.env", "WORKER_ID=w\nMQTT_HOST=m\nMQTT_PASSWORD=your_password\n")],
        ConfigError,
        ["MQTT_PASSWORD", "line 3", "placeholder"],
    ),
    (
        [given("/home/pi/w.env", "WORKER_ID=Bad_Name\nMQTT_HOST=m\n")],
        ConfigError,
        ["WORKER_ID", "line 1"],
    ),
    (
        [given("/home/pi/w.env", "WORKER_ID=w\nMQTT_HOST=m\nMQTT_CA_FILE=none.crt\n")],
        ConfigError,
        ["MQTT_CA_FILE", "/home/pi/none.crt"],
    ),
    (
        [given("/home/pi/w.env", "WORKER_ID=w\nMQTT_HOST=m\nPIBOT_SKILLS_DIR=/root/../home/x\n")],
        ConfigError,
        ["PIBOT_SKILLS_DIR", "no directory"],
    ),
]


@pytest.mark.parametrize(("beside", "kind", "words"), BESIDE)
def test_a_workers_file_that_does_not_serve_is_an_error(
    beside: List[Given], kind: type, words: List[str]
) -> None:
    with pytest.raises(kind) as caught:
        install(replace(WORKER, beside=tuple(beside)), "worker")
    for word in words:
        assert word in str(caught.value)
    assert "your_password" not in str(caught.value)


def test_files_for_other_workers_do_not_change_who_this_one_is() -> None:
    facts = installed("worker")
    other = worker_file("worker-2")
    made = install(replace(facts, beside=(other,)), "worker")
    assert made.steps == [] and "worker-2.env is for another worker" in made.notes[0]
    assert made.notes[0].endswith("add --env-file /home/pi/worker-2.env")
    rotated = given("/home/pi/worker-1.env", "WORKER_ID=worker-1\nMQTT_HOST=h\nPIBOT_KEY=new\n")
    made = install(replace(facts, beside=(rotated, other)), "worker")
    assert settings(made, "worker")["PIBOT_KEY"] == "new"
    made = install(replace(facts, named=other), "worker")
    assert settings(made, "worker")["WORKER_ID"] == "worker-2"


def test_a_worker_beside_its_master_needs_no_network() -> None:
    facts = installed("master")
    known = Identities.parse(Path("i"), facts.entry(layout.IDENTITIES).text)
    secret = known.add("w", "worker-0")
    facts = with_file(facts, layout.IDENTITIES, known.text(), 0o600, PIBOT.uid)
    text = env_text(secret, "home", "192.168.1.10", 1883, None)
    made = install(replace(facts, beside=(given("/home/pi/worker-0.env", text),)), "worker")
    assert settings(made, "worker")["MQTT_HOST"] == "127.0.0.1"
    assert made.notes == ["The master is on this machine: the worker finds it at 127.0.0.1."]
    again = install(afterwards(facts, made.steps), "worker")
    assert again == Plan([], [])
    other = install(replace(facts, beside=(worker_file("worker-0"),)), "worker")
    assert settings(other, "worker")["MQTT_HOST"] == "192.168.1.10", "of another master"


def test_on_the_masters_own_machine_the_error_says_the_two_commands() -> None:
    with pytest.raises(ConfigError, match="workers add worker-1`, then.*setup --role worker"):
        install(installed("master"), "worker")


def test_a_worker_beside_a_master_without_passwords_needs_no_file() -> None:
    made = install(replace(FRESH, mosquitto=False), "master", broker=False)
    assert settings(made, "master") == {"PIBOT_FLEET": "home"}
    assert "client.env" not in " ".join(paths(made.steps))
    facts = afterwards(replace(FRESH, mosquitto=False), made.steps)
    assert "pibot-worker.service" in " ".join(commands(install(facts, "worker").steps))


def test_a_setting_of_somebody_else_is_left_out_and_named() -> None:
    text = "VOLC_API_KEY=k\nFLASK_DEBUG=1\nPIBOT_STATE_DIR=/home/pi/state\n"
    made = install(replace(FRESH, beside=(given("/home/pi/.env", text),)), "master")
    assert set(settings(made, "master")) & {"FLASK_DEBUG", "PIBOT_STATE_DIR"} == set()
    said = "\n".join(made.notes)
    assert "FLASK_DEBUG in /home/pi/.env line 2" in said and "PIBOT_STATE_DIR" in said


def test_a_fleets_name_is_not_changed_by_the_way() -> None:
    with pytest.raises(UsageError, match="'home'"):
        install(installed("master"), "master", fleet="lab")
    assert install(installed("master"), "master", fleet="home").steps == []


def test_the_fleet_whose_records_are_here_comes_back() -> None:
    acl = layout.STATE_BROKER + "/acl"
    left = with_file(FRESH, acl, acl_text("lab"), 0o600)
    assert settings(install(left, "master"), "master")["PIBOT_FLEET"] == "lab"
    assert settings(install(left, "master", fleet="home"), "master")["PIBOT_FLEET"] == "home"
    torn = with_file(FRESH, acl, "user master\n", 0o600)
    assert settings(install(torn, "master"), "master")["PIBOT_FLEET"] == "home"
