"""The checks of `doctor --security` on recorded machines: what each finds, and what mends it."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any, Dict, List, Optional

import pytest

from pibot import config
from pibot.deploy import layout
from pibot.deploy.broker_files import SYSTEMD
from pibot.doctor import security, security_broker, security_keys, security_machine
from pibot.doctor import security_settings as choices
from pibot.doctor.findings import Finding, fail, ok, warn
from pibot.doctor.runner import examine
from pibot.doctor.settings import Subject
from pibot.identities import Identities
from pibot.mosquitto import passwd_text
from pibot.rights import acl_text
from recorded_machine import Machine, needs_root

PIBOT = 987
PASSWD = f"root:x:0:0::/root:/bin/sh\npibot:x:{PIBOT}:{PIBOT}::/x:/usr/sbin/nologin\n"
GROUP = f"root:x:0:\nsudo:x:27:pi\nvideo:x:44:pi,pipo\npibot:x:{PIBOT}:\n"
KEY = "0123456789abcdef" * 4
OTHER_KEY = "fedcba9876543210" * 4


def states(found: List[Finding]) -> List[str]:
    return [one.state for one in found]


def said(found: List[Finding]) -> str:
    return "\n".join(f"{one.state} {one.check}: {one.message} | {one.fix}" for one in found)


def settings(role: str = "worker", **env: str) -> Subject:
    environ = {"HOME": "/nowhere", "WORKER_ID": "worker-1", **env}
    found = config.load(role, {}, environ, None, Path("/nowhere/pibot.pyz"))
    return Subject(role, found)


@pytest.fixture
def installed(machine: Machine) -> Machine:
    """Both roles, as setup leaves them."""
    for role in layout.ROLES:
        machine.role(role)
        shutil.copy(SYSTEMD / layout.service(role), machine.root / "etc/systemd/system")
    machine.file("/etc/passwd", PASSWD)
    machine.file("/etc/group", GROUP)
    machine.file("/etc/sudoers", "root ALL=(ALL:ALL) ALL\n%sudo ALL=(ALL:ALL) ALL\n")
    return machine


# --- the user -------------------------------------------------------------------------------------


def test_a_user_for_services(installed: Machine) -> None:
    assert states(installed.find(security_machine.user)) == ["ok"]


@pytest.mark.parametrize(
    ("path", "text", "state", "message"),
    [
        ("/etc/passwd", "root:x:0:0::/root:/bin/sh\n", "fail", "there is no user pibot"),
        ("/etc/passwd", PASSWD.replace("/usr/sbin/nologin", "/bin/bash"), "fail", "can log in"),
        ("/etc/passwd", PASSWD.replace(f"{PIBOT}", "1001"), "fail", "no user for services"),
        ("/etc/passwd", PASSWD.replace(f"x:{PIBOT}", "x:0"), "fail", "no user for services"),
        ("/etc/group", GROUP.replace("27:pi", "27:pi,pibot"), "fail", "in the group sudo"),
        ("/etc/group", GROUP + "docker:x:998:pibot\n", "fail", "in the group docker"),
        ("/etc/group", GROUP.replace("44:pi", "44:pibot,pi"), "warn", "in the group video"),
        ("/etc/passwd", PASSWD.replace(f":{PIBOT}::", ":27::"), "fail", "in the group sudo"),
        ("/etc/sudoers", "pibot ALL=(ALL) NOPASSWD: ALL\n", "fail", "commands as root"),
        ("/etc/sudoers", "Defaults x\n  %pibot ALL = ALL\n", "fail", "commands as root"),
        ("/etc/sudoers.d/010-all", "ALL ALL=(ALL) NOPASSWD: ALL\n", "fail", "sudoers.d/010-all"),
    ],
)
def test_a_user_with_more_rights(
    installed: Machine, path: str, text: str, state: str, message: str
) -> None:
    installed.file(path, text)
    (found,) = installed.find(security_machine.user)
    assert found.state == state and message in found.message and found.fix


def test_who_is_no_user_of_ours_does_not_matter(installed: Machine) -> None:
    installed.file("/etc/sudoers.d/pi", "pi ALL=(ALL) NOPASSWD: ALL\n#pibot ALL=(ALL) ALL\n")
    installed.file("/etc/group", GROUP + "docker:x:998:pibot2,xpibot\n")
    assert states(installed.find(security_machine.user)) == ["ok"]


# --- files ----------------------------------------------------------------------------------------

FILES = {
    "/etc/pibot/ca.key": (0, 0o600),
    "/etc/pibot/update.key": (0, 0o600),
    "/etc/pibot/ca.crt": (0, 0o644),
    "/etc/mosquitto/pibot/passwd": (0, 0o640),
    "/etc/mosquitto/pibot/acl": (0, 0o640),
    "/etc/mosquitto/pibot/server.key": (0, 0o640),
    "/var/lib/pibot/master/identities.json": (PIBOT, 0o600),
}


@pytest.fixture
def filled(installed: Machine) -> Machine:
    for path, (owner, mode) in FILES.items():
        os.chown(installed.file(path, "secret", mode), owner, owner)
    for path in ("/var/lib/pibot", "/var/lib/pibot/master"):
        (installed.root / path[1:]).chmod(0o700)
        os.chown(installed.root / path[1:], PIBOT, PIBOT)
    return installed


@needs_root
def test_files_in_order(filled: Machine) -> None:
    (found,) = filled.find(security_machine.files)
    assert found.state == "ok", found


@needs_root
@pytest.mark.parametrize(
    ("path", "mode", "owner", "message"),
    [
        ("/etc/pibot/master.env", 0o644, 0, "can be read by others"),
        ("/etc/pibot/worker.env", 0o600, PIBOT, "does not belong to root"),
        ("/etc/pibot/ca.key", 0o640, 0, "can be read by others"),
        ("/etc/pibot/update.key", 0o604, 0, "can be read by others"),
        ("/etc/mosquitto/pibot/server.key", 0o644, 0, "can be read by others"),
        ("/etc/mosquitto/pibot/passwd", 0o660, 0, "can be changed by others"),
        ("/var/lib/pibot", 0o755, PIBOT, "can be read by others"),
        ("/var/lib/pibot/master/identities.json", 0o600, 0, "does not belong to pibot"),
        ("/opt/pibot", 0o777, 0, "can be changed by others"),
        ("/etc/systemd/system/pibot-master.service", 0o666, 0, "can be changed by others"),
    ],
)
def test_files_that_are_open(
    filled: Machine, path: str, mode: int, owner: int, message: str
) -> None:
    there = filled.root / path[1:]
    os.chown(there, owner, owner)
    there.chmod(mode)
    (found,) = filled.find(security_machine.files)
    assert found.state == "fail" and found.message == f"{path} {message}"
    owners = {"root": 0, "pibot": PIBOT}  # of the recorded machine
    chown, chmod = str(found.fix).replace("sudo ", "").replace(path, str(there)).split(" && ")
    assert chown.split()[0] == "chown" and chown.split()[2] == str(there)
    os.chown(there, owners[chown.split()[1]], -1)
    assert os.system(chmod) == 0
    assert states(filled.find(security_machine.files)) == ["ok"]


# --- units ----------------------------------------------------------------------------------------


def test_units_as_setup_makes_them(installed: Machine) -> None:
    assert states(installed.find(security_machine.units)) == ["ok", "ok"]


def test_a_unit_that_was_changed(installed: Machine) -> None:
    path = installed.root / "etc/systemd/system/pibot-worker.service"
    path.write_text(path.read_text().replace("NoNewPrivileges=yes\n", ""))
    found = [one for one in installed.find(security_machine.units) if one.state != "ok"]
    assert said(found) == (
        "warn units: pibot-worker.service is not the one that this pibot.pyz brings"
        " | sudo pibot.pyz setup --role worker"
    )


LOOSE = "\n".join(
    ["User=root", "NoNewPrivileges=no", "ProtectSystem=no", "PrivateTmp=no", "ProtectHome=no"]
    + ["CapabilityBoundingSet=~", "SystemCallFilter=", "RestrictAddressFamilies=~", ""]
)


@pytest.mark.parametrize(
    ("drop_in", "state"),
    [
        ("", "ok"),
        ("PrivateDevices=no\nDeviceAllow=char-video4linux rw\nSupplementaryGroups=video\n", "warn"),
        (LOOSE, "fail"),
    ],
)  # fmt: skip
@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="no systemd-analyze")
def test_how_much_drop_ins_open(installed: Machine, drop_in: str, state: str) -> None:
    analyze = str(shutil.which("systemd-analyze"))
    installed.script("/usr/bin/systemd-analyze", f'exec {analyze} "$@"')
    (installed.root / "run/systemd/system").mkdir(parents=True)
    if drop_in:
        path = "/etc/systemd/system/pibot-worker.service.d/own.conf"
        installed.file(path, f"[Service]\n{drop_in}")
    found = [f for f in installed.find(security_machine.units) if "exposure" in f.message]
    worker = [one for one in found if "pibot-worker" in one.message]
    assert len(found) == 2 and states(worker) == [state], said(found)


@pytest.mark.parametrize("text", ["Unknown option --offline", "", "level for x: many"])
def test_an_older_systemd_says_nothing(installed: Machine, text: str) -> None:
    (installed.root / "run/systemd/system").mkdir(parents=True)
    installed.says("/usr/bin/systemd-analyze", text, 1)
    assert states(installed.find(security_machine.units)) == ["ok", "ok"]


# --- the broker -----------------------------------------------------------------------------------

OURS = (SYSTEMD / "mosquitto-pibot.conf").read_text("utf-8")


def broker(machine: Machine, conf: str, known: Optional[Identities] = None) -> Machine:
    machine.file("/etc/mosquitto/mosquitto.conf", "include_dir /etc/mosquitto/conf.d\n")
    machine.file("/etc/mosquitto/conf.d/pibot.conf", conf)
    known = known or Identities()
    machine.file(layout.COMMAND)
    machine.file("/etc/mosquitto/pibot/acl", acl_text("home", known.special()))
    machine.file("/etc/mosquitto/pibot/passwd", passwd_text(known))
    machine.file(layout.IDENTITIES, known.text(), 0o600)
    return machine


def test_a_broker_as_setup_makes_it(machine: Machine) -> None:
    known = Identities()
    for kind, name in (("m", "master"), ("w", "worker-1"), ("c", "pi"), ("v", "wall")):
        known.add(kind, name)
    broker(machine, OURS, known)
    assert states(machine.find(security_broker.listening)) == ["ok", "ok"]
    assert states(machine.find(security_broker.rights)) == ["ok"]
    (users,) = machine.find(security_broker.users)
    assert users.message == "Mosquitto lets in 4 users: those of the master"


@pytest.mark.parametrize("line", ["listener 1883", "listener 1883 0.0.0.0", "port 1883"])
def test_an_open_port_without_tls(machine: Machine, line: str) -> None:
    broker(machine, OURS.replace("listener 1883 127.0.0.1", line))
    (found,) = [f for f in machine.find(security_broker.listening) if f.state != "ok"]
    assert found.state == "fail" and "port 1883 is open to the network without TLS" in found.message
    assert str(found.fix).endswith(
        "sudo rm /etc/mosquitto/conf.d/pibot.conf && sudo pibot.pyz setup --role master"
    )


def test_somebody_elses_open_port(machine: Machine) -> None:
    broker(machine, OURS)
    machine.file("/etc/mosquitto/conf.d/more.conf", "listener 9001\nprotocol websockets\n")
    (found,) = [f for f in machine.find(security_broker.listening) if f.state != "ok"]
    assert "port 9001" in found.message and "more.conf" in str(found.fix)


def test_anonymous(machine: Machine) -> None:
    broker(machine, OURS.replace("allow_anonymous false", "allow_anonymous true"))
    found = machine.find(security_broker.listening)
    assert "fail mosquitto: anybody on the network gets in without a password" in said(found)


def test_no_rights_at_all(machine: Machine) -> None:
    broker(machine, OURS.replace("acl_file", "# acl_file"))
    (found,) = machine.find(security_broker.rights)
    assert found.state == "fail" and found.fix == "sudo pibot.pyz setup --role master"
    broker(machine, OURS.replace("acl_file", "plugin /usr/lib/own.so #"))
    assert machine.find(security_broker.rights) == []


@pytest.mark.parametrize(
    "more", ["user worker-1\ntopic readwrite #\n", "topic read #\n", "pattern write pibot/#\n"]
)
def test_other_rights(machine: Machine, more: str) -> None:
    broker(machine, OURS)
    machine.file("/etc/mosquitto/pibot/acl", acl_text("home") + more)
    (found,) = machine.find(security_broker.rights)
    assert found.state == "fail" and "other rights" in found.message


def test_rights_of_ones_own(machine: Machine) -> None:
    broker(machine, OURS.replace("/etc/mosquitto/pibot/acl", "/etc/mosquitto/my-acl"))
    assert said(machine.find(security_broker.rights)).startswith("ok rights: /etc/mosquitto/my-acl")


def test_mosquitto_as_debian_leaves_it(machine: Machine) -> None:
    text = "persistence true\ninclude_dir /etc/mosquitto/conf.d\n"
    machine.file("/etc/mosquitto/mosquitto.conf", text)
    assert machine.find(security_broker.rights) == machine.find(security_broker.users) == []
    assert states(machine.find(security_broker.listening)) == ["ok"]


def test_users_that_the_master_does_not_know(machine: Machine) -> None:
    known, more = Identities(), Identities()
    known.add("m", "master")
    broker(machine, OURS, known)
    more.add("c", "stranger")
    machine.file("/etc/mosquitto/pibot/passwd", passwd_text(known) + passwd_text(more))
    (found,) = machine.find(security_broker.users)
    assert found.state == "fail" and found.message.endswith("does not know: stranger")
    known.rotate("master")
    machine.file("/etc/mosquitto/pibot/passwd", passwd_text(known))
    assert states(machine.find(security_broker.users)) == ["warn"]
    machine.file(layout.IDENTITIES, "{", 0o600)
    assert "is damaged" in said(machine.find(security_broker.users))


# --- keys -----------------------------------------------------------------------------------------

AWAY = {"MQTT_HOST": "10.0.0.1", "MQTT_USERNAME": "worker-1", "MQTT_PASSWORD": "x7-Kq2.mW9_vB4tz"}


@pytest.mark.parametrize(
    ("env", "state", "message"),
    [
        ({**AWAY, "PIBOT_KEY": KEY}, "ok", "long random key"),
        ({**AWAY, "PIBOT_KEY": KEY[:31]}, "fail", "PIBOT_KEY is short, or a word"),
        ({**AWAY, "PIBOT_KEY": "secret"}, "fail", "PIBOT_KEY is short, or a word"),
        ({**AWAY, "PIBOT_KEY": "abcabcabc" * 8}, "fail", "PIBOT_KEY is short, or a word"),
        (AWAY, "fail", "there is no PIBOT_KEY"),
        ({"MQTT_PASSWORD": AWAY["MQTT_PASSWORD"]}, "fail", "there is no PIBOT_KEY"),
        ({**AWAY, "PIBOT_KEY": KEY, "MQTT_PASSWORD": "hunter2"}, "warn", "MQTT_PASSWORD is short"),
        ({}, "", ""),
    ],
)
def test_a_key_of_ones_own(machine: Machine, env: Dict[str, str], state: str, message: str) -> None:
    for role in ("master", "worker", "client"):
        found = machine.find(security_keys.own, settings(role, **env))
        assert said(found).startswith(f"{state} key: " if state else "")
        assert message in said(found)
        secrets = [env[name] for name in ("PIBOT_KEY", "MQTT_PASSWORD") if name in env]
        assert not [secret for secret in secrets if secret in said(found)]


def test_what_renews_a_key(installed: Machine) -> None:
    env = {**AWAY, "PIBOT_KEY": "secret"}
    (worker,) = installed.find(security_keys.own, settings("worker", **env))
    assert str(worker.fix).startswith("on the master: pibot.pyz workers rotate worker-1; ")
    (master,) = installed.find(security_keys.own, settings("master", **env))
    installed.file("/etc/pibot/master.env", "A=1\nPIBOT_KEY=secret\nB=2\n", 0o600)
    edit = str(master.fix).partition(" && ")[0].replace("sudo ", "")
    assert os.system(edit.replace("/etc/", f"{installed.root}/etc/")) == 0
    assert (installed.root / "etc/pibot/master.env").read_text() == "A=1\nB=2\n"


def keep(machine: Machine, *rows: "tuple[str, str, str]") -> None:
    """A master's identities, with keys that the test chooses."""
    machine.role("master")
    known = Identities()
    for kind, name, key in rows:
        known.add(kind, name)
        one = known.get(name)
        assert one is not None
        known.replace(one._replace(key=key))
    machine.file(layout.IDENTITIES, known.text(), 0o600)


