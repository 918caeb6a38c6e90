"""Files stay in the workspace, whatever the path says and whoever changes it meanwhile."""

from __future__ import annotations

import os
import socket
import time
from pathlib import Path
from typing import Any, Callable

import pytest

from pibot.agent.library import declared
from pibot.agent.tools import Context, Result, Toolbox
from pibot.skills import SkillError, file_ops
from swapping import swapping

BOX = Toolbox(declared(file_ops))
Call = Callable[..., Result]


@pytest.fixture
def call(ctx: Context) -> Call:
    return lambda name, **args: BOX.call(name, args, ctx)


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    folder = tmp_path / "outside"
    folder.mkdir()
    (folder / "secret.txt").write_text("secret")
    return folder


def test_write_read_append_list(call: Call, ctx: Context) -> None:
    assert call("write_file", path="docs/a.txt", content="línea 1\n").success
    assert call("append_file", path="docs/a.txt", content="2\n").data["size_bytes"] == 11
    assert call("read_file", path="docs/a.txt").data == {"text": "línea 1\n2\n", "size_bytes": 11}
    assert call("write_file", path="docs/a.txt", content="x").success
    assert (ctx.workspace / "docs/a.txt").read_text() == "x"
    assert call("append_file", path="new.txt", content="n").success
    listed = call("list_files")
    assert listed.output == "docs/\nnew.txt  1 bytes"
    assert call("list_files", path="docs").data == {
        "path": "docs",
        "entries": [{"name": "a.txt", "type": "file", "size_bytes": 1}],
        "total": 1,
    }


def test_paths_inside_may_be_spelled_in_many_ways(call: Call, ctx: Context) -> None:
    call("write_file", path="docs/a.txt", content="x")
    for path in ("./docs//a.txt", "docs/../docs/a.txt", "no/../docs/a.txt"):
        assert call("read_file", path=path).output == "x"
    assert call("read_file", path=str(ctx.workspace / "docs/a.txt")).output == "x"
    assert call("list_files", path=str(ctx.workspace)).data["total"] == 1


ESCAPES = [
    "../outside/secret.txt",
    "docs/../../outside/secret.txt",
    "..",
    "/etc/passwd",
    "/",
    "/proc/self/environ",
    "{workspace}/../outside/secret.txt",
    "{workspace}-beside/secret.txt",
    "link/secret.txt",
    "file-link",
    "docs/up/outside/secret.txt",
    "a\0b",
]


@pytest.mark.parametrize("path", ESCAPES)
@pytest.mark.parametrize(
    "name", ["list_files", "read_file", "write_file", "append_file", "search_files"]
)
def test_no_path_leads_outside(
    call: Call, ctx: Context, outside: Path, path: str, name: str
) -> None:
    (ctx.workspace / "docs").mkdir()
    (ctx.workspace / "link").symlink_to(outside)
    (ctx.workspace / "file-link").symlink_to(outside / "secret.txt")
    (ctx.workspace / "docs/up").symlink_to("../..")
    beside = Path(f"{ctx.workspace}-beside")
    beside.mkdir()
    (beside / "secret.txt").write_text("secret")
    args = {"path": path.format(workspace=ctx.workspace)}
    more = {"search_files": {"pattern": "secret"}, "write_file": {"content": "owned"}}
    more["append_file"] = more["write_file"]
    result = call(name, **args, **more.get(name, {}))
    assert not result.success
    assert "secret" not in result.output.replace(args["path"], "")
    for kept in (outside, beside):
        assert (kept / "secret.txt").read_text() == "secret"
        assert len(list(kept.iterdir())) == 1


@pytest.mark.parametrize(
    "path", ["../outside/secret.txt", "link/secret.txt", "/etc/hostname", ".."]
)
def test_nothing_is_moved_or_deleted_across_the_border(
    call: Call, ctx: Context, outside: Path, path: str
) -> None:
    (ctx.workspace / "link").symlink_to(outside)
    (ctx.workspace / "mine.txt").write_text("mine")
    assert not call("delete_file", path=path).success
    assert not call("move_file", source=path, target="stolen.txt").success
    assert not call("move_file", source="mine.txt", target=path).success
    assert [one.name for one in outside.iterdir()] == ["secret.txt"]
    assert (ctx.workspace / "mine.txt").read_text() == "mine"


def test_a_link_itself_can_be_deleted_and_moved(call: Call, ctx: Context, outside: Path) -> None:
    (ctx.workspace / "link").symlink_to(outside)
    assert call("list_files").output == "link  (link)"
    assert call("move_file", source="link", target="other").success
    assert call("delete_file", path="other").success
    assert (outside / "secret.txt").exists()


def test_a_search_does_not_follow_links(call: Call, ctx: Context, outside: Path) -> None:
    (ctx.workspace / "link").symlink_to(outside)
    (ctx.workspace / "loop").symlink_to(".")
    (ctx.workspace / "file").symlink_to(outside / "secret.txt")
    assert call("search_files", pattern="secret").output == "nothing was found"


