"""What setup does about TLS and keys, on made-up machines: who trusts whom, and what root keeps."""

from __future__ import annotations

import base64
from dataclasses import replace
from pathlib import Path
from typing import Dict, Optional

import pytest

from deploy.made_up import (
    CA,
    CERTIFICATES,
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
from pibot.deploy import certificates, credentials, layout, machine, plan
from pibot.deploy.certificates import Certificates
from pibot.deploy.facts import Facts, Given, Wishes
from pibot.deploy.plan import Plan
from pibot.deploy.removal import uninstall
from pibot.deploy.settle import settle
from pibot.deploy.steps import File
from pibot.errors import ConfigError
from pibot.identities import Identities, Secret, env_text, identity, new_secret
from pibot.values import parse_env

CLIENT = "/home/pi/.config/pibot/client.env"
CONF = layout.MOSQUITTO_CONF


@pytest.fixture(scope="module")
def der() -> bytes:
    """A real certificate, which a worker's settings have to have."""
    made = certificates.prepare(FRESH, "home")
    assert made
    return made.der


def master(facts: Facts, made: Optional[Certificates] = CERTIFICATES) -> Plan:
    """Setup of a master with these certificates, and with Mosquitto's real configuration."""
    settled = settle(facts, Wishes("master"))
    access = credentials.prepare(facts, settled, made)
    return plan.install(facts, Wishes("master"), settled, access, machine.read_texts(facts))


def client(made: Plan) -> Dict[str, str]:
    return {k: v.text for k, v in parse_env(content(made, CLIENT), Path(CLIENT)).items()}


def worker_file(name: str, der: bytes, update_key: str = "a" * 64) -> Given:
    secret = Secret(name, "password", "key", update_key=update_key)
    return given(f"/home/pi/{name}.env", env_text(secret, "home", "192.168.1.10", 8883, ca=der))


# --- the master -----------------------------------------------------------------------------------


def test_people_come_with_tls_and_the_master_within_the_machine() -> None:
    made = master(FRESH)
    found = client(made)
    assert (found["MQTT_HOST"], found["PIBOT_CA"]) == ("127.0.0.1", CA)
    assert "MQTT_PORT" not in found and "MQTT_CA_FILE" not in found
    assert "PIBOT_CA" not in settings(made, "master")
    conf = content(made, CONF)
    assert "\nlistener 1883 127.0.0.1\n" in conf and "\nlistener 8883\n" in conf
    assert not [note for note in made.notes if "1883" in note]
    assert master(afterwards(FRESH, made.steps)) == Plan([], [])


def before_tls() -> Facts:
    """A master that an earlier version set up: its port is open, its client file knows no CA."""
    facts = afterwards(FRESH, master(FRESH, None).steps)
    conf = facts.entry(CONF).text.replace("listener 1883 127.0.0.1", "listener 1883")
    mine = facts.entry(CLIENT).text + "# mine\nPIBOT_TAGS=x\n"
    facts = changed(facts, CONF, content=conf.partition("listener 8883")[0].encode())
    facts = changed(facts, CLIENT, content=mine.encode())
    source = facts.clients[CLIENT]._replace(values=parse_env(mine, Path(CLIENT)))
    return replace(facts, clients={CLIENT: source})


def test_workers_from_before_tls_are_not_cut_off() -> None:
    facts = before_tls()
    made = master(facts)
    conf = content(made, CONF)
    assert "\nlistener 1883\n" in conf and "\nlistener 8883\n" in conf
    (note,) = made.notes
    assert note.startswith("Port 1883 stays open to the network without TLS")
    assert f"remove {CONF}, and run setup again" in note
    facts = afterwards(facts, made.steps)
    assert master(facts) == Plan([], [note])
    without = {path: entry for path, entry in facts.entries.items() if path != CONF}
    closed = master(replace(facts, entries=without))
    assert "\nlistener 1883 127.0.0.1\n" in content(closed, CONF) and closed.notes == []
    assert commands(closed.steps) == ["systemctl restart mosquitto.service"]


def test_a_client_file_from_before_tls_keeps_its_credentials() -> None:
    facts = before_tls()
    made = master(facts)
    old = {key: value.text for key, value in facts.clients[CLIENT].values.items()}
    assert client(made) == {**old, "PIBOT_CA": CA}
    assert "# mine\n" in content(made, CLIENT)
    assert layout.IDENTITIES not in paths(made.steps)


def test_with_certificates_of_ones_own_nobody_gets_the_fleets() -> None:
    made = master(FRESH, None)
    assert "PIBOT_CA" not in client(made)
    assert not {layout.AUTHORITY, *layout.CERTIFICATES} & set(paths(made.steps))
    assert "your own, and not for broker.pibot.internal: a machine" in made.notes[0]
    later = master(afterwards(FRESH, master(FRESH).steps), None)
    assert "PIBOT_CA" not in client(later)


def test_certificates_of_ones_own_for_the_brokers_name_are_handed_out() -> None:
    made = master(FRESH, CERTIFICATES._replace(authority=b""))
    assert client(made)["PIBOT_CA"] == CA and made.notes == []
    assert not {layout.AUTHORITY, *layout.CERTIFICATES} & set(paths(made.steps))


def test_another_authority_restarts_the_broker_and_mends_the_client_file() -> None:
    facts = afterwards(FRESH, master(FRESH).steps)
    other = CERTIFICATES._replace(ca=CERTIFICATES.ca.replace(b"MIIB", b"MIIC"), server=b"new")
    made = master(facts, other)
    assert client(made)["PIBOT_CA"] == CA.replace("MIIB", "MIIC")
    assert commands(made.steps) == ["systemctl restart mosquitto.service"]


def test_the_authority_waits_with_the_records_for_a_later_setup() -> None:
    facts = afterwards(FRESH, master(FRESH).steps)
    gone = afterwards(facts, uninstall(facts, "").steps)
    kept = gone.entry(layout.AUTHORITY_KEPT)
    assert (kept.content, kept.mode, kept.uid) == (CERTIFICATES.authority, 0o600, 0)
    assert not {layout.AUTHORITY, *layout.CERTIFICATES} & set(gone.entries)
    made = master(gone)
    order = paths(made.steps)
    assert order.index(layout.AUTHORITY) < order.index(layout.AUTHORITY_KEPT)
    back = afterwards(gone, made.steps)
    assert layout.AUTHORITY_KEPT not in back.entries
    assert back.entry(layout.AUTHORITY).content == CERTIFICATES.authority


def test_certificates_of_ones_own_outlive_the_setup() -> None:
    facts = afterwards(FRESH, master(FRESH).steps)
    facts = with_file(facts, layout.CERTIFICATES[0], "mine")
    made = uninstall(facts, "")
    assert not set(layout.CERTIFICATES) & set(paths(made.steps))
    assert any("ca.crt, server.crt, server.key" in note for note in made.notes)


# --- a worker -------------------------------------------------------------------------------------


def test_the_key_for_updates_is_kept_from_the_service(der: bytes) -> None:
    made = install(replace(WORKER, beside=(worker_file("worker-1", der),)), "worker")
    assert settings(made, "worker")["PIBOT_CA"] == base64.b64encode(der).decode()
    assert "PIBOT_UPDATE_KEY" not in content(made, layout.settings_file("worker"))
    (step,) = [s for s in made.steps if isinstance(s, File) and s.path == layout.UPDATE_KEY]
    assert (step.content, step.mode, step.owner) == (b"a" * 64 + b"\n", 0o600, ("root", "root"))
    said = "\n".join([*(s.said for s in made.steps), *made.notes, repr(made.steps)])
    assert "a" * 64 not in said
    facts = afterwards(WORKER, made.steps)
    assert install(replace(facts, beside=()), "worker") == Plan([], [])
    newer = install(replace(facts, beside=(worker_file("worker-1", der, "b" * 64),)), "worker")
    assert content(newer, layout.UPDATE_KEY) == "b" * 64 + "\n"
    assert layout.UPDATE_KEY in paths(uninstall(facts, "worker").steps)


def test_a_key_for_updates_that_is_none_is_an_error(der: bytes) -> None:
    with pytest.raises(ConfigError, match="PIBOT_UPDATE_KEY in .* must be 64 hex digits"):
        install(replace(WORKER, beside=(worker_file("w", der, "secret"),)), "worker")


def test_a_new_file_takes_the_place_of_a_file_of_the_users_authority(der: bytes) -> None:
    path = layout.settings_file("worker")
    facts = installed("worker")
    old = facts.entry(path).content + b"MQTT_CA_FILE=/etc/pibot/ca.crt\nMQTT_PORT=8884\n"
    facts = changed(facts, path, content=old)
    made = install(replace(facts, beside=(worker_file("worker-1", der),)), "worker")
    mine = settings(made, "worker")
    assert "PIBOT_CA" in mine and not {"MQTT_CA_FILE", "MQTT_PORT"} & set(mine)


@pytest.mark.parametrize("suffix", ["", "ab12"])
def test_a_worker_beside_its_master_needs_no_tls(suffix: str, der: bytes) -> None:
    """Also with credentials that are to follow older ones, which then have another user name."""
    facts = installed("master")
    known = Identities.parse(Path("i"), facts.entry(layout.IDENTITIES).text)
    secret = known.add("w", "worker-0")
    if suffix:
        secret = new_secret("w", "worker-0", suffix)
        known.follow(identity(secret))
    facts = with_file(facts, layout.IDENTITIES, known.text(), 0o600, PIBOT.uid)
    text = env_text(secret, "home", "192.168.1.10", 8883, ca=der)
    made = install(replace(facts, beside=(given("/home/pi/worker-0.env", text),)), "worker")
    mine = settings(made, "worker")
    assert mine["MQTT_HOST"] == "127.0.0.1" and "PIBOT_CA" not in mine
    assert install(afterwards(facts, made.steps), "worker") == Plan([], [])


# --- a broker whose users somebody else makes -----------------------------------------------------

THEIRS = "MQTT_HOST=broker.lan\nMQTT_USERNAME=me\nMQTT_PASSWORD=mine\n"
OTHERS = replace(FRESH, beside=(given("/home/pi/.env", THEIRS),))


def with_client(facts: Facts, text: str) -> Facts:
    source = given(CLIENT, text).source
    return replace(with_file(facts, CLIENT, text, 0o600, 1000), clients={CLIENT: source})


def test_there_a_person_gets_a_key_and_is_told_about_the_password() -> None:
    made = install(OTHERS, "master")
    found = client(made)
    assert (found["MQTT_HOST"], found["MQTT_USERNAME"]) == ("broker.lan", "pi")
    assert found["PIBOT_KEY"] in content(made, layout.IDENTITIES)
    assert [note for note in made.notes if CLIENT in note and "made up" in note]
    facts = afterwards(FRESH, made.steps)
    assert install(facts, "master").steps == []
    own = content(made, CLIENT).replace(found["MQTT_PASSWORD"], "the-brokers-own")
    assert install(with_client(facts, own), "master").steps == []


def test_there_a_client_file_made_by_hand_gets_a_key_and_keeps_the_rest() -> None:
    by_hand = "# mine\nMQTT_HOST=broker.lan\nMQTT_USERNAME=anne\nMQTT_PASSWORD=pass\n"
    made = install(with_client(OTHERS, by_hand), "master")
    text = content(made, CLIENT)
    key = client(made)["PIBOT_KEY"]
    assert text == f"{by_hand}PIBOT_KEY={key}\n"
    assert key in content(made, layout.IDENTITIES)


def test_there_a_user_name_that_no_client_can_have_gets_none() -> None:
    made = install(with_client(OTHERS, THEIRS.replace("=me", "='Anne B'")), "master")
    assert CLIENT not in paths(made.steps)
    assert [note for note in made.notes if "no client can have ('Anne B')" in note]
