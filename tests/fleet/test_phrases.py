"""Sentence templates: which sentences they take, and above all which they leave alone."""

from __future__ import annotations

import time

import pytest

from pibot.fleet.phrases import Match, Where, check, match

SKILLS = [
    {
        "name": "system_status",
        "phrases": [
            "system (status|health)",
            'disk [space|usage] => {"part": "disk"}',
            '(cpu |)temperature => {"part": "temperature"}',
            '磁盘(空间|使用)[情况] => {"part": "disk"}',
            '(CPU|)温度 => {"part": "temperature"}',
            "系统状态",
        ],
    },
    {"name": "get_time", "phrases": ["what time is it", "[the] time", "(现在|)几点[了]", "时间"]},
    {
        "name": "web_fetch",
        "phrases": [
            "(fetch|get|open|read|download) {url}",
            "(抓取|打开|读取|获取|下载)[网页]{url}",
        ],
    },
    {"name": "echo", "phrases": ["echo {text}", "(回显|说){text}"]},
    {"name": "shell", "phrases": ["run {command}", "运行{command}"]},
    {"name": "read_file", "phrases": ["(read|show) [the] [file] {path}", "读取文件{path}"]},
    {"name": "write_file", "phrases": ["write {content} to {path}"]},
    {"name": "fleet", "phrases": ["status of all workers"]},
]
WORKERS = ["worker-1", "worker-2", "kitchen"]
ANYWHERE, ALL = Where(), Where(all=True)
ONE, TWO = Where("worker-1"), Where("worker-2")
DISK, HEAT = {"part": "disk"}, {"part": "temperature"}
X = "https://example.com/x"


def said(text: str) -> Match | None:
    return match(text, SKILLS, WORKERS)