def test_a_directory_that_turns_into_a_link_is_not_followed(
    call: Call, ctx: Context, outside: Path
) -> None:
    """Somebody exchanges a directory and a link, over and over, while we write and read."""
    spare, way = ctx.workspace / "spare", ctx.workspace / "way"
    way.mkdir()
    spare.symlink_to(outside)
    ends = time.monotonic() + 0.7
    written = refused = 0
    with swapping(spare, way) as swaps:
        while time.monotonic() < ends:
            try:
                file_ops.write_file(ctx, "way/secret.txt", "owned")
                written += 1
            except SkillError:
                refused += 1
            try:
                assert file_ops.read_file(ctx, "way/secret.txt").text != "secret"
            except SkillError:
                refused += 1
    assert written and refused and swaps[0] > 10
    assert (outside / "secret.txt").read_text() == "secret"


@pytest.mark.parametrize("name", ["read_file", "write_file", "append_file"])
def test_special_files_are_refused_without_waiting(call: Call, ctx: Context, name: str) -> None:
    os.mkfifo(ctx.workspace / "fifo")
    server = socket.socket(socket.AF_UNIX)
    folder = os.open(ctx.workspace, os.O_RDONLY)
    server.bind(f"/proc/self/fd/{folder}/socket")  # the whole path would be too long
    started = time.monotonic()
    args = {} if name == "read_file" else {"content": "x"}
    try:
        for path in ("fifo", "socket"):
            result = call(name, path=path, **args)
            assert not result.success
            assert "is not an ordinary file" in result.output
    finally:
        server.close()
        os.close(folder)
    assert time.monotonic() - started < 1


def test_a_fifo_with_a_reader_gets_nothing(call: Call, ctx: Context) -> None:
    os.mkfifo(ctx.workspace / "fifo")
    reader = os.open(ctx.workspace / "fifo", os.O_RDONLY | os.O_NONBLOCK)
    try:
        result = call("write_file", path="fifo", content="x")
        assert result.output == "fifo: is not an ordinary file but fifo; it is not opened"
        assert os.read(reader, 10) == b""
    finally:
        os.close(reader)
    assert call("search_files", pattern="x").success


@pytest.mark.parametrize("raw", [b"\x89PNG\0\0", b"\xff\xfeh", b"abc\x80" * 30, "你".encode("gbk")])
def test_binary_files_get_a_clear_answer(call: Call, ctx: Context, raw: bytes) -> None:
    (ctx.workspace / "photo.png").write_bytes(raw)
    result = call("read_file", path="photo.png")
    assert not result.success
    assert "photo.png: is not UTF-8 text" in result.output
    assert result.data == {"size_bytes": len(raw)}


def test_a_long_file_is_read_in_parts_at_whole_characters(call: Call, ctx: Context) -> None:
    text = "温度🌡é." * 40
    (ctx.workspace / "long.txt").write_text(text)
    got, offset, parts = "", 0, 0
    while True:
        result = call("read_file", path="long.txt", max_bytes=7, offset=offset)
        got, parts = got + result.data["text"], parts + 1
        if "next_offset" not in result.data:
            break
        assert f"go on with offset={result.data['next_offset']}" in result.output
        offset = result.data["next_offset"]
    assert got == text
    assert parts > 50
    assert call("read_file", path="long.txt", max_bytes=1).data["text"] == "温"


def test_names_that_cannot_be_shown_are_written_out(call: Call, ctx: Context) -> None:
    for name in ("two\nlines  9 bytes", "\x1b[2J", "\u202egpj.txt"):
        (ctx.workspace / name).write_text("needle")
    (ctx.workspace / os.fsdecode(b"bytes\xff")).write_text("needle")
    listed = call("list_files")
    assert listed.output.splitlines() == [
        r"\x1b[2J  6 bytes",
        r"bytes\xff  6 bytes",
        r"two\nlines  9 bytes  6 bytes",
        r"\u202egpj.txt  6 bytes",
    ]
    names = [entry["name"] for entry in listed.data["entries"]]
    assert names == ["\x1b[2J", r"bytes\xff", "two\nlines  9 bytes", "\u202egpj.txt"]
    assert all(
        line.isprintable() for line in call("search_files", pattern="needle").output.split("\n")
    )
    assert call("delete_file", path=names[0]).success
    refused = call("write_file", path="a\tb/c", content="x")
    assert refused.output.endswith("has characters that cannot be shown; choose another name")
    assert call("move_file", source=names[2], target="a\x07").success is False


