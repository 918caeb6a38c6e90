"""Names, passwords and keys: the set, its file, and what a damaged one says."""

from __future__ import annotations

import json
import stat
from pathlib import Path
from typing import Tuple

import pytest

from pibot import config, identities
from pibot.deploy import broker_files
from pibot.errors import StoreError, UsageError
from pibot.identities import Identities, Secret, env_text
from pibot.mosquitto import passwd_text
from pibot.rights import acl_text

SECRET = Secret("worker-1", "pass", "ab" * 32)


def some() -> "Tuple[Identities, dict[str, Secret]]":
    """A master, two workers and a client."""
    made = Identities()
    names = (("m", "master"), ("w", "worker-1"), ("w", "worker-2"), ("c", "laptop"))
    return made, {name: made.add(kind, name) for kind, name in names}


# --- the set ------------------------------------------------------------------------------------


def test_what_was_saved_is_loaded(tmp_path: Path) -> None:
    path = tmp_path / "master" / "identities.json"
    made, secrets = some()
    made.save(path)
    found = Identities.load(path)
    assert [i.name for i in found.of_kind("w")] == ["worker-1", "worker-2"]
    assert found.get("laptop") == made.get("laptop")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert [p.name for p in path.parent.iterdir()] == ["identities.json"]
    text = path.read_text("utf-8")
    assert all(secret.password not in text for secret in secrets.values())


def test_no_file_is_no_names(tmp_path: Path) -> None:
    assert len(Identities.load(tmp_path / "identities.json")) == 0


def test_a_password_fits_its_own_line_only() -> None:
    made, secrets = some()
    for name, secret in secrets.items():
        line = made.get(name).password_line  # type: ignore[union-attr]
        assert identities.fits(line, secret.password)
        assert not identities.fits(line, secret.password + "x")
    assert not identities.fits("nonsense", "x")


def test_secrets_are_random_and_long() -> None:
    made = [identities.new_secret("w", "worker-1") for _ in range(100)]
    assert len({s.password for s in made}) == len({s.key for s in made}) == 100
    assert all(len(s.password) == 43 and len(s.key) == 64 for s in made)


def test_rotating_ends_the_old_password_and_keeps_the_kind() -> None:
    made, secrets = some()
    fresh = made.rotate("laptop")
    assert fresh.kind == "c"
    line = made.get("laptop").password_line  # type: ignore[union-attr]
    assert identities.fits(line, fresh.password)
    assert not identities.fits(line, secrets["laptop"].password)


def test_a_removed_name_is_free_again() -> None:
    made, _ = some()
    made.remove("worker-1")
    assert made.get("worker-1") is None
    made.add("c", "worker-1")
    for change in (made.remove, made.rotate):
        with pytest.raises(UsageError, match="has no credentials"):
            change("worker-9")


def test_a_name_that_is_rotated_has_two_sets_until_the_new_one_is_used() -> None:
    made, secrets = some()
    old, new = secrets["worker-1"], identities.new_secret("w", "worker-1", "ab12")
    made.follow(identities.identity(new))
    assert made.keys_of("worker-1") == [old.key, new.key]
    assert (old.user, new.user) == ("worker-1", "worker-1.ab12")
    assert made.admitted(old.user, old.password) == made.get("worker-1")
    assert made.admitted(new.user, new.password) == made.next_of("worker-1")
    for user, password in ((old.user, new.password), (new.user, old.password), ("worker-1.", "")):
        assert made.admitted(user, password) is None
    assert [one.user for one in made.users()][1:3] == ["worker-1", "worker-1.ab12"]
    made.promote("worker-1")
    assert made.keys_of("worker-1") == [new.key] and made.next_of("worker-1") is None
    assert made.admitted(old.user, old.password) is None
    with pytest.raises(UsageError, match="do not differ"):
        made.follow(identities.identity(new))
    again = identities.new_secret("w", "worker-1", "cd34")
    made.follow(identities.identity(again))
    made.replace(identities.identity(identities.new_secret("w", "worker-1", "ef56")))
    assert made.next_of("worker-1") is None
    made.follow(identities.identity(again))
    made.remove("worker-1")
    assert made.keys_of("worker-1") == [] and made.admitted(again.user, again.password) is None


