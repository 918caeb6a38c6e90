"""`setup` below --prefix: the real program, real files, as root and as an ordinary user."""

from __future__ import annotations

import json
import os
import random
import shutil
import stat
import subprocess
import sys
import time
from pathlib import Path
from typing import Dict, List

import pytest

from fleet_processes import ROOT, environment, program
from image import WORKER_1, Image, with_v3
from terminal import CTRL_C, Terminal

IS_ROOT = os.geteuid() == 0
OTHER = 54_321
QUESTION = "Go on? [y/N] "


@pytest.fixture
def image(tmp_path: Path) -> Image:
    return Image(tmp_path)


MASTER_FILES = [
    ("/etc/mosquitto/conf.d/pibot.conf", 0o644),
    ("/etc/mosquitto/pibot/acl", 0o640),
    ("/etc/mosquitto/pibot/ca.crt", 0o644),
    ("/etc/mosquitto/pibot/passwd", 0o640),
    ("/etc/mosquitto/pibot/server.crt", 0o644),
    ("/etc/mosquitto/pibot/server.key", 0o640),
    ("/etc/pibot/ca.key", 0o600),
    ("/etc/pibot/master.env", 0o600),
    ("/etc/sysusers.d/pibot.conf", 0o644),
    ("/etc/systemd/system/multi-user.target.wants/pibot-broker.path", 0o777),
    ("/etc/systemd/system/multi-user.target.wants/pibot-master.service", 0o777),
    ("/etc/systemd/system/pibot-broker.path", 0o644),
    ("/etc/systemd/system/pibot-broker.service", 0o644),
    ("/etc/systemd/system/pibot-master.service", 0o644),
    ("/opt/pibot/pibot.pyz", 0o755),
    ("/usr/local/bin/pibot.pyz", 0o777),
    ("/var/lib/pibot/broker/acl", 0o600),
    ("/var/lib/pibot/broker/passwd", 0o600),
    ("/var/lib/pibot/master/identities.json", 0o600),
]
PRIVATE = ["/var/lib/pibot", "/var/lib/pibot/master", "/var/lib/pibot/broker", "/var/cache/pibot"]


def test_a_master_in_an_empty_directory(image: Image) -> None:
    done = image.setup("--role", "master", "--yes")
    modes = {name: stat.S_IMODE((image.root / name[1:]).lstat().st_mode) for name in image.files()}
    assert modes == dict(MASTER_FILES)
    for name in PRIVATE:
        assert stat.S_IMODE((image.root / name[1:]).stat().st_mode) == 0o700
    assert (image.root / "opt/pibot/pibot.pyz").read_bytes() == program().read_bytes()
    values = image.settings("master")
    for key in ("MQTT_PASSWORD", "PIBOT_KEY"):
        assert values[key] and values[key] not in done.stdout + done.stderr


@pytest.mark.parametrize("role", ["master", "worker"])
def test_a_second_setup_changes_nothing(role: str, image: Image) -> None:
    image.beside("worker-1.env", WORKER_1)
    image.setup("--role", role, "--yes")
    before = image.snapshot()
    done = image.setup("--role", role, "--yes")
    assert done.stdout.startswith("nothing to change\n")
    assert image.snapshot() == before


@pytest.mark.parametrize("args", [["--dry-run"], ["--dry-run", "--yes"]])
def test_a_dry_run_changes_nothing(args: List[str], image: Image) -> None:
    worker = image.beside("worker-1.env", WORKER_1, 0o644)
    for role in ("master", "worker"):
        done = image.setup("--role", role, *args)
        assert "This would be done:\n" in done.stdout and "/opt/pibot/pibot.pyz" in done.stdout
    assert image.snapshot() == {}
    assert stat.S_IMODE(worker.stat().st_mode) == 0o644
    image.setup("--role", "master", "--yes")
    before = image.snapshot()
    assert "  remove /etc/pibot/master.env\n" in image.setup("--uninstall", *args).stdout
    assert image.snapshot() == before


def test_with_json_there_is_one_document(image: Image) -> None:
    planned = json.loads(image.setup("--role", "master", "--dry-run", "--json").stdout)
    assert planned["done"] is False and image.snapshot() == {}
    done = json.loads(image.setup("--role", "master", "--yes", "--json").stdout)
    assert done["done"] is True and done["steps"] == planned["steps"]
    assert {"does": "program", "said": planned["steps"][2]["said"]} in planned["steps"]
    again = json.loads(image.setup("--role", "master", "--yes", "--json").stdout)
    assert again["steps"] == []


