"""The table of addresses: what is refused, also when it hides in another address."""

from __future__ import annotations

import pytest

from pibot.skills._addresses import refusal


@pytest.mark.parametrize(
    "address",
    [
        *("0.0.0.0", "0.1.2.3", "10.0.0.1", "100.64.0.1", "100.127.255.255", "127.0.0.1"),
        *("127.255.255.254", "169.254.169.254", "172.16.0.1", "172.31.255.255", "192.0.0.1"),
        *("192.0.2.1", "192.88.99.1", "192.168.1.1", "198.18.0.1", "198.19.255.255"),
        *("198.51.100.1", "203.0.113.1", "224.0.0.1", "239.255.255.255", "240.0.0.1"),
        *("255.255.255.255", "::", "::1", "::2", "fe80::1", "fe80::1%eth0", "fec0::1", "fc00::1"),
        *("fd12:3456::1", "ff02::1", "2001:db8::1", "3fff::1", "5f00::1", "100::1", "100:0:0:1::1"),
        *("2001:2::1", "2001:10::1", "64:ff9b:1::1", "4000::1", "1::1", "1fff::1", "e000::1"),
        # Carried in others: mapped, compatible, translated, NAT64, 6to4, Teredo (client, server).
        *("::ffff:127.0.0.1", "::ffff:7f00:1", "::ffff:10.0.0.1", "::127.0.0.1", "::10.1.2.3"),
        *("::ffff:0:127.0.0.1", "64:ff9b::7f00:1", "64:ff9b::192.168.1.1", "2002:7f00:1::"),
        *("2002:c0a8:101::1", "2001:0:4136:e378:8000:63bf:80ff:fffe"),
        "2001:0:7f00:1:8000:63bf:f7f7:f7f7",
    ],
)
def test_refused(address: str) -> None:
    assert refusal(address)


@pytest.mark.parametrize(
    "address",
    [
        *("1.1.1.1", "8.8.8.8", "9.255.255.255", "11.0.0.0", "100.63.255.255", "100.128.0.0"),
        *("126.255.255.255", "128.0.0.0", "172.15.255.255", "172.32.0.0", "192.0.1.0"),
        *("192.167.255.255", "192.169.0.0", "198.17.255.255", "198.20.0.0", "223.255.255.255"),
        *("2606:4700:4700::1111", "2001:4860:4860::8888", "2a00:1450:4001::1", "2001:200::1"),
        *("::ffff:8.8.8.8", "64:ff9b::808:808", "2002:808:808::1"),
        "2001:0:808:808:8000:63bf:f7f7:f7f7",
    ],
)
def test_public(address: str) -> None:
    assert refusal(address) is None


def test_says_what_kind_it_is() -> None:
    assert refusal("64:ff9b::7f00:1") == "a loopback"
    assert refusal("::1") == "a loopback"
    assert refusal("192.168.1.1") == "a private"


def test_a_name_is_no_address() -> None:
    with pytest.raises(ValueError, match="localhost"):
        refusal("localhost")
