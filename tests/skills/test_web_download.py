"""Downloads into the workspace: whole, named safely, gone on with after a break."""

from __future__ import annotations

import hashlib
import re
import socket
from dataclasses import replace
from pathlib import Path
from typing import Any, Dict, Iterator, List

import pytest

from pibot.agent.tools import Context, Toolbox
from pibot.errors import SkillError
from pibot.fleet import phrases
from pibot.permits import Permits
from pibot.skills import _downloading
from pibot.skills._downloading import download
from pibot.skills.web_download import web_download
from skills.web_server import CLOSED, Server, answer, context, moved, serving

DATA = bytes(range(256)) * 4000
SHA256 = hashlib.sha256(DATA).hexdigest()


@pytest.fixture
def server() -> Iterator[Server]:
    with serving() as started:
        yield started


@pytest.fixture
def ctx(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Context:
    monkeypatch.setattr(_downloading, "_FIRST_WAIT_S", 0.01)
    return context(tmp_path)


def names(ctx: Context) -> List[str]:
    return sorted(str(p.relative_to(ctx.workspace)) for p in ctx.workspace.rglob("*"))


class File:
    """A file that a server gives in parts, and breaks off after `breaks` bytes each time."""

    def __init__(self, server: Server, data: bytes = DATA, breaks: int = 0) -> None:
        self.server, self.data, self.breaks = server, data, breaks
        self.validator = 'ETag: "v1"'
        self.takes_ranges = True
        self.starts: List[int] = []

    def __call__(self, connection: socket.socket) -> None:
        head = self.server.requests[-1]
        asked = re.search(r"^Range: bytes=(\d+)-\r$", head, re.MULTILINE)
        condition = re.search(r"^If-Range: (.*)\r$", head, re.MULTILINE)
        known = bool(condition) and self.validator.endswith(f": {condition[1]}")  # type: ignore[index]
        start = int(asked[1]) if asked and self.takes_ranges and known else 0
        self.starts.append(start)
        rest = self.data[start:]
        lines = ["HTTP/1.1 200 OK", f"Content-Length: {len(rest)}", self.validator]
        if start:
            lines[0] = "HTTP/1.1 206 Partial Content"
            lines.append(f"Content-Range: bytes {start}-{len(self.data) - 1}/{len(self.data)}")
        whole = "\r\n".join([*filter(None, lines), "", ""]).encode() + rest
        connection.sendall(whole[: len(whole) - len(rest) + (self.breaks or len(rest))])


def test_a_file(server: Server, ctx: Context) -> None:
    server.routes["/a/report.pdf?x=1"] = answer(DATA, "Content-Type: application/pdf")
    data = download(f"{server.url}/a/report.pdf?x=1", server.policy, ctx)
    assert data == {
        "url": f"{server.url}/a/report.pdf?x=1",
        "path": "report.pdf",
        "size_bytes": len(DATA),
        "sha256": SHA256,
        "content_type": "application/pdf",
        "resumed_at_bytes": 0,
    }
    assert (ctx.workspace / "report.pdf").read_bytes() == DATA
    assert names(ctx) == ["report.pdf"]
    assert "Accept-Encoding: identity\r\n" in server.requests[0]


def test_the_skill(server: Server, ctx: Context) -> None:
    box = Toolbox([web_download.__skill__])  # type: ignore[attr-defined]
    server.routes["/a.bin"] = answer(DATA)
    shared: List[str] = []
    permits = Permits(web_allow=(server.url[7:],))
    mine = replace(ctx, permits=permits, share=shared.append)
    done = box.call("web_download", {"url": f"{server.url}/a.bin", "share": True}, mine)
    assert (done.success, shared, done.data["shared"]) == (True, ["a.bin"], True)
    assert f"a.bin: {len(DATA):,} bytes, SHA-256 {SHA256}" in done.output
    refused = box.call("web_download", {"url": f"{server.url}/b.bin"}, ctx)
    assert not refused.success and "has a loopback address" in refused.output
    unshared = {"url": f"{server.url}/a.bin", "path": "b", "share": True}
    cannot = box.call("web_download", unshared, replace(ctx, permits=permits))
    assert cannot.success and "not shared: b: files cannot be shared here" in cannot.output
    assert cannot.data["shared"] is False
    for wrong in (0, 5000):
        said = box.call("web_download", {"url": server.url, "max_mb": wrong}, mine).output
        assert "max_mb must be between" in said


@pytest.mark.parametrize("sentence", ["download {}", "save the file {} on worker-2", "下载文件 {}"])
def test_sentences(sentence: str) -> None:
    offered = Toolbox([web_download.__skill__]).announce()  # type: ignore[attr-defined]
    found = phrases.match(sentence.format("https://example.com/x"), offered, ["worker-2"])
    assert found is not None
    assert found.args == {"url": "https://example.com/x", "share": True}


# -- where it lands ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "header", "lands"),
    [
        ("/x.txt", "", "x.txt"),
        ("/", "", "download"),
        ("/a%2F..%2Fb%20c.txt", "", "b_c.txt"),
        ("/..%5c..%5cx.txt", "", "x.txt"),
        ("/%2e%2e", "", "download"),
        ("/.bashrc", "", "bashrc"),
        ("/-rf", "", "rf"),
        ("/%E6%B8%A9.txt", "", "温.txt"),
        ("/a%00b%1b%5b31m.txt", "", "a_b_31m.txt"),
        ("/%ff%fe.txt", "", "txt"),
        ("/" + "a" * 300 + ".tar.gz", "", "a" * 117 + ".gz"),
        ("/" + "a" * 300, "", "a" * 120),
        ("/" + "%E6%B8%A9" * 100 + ".x", "", "温" * 39 + ".x"),
        ("/x", 'attachment; filename="report 1.pdf"', "report_1.pdf"),
        ("/x", 'attachment; filename="../../etc/passwd"', "passwd"),
        ("/x", 'attachment; filename="/etc/cron.d/evil"', "evil"),
        ("/x", "attachment; filename=C:\\\\temp\\\\a.exe", "a.exe"),
        ("/x", "attachment; filename*=UTF-8''%e6%b8%a9.txt", "温.txt"),
        ("/x", "attachment; filename*=no-such''%ff.txt", "ÿ.txt"),
        ("/x", 'attachment; filename="$(reboot);`id`|a&b.txt"', "reboot_id_a_b.txt"),
        ("/x", 'attachment; filename=".."', "x"),
        ("/x", 'attachment; filename=""', "x"),
        ("/x.txt", "attachment; filename*0=a; filename*2=c", "ac"),
        ("/x", "inline; filename=con\x00.txt", "con_.txt"),
    ],
)
def test_names(server: Server, ctx: Context, path: str, header: str, lands: str) -> None:
    headers = [f"Content-Disposition: {header}"] if header else []
    server.routes[path] = answer(b"x", *headers)
    data = download(server.url + path, server.policy, ctx)
    assert data["path"] == lands
    assert names(ctx) == [data["path"]]