def test_uninstall_leaves_the_records_and_says_so(image: Image) -> None:
    image.beside("worker-1.env", WORKER_1)
    for role in ("master", "worker"):
        image.setup("--role", role, "--yes")
    image.setup("--uninstall", "--role", "worker", "--yes")
    assert image.setup("--role", "master", "--yes").stdout.startswith("nothing to change\n")
    done = image.setup("--uninstall", "--yes")
    assert "/var/lib/pibot stays" in done.stdout
    assert [name for name in image.files() if not name.startswith("/var/lib/pibot/")] == []
    assert not (image.root / "etc/sysusers.d").exists()
    assert "pibot" not in " ".join(n for n in image.snapshot() if not n.startswith("/var/lib/"))
    assert image.setup("--uninstall", "--yes").stdout.startswith("nothing to change\n")


def test_after_an_uninstall_the_fleet_is_taken_up_again(image: Image) -> None:
    image.setup("--role", "master", "--yes")
    path = "/var/lib/pibot/master/identities.json"
    known = json.loads(image.text(path))
    worker = {**known["identities"][0], "name": "worker-1", "kind": "w"}
    known["identities"].append(worker)
    image.put(path, json.dumps(known), 0o600)
    image.setup("--uninstall", "--yes")
    image.setup("--role", "master", "--yes")
    kept = json.loads(image.text(path))["identities"]
    assert worker in kept
    (master,) = [one for one in kept if one["kind"] == "m"]
    assert master["key"] == image.settings("master")["PIBOT_KEY"]
    assert image.text("/etc/mosquitto/pibot/passwd").count("\n") == 2


# --- a worker's file -----------------------------------------------------------------------------


def test_a_copied_file_is_taken_and_closed_to_others(image: Image) -> None:
    worker = image.beside("worker-1.env", WORKER_1, 0o644)
    model = image.beside(".env", "VOLC_API_KEY=key-1\n", 0o640)
    done = image.setup("--role", "worker", "--yes")
    assert image.settings("worker")["WORKER_ID"] == "worker-1"
    assert image.settings("worker")["VOLC_API_KEY"] == "key-1"
    for path in (worker, model):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert f"close {path} to others" in done.stdout
    assert "secret" not in done.stdout.replace(str(image.home), "")


def test_an_authority_is_copied_and_named_absolutely(image: Image) -> None:
    pem = "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n"
    image.beside("ca.crt", pem, 0o644)
    image.beside("worker-1.env", f"{WORKER_1}MQTT_CA_FILE=ca.crt\n")
    image.setup("--role", "worker", "--yes")
    assert image.text("/etc/pibot/ca.crt") == pem
    assert image.settings("worker")["MQTT_CA_FILE"] == "/etc/pibot/ca.crt"
    assert image.setup("--role", "worker", "--yes").stdout.startswith("nothing to change\n")
    image.setup("--uninstall", "--yes")
    assert not (image.root / "etc/pibot").exists()


BAD = [
    ({}, ["workers add worker-1"]),
    ({"worker-1.env": WORKER_1, "worker-2.env": WORKER_1}, ["worker-1.env, worker-2.env"]),
    ({"w.env": f"{WORKER_1}PIBOT_SLOT=2\n"}, ["PIBOT_SLOT in ", "w.env line 7", "PIBOT_SLOTS"]),
    ({"w.env": WORKER_1.replace("secret-key", "your_key")}, ["PIBOT_KEY", "line 6", "placeholder"]),
    ({"w.env": WORKER_1.replace("worker-1", "W_1")}, ["WORKER_ID", "line 1"]),
    ({"w.env": f"{WORKER_1}MQTT_CA_FILE=no.crt\n"}, ["MQTT_CA_FILE", "no.crt"]),
    ({"w.env": f"{WORKER_1}MQTT_CA_FILE=w.env\n"}, ["MQTT_CA_FILE", "no certificate"]),
    ({".env": "what is this"}, [".env line 1", "KEY=value"]),
    ({".env": "A=\udcff"}, [".env is not UTF-8"]),
]


