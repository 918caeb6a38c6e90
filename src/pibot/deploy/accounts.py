"""The user that the services are. On a machine the system makes it, in an image we do. Pure."""

from __future__ import annotations

from typing import Iterable, List

from pibot.deploy import layout
from pibot.deploy.facts import Facts
from pibot.deploy.steps import File, Run, Step
from pibot.deploy.tree import FILE
from pibot.errors import ConfigError

FIRST_SYSTEM_UID, LAST_SYSTEM_UID = 100, 999
_NO_SHELLS = ("/nologin", "/false")
# What a system user's line is in each file; the last two hold no password.
LINES = {
    "/etc/passwd": "{user}:x:{id}:{id}:PiBot:{home}:/usr/sbin/nologin",
    "/etc/group": "{user}:x:{id}:",
    "/etc/shadow": "{user}:!*:::::::",
    "/etc/gshadow": "{user}:!*::",
}


def check_user(facts: Facts) -> None:
    """Raise ConfigError if `pibot` is a person: services must not have a person's rights."""
    found = facts.users.get(layout.USER)
    if found and not is_service(facts):
        raise ConfigError(
            f"the user {layout.USER} of this machine is a person who logs in, and the services "
            "need one of that name who may not: give the person another name (usermod --login "
            f"NEWNAME {layout.USER}, and groupmod --new-name NEWNAME {layout.USER})"
        )


def is_service(facts: Facts) -> bool:
    """Whether the user is one for services, as setup makes it."""
    found = facts.users.get(layout.USER)
    return found is not None and found.uid <= LAST_SYSTEM_UID and found.shell.endswith(_NO_SHELLS)


def user_steps(facts: Facts, sysusers: str) -> List[Step]:
    steps: List[Step] = [File(f"write {layout.SYSUSERS}", layout.SYSUSERS, sysusers.encode())]
    said = f"make the user {layout.USER}, who runs the services and may not log in"
    if not facts.is_machine:
        return [*steps, *_written(facts, said)]
    if layout.USER in facts.users:
        return steps
    if facts.sysusers:
        return [*steps, Run(said, ("systemd-sysusers", layout.SYSUSERS))]
    group = ("--gid", layout.USER) if layout.USER in facts.groups else ("--user-group",)
    about = ("--comment", "PiBot", "--home-dir", layout.STATE, "--shell", "/usr/sbin/nologin")
    useradd = ("useradd", "--system", *group, "--no-create-home", *about, layout.USER)
    return [*steps, Run(said, useradd)]


def _written(facts: Facts, said: str) -> Iterable[Step]:
    """The user's lines in an image's own files; an image that has none of them gets none."""
    user = facts.users.get(layout.USER)
    taken = {account.uid for account in facts.users.values()} | set(facts.groups.values())
    free = max(set(range(FIRST_SYSTEM_UID, LAST_SYSTEM_UID + 1)) - taken)
    number = user.gid if user else facts.groups.get(layout.USER, free)
    for path, line in LINES.items():
        there = facts.entry(path)
        is_in = f"\n{layout.USER}:".encode() in b"\n" + there.content
        if there.kind != FILE or (is_in and not there.half):
            continue
        new = line.format(user=layout.USER, id=number, home=layout.STATE).encode() + b"\n"
        gap = b"" if not there.content or there.content.endswith(b"\n") else b"\n"
        content = there.content if is_in else there.content + gap + new
        owner = (there.uid, there.gid)
        yield File(f"{said} (in {path})", path, content, there.mode, owner)


def without_user(content: bytes) -> bytes:
    """A user file of an image without the user's line."""
    lines = content.splitlines(keepends=True)
    return b"".join(line for line in lines if not line.startswith(f"{layout.USER}:".encode()))
