"""Names, passwords and keys: the file, what Mosquitto makes of it, and what a damaged one says."""

from __future__ import annotations

import json
import os
import queue
import signal
import stat
import threading
from pathlib import Path
from typing import Iterator, List, Tuple

import paho.mqtt.client as mqtt
import pytest

from fleet_processes import WAIT_S, FleetProcesses, Process, wait_for
from pibot import config, identities
from pibot.deploy import broker_files
from pibot.errors import StoreError, UsageError
from pibot.identities import Identities, Secret, env_text, write_broker_files

ROOT = "pibot/1/home/"
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


@pytest.mark.parametrize("kind", ["w", "c"])
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
    assert len(identities.passwd_text(names)) <= broker_files.MAX_BYTES
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


class Party:
    """One connection to the broker; what it hears comes in order."""

    def __init__(self, port: int, name: str, password: str) -> None:
        self.heard: "queue.Queue[Tuple[str, bytes]]" = queue.Queue()
        self.gone = threading.Event()
        self.answer: "queue.Queue[bool]" = queue.Queue()
        self._granted = threading.Event()
        self._client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, reconnect_on_failure=False)
        self._client.username_pw_set(name, password)
        self._client.on_connect = lambda c, u, f, reason, p: self.answer.put(not reason.is_failure)
        self._client.on_disconnect = lambda *_: self.gone.set()
        self._client.on_subscribe = lambda *_: self._granted.set()
        self._client.on_message = lambda c, u, m: self.heard.put((m.topic, m.payload))
        self._client.connect("127.0.0.1", port)
        self._client.loop_start()
        self.is_in = self.answer.get(timeout=WAIT_S)

    def subscribe(self, topic: str) -> None:
        self._granted.clear()
        self._client.subscribe(topic, 1)
        assert self._granted.wait(WAIT_S)

    def publish(self, *topics: str) -> None:
        """Publish on each topic; the broker acknowledges also what it drops."""
        for topic in topics:
            self._client.publish(topic, topic.encode(), 1).wait_for_publish(WAIT_S)

    def hear(self) -> str:
        return self.heard.get(timeout=WAIT_S)[0]

    def close(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()


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


def test_everyone_speaks_on_topics_of_the_own_name_only(closed: Closed) -> None:
    """A denied publish is acknowledged and dropped: what follows it on the connection arrives."""
    master = closed.join("master")
    master.subscribe(ROOT + "#")
    tries = {
        "worker-1": [f"w/worker-1/{what}" for what in ("evt", "hb", "prog", "will")],
        "laptop": ["c/laptop/req"],
    }
    forbidden = [
        *(f"w/worker-2/{what}" for what in ("evt", "hb", "prog", "will", "cmd")),
        *("w/worker-1/cmd", "c/laptop/rep", "c/worker-2/req", "m/all", "view/fleet", "ask"),
        *("view/worker/worker-1", "answer/g1", "w/worker-1/cmd/x", "x"),
    ]
    for name, allowed in tries.items():
        party = closed.join(name)
        party.publish(*(ROOT + t for t in forbidden))
        party.publish("pibot/1/other/m/all", *(ROOT + t for t in allowed))
        assert [master.hear() for _ in allowed] == [ROOT + t for t in allowed]
    master.publish(ROOT + "m/all")
    assert master.hear() == ROOT + "m/all"


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


@pytest.mark.parametrize("change", ["remove", "rotate"])
def test_a_name_that_ends_is_thrown_out_and_the_others_stay(closed: Closed, change: str) -> None:
    master, one, two = (closed.join(n) for n in ("master", "worker-1", "worker-2"))
    getattr(closed.made, change)("worker-1")
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