def test_what_follows_is_saved_with_the_name(tmp_path: Path) -> None:
    made, _ = some()
    made.follow(identities.identity(identities.new_secret("w", "worker-1", "ab12")))
    made.save(tmp_path / "identities.json")
    found = Identities.load(tmp_path / "identities.json")
    assert found.users() == made.users() and found.next_of("worker-1") == made.next_of("worker-1")


def test_a_file_of_before_has_no_suffix_and_no_update_key(tmp_path: Path) -> None:
    made, _ = some()
    document = json.loads(made.text())
    for row in document["identities"]:
        del row["suffix"], row["update_key"]
    found = Identities.parse(tmp_path, json.dumps(document)).get("worker-1")
    assert found is not None and (found.user, found.update_key) == ("worker-1", "")


def test_only_a_worker_has_an_update_key() -> None:
    made, secrets = some()
    tablet = made.add("v", "tablet")
    assert len(secrets["worker-1"].update_key) == 64
    assert {one.update_key for one in (secrets["laptop"], secrets["master"], tablet)} == {""}
    assert [one.user for one in made.special()] == ["tablet"]


def test_a_secret_never_shows_in_a_repr() -> None:
    made, secrets = some()
    shown = repr([*secrets.values(), *made.users()])
    for hidden in (
        "$7$",
        *(s.password for s in secrets.values()),
        *(s.key for s in secrets.values()),
    ):
        assert hidden not in shown
    assert "w:worker-1" in shown


@pytest.mark.parametrize("kind", ["w", "c", "v"])
@pytest.mark.parametrize("name", ["worker-1", "laptop"])
def test_a_name_is_given_once_whatever_the_kind(kind: str, name: str) -> None:
    made, _ = some()
    with pytest.raises(UsageError, match="already"):
        made.add(kind, name)


@pytest.mark.parametrize(
    "name", ["", "../x", "a/b", "#", "+", "a:b", "A", "a\n", "ü", "-a", "a" * 33, "master"]
)
def test_an_unfit_name_is_refused(name: str) -> None:
    with pytest.raises(UsageError):
        Identities().add("w", name)
    with pytest.raises(UsageError):
        Identities().add("c", name)


def test_there_are_never_more_names_than_root_takes() -> None:
    names = Identities()
    kept = identities.identity(names.add("w", "w" * 32))
    with pytest.raises(UsageError, match="5,000 names already"):
        for number in range(identities.MAX_NAMES):
            names.enrol(kept._replace(name=f"{'w' * 27}{number:05d}"))
    assert len(names) == identities.MAX_NAMES
    for one in names.users():
        names.replace(one._replace(suffix="ab12"))
        names.follow(one._replace(suffix="cd34"))
    assert len(passwd_text(names)) <= broker_files.MAX_BYTES
    acl = acl_text("f" * 32, names.special())
    assert len(acl) <= broker_files.MAX_BYTES
    broker_files.check_acl(acl)
    assert len(names.text()) <= identities.MAX_BYTES


def test_a_line_that_would_add_a_user_is_refused() -> None:
    good = identities.identity(SECRET)
    for bad in ("", "plain", good.password_line + "\nmallory:x", good.password_line[:-1]):
        with pytest.raises(UsageError, match="malformed"):
            Identities().enrol(good._replace(password_line=bad))
    with pytest.raises(UsageError, match="malformed"):
        Identities().enrol(good._replace(key="two\nlines"))


# --- a file that is not as it should be -----------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "null",
        "{}",
        '{"version": 1}',
        '{"version": 1, "identities": 5}',
        '{"version": 1, "identities": [5]}',
        '{"version": 1, "identities": [{"name": "worker-1"}]}',
        "[" * 100_000,
        "\0" * 100,
    ],
)
def test_a_damaged_file_is_an_error_that_names_it(tmp_path: Path, text: str) -> None:
    path = tmp_path / "identities.json"
    path.touch(0o600)
    path.write_text(text)
    with pytest.raises(StoreError, match="identities.json is damaged"):
        Identities.load(path)