@pytest.mark.parametrize(
    ("path", "lands"),
    [
        ("maps/city.pdf", "maps/city.pdf"),
        ("maps/", "maps/x.bin"),
        ("there", "there/x.bin"),
        (".", "x.bin"),
        ("a/../b", "b"),
    ],
)
def test_a_path_of_ones_own(server: Server, ctx: Context, path: str, lands: str) -> None:
    (ctx.workspace / "there").mkdir()
    server.routes["/x.bin"] = answer(b"x", 'Content-Disposition: attachment; filename="x.bin"')
    assert download(f"{server.url}/x.bin", server.policy, ctx, path)["path"] == lands
    assert (ctx.workspace / lands).read_bytes() == b"x"


@pytest.mark.parametrize("path", ["../x", "/etc/x", "link/x", "a/../../x", "a\0b"])
def test_no_path_leads_outside(server: Server, ctx: Context, tmp_path: Path, path: str) -> None:
    inside = replace(ctx, workspace=tmp_path / "inside")
    inside.workspace.mkdir()
    (inside.workspace / "link").symlink_to(tmp_path)
    server.routes["/x"] = answer(b"x")
    with pytest.raises(SkillError):
        download(f"{server.url}/x", server.policy, inside, path)
    assert names(ctx) == ["inside", "inside/link"]
    assert server.requests == []


def test_nothing_is_replaced(server: Server, ctx: Context) -> None:
    server.routes["/x"] = answer(DATA)
    for name in ("x", "y"):
        (ctx.workspace / name).write_text("mine")
    for path in ("", "y", "./y"):
        with pytest.raises(SkillError, match="is there already; give another path"):
            download(f"{server.url}/x", server.policy, ctx, path)
    assert names(ctx) == ["x", "y"]
    assert {p.read_text() for p in ctx.workspace.iterdir()} == {"mine"}


