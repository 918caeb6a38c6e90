"""Who may write and read which topics: one table, for Mosquitto's acl file and for our own broker.

A worker and a client have the same rights here, because Mosquitto's patterns know names and no
kinds. What the credentials of a worker may ask for is the master's business (fleet/manage.py).
"""

from __future__ import annotations

from typing import Iterable, List, NamedTuple, Tuple

from pibot.topics import MASTER, RESERVED, VIEWER, WORKER, Topics, check_name, name_of_user

_READ, _WRITE, _BOTH = "read", "write", "readwrite"  # Mosquitto's words
_ANYONE = "%u"  # in Mosquitto's patterns: whoever it is


class Rule(NamedTuple):
    """What may be done with the topics that a filter matches."""

    right: str
    topics: str


class Rights(NamedTuple):
    """What one name may do; nothing else."""

    rules: Tuple[Rule, ...]

    def may_publish(self, topic: str) -> bool:
        return any(r.right != _READ and _covers(r.topics, topic) for r in self.rules)

    def may_subscribe(self, wanted: str) -> bool:
        """Whether everything that this filter can match may be read."""
        return any(r.right != _WRITE and _covers(r.topics, wanted) for r in self.rules)


class Special(NamedTuple):
    """A user of the broker's that the patterns do not fit: a rotated one, or a viewer."""

    user: str
    kind: str


def rights_of(fleet: str, kind: str, name: str) -> Rights:
    """The table."""
    t = Topics(check_name(fleet, "fleet"))
    if kind == MASTER:
        return Rights((Rule(_BOTH, f"{t.root}#"),))
    views = Rule(_READ, t.view("#"))
    if kind == VIEWER:
        return Rights((views,))
    return Rights(
        (
            Rule(_READ, t.announce),
            Rule(_READ, t.worker(name, "cmd")),
            *(Rule(_WRITE, t.worker(name, what)) for what in ("evt", "hb", "prog", "will")),
            Rule(_WRITE, t.client(name, "req")),
            Rule(_READ, t.client(name, "rep")),
            views,
        )
    )


def acl_text(fleet: str, special: Iterable[Special] = ()) -> str:
    """The table as Mosquitto reads it; `special` are the users that need lines of their own."""
    lines = _stanza(RESERVED, rights_of(fleet, MASTER, RESERVED))
    lines += ["", *(f"pattern {right} {t}" for right, t in rights_of(fleet, WORKER, _ANYONE).rules)]
    for user, kind in special:
        lines += ["", *_own(fleet, user, kind)]
    return "\n".join([*lines, ""])


def _own(fleet: str, user: str, kind: str) -> List[str]:
    """A viewer's lines take from it what the patterns give; the others' give what these do not."""
    name = name_of_user(user)
    rights = rights_of(fleet, WORKER, name)
    if kind != VIEWER:
        return _stanza(user, rights)
    kept = rights_of(fleet, VIEWER, name).rules
    denied = tuple(Rule("deny", rule.topics) for rule in rights.rules if rule not in kept)
    return _stanza(user, Rights(denied))


def _stanza(user: str, rights: Rights) -> List[str]:
    return [f"user {user}", *(f"topic {right} {topics}" for right, topics in rights.rules)]


def _covers(right: str, wanted: str) -> bool:
    """Whether all that `wanted`, a topic or a filter, can be is matched by the filter `right`."""
    have, levels = right.split("/"), wanted.split("/")
    for i, level in enumerate(have):
        if level == "#":
            return True
        if i >= len(levels) or levels[i] == "#" or level not in ("+", levels[i]):
            return False
    return len(have) == len(levels)
