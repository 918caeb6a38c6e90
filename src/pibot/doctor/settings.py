"""The settings of the roles on this machine: readable, private, valid, and enough to start."""

from __future__ import annotations

import os
import re
import stat
from dataclasses import dataclass, replace
from pathlib import Path
from shlex import quote
from typing import Dict, Iterator, List, Mapping, Optional

from pibot import broker, config
from pibot.config import Settings
from pibot.deploy.layout import PROGRAM, ROLES, STATE, USER, settings_file
from pibot.doctor.findings import Finding, fail, ok, warn
from pibot.doctor.surroundings import Surroundings, within
from pibot.errors import ConfigError

LOAD_S = 3.0
_PLACE = re.compile(r" in (/.+?) line \d+ ")


@dataclass(frozen=True)
class Subject:
    """A role and its settings; `problem` says why there are none."""

    role: str  # master, worker, or client: whoever types commands here
    settings: Optional[Settings]
    problem: Optional[Finding] = None
    file: Optional[Path] = None  # where a client's settings stand

    @property
    def is_service(self) -> bool:
        return self.role in ROLES

    @property
    def is_configured(self) -> bool:
        """Whether somebody chose this broker, so that its silence is a failure."""
        found = self.settings
        chosen = found and (found.mqtt_host or found.mqtt_username or found.mqtt_port != 1883)
        return self.is_service or bool(chosen)

    def bad(self, check: str, message: str, fix: str) -> Finding:
        """A failure; only a warning where nobody has configured anything yet."""
        return (fail if self.is_configured else warn)(check, message, fix)

    def edit(self) -> str:
        """The command that opens this role's settings."""
        if self.is_service:
            return f"sudo nano {settings_file(self.role)} && {self.restart()}"
        return f"nano {quote(os.fspath(self.file or '.env'))}"

    def restart(self) -> str:
        return f"sudo systemctl restart pibot-{self.role}"


def subjects(here: Surroundings) -> List[Subject]:
    """The installed roles, and the person at the keyboard where that person is a client."""
    services = [_service(here, role) for role in here.roles]
    client = _client(here)
    if not services or client.problem or client.is_configured:
        return [*services, client]
    return services


def _service(here: Surroundings, role: str) -> Subject:
    path = here.env_path(role)
    if not path.exists():
        missing = f"{settings_file(role)} is not there"
        return Subject(role, None, fail("settings", missing, here.setup(role)))
    environ = {"STATE_DIRECTORY": os.fspath(here.at(STATE)), "HOME": STATE}
    return _load(role, environ, path, here.at(PROGRAM), here)


def _client(here: Surroundings) -> Subject:
    environ = client_environ(here)
    beside = here.program.resolve().parent / ".env"
    known = [here.env_file, beside, config.client_env_path(environ)]
    file = next((path for path in known if path and os.path.exists(path)), beside)
    return replace(_load("client", environ, here.env_file, here.program, here), file=file)


def client_environ(here: Surroundings) -> Mapping[str, str]:
    """With sudo, the settings in the home of the person who typed it count."""
    import pwd

    person = here.environ.get("SUDO_USER")
    if not here.is_root or not person:
        return here.environ
    try:
        return {**here.environ, "HOME": pwd.getpwnam(person).pw_dir}
    except KeyError:
        return here.environ


def _load(
    role: str,
    environ: Mapping[str, str],
    env_file: Optional[Path],
    program: Path,
    here: Surroundings,
) -> Subject:
    try:
        found = within(LOAD_S, lambda: config.load(role, {}, environ, env_file, program))
    except (ConfigError, OSError) as error:
        return Subject(role, None, _problem(here, role, str(error), env_file))
    try:
        config.require_credentials(found)
    except ConfigError as error:
        return Subject(role, found, fail("settings", str(error), here.setup(role)))
    return Subject(role, found)


def _problem(here: Surroundings, role: str, said: str, env_file: Optional[Path]) -> Finding:
    hidden = env_file is not None and env_file.exists() and not os.access(env_file, os.R_OK)
    if hidden and not here.is_root:
        return warn("settings", f"run it with sudo to see {env_file}", here.doctor_as_root)
    return fail("settings", said, _mend(role, said, env_file))


def _mend(role: str, said: str, env_file: Optional[Path]) -> str:
    """What mends a faulty setting, from the place that the error names."""
    sudo = "sudo " if role in ROLES else ""
    after = f" && {Subject(role, None).restart()}" if role in ROLES else ""
    mode = re.search(r"run: chmod 600 (.+)$", said)
    if mode:
        return f"{sudo}chmod 600 {quote(mode[1])}{after}"
    if " in the environment " in said:
        return f"unset {said.split()[0]}"
    place = _PLACE.search(said)
    path = place[1] if place else os.fspath(env_file or ".env")
    return f"{sudo}nano {quote(path)}{after}"


# --- the checks ---------------------------------------------------------------------------------


def settings(here: Surroundings, subject: Subject) -> Iterator[Finding]:
    if subject.problem:
        yield subject.problem
    elif subject.settings:
        yield ok("settings", _summary(subject.settings))


def _summary(found: Settings) -> str:
    host, port = broker.locate(found)
    who = f"{found.worker_id}, " if found.role == "worker" else ""
    model = f"model {found.model.model}" if found.model else "no model"
    return f"{who}fleet {found.fleet}, broker {host}:{port}, {model}"


def program(here: Surroundings) -> Iterator[Finding]:
    """Nobody else may change the program that is run here."""
    path = here.at(PROGRAM) if here.roles else here.program.resolve()
    try:
        status = path.stat()
    except OSError:
        if here.roles:
            yield fail("program", f"{PROGRAM} is not there", here.setup(here.roles[0]))
        return
    if not stat.S_ISREG(status.st_mode) or path.suffix != ".pyz":
        return
    shown = PROGRAM if here.roles else os.fspath(path)
    if here.roles and (status.st_uid != 0 or status.st_mode & 0o022):
        fix = f"sudo chown root:root {shown} && sudo chmod 755 {shown}"
        yield fail("program", f"{shown} can be changed by others than root", fix)
    elif status.st_mode & 0o002:
        yield fail("program", f"{shown} can be changed by everybody", f"chmod o-w {quote(shown)}")
    else:
        yield ok("program", f"{shown} cannot be changed by others")


def state_directory(here: Surroundings, subject: Subject) -> Iterator[Finding]:
    """Where a service keeps its records: private, and its user's own."""
    if subject.settings is None or not subject.is_service:
        return
    path = subject.settings.state_dir
    try:
        status = path.stat()
    except FileNotFoundError:
        return  # it is made at the first start
    except OSError as error:
        yield warn("state directory", f"{path}: {error.strerror}", here.doctor_as_root)
        return
    owner, name = _uids(here).get(USER), here.shown(path)
    if owner is None:
        yield fail("state directory", f"there is no user {USER}", here.setup(subject.role))
    elif status.st_uid != owner or status.st_mode & 0o077:
        fix = f"sudo chown -R {USER}:{USER} {quote(name)} && sudo chmod 700 {quote(name)}"
        yield fail("state directory", f"{name} is not {USER}'s own and private", fix)
    else:
        yield ok("state directory", f"{name} is {USER}'s own and private")


def _uids(here: Surroundings) -> Dict[str, int]:
    rows = [line.split(":") for line in here.text("/etc/passwd").splitlines()]
    return {row[0]: int(row[2]) for row in rows if len(row) > 3 and row[2].isdigit()}
