"""Lists of hosts: which names they hold, and what may be reached because of that."""

from __future__ import annotations

import pytest

from pibot.errors import SkillError
from pibot.permits import Permits
from pibot.skills._hosts import WebPolicy, best_entry, listed
from pibot.skills._urls import parse


@pytest.mark.parametrize(
    ("entry", "host", "port"),
    [
        ("nas.local", "nas.local", 80),
        ("NAS.local", "nas.LOCAL.", 8123),
        ("nas.local:8123", "nas.local", 8123),
        ("nas.local.", "nas.local", 80),
        ("*.lan", "a.b.lan", 80),
        ("*.lan:81", "a.lan", 81),
        ("10.0.0.5", "10.0.0.5", 80),
        ("[fd00::1]", "fd00::1", 80),
        ("[fd00:0:0::1]:81", "fd00::1", 81),
    ],
)
def test_listed(entry: str, host: str, port: int) -> None:
    assert listed(host, port, ["x.test", entry])


@pytest.mark.parametrize(
    ("entry", "host", "port"),
    [
        ("nas.local", "nas.local.evil.test", 80),
        ("nas.local", "xnas.local", 80),
        ("nas.local", "local", 80),
        ("nas.local:8123", "nas.local", 80),
        ("*.lan", "lan", 80),
        ("*.lan", "xlan", 80),
        ("*.0.0.1", "127.0.0.1", 80),
        ("*.1", "127.0.0.1", 80),
        ("*.0x1", "127.0x1", 80),
        ("10.0.0.5", "10.0.0.50", 80),
        ("[fd00::1]", "fd00::2", 80),
        ("", "a", 80),
        ("*", "a", 80),
        ("*.", "a", 80),
    ],
)
def test_not_listed(entry: str, host: str, port: int) -> None:
    assert not listed(host, port, [entry])


def test_the_most_exact_entry() -> None:
    entries = ["*.lan", "*.ha.lan", "a.ha.lan", "a.ha.lan:80"]
    assert best_entry("a.ha.lan", 80, entries) == "a.ha.lan:80"
    assert best_entry("a.ha.lan", 81, entries) == "a.ha.lan"
    assert best_entry("b.ha.lan", 80, entries) == "*.ha.lan"
    assert best_entry("b.lan", 80, entries) == "*.lan"
    assert best_entry("b.test", 80, entries) is None


PERMITS = Permits(
    web_allow=("nas.lan", "10.0.0.5:81"),
    web_only=("example.org", "*.example.org"),
    web_deny=("bad.example.org", "*.bad.lan", "10.0.0.9", "nas.lan:22"),
)


@pytest.mark.parametrize(
    ("url", "address", "problem"),
    [
        ("http://example.org/", "1.1.1.1", ""),
        ("https://www.example.org:8443/", "1.1.1.1", ""),
        ("http://nas.lan:9/", "192.168.1.2", ""),
        ("http://10.0.0.5:81/", "10.0.0.5", ""),
        ("http://example.org/", "10.0.0.1", "a private address"),
        ("http://example.com/", "1.1.1.1", "PIBOT_WEB_ONLY does not name example.com"),
        ("http://bad.example.org/", "1.1.1.1", "PIBOT_WEB_DENY names bad.example.org"),
        ("http://BAD.example.org./", "1.1.1.1", "PIBOT_WEB_DENY names bad"),
        ("http://nas.lan:22/", "192.168.1.2", "PIBOT_WEB_DENY names nas.lan:22"),
        ("http://nas.lan/", "10.0.0.9", "PIBOT_WEB_DENY names its address"),
        ("http://nas.lan/", "::ffff:10.0.0.9", "PIBOT_WEB_DENY names its address"),
        ("http://10.0.0.5/", "10.0.0.5", "PIBOT_WEB_ONLY does not name"),
        ("http://example.org:25/", "1.1.1.1", "port 25 is not one that web servers use"),
        ("https://example.org:22/", "1.1.1.1", "port 22 is not"),
    ],
)
def test_what_a_policy_lets_through(url: str, address: str, problem: str) -> None:
    policy, target = WebPolicy.of(PERMITS), parse(url)
    if not problem:
        policy.check_name(target)
        policy.check_address(target, address)
        return
    with pytest.raises(SkillError, match=problem):
        policy.check_name(target)
        policy.check_address(target, address)


def test_without_lists_all_public_hosts_and_no_other() -> None:
    policy = WebPolicy()
    policy.check_name(parse("http://example.com/"))
    policy.check_address(parse("http://example.com/"), "1.1.1.1")
    with pytest.raises(SkillError, match="PIBOT_WEB_ALLOW=example.com:80 allows it"):
        policy.check_address(parse("http://example.com/"), "127.0.0.1")
