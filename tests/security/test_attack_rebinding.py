"""Names that point elsewhere the next time they are asked for: a real resolver, a lying server.

Whatever the DNS server says, no private server gets a request. (What "private" means is the same
table for all of them; test_attack_ssrf.py goes through it.)
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Dict, Iterator, List, Mapping, Sequence

import pytest

from security.internet import Internet, internet

PUBLIC, OTHER, PRIVATE, METADATA = "93.0.0.1", "93.0.0.2", "10.0.0.5", "169.254.169.254"
URL = "http://evil.test/x"
PAGES: Mapping[str, Mapping[str, Any]] = {
    "evil.test/x": {"body": "public"},
    "evil.test/again": {"body": "secret"},
    "evil.test/x.bin": {"body": "secret"},
}


@pytest.fixture(scope="module")
def net() -> Iterator[Internet]:
    with internet() as found:
        yield found


@dataclass(frozen=True)
class Case:
    """`a` and `aaaa` are what evil.test has, one answer after the other."""

    a: Sequence[Sequence[str]]
    aaaa: Sequence[Sequence[str]] = ()
    url: str = URL
    skill: str = "web_fetch"
    pages: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    permits: Mapping[str, Any] = field(default_factory=dict)
    reached: int = 0  # requests to public servers that are right to be made
    success: bool = False


BROKEN = {"headers": ["Content-Length: 9", 'ETag: "a"'], "body": "pub"}
CASES: Dict[str, Case] = {
    "private at once": Case([[PRIVATE]]),
    "the metadata service": Case([[METADATA]]),
    "this machine as 0.0.0.0": Case([["0.0.0.0"]]),
    "public and private in one answer": Case([[PUBLIC, PRIVATE]]),
    "private and public in one answer": Case([[PRIVATE, PUBLIC]]),
    "public, and loopback over IPv6": Case([[PUBLIC]], [["::1"]]),
    "public, and a mapped address over IPv6": Case([[PUBLIC]], [["::ffff:10.0.0.5"]]),
    "public, and NAT64 to the metadata service": Case([[PUBLIC]], [["64:ff9b::a9fe:a9fe"]]),
    "public, and 6to4 to a private network": Case([[PUBLIC]], [["2002:a00:5::1"]]),
    "an alias of a private name": Case([["cname:inside.test", PRIVATE]]),
    "an alias of localhost": Case([["cname:localhost", "127.0.0.1"]]),
    "private after the rules were read": Case([[PUBLIC], [PRIVATE]]),
    "private when the page is asked for, not the rules": Case([[PRIVATE], [PUBLIC]]),
    "private at the second hop": Case(
        [[PUBLIC], [PUBLIC], [PRIVATE]],
        pages={"evil.test/x": {"status": "302 Found", "headers": ["Location: /again"]}},
        reached=2,
    ),
    "private when a download is gone on with": Case(
        [[PUBLIC], [PUBLIC], [PRIVATE]],
        skill="web_download",
        url="http://evil.test/x.bin",
        pages={"evil.test/x.bin": BROKEN},
        reached=2,
    ),
    "the address of a host that is allowed": Case(
        [[PRIVATE]], permits={"web_allow": [PRIVATE, "nas.test"]}
    ),
    "the address of a host that is allowed by its port": Case(
        [[PRIVATE]], permits={"web_allow": [f"{PRIVATE}:80"]}
    ),
    "a name of the list of hosts, with a private address": Case(
        [[PRIVATE]], permits={"web_only": ["evil.test"]}
    ),
    "the address of a listed device": Case(
        [[PRIVATE]],
        skill="http_request",
        permits={"hosts": [PRIVATE], "host_tokens": {PRIVATE: "t"}},
    ),
    "an address that is denied": Case([[OTHER]], permits={"web_deny": [OTHER]}),
    "a packet that is no answer": Case([[""]]),
    "a name that ends in a dot": Case([[PRIVATE]], url="http://evil.test./x"),
    "only the first answer counts": Case([[PUBLIC], [PUBLIC], [PRIVATE]], reached=2, success=True),
}


@pytest.mark.parametrize("name", CASES)
def test_rebinding(net: Internet, name: str) -> None:
    case = CASES[name]
    done = net.call(
        case.skill,
        {"url": case.url},
        names={"evil.test A": case.a, "evil.test AAAA": case.aaaa, "localhost A": [["127.0.0.1"]]},
        pages={**PAGES, **case.pages},
        permits=case.permits,
    )
    assert done["success"] is case.success, done["output"]
    assert [request for request in done["requests"] if request[0] != PUBLIC] == []
    assert len(done["requests"]) == case.reached, done["requests"]
    assert "secret" not in str(done["data"]) + done["output"]
    # The real resolver was at work, unless the name alone was enough to refuse.
    assert done["asked"] or "is not in PIBOT_HOSTS" in done["output"]


def test_the_private_servers_are_there(net: Internet) -> None:
    """Without this the cases above would prove nothing."""
    for address in (PRIVATE, METADATA, "127.0.0.1"):
        done = net.call(
            "web_fetch",
            {"url": f"http://{address}/"},
            names={},
            pages={f"{address}/": {"body": "inside"}},
            permits={"web_allow": [address]},
        )
        assert done["data"]["text"] == "inside"
        assert done["requests"] == [[address, address, "/"]]


def test_the_server_does_change_its_mind(net: Internet) -> None:
    names = {"evil.test A": [[PUBLIC], [PRIVATE]]}
    allowed = {"web_allow": ["evil.test"]}
    seen: List[str] = []
    for _ in range(2):
        done = net.call("web_fetch", {"url": URL}, names=names, pages=PAGES, permits=allowed)
        seen.append(done["requests"][0][0])
        names = {"evil.test A": names["evil.test A"][1:]}
    assert seen == [PUBLIC, PRIVATE]