def test_sizes_are_bounded(call: Call, ctx: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    with open(ctx.workspace / "big", "wb") as big:
        big.truncate(1 << 30)
        big.write(b"a" * (2 << 20))
    result = call("read_file", path="big", max_bytes=10**12)
    assert len(result.data["text"]) == file_ops.READ_MAX_BYTES
    assert "[cut: bytes 0 to 1048576 of 1073741824" in result.output
    monkeypatch.setattr(file_ops, "WRITE_MAX_BYTES", 10)
    assert (
        "11 bytes are more than a call may write"
        in call("write_file", path="new", content="x" * 11).output
    )
    assert not (ctx.workspace / "new").exists()


def test_a_long_list_is_cut_with_a_note(call: Call, ctx: Context) -> None:
    for number in range(510):
        (ctx.workspace / f"{number:03}").touch()
    result = call("list_files")
    assert (len(result.data["entries"]), result.data["total"]) == (500, 510)
    assert result.output.endswith("[cut: 10 more; list a directory below, or search]")


@pytest.mark.parametrize(
    ("pattern", "names", "lines"),
    [
        ("*.txt", ["a.txt", "docs/b.txt"], []),
        ("todo", [], [("a.txt", 2, "a TODO here"), ("docs/b.txt", 1, "todo: x")]),
        ("B.TXT", ["docs/b.txt"], []),
        ("doc", ["docs/"], []),
        ("nothing like it", [], []),
    ],
)
def test_search_by_name_and_by_text(
    call: Call, ctx: Context, pattern: str, names: Any, lines: Any
) -> None:
    (ctx.workspace / "docs").mkdir()
    (ctx.workspace / "a.txt").write_text("one\n  a TODO here\n")
    (ctx.workspace / "docs/b.txt").write_text("todo: x")
    (ctx.workspace / "binary").write_bytes(b"todo\0")
    result = call("search_files", pattern=pattern)
    assert result.data["names"] == names
    assert [tuple(one.values()) for one in result.data["lines"]] == lines
    assert call("search_files", pattern="todo", path="docs").data["names"] == []


def test_a_search_is_bounded_and_can_be_cancelled(call: Call, ctx: Context) -> None:
    (ctx.workspace / "many").write_text("hit\n" * 1000)
    result = call("search_files", pattern="hit")
    assert len(result.data["lines"]) == 200
    assert "[cut: only the first 200 hits" in result.output
    ctx.cancelled.set()
    with pytest.raises(SkillError, match="stopped"):
        file_ops.search_files(ctx, "hit")
    deep = ctx.workspace
    for _ in range(110):
        deep = deep / "d"
    deep.mkdir(parents=True)
    ctx.cancelled.clear()
    assert "only 100 directories deep" in call("search_files", pattern="d").output


def test_move(call: Call, ctx: Context) -> None:
    call("write_file", path="a.txt", content="a")
    call("write_file", path="b.txt", content="b")
    assert call("move_file", source="a.txt", target="new/c.txt").success
    assert call("move_file", source="b.txt", target="new").output == "moved b.txt to new/b.txt"
    assert "is there already" in call("move_file", source="new/b.txt", target="new/c.txt").output
    assert not call("move_file", source="new", target="new/inside").success
    assert call("move_file", source="new", target="old").success
    assert sorted(one.name for one in (ctx.workspace / "old").iterdir()) == ["b.txt", "c.txt"]


def test_delete(call: Call, ctx: Context) -> None:
    call("write_file", path="docs/a.txt", content="a")
    assert "not empty" in call("delete_file", path="docs").output
    assert call("delete_file", path="docs/a.txt").success
    assert call("delete_file", path="docs/").success
    assert call("delete_file", path="docs").output == "docs: there is no such file or directory"
    assert "is the workspace itself" in call("delete_file", path=".").output
    assert ctx.workspace.is_dir()


@pytest.mark.parametrize(
    ("name", "args", "said"),
    [
        ("read_file", {"path": "no.txt"}, "no.txt: there is no such file or directory"),
        ("read_file", {"path": "docs"}, "docs: is a directory"),
        ("read_file", {"path": "a.txt/b"}, "a.txt/b: is not a directory, or a link is on the way"),
        ("read_file", {"path": "a.txt", "max_bytes": 0}, "max_bytes must be at least 1"),
        ("read_file", {"path": ""}, "the path: is the workspace itself; name a file in it"),
        ("read_file", {"path": "x" * 300}, "x" * 300 + ": file name too long"),
        ("write_file", {"path": "docs", "content": ""}, "docs: is a directory"),
        ("write_file", {"path": "a.txt/b", "content": ""}, "a.txt/b: is not a directory"),
        ("list_files", {"path": "a.txt"}, "a.txt: is not a directory"),
        ("search_files", {"pattern": " "}, "pattern is empty"),
    ],
)
def test_errors_are_sentences(call: Call, ctx: Context, name: str, args: Any, said: str) -> None:
    (ctx.workspace / "docs").mkdir()
    (ctx.workspace / "a.txt").write_text("a")
    assert call(name, **args).output.startswith(said)


def test_no_descriptor_is_left_open(call: Call, ctx: Context) -> None:
    call("write_file", path="d/e/a.txt", content="a")
    before = len(os.listdir("/proc/self/fd"))
    for path in ("d/e/a.txt", "d/e", "no", "d/no/x", ".."):
        for name in ("read_file", "list_files", "search_files", "delete_file"):
            call(name, path=path, **({"pattern": "a"} if name == "search_files" else {}))
    assert len(os.listdir("/proc/self/fd")) == before
