"""Addresses that are not public, in every notation that a resolver or a URL parser knows.

A trap listens on all addresses of this machine: nothing may connect to it.
"""

from __future__ import annotations

from typing import Dict, Iterator, Tuple

import pytest

from security.hands import CANARY, Hands
from security.trap import Trap, trap

LOOPBACK = [
    *("127.0.0.1", "127.1", "127.0.1", "127.255.255.254", "0", "0.0.0.0", "0.0", "0.0.0.1"),
    *("2130706433", "0x7f000001", "0x7f.1", "0x7f.0x0.0x0.0x1", "0X7F.0.0.1", "017700000001"),
    *("0177.0.0.1", "0177.0.0.01", "00000177.0.0.1", "127.0x0.1", "4294967295", "0x100000000"),
    *("127.0.0.1.", "127.0.0.1..", "localhost", "LOCALHOST", "localhost.", "ip6-localhost"),
    *("127。0。0。1", "127．0．0．1", "127｡0｡0｡1", "①②⑦.⓪.⓪.①", "１２７.0.0.1", "𝟏𝟐𝟕.𝟎.𝟎.𝟏"),
    *("ｌｏｃａｌｈｏｓｔ", "loc\u00adalhost", "localh\u200bost", "ⓛⓞⓒⓐⓛⓗⓞⓢⓣ", "127.0.0.1%00"),
    *("%31%32%37.0.0.1", "127.0.0.1%2f", "127%2e0%2e0%2e1", "127.0.0.1%20", "127.0.0.1%09"),
]
IPV6 = [
    *("[::1]", "[::]", "[0:0:0:0:0:0:0:1]", "[0000::0001]", "[::127.0.0.1]", "[::7f00:1]"),
    *("[::ffff:127.0.0.1]", "[::ffff:7f00:1]", "[0:0:0:0:0:ffff:7f00:1]", "[::FFFF:127.0.0.1]"),
    *("[::ffff:0:127.0.0.1]", "[64:ff9b::7f00:1]", "[64:ff9b::127.0.0.1]", "[64:ff9b:1::7f00:1]"),
    *("[2002:7f00:1::]", "[2002:7f00:1::1]", "[2002:a00:1::]", "[2002:c0a8:101::]"),
    *("[2001:0:7f00:1::1]", "[2001:0:4136:e378:8000:63bf:80ff:fffe]", "[2001:db8::1]"),
    *("[fe80::1]", "[fe80::1%25lo]", "[fe80::1%lo]", "[::1%25lo]", "[::1%251]", "[fec0::1]"),
    *("[fc00::1]", "[fd00:ec2::254]", "[ff02::1]", "[100::1]", "[5f00::1]", "[4000::1]", "[1::]"),
    *("[::ffff:169.254.169.254]", "[::ffff:10.0.0.1]", "[64:ff9b::a9fe:a9fe]", "[v1.x]", "[::1]."),
]
PRIVATE = [
    *("10.0.0.1", "10.1", "0xa.1", "012.0.0.1", "167772161", "172.16.0.1", "172.31.255.255"),
    *("192.168.0.1", "192.168.257", "0xc0a80001", "3232235521", "100.64.0.1", "198.18.0.1"),
    *("169.254.169.254", "0xa9fea9fe", "2852039166", "0251.0376.0251.0376", "169.254.43518"),
    *("169.254.170.2", "192.0.0.192", "192.0.2.1", "198.51.100.1", "203.0.113.1", "192.88.99.1"),
    *("224.0.0.1", "239.255.255.250", "240.0.0.1", "255.255.255.255"),
]
# Who is asked? Parsers differ; each of these has led somebody's client to the second host.
CONFUSED = [
    *("http://93.0.0.1@127.0.0.1:{port}/", "http://93.0.0.1:80@127.0.0.1:{port}/"),
    *("http://127.0.0.1:{port}@/", "http://@127.0.0.1:{port}/", "http://:@127.0.0.1:{port}/"),
    *("http://93.0.0.1\\@127.0.0.1:{port}/", "http://127.0.0.1:{port}\\@93.0.0.1/"),
    *("http:\\\\127.0.0.1:{port}\\", "http:/\\127.0.0.1:{port}/", "http:127.0.0.1:{port}/"),
    *("http:///127.0.0.1:{port}/", "http:////127.0.0.1:{port}/", "//127.0.0.1:{port}/"),
    *("http://127.0.0.1:{port}#@93.0.0.1/", "http://127.0.0.1:{port}?@93.0.0.1/"),
    *(
        "http://93.0.0.1#@127.0.0.1:{port}\\",
        "http://127.0.0.1:0{port}/",
        "http://127.0.0.1:+{port}/",
    ),
    *("http://127.0.0.1:{port} /", "http://127.0.0.1 :{port}/", " http://127.0.0.1:{port}/\t"),
    *("http://127.0.0.1:{port}\r\nX: y/", "http://127.0.0.1:{port}/\r\nHost: a", "ht\ttp://127.1/"),
    *(
        "http://127.0.0.1\t:{port}/",
        "http://[::1]x:{port}/",
        "http://x[::1]:{port}/",
        "http://[::1",
    ),
    *("http://127.0.0.1:{port}:80/", "http://127.0.0.1:99999999999{port}/", "http://127.0.0.1:-1/"),
    *("file:///etc/hostname", "file://127.0.0.1/etc/hostname", "gopher://127.0.0.1:{port}/_GET"),
    *(
        "dict://127.0.0.1:{port}/",
        "ftp://127.0.0.1:{port}/",
        "data:text/plain,secret",
        "ws://[::1]",
    ),
    *(
        "javascript:secret",
        "unix:///run/x.sock",
        "http+unix://%2Frun%2Fx.sock/",
        "https://0:{port}/",
    ),
]