def test_one_key_for_several(machine: Machine) -> None:
    keep(machine, ("m", "master", KEY), ("w", "worker-1", OTHER_KEY), ("c", "pi", "k" * 64))
    away = {**AWAY, "PIBOT_KEY": KEY}
    assert states(machine.find(security_keys.shared, [settings("master", **away)])) == ["ok"]
    (found,) = machine.find(security_keys.shared, [settings("worker", **away)])
    assert found.message == "one PIBOT_KEY is shared by master, worker-1"
    assert KEY not in said([found])
    keep(machine, ("m", "master", KEY), ("w", "worker-1", OTHER_KEY), ("w", "worker-2", OTHER_KEY))
    (found,) = machine.find(security_keys.shared, [])
    assert found.message == "one PIBOT_KEY is shared by worker-1, worker-2"


def test_one_key_for_a_whole_fleet(machine: Machine) -> None:
    keep(machine, ("m", "master", KEY))
    master = settings("master", **{**AWAY, "PIBOT_KEY": KEY})
    found = machine.find(security_keys.shared, [master])
    assert "warn shared keys: no worker and no client has a key of its own" in said(found)
    here = settings("master", PIBOT_KEY=KEY)
    assert states(machine.find(security_keys.shared, [here])) == ["ok"]


# --- what a role was told -------------------------------------------------------------------------