def test_what_appears_meanwhile_is_not_replaced(server: Server, ctx: Context) -> None:
    def late(connection: socket.socket) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nabc")
        (ctx.workspace / "x").symlink_to(ctx.workspace / "y")
        connection.sendall(b"def")

    server.routes["/x"] = late
    with pytest.raises(SkillError, match="is there already"):
        download(f"{server.url}/x", server.policy, ctx)
    assert names(ctx) == ["x"]


# -- breaks ------------------------------------------------------------------------------------


def test_it_goes_on_after_breaks(server: Server, ctx: Context) -> None:
    file = server.routes["/x"] = File(server, breaks=300_000)
    shown: List[str] = []
    data = download(f"{server.url}/x", server.policy, replace(ctx, on_output=shown.append))
    assert (data["sha256"], data["resumed_at_bytes"]) == (SHA256, 0)
    assert file.starts == [0, 300_000, 600_000, 900_000]
    assert sum("Trying again" in line for line in shown) == 3
    assert names(ctx) == ["x"]


def broken_off(server: Server, ctx: Context, file: File) -> None:
    """A first call that brings 300 000 bytes and then no more."""
    server.routes["/x"] = file
    file.breaks, whole, file.data = 300_000, file.data, file.data[:300_001]

    def gone(connection: socket.socket) -> None:
        file(connection)
        server.routes["/x"] = lambda _: None

    server.routes["/x"] = gone
    with pytest.raises(SkillError, match=r"300,000 bytes are kept: the same call goes on"):
        download(f"{server.url}/x", server.policy, ctx)
    file.breaks, file.data = 0, whole
    server.routes["/x"] = file
    assert len(names(ctx)) == 2  # the beginning, and how to know the file again


@pytest.mark.parametrize(
    "validator", ['ETag: "a;b/c=="', "Last-Modified: Mon, 01 Jun 2026 10:00:00 GMT"]
)
def test_a_later_call_goes_on(server: Server, ctx: Context, validator: str) -> None:
    file = File(server)
    file.validator = validator
    broken_off(server, ctx, file)
    data = download(f"{server.url}/x", server.policy, ctx)
    assert (data["sha256"], data["resumed_at_bytes"]) == (SHA256, 300_000)
    assert file.starts == [0, 300_000]
    assert names(ctx) == ["x"]


def changed(file: File) -> None:
    file.validator = 'ETag: "v2"'


def without_ranges(file: File) -> None:
    file.takes_ranges = False


@pytest.mark.parametrize("change", [changed, without_ranges])
def test_it_begins_anew(server: Server, ctx: Context, change: Any) -> None:
    file = File(server)
    broken_off(server, ctx, file)
    change(file)
    data = download(f"{server.url}/x", server.policy, ctx)
    assert (data["sha256"], data["resumed_at_bytes"], file.starts[-1]) == (SHA256, 0, 0)


@pytest.mark.parametrize("validator", ["", 'ETag: W/"weak"', "ETag: unquoted"])
def test_what_cannot_be_known_again_is_not_kept(
    server: Server, ctx: Context, validator: str
) -> None:
    file = server.routes["/x"] = File(server, breaks=1000)
    file.validator = validator
    with pytest.raises(SkillError, match="Try again later"):
        download(f"{server.url}/x", server.policy, ctx)
    assert set(file.starts) == {0}
    assert names(ctx) == []