@pytest.mark.parametrize(
    "change",
    [
        {"kind": "x"},
        {"kind": "m"},
        {"name": "../x"},
        {"name": 5},
        {"password_line": "x"},
        {"key": None},
        {"name": "worker-2"},
        {"suffix": "x"},
        {"suffix": "ab12:x"},
        {"update_key": "x"},
        {"next": None},
        {"next": {}},
        {"next": []},
    ],
)
def test_a_row_that_does_not_fit_is_damage(tmp_path: Path, change: "dict[str, object]") -> None:
    path = tmp_path / "identities.json"
    made, _ = some()
    made.save(path)
    document = json.loads(path.read_text("utf-8"))
    row = next(r for r in document["identities"] if r["name"] == "worker-1")
    row.update(change)
    path.write_text(json.dumps(document))
    with pytest.raises(StoreError, match="damaged"):
        Identities.load(path)


@pytest.mark.parametrize(
    "change",
    [{"name": "worker-2"}, {"kind": "c"}, {"suffix": ""}, {"key": 5}, {"password_line": ""}],
)
def test_what_follows_must_fit_its_name(tmp_path: Path, change: "dict[str, object]") -> None:
    made, _ = some()
    made.follow(identities.identity(identities.new_secret("w", "worker-1", "ab12")))
    document = json.loads(made.text())
    row = next(r for r in document["identities"] if r["name"] == "worker-1")
    row["next"].update(change)
    with pytest.raises(StoreError, match="damaged"):
        Identities.parse(tmp_path / "identities.json", json.dumps(document))


def test_bytes_that_are_no_text_are_damage(tmp_path: Path) -> None:
    path = tmp_path / "identities.json"
    path.touch(0o600)
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(StoreError, match="damaged"):
        Identities.load(path)


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o644])
def test_a_file_open_to_others_is_refused_with_the_command(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "identities.json"
    some()[0].save(path)
    path.chmod(mode)
    with pytest.raises(StoreError, match=f"run: chmod 600 {path}"):
        Identities.load(path)


def test_a_directory_in_its_place_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "identities.json").mkdir()
    with pytest.raises(StoreError, match="cannot be read"):
        Identities.load(tmp_path / "identities.json")
    with pytest.raises(StoreError, match="cannot be written"):
        Identities().save(tmp_path / "identities.json")
    assert [p.name for p in tmp_path.iterdir()] == ["identities.json"]


# --- settings for the owner -----------------------------------------------------------------------


def load(tmp_path: Path, text: str, role: str = "worker") -> config.Settings:
    path = tmp_path / "made.env"
    path.touch(0o600)
    path.write_text(text)
    return config.load(role, {}, {"HOME": "/"}, path, Path("pibot.pyz"))


def test_a_workers_file_is_read_as_it_was_meant(tmp_path: Path) -> None:
    settings = load(tmp_path, env_text(SECRET, "garden", "192.168.1.10", 1883, None))
    assert (settings.worker_id, settings.fleet) == ("worker-1", "garden")
    assert (settings.mqtt_host, settings.mqtt_port) == ("192.168.1.10", 1883)
    assert (settings.mqtt_username, settings.mqtt_password) == ("worker-1", "pass")
    assert settings.key == SECRET.key and not settings.tls


@pytest.mark.parametrize("name", ["ca.crt", "my 'own' #1 $HOME \\ ca.crt"])
def test_the_ca_file_is_found_whatever_its_name(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("a certificate")
    settings = load(tmp_path, env_text(SECRET, "home", "fd00::1", 8883, name))
    assert settings.mqtt_ca_file == tmp_path / name
    assert (settings.mqtt_host, settings.mqtt_port) == ("fd00::1", 8883)


def test_only_another_port_than_usual_is_written() -> None:
    assert "MQTT_PORT" not in env_text(SECRET, "home", "pi", 1883, None)
    assert "MQTT_PORT" not in env_text(SECRET, "home", "pi", 8883, "ca.crt")
    assert "MQTT_PORT=8883\n" in env_text(SECRET, "home", "pi", 8883, None)


def test_a_client_has_no_worker_id() -> None:
    assert "WORKER_ID" not in env_text(SECRET._replace(kind="c"), "home", "pi", 1883, None)