def test_the_way_to_the_broker(machine: Machine, tmp_path: Path) -> None:
    (plain,) = machine.find(choices.connection, settings("worker", **AWAY))
    assert plain.state == "fail" and "10.0.0.1 has no TLS" in plain.message
    ca = tmp_path / "ca.crt"
    ca.touch()
    (found,) = machine.find(choices.connection, settings("worker", **AWAY, MQTT_CA_FILE=str(ca)))
    assert found.state == "ok"
    (found,) = machine.find(choices.connection, settings("client"))
    assert (found.state, found.message) == ("ok", "the broker is on this machine")


@pytest.mark.parametrize(
    ("look", "role", "env", "state"),
    [
        (choices.approval, "worker", {"PIBOT_APPROVAL": "never"}, "fail"),
        (choices.approval, "master", {"PIBOT_APPROVAL": "always"}, "ok"),
        (choices.skills, "worker", {"PIBOT_ALLOW_SHELL": "1"}, "ok"),
        (
            choices.skills,
            "worker",
            {"PIBOT_ALLOW_SHELL": "1", "PIBOT_SHELL_NETWORK": "1"},
            "warn",
        ),
        (choices.skills, "worker", {}, "ok"),
        (choices.skills, "master", {"PIBOT_ALLOW_SHELL": "1"}, ""),
        (choices.ask, "master", {"PIBOT_ASK": "1", "MQTT_PASSWORD": "x"}, "warn"),
        (choices.ask, "master", {"PIBOT_ASK": "1"}, ""),
        (choices.ask, "master", {"MQTT_PASSWORD": "x"}, ""),
        (choices.ask, "worker", {"PIBOT_ASK": "1", "MQTT_PASSWORD": "x"}, ""),
        (choices.health, "worker", {}, "ok"),
        (choices.health, "worker", {"PIBOT_HEALTH_HOST": "::1"}, "ok"),
    ],
)
def test_choices(machine: Machine, look: Any, role: str, env: Dict[str, str], state: str) -> None:
    found = machine.find(look, settings(role, **env))
    assert states(found) == ([state] if state else [])


