"""Which addresses the web skill may connect to: the public internet's, and no other.

`ipaddress.is_global` does not serve: it calls several of these global, and what it says differs
between versions of Python. So the special networks (IANA's two registries) stand here.
"""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import Optional

_REFUSED_V4 = (
    ("0.0.0.0/8", "this machine's own"),
    ("10.0.0.0/8", "a private"),
    ("100.64.0.0/10", "a provider's internal"),
    ("127.0.0.0/8", "a loopback"),
    ("169.254.0.0/16", "a link-local"),
    ("172.16.0.0/12", "a private"),
    ("192.0.0.0/24", "a reserved"),
    ("192.0.2.0/24", "a documentation"),
    ("192.88.99.0/24", "a 6to4 relay's"),
    ("192.168.0.0/16", "a private"),
    ("198.18.0.0/15", "a benchmarking"),
    ("198.51.100.0/24", "a documentation"),
    ("203.0.113.0/24", "a documentation"),
    ("224.0.0.0/4", "a multicast"),
    ("240.0.0.0/4", "a reserved"),
)
_REFUSED_V6 = (
    ("64:ff9b:1::/48", "a private"),
    ("100::/64", "a discard-only"),
    ("100:0:0:1::/64", "a dummy"),
    ("2001::/23", "a reserved"),
    ("2001:db8::/32", "a documentation"),
    ("3fff::/20", "a documentation"),
    ("5f00::/16", "a routing segment's"),
    ("fc00::/7", "a private"),
    ("fe80::/10", "a link-local"),
    ("fec0::/10", "a site-local"),
    ("ff00::/8", "a multicast"),
)
_PUBLIC_V6 = IPv6Network("2000::/3")  # all that was ever given out for public use

# Networks whose addresses carry an IPv4 address, and the bit at which it begins (from the right).
_CARRIERS = (
    (IPv6Network("::ffff:0:0/96"), 0),  # mapped
    (IPv6Network("::ffff:0:0:0/96"), 0),  # translated
    (IPv6Network("64:ff9b::/96"), 0),  # NAT64
    (IPv6Network("2002::/16"), 80),  # 6to4
    (IPv6Network("::/96"), 0),  # compatible; also :: itself
)
_TEREDO = IPv6Network("2001::/32")


def refusal(address: str) -> Optional[str]:
    """Return what kind of address it is ("a private"), or None when it is a public one.

    `address` is numeric, as getaddrinfo returns it; ValueError when it is not.
    """
    parsed = ip_address(address.partition("%")[0])
    if isinstance(parsed, IPv4Address):
        return _refusal_v4(parsed)
    if parsed.is_loopback:
        return "a loopback"
    carried = _carried(parsed)
    if carried:
        return next((kind for kind in map(_refusal_v4, carried) if kind), None)
    for network, kind in _REFUSED_V6:
        if parsed in IPv6Network(network):
            return kind
    return None if parsed in _PUBLIC_V6 else "an unassigned"


def _refusal_v4(address: IPv4Address) -> Optional[str]:
    for network, kind in _REFUSED_V4:
        if address in IPv4Network(network):
            return kind
    return None


def _carried(address: IPv6Address) -> list[IPv4Address]:
    """Return the IPv4 addresses that packets to `address` would in the end go to."""
    bits = int(address)
    if address in _TEREDO:  # the server, and the client with its bits inverted
        return [IPv4Address(bits >> 64 & 0xFFFFFFFF), IPv4Address(~bits & 0xFFFFFFFF)]
    for network, shift in _CARRIERS:
        if address in network:
            return [IPv4Address(bits >> shift & 0xFFFFFFFF)]
    return []
