"""How strangers' servers are treated: their robots.txt, and how often they are asked."""

from __future__ import annotations

import re
import time
from typing import Any, Dict, Iterator, List, Mapping

import pytest

from security.internet import Internet, internet

NAMES = {"a.test A": [["93.0.0.1"]], "b.test A": [["93.0.0.2"]]}
PAGE = {"a.test/": {"body": "hello"}, "a.test/private": {"body": "x"}, "b.test/": {"body": "b"}}


@pytest.fixture(scope="module")
def net() -> Iterator[Internet]:
    with internet() as found:
        yield found


def fetch(net: Internet, path: str, rules: Mapping[str, Any], **options: Any) -> Dict[str, Any]:
    pages = {**PAGE, "a.test/robots.txt": rules, **options.pop("pages", {})}
    return net.call(
        "web_fetch", {"url": f"http://a.test{path}"}, names=NAMES, pages=pages, **options
    )


def paths(done: Dict[str, Any]) -> List[str]:
    return [path for _, _, path in done["requests"]]


RULES = {"body": "User-agent: *\nDisallow: /private"}


def test_what_is_not_for_programs_is_left_alone(net: Internet) -> None:
    done = fetch(net, "/private", RULES)
    assert not done["success"]
    assert (
        "http://a.test/private is not for programs: robots.txt of a.test says so"
        in (done["output"])
    )
    assert paths(done) == ["/robots.txt"]
    assert fetch(net, "/", RULES, fresh=False)["success"]


def test_the_rules_are_kept(net: Internet) -> None:
    assert paths(fetch(net, "/", RULES)) == ["/robots.txt", "/"]
    assert paths(fetch(net, "/", RULES, fresh=False)) == ["/"]
    assert paths(fetch(net, "/private", {}, fresh=False)) == []


def test_downloads_too(net: Internet) -> None:
    done = net.call(
        "web_download",
        {"url": "http://a.test/private"},
        names=NAMES,
        pages={**PAGE, "a.test/robots.txt": RULES},
    )
    assert not done["success"] and paths(done) == ["/robots.txt"] and done["files"] == []


def test_ones_own_hosts_are_not_asked(net: Internet) -> None:
    done = fetch(net, "/private", RULES, permits={"web_allow": ["a.test"]})
    assert done["success"] and paths(done) == ["/private"]


@pytest.mark.parametrize(
    ("rules", "may"),
    [
        ({"status": "404 Not Found"}, True),
        ({"status": "403 Forbidden", "body": "User-agent: *\nDisallow: /"}, True),
        ({"status": "500 Oops"}, False),
        ({"status": "503 Later"}, False),
        ({"body": "<html>no rules</html>"}, True),
        ({"raw": ""}, False),
        ({"raw": "nonsense\r\n\r\n"}, False),
    ],
)
def test_without_rules(net: Internet, rules: Mapping[str, Any], may: bool) -> None:
    done = fetch(net, "/", rules)
    assert done["success"] is may, done["output"]
    assert ("/" in paths(done)) is may


def test_the_rules_may_be_elsewhere_but_not_inside(net: Internet) -> None:
    there = {"status": "301 Moved", "headers": ["Location: http://b.test/rules"]}
    rules = {"b.test/rules": RULES}
    assert fetch(net, "/", there, pages=rules)["success"]
    assert not fetch(net, "/private", there, pages=rules)["success"]
    inside = {"status": "301 Moved", "headers": ["Location: http://10.0.0.1/rules"]}
    done = fetch(net, "/", inside)
    assert not done["success"] and "robots.txt has to be read first" in done["output"]
    assert [address for address, _, _ in done["requests"]] == ["93.0.0.1"]


def test_a_redirect_to_what_is_not_for_programs(net: Internet) -> None:
    moved = {"status": "302 Found", "headers": ["Location: http://a.test/private"]}
    done = net.call(
        "web_fetch",
        {"url": "http://b.test/"},
        names=NAMES,
        pages={**PAGE, "b.test/": moved, "a.test/robots.txt": RULES},
    )
    assert not done["success"] and "was redirected: " in done["output"]
    assert "/private" not in paths(done)


def test_a_server_is_asked_five_times_then_once_a_second(net: Internet) -> None:
    began = time.monotonic()
    for number in range(6):
        assert fetch(net, "/", RULES, fresh=number == 0)["success"]
    assert time.monotonic() - began > 0.95


def test_a_crawl_delay_is_kept(net: Internet) -> None:
    slow = {"body": "User-agent: *\nCrawl-delay: 7"}
    assert fetch(net, "/", slow)["success"]
    done = fetch(net, "/", slow, fresh=False, time_s=3)
    assert not done["success"]
    assert "a.test was asked too often: it can be asked again in" in done["output"]
    assert paths(done) == []


def test_a_crawl_delay_has_a_bound(net: Internet) -> None:
    slow = {"body": "User-agent: *\nCrawl-delay: 86400"}
    assert fetch(net, "/", slow)["success"]
    said = re.search(r"again in (\d+) s", fetch(net, "/", slow, fresh=False, time_s=3)["output"])
    assert said and int(said[1]) <= 10