LIES: Dict[str, bytes] = {
    "another part": answer(b"x", "Content-Range: bytes 5-5/6", status="206 Partial Content"),
    "no range": answer(b"x", status="206 Partial Content"),
    "nonsense": answer(b"x", "Content-Range: bytes x", status="206 Partial Content"),
    "not satisfiable": answer(b"", "Content-Range: bytes */7", status="416 Range Not Satisfiable"),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_part_that_does_not_fit_is_not_used(server: Server, ctx: Context, lie: str) -> None:
    file = File(server)
    broken_off(server, ctx, file)

    def once(connection: socket.socket) -> None:
        server.routes["/x"] = file
        connection.sendall(LIES[lie])

    server.routes["/x"] = once
    assert download(f"{server.url}/x", server.policy, ctx)["sha256"] == SHA256


def test_a_part_that_was_not_asked_for(server: Server, ctx: Context) -> None:
    server.routes["/x"] = LIES["no range"]
    with pytest.raises(SkillError, match="sends only a part of the file"):
        download(f"{server.url}/x", server.policy, ctx)


@pytest.mark.parametrize(
    "record",
    [
        "",
        "{",
        "[]",
        '{"url": "http://other/", "validator": "\\"v1\\""}',
        '{"url": "URL", "validator": "\\"a\\"\\r\\nX-Evil: 1"}',
        '{"url": "URL", "validator": 7}',
        '{"url": "URL"}',
    ],
)
def test_a_record_that_somebody_changed(server: Server, ctx: Context, record: str) -> None:
    """What a command left in the workspace gets into no request."""
    file = File(server)
    broken_off(server, ctx, file)
    (kept,) = ctx.workspace.glob(".download-*.json")
    kept.write_text(record.replace("URL", f"{server.url}/x"))
    assert download(f"{server.url}/x", server.policy, ctx)["sha256"] == SHA256
    assert "Range" not in server.requests[-1] and "Evil" not in server.requests[-1]


@pytest.mark.parametrize("status", ["500 Oops", "503 Later"])
def test_a_server_in_trouble_is_asked_again(server: Server, ctx: Context, status: str) -> None:
    def once(connection: socket.socket) -> None:
        server.routes["/x"] = answer(DATA)
        connection.sendall(answer(b"", status=status))

    server.routes["/x"] = once
    assert download(f"{server.url}/x", server.policy, ctx)["sha256"] == SHA256


def test_a_refusal_is_final(server: Server, ctx: Context) -> None:
    server.routes["/x"] = answer(b"", status="404 Not Found")
    with pytest.raises(SkillError, match="answered 404 Not Found"):
        download(f"{server.url}/x", server.policy, ctx)
    assert len(server.requests) == 1
    assert names(ctx) == []


# -- bounds ------------------------------------------------------------------------------------


def chunked(connection: socket.socket) -> None:
    connection.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    while True:
        connection.sendall(b"10000\r\n" + b"a" * 65536 + b"\r\n")


@pytest.mark.parametrize("kind", ["announced", "endless"])
def test_the_size_is_bounded(server: Server, ctx: Context, kind: str) -> None:
    server.routes["/x"] = answer(DATA) if kind == "announced" else chunked
    with pytest.raises(SkillError, match=r"at most 1,000,000 are taken; set max_mb"):
        download(f"{server.url}/x", server.policy, ctx, most_bytes=1_000_000)
    assert names(ctx) == []


@pytest.mark.parametrize("kind", ["announced", "endless"])
def test_the_room_of_the_workspace_is_kept(server: Server, ctx: Context, kind: str) -> None:
    server.routes["/x"] = answer(b"a" * (2 << 20)) if kind == "announced" else chunked
    small = replace(ctx, permits=Permits(workspace_mb=1))
    with pytest.raises(SkillError, match="there is no room for .* PIBOT_WORKSPACE_MB"):
        download(f"{server.url}/x", server.policy, small)
    assert names(ctx) == []


def test_a_cancel_keeps_what_has_come(server: Server, ctx: Context) -> None:
    def slow(connection: socket.socket) -> None:
        connection.sendall(b'HTTP/1.1 200 OK\r\nContent-Length: 200000\r\nETag: "a"\r\n\r\n')
        connection.sendall(DATA[:100_000])
        connection.recv(1)

    server.routes["/x"] = slow
    soon = replace(ctx, deadline=ctx.deadline - 9.6)
    with pytest.raises(SkillError, match="too slow"):
        download(f"{server.url}/x", server.policy, soon)
    (part,) = ctx.workspace.glob(".download-*.part")
    kept = part.read_bytes()
    assert len(kept) > 80_000 and DATA.startswith(kept)


def test_each_redirect_is_checked(server: Server, ctx: Context) -> None:
    with serving() as other:
        server.routes["/x"] = moved(f"{other.url}/y")
        with pytest.raises(SkillError, match="was redirected: .* has a loopback address"):
            download(f"{server.url}/x", server.policy, ctx)
        assert other.requests == []
    server.routes.update({"/x": moved("/dir/y.bin"), "/dir/y.bin": answer(DATA)})
    assert download(f"{server.url}/x", server.policy, ctx)["path"] == "y.bin"


def test_what_is_not_public_is_refused(server: Server, ctx: Context) -> None:
    with pytest.raises(SkillError, match="has a loopback address"):
        download(f"{server.url}/x", CLOSED, ctx)
    assert server.requests == [] and names(ctx) == []
