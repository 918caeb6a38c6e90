"""What a model is told of: the groups that a task names or needs, and the others when it asks."""

from __future__ import annotations

from pathlib import Path
from typing import Iterator, List, Sequence, Tuple

import pytest

from agent.loop_bench import Bench, at_work
from model_server import calls, last, text
from pibot.agent.calls import GIVE_UP
from pibot.agent.kit import MORE, Kit, needed
from pibot.agent.tools import Skill, Toolbox, skill
from pibot.permits import Permits


def made(name: str, group: str) -> Skill:
    def function() -> str:
        """Do it."""
        return f"{name} was run"

    function.__name__ = name
    declared: Skill = skill()(function).__skill__
    return declared.settled(Permits(), group)


BOX = Toolbox(
    [
        made("echo", "core"),
        made("read_file", "files"),
        made("web_fetch", "web"),
        made("web_download", "web"),
        made("gpio_write", "hardware"),
        made("lamp", "own"),
    ]
)


@pytest.mark.parametrize(
    ("words", "groups"),
    [
        ("Say hello to Ann.", []),
        ("Summarise https://example.org/", ["web"]),
        ("Download the newest list", ["web"]),
        ("把这个网页的内容总结一下", ["web"]),
        ("Take a photo of the garden", ["hardware"]),
        ("Set GPIO 17 high", ["hardware"]),
        ("给花园拍照", ["hardware"]),
        ("Restart the mosquitto service", ["system"]),
        ("查看系统日志", ["system"]),
        ("Switch the lamp in the hall on", ["home"]),
        ("打开客厅的灯", ["home"]),
        ("spinning", []),
    ],
)
def test_words_speak_of_groups(words: str, groups: List[str]) -> None:
    assert sorted(needed(words)) == groups


@pytest.mark.parametrize(
    ("skills", "words", "told"),
    [
        ([], "Say hello.", ["echo", "read_file", "lamp", MORE]),
        ([], "Open http://x", ["echo", "read_file", "web_fetch", "web_download", "lamp", MORE]),
        (["web_fetch"], "Take a photo", ["web_fetch", "web_download"]),
        (["web"], "", ["web_fetch", "web_download"]),
        (["lamp"], "", ["lamp"]),
        (["lamp", "echo"], "", ["echo", "lamp"]),
    ],
)
def test_what_is_offered(skills: Sequence[str], words: str, told: List[str]) -> None:
    assert Kit(BOX, skills, words).told == [*told, GIVE_UP]


def test_another_group_comes_when_it_is_asked_for() -> None:
    kit = Kit(BOX, [], "")
    more = next(tool for tool in kit.tools if tool["function"]["name"] == MORE)
    assert more["function"]["parameters"]["properties"]["group"]["enum"] == ["web", "hardware"]
    assert "web: web_fetch, web_download" in more["function"]["description"]
    assert kit.more({"group": "hardware"}).success
    assert "gpio_write" in kit.told
    refused = kit.more({"group": "hardware"})
    assert (refused.success, refused.output) == (
        False,
        "there is no group 'hardware' to add; there are: web",
    )
    assert kit.more({"group": "web"}).data == {"tools": ["web_fetch", "web_download"]}
    assert MORE not in kit.told
    assert "you have all" in kit.more({}).output


def test_a_skill_that_is_called_brings_its_group() -> None:
    kit = Kit(BOX, [], "")
    assert "web_download" in kit.names
    kit.reach("web_fetch")
    assert "web_download" in kit.told
    named = Kit(BOX, ["echo"], "")
    named.reach("web_fetch")
    assert named.names == ["echo", GIVE_UP]


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    with at_work(tmp_path, monkeypatch) as made:
        made.toolbox = BOX
        yield made


def test_a_model_asks_for_a_group_and_uses_it(bench: Bench) -> None:
    bench.script(
        calls((MORE, {"group": "hardware"})),
        calls(("gpio_write", {})),
        lambda request: text(f"Done: {last(request, 'tool')}"),
    )
    assert bench.run("Do it.").output == "Done: gpio_write was run"
    first, second, _ = bench.server.requests
    assert "gpio_write" not in [tool["function"]["name"] for tool in first["tools"]]
    assert "gpio_write" in [tool["function"]["name"] for tool in second["tools"]]


@pytest.mark.parametrize(
    ("skills", "said"),
    [
        ((), "gpio_write was run"),
        (("echo",), "Error: there is no tool 'gpio_write'; there are: echo, give_up"),
    ],
)
def test_who_was_not_told_of_a_skill_may_know_it(
    bench: Bench, skills: Tuple[str, ...], said: str
) -> None:
    bench.script(calls(("gpio_write", {})), lambda request: text(str(last(request, "tool"))))
    assert bench.run("Do it.", skills=skills).output == said