@pytest.fixture(scope="module")
def guarded() -> Iterator[Trap]:
    with trap() as made:
        yield made


def attempt(hands: Hands, guarded: Trap, url: str, skill: str = "web_fetch") -> str:
    guarded.seen.clear()
    done = hands.call(skill, {"url": url.replace("{port}", str(guarded.port))}, time_s=10.0)
    assert not done["success"], done
    assert guarded.seen == []
    assert "secret" not in str(done["data"]) and CANARY not in str(done)
    return str(done["output"])


@pytest.mark.parametrize("host", [*LOOPBACK, *IPV6, *PRIVATE], ids=ascii)
def test_no_notation_of_a_private_address(hands: Hands, guarded: Trap, host: str) -> None:
    said = attempt(hands, guarded, f"http://{host}:{{port}}/")
    assert "refused: " in said or "is not a URL" in said or "was not found" in said


@pytest.mark.parametrize("url", CONFUSED, ids=ascii)
def test_no_url_confuses_the_parser(hands: Hands, guarded: Trap, url: str) -> None:
    assert attempt(hands, guarded, url)
    assert guarded.seen == []


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "2130706433", "[::1]", "169.254.169.254", "localhost"]
)
def test_downloads_and_requests_too(hands: Hands, guarded: Trap, host: str) -> None:
    attempt(hands, guarded, f"http://{host}:{{port}}/x", "web_download")
    assert list(hands.workspace.iterdir()) == []
    attempt(hands, guarded, f"http://{host}:{{port}}/x", "http_request")


# What the owner has listed opens that and nothing beside it.
BESIDE: Dict[str, Tuple[str, str]] = {
    "another port": ("127.0.0.1:1", "http://127.0.0.1:{port}/"),
    "another notation": ("127.0.0.1", "http://127.1:{port}/"),
    "another name of it": ("127.0.0.1", "http://localhost:{port}/"),
    "its mapped address": ("127.0.0.1", "http://[::ffff:127.0.0.1]:{port}/"),
    "a wildcard of digits": ("*.0.0.1", "http://127.0.0.1:{port}/"),
    "all addresses": ("0.0.0.0", "http://127.0.0.1:{port}/"),
    "a name that ends alike": ("host", "http://localhost:{port}/"),
    "a listed name before the @": ("nas.test", "http://nas.test@127.0.0.1:{port}/"),
    "a listed name before the backslash": ("nas.test", "http://nas.test\\@127.0.0.1:{port}/"),
}


@pytest.mark.parametrize("name", BESIDE)
@pytest.mark.parametrize("skill", ["web_fetch", "http_request"])
def test_a_list_opens_nothing_beside_it(hands: Hands, guarded: Trap, skill: str, name: str) -> None:
    listed, url = BESIDE[name]
    guarded.seen.clear()
    done = hands.call(
        skill,
        {"url": url.replace("{port}", str(guarded.port))},
        permits={"web_allow": [listed], "hosts": [listed], "host_tokens": {listed: CANARY}},
    )
    assert not done["success"]
    assert guarded.seen == []


def test_the_trap_can_be_reached(hands: Hands, guarded: Trap) -> None:
    """Else the cases above would prove nothing."""
    for host in ("127.0.0.1", "127.0.0.2", "[::1]"):
        guarded.seen.clear()
        done = hands.call(
            "web_fetch", {"url": f"http://{host}:{guarded.port}/"}, permits={"web_allow": [host]}
        )
        assert (done["success"], done["data"].get("text")) == (True, "secret"), done["output"]
        assert len(guarded.seen) == 1
