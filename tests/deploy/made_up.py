"""A made-up machine for tests of the plan: what setup would know of it, without looking."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, Dict, Iterable, List, Mapping, Optional

from pibot.deploy import credentials, layout, plan
from pibot.deploy.certificates import Certificates
from pibot.deploy.envfile import Source
from pibot.deploy.facts import Account, Facts, Given, Wishes
from pibot.deploy.needs import owner_ids
from pibot.deploy.plan import Plan, Texts
from pibot.deploy.settle import settle
from pibot.deploy.steps import Clear, File, Folder, Link, Program, Prune, Remove, Run, Step, Twin
from pibot.deploy.tree import FILE, FOLDER, LINK, Entry
from pibot.values import parse_env

PI = Account("pi", 1000, 1000, "/home/pi", "/bin/bash")
PIBOT = Account("pibot", 997, 997, "/var/lib/pibot", "/usr/sbin/nologin")
UNIT = "[Service]\nLoadCredential=pibot.env:/etc/pibot/{role}.env\n[Install]\nWantedBy=x.target\n"
UNITS = {layout.service(role): UNIT.format(role=role) for role in layout.ROLES}
UNITS["pibot-broker.path"] = "[Path]\n[Install]\nWantedBy=x.target\n"
UNITS["pibot-broker.service"] = "[Service]\n"
UNITS["pibot-update.path"] = "[Path]\n[Install]\nWantedBy=x.target\n"
UNITS["pibot-update.service"] = "[Service]\n"
CERTIFICATE = b"-----BEGIN CERTIFICATE-----\nMIIBAAAA\n-----END CERTIFICATE-----\n"
CERTIFICATES = Certificates(b"key\n" + CERTIFICATE, CERTIFICATE, b"server", b"its key")
CA = "MIIBAAAA"  # as it stands in a PIBOT_CA
TEXTS = Texts(UNITS, "u pibot\n", "password_file /etc/mosquitto/pibot/passwd\n")

FRESH = Facts(
    root="",
    may_give=True,
    systemd=True,
    sysusers=True,
    now="20260102-030405",
    program="/home/pi/pibot.pyz",
    same_program=False,
    entries={
        "/etc/systemd/system/multi-user.target.wants/mosquitto.service": Entry(LINK),
        "/home/pi/.config": Entry(FOLDER, 0o755, 1000, 1000),
    },
    names={},
    users={"root": Account("root", 0, 0, "/root"), "pi": PI},
    groups={"root": 0, "mosquitto": 120},
    units={"mosquitto.service": "active"},
    links=(),
    mosquitto=True,
    obstacle="",
    person=PI,
    notes=[],
    clients={},
)


def given(path: str, text: str, mode: int = 0o600) -> Given:
    return Given(Source(path, parse_env(text, Path(path))), mode)


def worker_file(name: str = "worker-1", path: str = "", mode: int = 0o600) -> Given:
    """What `workers add` writes."""
    text = f"WORKER_ID={name}\nPIBOT_FLEET=home\nMQTT_HOST=192.168.1.10\nMQTT_USERNAME={name}\n"
    text += "MQTT_PASSWORD=secret-password\nPIBOT_KEY=secret-key\n"
    return given(path or f"/home/pi/{name}.env", text, mode)


def with_file(facts: Facts, path: str, text: str, mode: int = 0o644, uid: int = 0) -> Facts:
    entry = Entry(FILE, mode, uid, uid, text.encode())
    return with_entries(facts, {**facts.entries, path: entry})


def afterwards(facts: Facts, steps: Iterable[Step]) -> Facts:
    """The machine after the steps were done, as the next setup sees it."""
    found: Dict[str, Any] = {"entries": dict(facts.entries), "units": dict(facts.units)}
    found["users"], found["groups"] = dict(facts.users), dict(facts.groups)
    for step in steps:
        if isinstance(step, Run):
            _run(step, found)
    facts = replace(facts, users=found["users"], groups=found["groups"])
    entries: Dict[str, Entry] = found["entries"]
    for step in steps:
        if isinstance(step, (File, Folder)):
            uid, gid = owner_ids(step.owner, facts)
            content = step.content if isinstance(step, File) else b""
            kind = FILE if isinstance(step, File) else FOLDER
            entries[step.path] = Entry(kind, step.mode, uid or 0, gid or 0, content)
        elif isinstance(step, Program):
            entries[step.path] = Entry(FILE, 0o755)
            facts = replace(facts, same_program=True)
        elif isinstance(step, Twin):
            entries[step.path] = Entry(FILE, 0o755)
            facts = replace(facts, proven=True)
        elif isinstance(step, Link):
            entries[step.path] = Entry(LINK, content=step.target.encode())
        elif isinstance(step, (Remove, Prune, Clear)):
            entries.pop(step.path, None)
    clients = {
        path: Source(path, parse_env(entry.text, Path(path)))
        for path, entry in entries.items()
        if path.endswith("client.env")
    }
    wants = [path for path in entries if ".wants/pibot" in path]
    facts = replace(facts, units=found["units"], clients=clients, links=tuple(wants), old=None)
    return with_entries(facts, entries)


def with_entries(facts: Facts, entries: Mapping[str, Entry]) -> Facts:
    """The machine with these paths, which are in their directories, too."""
    names: Dict[str, List[str]] = {}
    for path in sorted(entries):
        folder, _, name = path.rpartition("/")
        names.setdefault(folder, []).append(name)
    return replace(facts, entries=dict(entries), names=names)


def _run(step: Run, found: Dict[str, Any]) -> None:
    if step.command[0] in ("systemd-sysusers", "useradd"):
        found["users"]["pibot"], found["groups"]["pibot"] = PIBOT, PIBOT.gid
    elif step.command[:2] in (("systemctl", "restart"), ("systemctl", "start")):
        found["units"][step.command[2]] = "active"
    elif step.command[:2] == ("systemctl", "stop"):
        found["units"][step.command[2]] = "inactive"
    elif step.command[0] == "userdel":
        del found["users"]["pibot"], found["groups"]["pibot"]


def paths(steps: Iterable[Step], kind: type = Step) -> List[str]:
    return [step.path for step in steps if isinstance(step, kind) and hasattr(step, "path")]


def commands(steps: Iterable[Step]) -> List[str]:
    return [" ".join(step.command) for step in steps if isinstance(step, Run)]


# --- setup on it ---------------------------------------------------------------------------------

WORKER = replace(FRESH, beside=(worker_file(),), mosquitto=False, units={})


def install(facts: Facts, role: str, fleet: Optional[str] = None, broker: bool = True) -> Plan:
    wishes = Wishes(role, fleet, broker)
    settled = settle(facts, wishes)
    made = CERTIFICATES if settled.broker else None
    access = credentials.prepare(facts, settled, made) if settled.credentials else None
    return plan.install(facts, wishes, settled, access, TEXTS)


def content(made: Plan, path: str) -> str:
    (text,) = [s.content.decode() for s in made.steps if isinstance(s, File) and s.path == path]
    return text


def settings(made: Plan, role: str) -> "dict[str, str]":
    lines = content(made, layout.settings_file(role)).splitlines()
    return dict(line.split("=", 1) for line in lines if not line.startswith("#"))


def installed(role: str) -> Facts:
    """A machine on which setup has done its work."""
    facts = FRESH if role == "master" else WORKER
    return afterwards(facts, install(facts, role).steps)


def changed(facts: Facts, path: str, **what: Any) -> Facts:
    entries = dict(facts.entries)
    entries[path] = entries.get(path, Entry(FILE))._replace(**what)
    return replace(facts, entries=entries)
