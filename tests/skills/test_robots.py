"""robots.txt as RFC 9309 has it: whose rules count, and which of them decides."""

from __future__ import annotations

import time

import pytest

from pibot.skills._robots import MOST_BYTES, NOTHING, Rules, read


def allowed(rules: str, path: str) -> bool:
    return read(rules.encode()).allows(path, lambda: None)


ALL = "User-agent: *\n"


@pytest.mark.parametrize(
    ("rules", "path", "may"),
    [
        ("", "/", True),
        (ALL + "Disallow: /", "/", False),
        (ALL + "Disallow:", "/", True),
        ("Disallow: /", "/", True),  # before any group
        (ALL + "Disallow: /a", "/a/b", False),
        (ALL + "Disallow: /a", "/A/b", True),
        (ALL + "Disallow: /a/", "/a", True),
        # The longest rule decides, not the first; of equals the one that allows.
        (ALL + "Disallow: /\nAllow: /a", "/a", True),
        (ALL + "Allow: /\nDisallow: /a", "/a", False),
        (ALL + "Allow: /a/b\nDisallow: /a\nDisallow: /a/b/c", "/a/b/d", True),
        (ALL + "Allow: /a/b\nDisallow: /a\nDisallow: /a/b/c", "/a/b/c", False),
        (ALL + "Disallow: /a\nAllow: /a", "/a", True),
        # Wildcards and ends.
        (ALL + "Disallow: /*.php$", "/x/a.php", False),
        (ALL + "Disallow: /*.php$", "/x/a.php?x", True),
        (ALL + "Disallow: /*.php", "/x/a.php?x", False),
        (ALL + "Disallow: /a$", "/a", False),
        (ALL + "Disallow: /a$", "/ab", True),
        (ALL + "Disallow: /a*b*c$", "/abbc", False),
        (ALL + "Disallow: /a*bc$", "/abc", False),
        (ALL + "Disallow: /ab*bc$", "/abc", True),
        (ALL + "Disallow: *", "/a", False),
        (ALL + "Disallow: /*/x", "/a/b/x", False),
        (ALL + "Disallow: /a$b", "/a$b", False),
        (ALL + "Disallow: /a%24", "/a$b", False),
        (ALL + "Disallow: /a%2A", "/a*b", False),
        (ALL + "Disallow: /a%2A", "/ab", True),
        (ALL + "Disallow: /?", "/?q=1", False),
        (ALL + "Disallow: /?", "/q", True),
        # Quoting.
        (ALL + "Disallow: /温", "/%E6%B8%A9%E5%BA%A6", False),
        (ALL + "Disallow: /%e6%b8%a9", "/%E6%B8%A9", False),
        (ALL + "Disallow: /%61", "/a", False),
        (ALL + "Disallow: /a%2fb", "/a/b", True),
        (ALL + "Disallow: /a%2fb", "/a%2Fb", False),
        (ALL + "Disallow: /100%25", "/100%25", False),
        # Whose rules.
        ("User-agent: PiBot\nDisallow: /a\n\nUser-agent: *\nDisallow: /b", "/b", True),
        ("User-agent: pibot/9\nDisallow: /a", "/a", False),
        ("User-agent: pibotx\nDisallow: /a", "/a", True),
        ("User-agent: x\nUser-agent: pibot\nDisallow: /a", "/a", False),
        ("User-agent: x\n# note\n\nUser-agent: pibot\nDisallow: /a", "/a", False),
        ("User-agent: x\nDisallow: /a\nUser-agent: pibot\nDisallow: /b", "/a", True),
        ("User-agent: pibot\nDisallow: /a\nUser-agent: pibot\nDisallow: /b", "/a", False),
        ("User-agent: pibot\n\nUser-agent: *\nDisallow: /", "/a", False),  # they share the group
        ("User-agent: pibot\nAllow:\n\nUser-agent: *\nDisallow: /", "/a", True),
        (ALL + "Disallow: /a\nUser-agent: *\nDisallow: /b", "/a", False),
        # How it may be written.
        ("\ufeffUser-agent: *\nDisallow: /a", "/a", False),
        ("USER-AGENT : *\r\ndisallow :/a # b\r\n", "/a", False),
        ("user-agent: *\rdisallow: /a", "/a", False),
        ("Sitemap: x\nnonsense\n: y\nUser-agent: *\nHost: z\nDisallow: /a", "/a", False),
        (ALL + "Disallow: /a b", "/a%20b", False),
        ("<html>User-agent: *\nDisallow: /", "/", True),
    ],
)
def test_rules(rules: str, path: str, may: bool) -> None:
    assert allowed(rules, path) is may


def test_what_is_beyond_the_limit_is_not_read() -> None:
    far = ALL + "#" * MOST_BYTES + "\nDisallow: /a"
    near = ALL + "#" * (MOST_BYTES - 1000) + "\nDisallow: /a"
    assert allowed(far, "/a")
    assert not allowed(near, "/a")


@pytest.mark.parametrize(
    ("said", "delay_s"),
    [("Crawl-delay: 3", 3), ("crawl-delay: 0.5", 0.5), ("Crawl-delay: -1", 0)]
    + [(f"Crawl-delay: {bad}", 0.0) for bad in ("", "x", "nan", "1 s")],
)
def test_the_delay(said: str, delay_s: float) -> None:
    assert read(f"{ALL}{said}".encode()).delay_s == delay_s


def test_nothing_and_everything() -> None:
    assert Rules().allows("/a", lambda: None)
    assert not NOTHING.allows("/a", lambda: None)


@pytest.mark.parametrize("unit", ["Disallow: /" + "*a" * 500, "Allow: /*", "User-agent: *", "\n"])
def test_hostile_rules_let_go_soon(unit: str) -> None:
    raw = (ALL + f"{unit}\n" * (MOST_BYTES // len(unit))).encode()
    looks = [time.perf_counter()]
    found = read(raw)
    assert time.perf_counter() - looks[0] < 2.0
    looks = [time.perf_counter()]
    found.allows("/" + "a" * 8000, lambda: looks.append(time.perf_counter()))
    looks.append(time.perf_counter())
    assert max(after - before for before, after in zip(looks, looks[1:])) < 0.5


def test_stops_when_the_time_is_over() -> None:
    def over() -> None:
        raise TimeoutError

    with pytest.raises(TimeoutError):
        NOTHING.allows("/", over)