@pytest.mark.parametrize(("files", "words"), BAD, ids=lambda value: " ".join(value)[:30])
def test_a_bad_file_is_one_line_and_status_2(
    files: Dict[str, str], words: List[str], image: Image
) -> None:
    for name, text in files.items():
        (image.home / name).write_bytes(text.encode("utf-8", "surrogateescape"))
    done = image.setup("--role", "worker", "--yes", status=2)
    for word in words:
        assert word in done.stderr
    assert "your_key" not in done.stderr
    assert image.snapshot() == {}


def test_a_file_can_be_named(image: Image) -> None:
    for number in (1, 2):
        image.beside(f"worker-{number}.env", WORKER_1.replace("worker-1", f"worker-{number}"))
    image.setup("--role", "worker", "--yes", "--env-file", str(image.home / "worker-2.env"))
    assert image.settings("worker")["WORKER_ID"] == "worker-2"
    image.setup("--role", "worker", "--yes", "--env-file", "/nowhere/x.env", status=2)


def test_files_of_others_beside_the_program_do_not_matter(image: Image) -> None:
    image.beside("worker-1.env", WORKER_1)
    image.beside("other.env", "{ no settings at all", 0o644)
    (image.home / "folder.env").mkdir()
    (image.home / "link.env").symlink_to("/nowhere")
    image.setup("--role", "worker", "--yes")
    assert stat.S_IMODE((image.home / "other.env").stat().st_mode) == 0o644


@pytest.mark.skipif(not IS_ROOT, reason="gives files to another user")
def test_a_file_that_another_user_put_there_is_not_taken(image: Image) -> None:
    """Somebody runs setup in /tmp; whoever else is on the machine must not choose the broker."""
    planted = image.beside("worker-1.env", WORKER_1, 0o644)
    os.chown(planted, OTHER, OTHER)
    image.home.chmod(0o1777)
    done = image.setup("--role", "worker", "--yes", status=2)
    assert f"{planted} belongs to another user" in done.stderr and not image.files()
    os.chown(image.pyz, OTHER, OTHER)  # whose program root runs, that user's files will do
    image.setup("--role", "worker", "--yes")


# --- the question --------------------------------------------------------------------------------


def test_without_a_terminal_nobody_is_asked(image: Image) -> None:
    done = image.setup("--role", "master", status=2)
    assert "--yes" in done.stderr and image.snapshot() == {}


ANSWERS = [("y\r", 0, True), ("yes\r", 0, True), ("\r", 1, False), ("n\r", 1, False)]
ANSWERS += [("\x04", 1, False), (CTRL_C, 130, False)]


@pytest.mark.parametrize(("keys", "status", "done"), ANSWERS)
def test_a_person_is_asked(keys: str, status: int, done: bool, image: Image) -> None:
    with Terminal(image.command("--role", "master"), environment()) as terminal:
        terminal.expect("  write /etc/pibot/master.env: PIBOT_FLEET")
        terminal.expect(QUESTION)
        assert answered(terminal, keys) == status
    assert (image.snapshot() != {}) == done
    assert ("nothing was changed" in terminal.plain) == (status == 1)


def answered(terminal: Terminal, keys: str) -> int:
    """The exit status after an answer; a Ctrl-C right before Python's read() is lost."""
    for _ in range(10):
        terminal.send(keys)
        try:
            return terminal.finish(3.0)
        except subprocess.TimeoutExpired:
            pass
    raise AssertionError(terminal.plain)