@pytest.mark.parametrize(
    ("text", "skill", "args", "where"),
    [
        # The sentences that people try first.
        ("disk space on all workers", "system_status", DISK, ALL),
        ("worker-1 的温度", "system_status", HEAT, ONE),
        (f"fetch {X} on worker-2", "web_fetch", {"url": X}, TWO),
        ("system status of all workers", "system_status", {}, ALL),
        ("what time is it on worker-1?", "get_time", {}, ONE),
        ("temperature of worker-2", "system_status", HEAT, TWO),
        ("所有工作机的磁盘空间", "system_status", DISK, ALL),
        (f"在 worker-2 上抓取 {X}", "web_fetch", {"url": X}, TWO),
        # No place, case, spaces and marks.
        ("what time is it", "get_time", {}, ANYWHERE),
        ("  What   TIME is\nit ?!", "get_time", {}, ANYWHERE),
        ("disk", "system_status", DISK, ANYWHERE),
        ("Disk usage.", "system_status", DISK, ANYWHERE),
        ("cpu temperature", "system_status", HEAT, ANYWHERE),
        ("系统状态。", "system_status", {}, ANYWHERE),
        ("现在几点了？", "get_time", {}, ANYWHERE),
        ("磁盘使用情况", "system_status", DISK, ANYWHERE),
        # Places before, after and inside.
        ("worker-1: disk space", "system_status", DISK, ONE),
        ("worker-1：磁盘空间", "system_status", DISK, ONE),
        ("worker-1's temperature", "system_status", HEAT, ONE),
        ("worker-1’s temperature", "system_status", HEAT, ONE),
        ("worker-1 temperature", "system_status", HEAT, ONE),
        ("On worker-1, what time is it?", "get_time", {}, ONE),
        ("WORKER-1: disk", "system_status", DISK, ONE),
        ("kitchen disk space", "system_status", DISK, Where("kitchen")),
        ("all workers: disk space", "system_status", DISK, ALL),
        ("temperature for each machine", "system_status", HEAT, ALL),
        ("for each machine, system status", "system_status", {}, ALL),
        ("disk usage everywhere", "system_status", DISK, ALL),
        ("disk usage on every worker", "system_status", DISK, ALL),
        ("disk usage on all of the nodes", "system_status", DISK, ALL),
        ("disk space of my raspberry pis", "system_status", DISK, ALL),
        ("all workers' disk space", "system_status", DISK, ALL),
        ("every worker's temperature", "system_status", HEAT, ALL),
        ("每台机器的温度", "system_status", HEAT, ALL),
        ("每个节点的磁盘空间", "system_status", DISK, ALL),
        ("所有树莓派的CPU温度", "system_status", HEAT, ALL),
        ("所有节点上的磁盘空间", "system_status", DISK, ALL),
        ("所有工作机温度", "system_status", HEAT, ALL),
        ("在所有机器上查看磁盘空间", "system_status", DISK, ALL),
        ("在worker-2上抓取" + X, "web_fetch", {"url": X}, TWO),
        (f"worker-2 上抓取 {X}", "web_fetch", {"url": X}, TWO),
        (f"让 worker-2 下载 {X}", "web_fetch", {"url": X}, TWO),
        (f"fetch on worker-2 {X}", "web_fetch", {"url": X}, TWO),
        (f"worker-2: fetch {X}", "web_fetch", {"url": X}, TWO),
        (f"let worker-2 fetch {X}", "web_fetch", {"url": X}, TWO),
        # A worker that nobody knows is still a place: the caller can say that it does not exist.
        ("disk space on worker-9", "system_status", DISK, Where("worker-9")),
        ("raspberrypi-1a2b 的温度", "system_status", HEAT, Where("raspberrypi-1a2b")),
        # Polite words.
        ("please show me the disk space on all workers", "system_status", DISK, ALL),
        ("can you please show me the temperature of worker-1?", "system_status", HEAT, ONE),
        ("what's the temperature of worker-2", "system_status", HEAT, TWO),
        ("what is worker-1's cpu temperature right now?", "system_status", HEAT, ONE),
        ("what is the time", "get_time", {}, ANYWHERE),
        ("check worker-1 disk space please", "system_status", DISK, ONE),
        ("check all workers' disk space", "system_status", DISK, ALL),
        ("please, on worker-1, check the disk usage. Thanks!", "system_status", DISK, ONE),
        ("请帮我查看一下所有工作机的磁盘空间，谢谢！", "system_status", DISK, ALL),
        ("请在 worker-1 上查看磁盘空间", "system_status", DISK, ONE),
        ("看一下 worker-1 的温度", "system_status", HEAT, ONE),
        ("worker-1 的温度是多少？", "system_status", HEAT, ONE),
        ("请问现在几点了", "get_time", {}, ANYWHERE),
        (f"请抓取网页 {X}。", "web_fetch", {"url": X}, ANYWHERE),
        ("read the temperature on all workers", "system_status", HEAT, ALL),
        # Captures.
        (f"download {X}.", "web_fetch", {"url": X}, ANYWHERE),
        (
            "open HTTP://NAS.local/A?b=C#d",
            "web_fetch",
            {"url": "HTTP://NAS.local/A?b=C#d"},
            ANYWHERE,
        ),
        (
            "fetch https://e.org/a,b.c/?q=x:y",
            "web_fetch",
            {"url": "https://e.org/a,b.c/?q=x:y"},
            ANYWHERE,
        ),
        ("echo Hello,  World!", "echo", {"text": "Hello,  World!"}, ANYWHERE),
        ("echo two\n lines", "echo", {"text": "two\n lines"}, ANYWHERE),
        ("echo hello on worker-2.", "echo", {"text": "hello"}, TWO),
        ("please echo hello everywhere", "echo", {"text": "hello"}, ALL),
        ("echo worker-1's address", "echo", {"text": "worker-1's address"}, ANYWHERE),
        ("echo worker-1 is hot", "echo", {"text": "worker-1 is hot"}, ANYWHERE),
        ("echo worker-1 is hot on worker-2", "echo", {"text": "worker-1 is hot"}, TWO),
        ("echo the end of worker-2", "echo", {"text": "the end of worker-2"}, ANYWHERE),
        ("worker-1: echo the end of worker-2", "echo", {"text": "the end of worker-2"}, ONE),
        ("echo on worker-1", "echo", {"text": "on worker-1"}, ANYWHERE),
        ("echo a fire on worker-2 today", "echo", {"text": "a fire on worker-2 today"}, ANYWHERE),
        ("说你好，世界", "echo", {"text": "你好，世界"}, ANYWHERE),
        ("run df -h | tail -1", "shell", {"command": "df -h | tail -1"}, ANYWHERE),
        ("run ping worker-1", "shell", {"command": "ping worker-1"}, ANYWHERE),
        ("on all workers run uptime", "shell", {"command": "uptime"}, ALL),
        ("run on worker-1: df -h /", "shell", {"command": "df -h /"}, ONE),
        ("在 worker-1 上运行 df -h", "shell", {"command": "df -h"}, ONE),
        ("read notes.txt", "read_file", {"path": "notes.txt"}, ANYWHERE),
        ("read the file notes.txt on worker-1.", "read_file", {"path": "notes.txt"}, ONE),
        ('read "my notes.txt"', "read_file", {"path": "my notes.txt"}, ANYWHERE),
        ("show ../x", "read_file", {"path": "../x"}, ANYWHERE),
        ("show ..", "read_file", {"path": ".."}, ANYWHERE),
        ("读取文件 笔记.txt", "read_file", {"path": "笔记.txt"}, ANYWHERE),
        ("write 5 to a.txt", "write_file", {"content": "5", "path": "a.txt"}, ANYWHERE),
        (
            "write add it to the list to a.txt",
            "write_file",
            {"content": "add it to the list", "path": "a.txt"},
            ANYWHERE,
        ),
        # The more specific template wins, also over the reading with a place.
        ("status of all workers", "fleet", {}, ANYWHERE),
        ("show the disk", "system_status", DISK, ANYWHERE),
    ],
)
def test_sentence(text: str, skill: str, args: dict, where: Where) -> None:
    assert said(text) == Match(skill, args, where)