@pytest.mark.parametrize("bad", ["", "own.py", "more", "more/SKILL.md"])
def test_skills_that_others_can_change(machine: Machine, bad: str) -> None:
    machine.file("/srv/skills/own.py")
    machine.file("/srv/skills/more/SKILL.md")
    folder = machine.root / "srv/skills"
    subject = settings("worker", PIBOT_SKILLS_DIR=str(folder))
    assert subject.settings is not None
    looked = Subject("worker", subject.settings)
    there = Machine(Path("/"))
    assert states(there.find(choices.skills, looked)) == ["ok"]
    (folder / bad).chmod(0o775)
    (found,) = there.find(choices.skills, looked)
    assert found.state == "fail" and found.message.startswith(f"{(folder / bad)} can be changed")
    assert os.system(str(found.fix).replace("sudo ", "")) == 0
    assert states(there.find(choices.skills, looked)) == ["ok"]


# --- all together ---------------------------------------------------------------------------------


def test_the_score() -> None:
    good, bad, worse = ok("a", "b"), warn("a", "b", "c"), fail("a", "b", "c")
    assert security.score([]) == security.score([good] * 30) == 10
    assert security.score([good, bad, worse]) == 7.5
    assert security.score([worse] * 6) == 0


def test_a_machine_without_anything(machine: Machine) -> None:
    machine.root.mkdir()
    found = list(examine(security.checks_of(machine.here(security=True))))
    assert said(found) == "ok connection: the broker is on this machine | None"


@needs_root
def test_what_a_person_may_not_see(filled: Machine) -> None:
    """Nothing breaks, and whatever stays hidden is said."""
    for above in (filled.root, *filled.root.parents):
        above.chmod(above.stat().st_mode | 0o011)
    broker(filled, OURS)
    for path in ("/etc/mosquitto/pibot/acl", "/etc/mosquitto/pibot/passwd", "/etc/sudoers"):
        (filled.root / path[1:]).chmod(0o440)
    all_seen = list(examine(security.checks_of(filled.here(security=True))))
    groups = os.getgroups()
    os.setgroups([])
    os.setegid(65534)
    os.seteuid(65534)
    try:
        found = list(examine(security.checks_of(filled.here(security=True))))
    finally:
        os.seteuid(0)
        os.setegid(os.getgid())
        os.setgroups(groups)
    for check in ("user", "files", "rights", "users", "shared keys"):
        (hidden,) = [f for f in found if f.check == check and "run it with sudo" in f.message]
        assert (hidden.state, hidden.fix) == ("warn", "sudo pibot.pyz doctor --security")
    assert not [f for f in [*found, *all_seen] if "itself broke" in f.message], said(found)
    assert "run it with sudo" not in said(all_seen)
