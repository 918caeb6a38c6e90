"""Which hosts a skill may reach: the lists of the machine's owner, `name`, `name:port`, `*.name`.

A list names hosts as they are asked for, never what they resolve to: that a name points to a listed
address does not make it a listed host.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from ipaddress import IPv6Address, ip_address
from typing import Collection, Optional, Tuple

from pibot.errors import SkillError
from pibot.permits import Permits
from pibot.skills._addresses import refusal
from pibot.skills._urls import PORTS, Target

_ENTRY = re.compile(r"(?P<any>\*\.)?(?P<host>\[[^\]]*\]|[^:\[\]]+)(:(?P<port>\d+))?")
_FIRST_FREE_PORT = 1024  # below it live services that take the lines of a request for commands


def listed(host: str, port: int, entries: Collection[str]) -> bool:
    """Whether a host and port are in a list. `host` is a name or an address, without brackets."""
    return best_entry(host, port, entries) is not None


def best_entry(host: str, port: int, entries: Collection[str]) -> Optional[str]:
    """The entry that names a host and port most exactly, None when there is none."""
    ranked = [(_rank(host, port, entry), entry) for entry in entries]
    rank, best = max(ranked, default=((), ""))
    return best if rank else None


def _rank(host: str, port: int, entry: str) -> Tuple[int, ...]:
    """How exactly an entry names a host and port; () is: not at all."""
    found = _ENTRY.fullmatch(entry.lower())
    if found is None or (found["port"] and int(found["port"]) != port):
        return ()
    wanted, named = _normal(host), _normal(found["host"].strip("[]"))
    if not found["any"]:
        return (2, bool(found["port"])) if wanted == named else ()
    if _is_address(wanted) or not wanted.endswith("." + named):
        return ()
    return (1, len(named), bool(found["port"]))


def _normal(host: str) -> str:
    host = host.lower().rstrip(".")
    try:
        return str(IPv6Address(host)) if ":" in host else host
    except ValueError:
        return host


def _is_address(host: str) -> bool:
    """Whether a resolver would read it as an address: "1.2.3.4", but also "0x7f.1" and "::1"."""
    return ":" in host or re.fullmatch(r"\d+|0x[0-9a-f]*", host.rpartition(".")[2]) is not None


@dataclass(frozen=True)
class WebPolicy:
    """Which hosts the web skills may reach.

    `allow` may be reached although they are not public; if there is an `only`, no other public
    host; `deny` never, whatever else says yes.
    """

    allow: Collection[str] = ()
    only: Collection[str] = ()
    deny: Collection[str] = ()

    @classmethod
    def of(cls, permits: Permits) -> WebPolicy:
        return cls(permits.web_allow, permits.web_only, permits.web_deny)

    def owns(self, target: Target) -> bool:
        """Whether it is one of the owner's hosts rather than a stranger's."""
        return listed(target.host, target.port, self.allow)

    def check_name(self, target: Target) -> None:
        """Raise SkillError for a host that may not even be resolved."""
        if listed(target.host, target.port, self.deny):
            raise SkillError(f"{target} is refused: PIBOT_WEB_DENY names {target.place}.")
        if self.owns(target):
            return
        if self.only and not listed(target.host, target.port, self.only):
            raise SkillError(
                f"{target} is refused: PIBOT_WEB_ONLY does not name {target.place}; only the hosts "
                "there may be fetched."
            )
        if target.port < _FIRST_FREE_PORT and target.port not in PORTS.values():
            raise SkillError(
                f"{target} is refused: port {target.port} is not one that web servers use; "
                f"PIBOT_WEB_ALLOW={target.address} allows it."
            )

    def check_address(self, target: Target, address: str) -> None:
        """Raise SkillError unless the host may be reached at this (numeric) address."""
        if listed(_plain(address), target.port, self.deny):
            raise SkillError(f"{target} is refused: PIBOT_WEB_DENY names its address ({address}).")
        kind = None if self.owns(target) else refusal(address)
        if kind:
            raise SkillError(
                f"{target} is refused: {target.host} has {kind} address ({address}), and "
                f"only public ones may be fetched; PIBOT_WEB_ALLOW={target.address} allows it."
            )


def _plain(address: str) -> str:
    """An address without its zone; an IPv4 address that is mapped into IPv6 as the former."""
    parsed = ip_address(address.partition("%")[0])
    mapped = parsed.ipv4_mapped if isinstance(parsed, IPv6Address) else None
    return str(mapped or parsed)