@pytest.mark.parametrize(
    "text",
    [
        "",
        " \n ",
        "?!",
        "please",
        "on all workers",
        "worker-1",
        # They ask for more than the template does.
        "read the temperature on all workers and write a report",
        "check disk space on all workers and then mail me",
        "disk space on worker-1 and worker-2",
        "disk space, temperature",
        "disk space on worker-1 on worker-2",
        f"fetch {X} and summarise it",
        f"fetch {X} on worker-2 and {X} on worker-1",
        "查看所有工作机的磁盘空间并写一份报告",
        "worker-1 的温度超过 60 度时通知我",
        # They only look like a template.
        "what time is it in Paris",
        "temperature of water",
        "temperatures",
        "diskspace",
        "disk space on mars",
        "why is the temperature of worker-1 so high",
        "fetch ftp://example.com/x",
        "fetch file:///etc/passwd",
        "fetch the mail",
        "fetch https://",
        "echo",
        "write to a.txt",
        "write x to two words",
        "read a file of mine",
    ],
)
def test_sentence_that_is_none(text: str) -> None:
    assert said(text) is None


def test_a_place_needs_no_known_workers() -> None:
    assert match("disk on worker-3", SKILLS, []) == Match("system_status", DISK, Where("worker-3"))
    assert match("disk on kitchen", SKILLS, []) is None


def test_fifty_workers() -> None:
    names = [f"node-{n}" for n in range(1, 51)]
    assert match("disk on node-50", SKILLS, names) == Match("system_status", DISK, Where("node-50"))


def test_kinds_of_captures() -> None:
    skills = [
        {"name": "move", "phrases": ["move {source:path} to {target:path}"]},
        {"name": "look", "phrases": ["look for {pattern:word} in {path}"]},
    ]
    assert match("move a.txt to b/c.txt", skills, []) == Match(
        "move", {"source": "a.txt", "target": "b/c.txt"}, ANYWHERE
    )
    assert match("move the couch to b", skills, []) is None
    assert match("look for TODO in src on worker-1", skills, []) == Match(
        "look", {"pattern": "TODO", "path": "src"}, ONE
    )
    assert match("look for two words in src", skills, []) is None


def test_the_first_skill_wins_a_tie() -> None:
    skills = [{"name": "a", "phrases": ["go"]}, {"name": "b", "phrases": ["go"]}]
    assert match("go", skills, []) == Match("a", {}, ANYWHERE)


@pytest.mark.parametrize(
    ("phrase", "problem"),
    [
        ("", "needs words"),
        ("{text}", "needs words"),
        ("[all] {text}", "needs words"),
        ("(a", "')' is missing"),
        ("a]", "unexpected ']'"),
        ("a {b c}", "a capture is"),
        ("a {b:number}", "unknown kind 'number'"),
        ("a {b} {c}", "words between"),
        ("a {b} c {d} e {f}", "at most two"),
        ("a => [1]", "not a JSON object"),
        ("a => {", "Expecting property name"),
        ("(a|b)" * 10, "more than 512 ways"),
        ("(" * 500, "too nested"),
        ("a " * 501, "too long"),
    ],
)
def test_malformed_template(phrase: str, problem: str) -> None:
    with pytest.raises(ValueError, match=problem.replace("(", "[(]").replace(")", "[)]")):
        check(phrase)
    assert match("a", [{"name": "x", "phrases": [phrase, "a"]}], []) == Match("x", {}, ANYWHERE)


@pytest.mark.parametrize(
    "unit",
    [
        *("a", " ", "on ", "echo ", "please ", "to ", "write a to ", "worker-1 ", "on worker-1 "),
        *("worker-", "a-", "-", "?", ".", "'", "'s ", "’s", '"', "的", "所有", "在所有工作机上"),
        *("http://", "http://.", "https://a.b ", "the ", "all ", "all the ", "\x00", "😀", "İ"),
    ],
)
@pytest.mark.parametrize("head", ["", "echo ", "write ", "fetch ", "read "])
def test_hostile_sentences_take_no_time(head: str, unit: str) -> None:
    text = (head + unit * 32_768)[:32_768]
    started = time.perf_counter()
    said(text)
    assert time.perf_counter() - started < 1.0