# --- trouble -------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(6))
def test_a_killed_setup_is_finished_by_the_next_one(seed: int, image: Image) -> None:
    image.put("/etc/passwd", "root:x:0:0::/root:/bin/sh\n")
    image.put("/etc/group", "root:x:0:\n")
    with_v3(image)
    image.beside("worker-1.env", WORKER_1)
    chance = random.Random(seed)
    for role in ("master", "worker"):
        for _ in range(3):
            with subprocess.Popen(
                image.command("--role", role, "--yes"),
                env=environment(),
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
            ) as process:
                assert process.stdout is not None
                process.stdout.read(1)  # it has begun to say what it is about to do
                time.sleep(chance.uniform(0.0, 0.05))
                process.kill()
        image.setup("--role", role, "--yes")
        before = image.snapshot()
        assert image.setup("--role", role, "--yes").stdout.startswith("nothing to change\n")
        assert image.snapshot() == before
        assert [n for n in before if n.endswith(".new") and "/backup-" not in n] == []
    assert image.settings("master")["PIBOT_KEY"] in image.text(
        "/var/lib/pibot/master/identities.json"
    )
    assert image.settings("worker")["VOLC_API_KEY"] == "real-key-0123456789"
    assert image.text("/etc/passwd").count("pibot") == image.text("/etc/group").count("pibot") + 1
    with subprocess.Popen(
        image.command("--uninstall", "--yes"), env=environment(), stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        process.stdout.read(1)
        time.sleep(chance.uniform(0.0, 0.02))
        process.kill()
    image.setup("--uninstall", "--yes")
    left = [name for name in image.files() if "/backup-" not in name]
    expected = ("/var/lib/pibot/", "/home/pi/", "/etc/passwd", "/etc/group")
    assert [name for name in left if not name.startswith(expected)] == []


def test_only_a_pyz_can_be_installed(image: Image) -> None:
    args = [sys.executable, "-m", "pibot.cli", "setup", "--role", "master", "--yes", "--prefix"]
    done = subprocess.run(
        [*args, str(image.root)],
        env=environment(PYTHONPATH=str(ROOT / "src")),
        capture_output=True,
        encoding="utf-8",
    )
    assert done.returncode == 2 and "installs the pibot.pyz that runs it" in done.stderr
    assert image.snapshot() == {}


WRONG = [
    ([], ["--role master or --role worker"]),
    (["--role", "boss"], ["boss"]),
    (["--role", "master", "--fleet", "My Fleet"], ["--fleet", "small letters"]),
    (["--uninstall", "--fleet", "home"], ["--uninstall goes with"]),
    (["--role", "master", "--json"], ["--yes or --dry-run"]),
]


@pytest.mark.parametrize(("args", "words"), WRONG)
def test_what_does_not_go_together_is_said(args: List[str], words: List[str], image: Image) -> None:
    done = image.setup(*args, status=2)
    for word in words:
        assert word in done.stderr


def test_a_prefix_has_to_be_there(image: Image) -> None:
    shutil.rmtree(image.root)
    assert "is no directory" in image.setup("--role", "master", "--yes", status=2).stderr


def test_the_internal_option_is_not_shown(image: Image) -> None:
    shown = subprocess.run(
        [sys.executable, str(image.pyz), "setup", "--help"],
        env=environment(),
        capture_output=True,
        encoding="utf-8",
    ).stdout
    assert "--uninstall" in shown and "--place-broker-files" not in shown


# --- users ---------------------------------------------------------------------------------------


def another_user(image: Image) -> List[str]:
    """How to start a program as somebody who is not root."""
    if not IS_ROOT:
        return []
    return ["setpriv", f"--reuid={OTHER}", f"--regid={OTHER}", "--clear-groups", "env"] + [
        f"SHIV_ROOT={image.home}/shiv"
    ]


@pytest.fixture
def theirs(image: Image) -> Image:
    """An image of somebody who is not root."""
    if IS_ROOT:
        image.python = "/usr/bin/python3"  # root's own may be closed to others
        for path in (image.root, image.home):
            os.chown(path, OTHER, OTHER)
        for above in list(image.root.parents)[:-2]:
            above.chmod(above.stat().st_mode | 0o011)
    return image


def test_an_ordinary_user_can_fill_an_image(theirs: Image) -> None:
    done = theirs.setup("--role", "master", "--yes", before=another_user(theirs))
    assert "Only root can give files to others" in done.stdout
    assert {(theirs.root / n[1:]).lstat().st_uid for n in theirs.snapshot()} == {
        OTHER if IS_ROOT else os.getuid()
    }
    again = theirs.setup("--role", "master", "--yes", before=another_user(theirs))
    assert again.stdout.startswith("nothing to change\n")
    theirs.setup("--uninstall", "--yes", before=another_user(theirs))
    assert [n for n in theirs.files() if not n.startswith("/var/lib/pibot/")] == []


def test_a_directory_that_cannot_be_written_is_one_line(theirs: Image) -> None:
    (theirs.root / "etc").mkdir(mode=0o555)
    if IS_ROOT:
        os.chown(theirs.root / "etc", OTHER, OTHER)
    done = theirs.setup("--role", "master", "--yes", status=1, before=another_user(theirs))
    assert "/etc/sysusers.d/pibot.conf cannot be changed (Permission denied)" in done.stderr


@pytest.mark.skipif(not IS_ROOT, reason="mounts a small disk")
def test_a_full_disk_is_one_line_and_the_next_setup_goes_on(image: Image) -> None:
    mount = ["mount", "-t", "tmpfs", "-o", "size=2M", "none", str(image.root)]
    script = f'{" ".join(mount)} && exec "$@"'
    before = ["unshare", "--mount", "sh", "-c", script, "sh"]
    done = image.setup("--role", "master", "--yes", status=1, before=before)
    assert "/opt/pibot/pibot.pyz cannot be changed (No space left on device)" in done.stderr
    assert "free some space" in done.stderr
    image.setup("--role", "master", "--yes")


@pytest.mark.skipif(not IS_ROOT, reason="becomes another user")
def test_without_sudo_the_line_with_sudo_is_said(theirs: Image) -> None:
    args = [theirs.python, str(theirs.pyz), "setup", "--role", "master"]
    for more, words in (([], "sudo python3"), (["--uninstall"], "--uninstall")):
        done = subprocess.run(
            [*another_user(theirs), *args, *more],
            env=environment(),
            capture_output=True,
            encoding="utf-8",
        )
        assert done.returncode == 2 and words in done.stderr and done.stderr.count("\n") == 1


@pytest.mark.skipif(not IS_ROOT, reason="gives files to the image's users")
def test_in_an_image_with_users_the_files_belong_to_them(image: Image) -> None:
    image.put(
        "/etc/passwd", "root:x:0:0::/root:/bin/sh\nmosquitto:x:111:117::/:/usr/sbin/nologin\n"
    )
    image.put("/etc/group", "root:x:0:\nmosquitto:x:117:\n")
    image.put("/etc/shadow", "root:*:::::::\n", 0o640)
    image.put("/usr/sbin/mosquitto", "")
    image.put("/etc/mosquitto/mosquitto.conf", "include_dir /etc/mosquitto/conf.d\n")
    done = image.setup("--role", "master", "--yes")
    assert "note:" not in done.stdout
    assert "pibot:x:999:999:PiBot:/var/lib/pibot:/usr/sbin/nologin" in image.text("/etc/passwd")
    assert "\npibot:!*:" in image.text("/etc/shadow")
    owners = {
        path: (image.root / path).stat()
        for path in ("var/lib/pibot/master/identities.json", "etc/mosquitto/pibot/passwd")
    }
    assert [(s.st_uid, s.st_gid) for s in owners.values()] == [(999, 999), (0, 117)]
    assert image.setup("--role", "master", "--yes").stdout == "nothing to change\n"
    image.setup("--uninstall", "--yes")
    assert "pibot" not in image.text("/etc/passwd") + image.text("/etc/shadow")
    assert (image.root / "var/lib/pibot").stat().st_uid == 0
    image.setup("--role", "master", "--yes")
    assert (image.root / "var/lib/pibot/master").stat().st_uid == 999


def test_a_broker_with_settings_of_ones_own_stays_as_it_is(image: Image) -> None:
    image.put("/etc/mosquitto/mosquitto.conf", "include_dir /etc/mosquitto/conf.d\n")
    image.put("/etc/mosquitto/conf.d/ha.conf", "listener 1883\nallow_anonymous true\n")
    before = image.snapshot()
    done = image.setup("--role", "master", "--yes", status=2)
    assert "/etc/mosquitto/conf.d/ha.conf line 1" in done.stderr and "--no-broker" in done.stderr
    assert image.snapshot() == before
    image.setup("--role", "master", "--yes", "--no-broker")
    assert image.text("/etc/mosquitto/conf.d/ha.conf") == "listener 1883\nallow_anonymous true\n"
    assert not (image.root / "etc/mosquitto/pibot").exists()


def test_certificates_of_ones_own_are_left_as_they_are(image: Image) -> None:
    for name in ("ca.crt", "server.crt", "server.key"):
        image.put(f"/etc/mosquitto/pibot/{name}", name)
    image.setup("--role", "master", "--yes")
    assert "listener 8883" in image.text("/etc/mosquitto/conf.d/pibot.conf")
    assert image.text("/etc/mosquitto/pibot/server.key") == "server.key"
    assert not (image.root / "etc/pibot/ca.key").exists()
    done = image.setup("--uninstall", "--yes")
    assert (
        "/etc/mosquitto/pibot stays, because it holds ca.crt, server.crt, server.key" in done.stdout
    )
