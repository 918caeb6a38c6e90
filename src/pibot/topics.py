"""The topics of a fleet, under `pibot/1/{fleet}/`; `docs/protocol.md` has the table."""

from __future__ import annotations

import functools
import re
from typing import NamedTuple, Optional

from pibot.errors import UsageError

PROTOCOL = 1
NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,31}")
ID = re.compile(r"[a-z0-9][a-z0-9-]{0,39}")
RESERVED = "master"
MASTER, WORKER, CLIENT, VIEWER = "m", "w", "c", "v"  # kinds of names; a viewer only looks


def check_name(name: str, what: str) -> str:
    """Return `name` if it may name a fleet, worker or client; raise UsageError if not."""
    if NAME.fullmatch(name):
        return name
    raise UsageError(
        f"{name!r} is not a {what} name: use 1 to 32 of a-z, 0-9 and '-', starting with a letter "
        "or digit"
    )


def name_of_user(user: str) -> str:
    """The name for which a user of the broker's speaks: a rotated one has a dot and more."""
    return user.partition(".")[0]


class Address(NamedTuple):
    """Where a message came from: `kind` is w (worker), c (client) or m (master)."""

    kind: str
    name: str
    channel: str


class Topics:
    """Every topic name of one fleet."""

    def __init__(self, fleet: str) -> None:
        self.root = f"pibot/{PROTOCOL}/{fleet}/"
        self.parse = functools.lru_cache(maxsize=4096)(self._parse)

    def worker(self, name: str, channel: str) -> str:
        """`channel` is cmd, evt, hb, prog or will."""
        return f"{self.root}w/{name}/{channel}"

    def client(self, name: str, channel: str) -> str:
        """`channel` is req or rep."""
        return f"{self.root}c/{name}/{channel}"

    @property
    def announce(self) -> str:
        return self.root + "m/all"

    @property
    def ask(self) -> str:
        return self.root + "ask"

    def answer(self, goal_id: str) -> str:
        return f"{self.root}answer/{goal_id}"

    def view(self, kind: str, name: str = "") -> str:
        """`kind` is worker, task or fleet; the fleet's view has no name."""
        return f"{self.root}view/{kind}/{name}" if name else f"{self.root}view/{kind}"

    def _parse(self, topic: str) -> Optional[Address]:
        """Return who speaks on an enveloped topic, or None if it is not one of this fleet's."""
        if not topic.startswith(self.root):
            return None
        parts = topic[len(self.root) :].split("/")
        if parts == ["m", "all"]:
            return Address("m", RESERVED, "all")
        if len(parts) == 3 and parts[0] in ("w", "c") and NAME.fullmatch(parts[1]):
            return Address(*parts)
        return None
