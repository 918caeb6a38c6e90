"""What a task shares: checked when it is shared, recorded as it is at the end, given in slices."""

from __future__ import annotations

import base64
import hashlib
import os
import threading
import time
from pathlib import Path
from typing import List

import pytest

from pibot import messages as msg
from pibot.agent import library, sharing
from pibot.agent.attempt import Attempt, Tools, no_model
from pibot.agent.sharing import Shared
from pibot.errors import SkillError
from pibot.permits import Permits
from pibot.secrets import Redactor
from pibot.skills import Context


@pytest.fixture
def shared(tmp_path: Path) -> Shared:
    (tmp_path / "g1-1").mkdir()
    return Shared(tmp_path / "g1-1", Redactor())


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def test_what_is_recorded_is_the_file_at_the_end(shared: Shared) -> None:
    (shared.workspace / "photos").mkdir()
    file = shared.workspace / "photos" / "door.jpg"
    file.write_bytes(b"early")
    for path in ("photos/door.jpg", "./photos//door.jpg", "photos/../photos/door.jpg", str(file)):
        shared.add(path)
    file.write_bytes(b"the last word")
    wanted = {"path": "photos/door.jpg", "size": 13, "sha256": sha256(b"the last word")}
    assert shared.record() == ([wanted], "")


def test_what_cannot_be_shared(shared: Shared, tmp_path: Path) -> None:
    outside = tmp_path / "secret"
    outside.write_text("secret")
    there = shared.workspace
    (there / "link").symlink_to(outside)
    (there / "folder").mkdir()
    (there / "way").symlink_to(tmp_path)
    os.mkfifo(there / "fifo")
    (there / "bad\nname").touch()
    (there / "\u202egpj").touch()
    for path, why in [
        ("gone", "there is no such file"),
        ("../secret", "is outside the workspace"),
        (str(outside), "is outside the workspace"),
        ("link", "is a symbolic link"),
        ("way/secret", "a link is on the way"),
        ("folder", "is a directory"),
        ("fifo", "not an ordinary file"),
        (".", "is the workspace itself"),
        ("bad\nname", "characters that cannot be shown; rename it"),
        ("\u202egpj", "characters that cannot be shown; rename it"),
        ("a\0b", "zero byte"),
    ]:
        with pytest.raises(SkillError, match=why):
            shared.add(path)
    assert shared.record() == ([], "")


def sparse(path: Path, size: int) -> None:
    with path.open("wb") as file:
        file.truncate(size)


def test_what_is_too_much(shared: Shared) -> None:
    sparse(shared.workspace / "a", 20_000_000)
    sparse(shared.workspace / "b", 20_000_000)
    shared.add("a")
    shared.add("a")
    with pytest.raises(SkillError) as caught:
        shared.add("b")
    assert str(caught.value) == (
        "b: has 20,000,000 bytes; a task may share 33,554,432 in all, and 20,000,000 are taken; "
        "make it smaller or share less"
    )
    sparse(shared.workspace / "a", 1_000)
    shared.add("a")
    shared.add("b")
    assert [f["path"] for f in shared.record()[0]] == ["a", "b"]


def test_more_files_than_a_task_may_share(shared: Shared) -> None:
    for i in range(msg.SHARED_FILES + 1):
        (shared.workspace / str(i)).touch()
    for i in range(msg.SHARED_FILES):
        shared.add(str(i))
    shared.add("0")
    with pytest.raises(SkillError, match="100 files are shared, which is all"):
        shared.add("100")


def test_what_is_gone_or_has_grown_is_named(shared: Shared) -> None:
    for name in ("a", "b", "c"):
        (shared.workspace / name).write_text(name)
        shared.add(name)
    (shared.workspace / "a").unlink()
    sparse(shared.workspace / "b", msg.SHARED_BYTES + 1)
    files, words = shared.record()
    assert [f["path"] for f in files] == ["c"]
    assert words == (
        "\n[not shared: a: there is no such file or directory]"
        "\n[not shared: b: has grown, and is more than a task may share]"
    )


def test_slices(shared: Shared) -> None:
    data = os.urandom(100_000)
    (shared.workspace / "a").write_bytes(data)
    got = b""
    for offset in range(0, 100_000, msg.FILE_SLICE_BYTES):
        part = sharing.cut(shared.workspace.parent, msg.Fetch("g1-1", "a", offset), Redactor())
        assert (part.task, part.path, part.offset, part.size) == ("g1-1", "a", offset, 100_000)
        got += base64.b64decode(part.data)
    assert got == data
    for offset in (100_000, 10**15, -1):
        part = sharing.cut(shared.workspace.parent, msg.Fetch("g1-1", "a", offset), Redactor())
        assert part.error is None and len(part.data) in (0, 53_336)
    assert len(msg.encode(msg.Header("slice", "i" * 64, "w"), part)) < 60_000


def test_a_slice_of_what_is_not_there(shared: Shared, tmp_path: Path) -> None:
    (tmp_path / "g1-1" / "link").symlink_to("/etc/passwd")
    for task, path, why in [
        ("g1-1", "gone", "gone: there is no such file or directory"),
        ("g9-1", "a", "a: there is no such file or directory"),
        ("g1-1", "link", "link: is a symbolic link; links are not followed"),
    ]:
        part = sharing.cut(tmp_path, msg.Fetch(task, path, 0), Redactor())
        assert (part.error, part.data) == (why, "")


SKILL = '''
from __future__ import annotations
from pibot.skills import Context, SkillError, skill

@skill()
def make(ctx: Context, good: bool) -> dict:
    """Make a file and share it."""
    (ctx.workspace / "a").write_text("a")
    ctx.share("a")
    (ctx.workspace / "b").write_text("b")
    ctx.share("b")
    (ctx.workspace / "b").unlink()
    if not good:
        raise SkillError("no")
    return {"x": 1}
'''


def attempt(tmp_path: Path, good: bool) -> msg.Result:
    (tmp_path / "skills").mkdir()
    (tmp_path / "skills" / "make.py").write_text(SKILL)
    toolbox, problems = library.load(tmp_path / "skills", Permits(shell=True))
    assert not any("make.py" in problem for problem in problems)
    tools = Tools(toolbox, no_model, "soul", True, tmp_path / "tasks")
    assign = msg.Assign("g1-1", 1, 9_000, {"skill": "make", "args": {"good": good}})
    return Attempt(assign, tools, lambda step: None).run()


def test_the_result_of_an_attempt_names_its_files(tmp_path: Path) -> None:
    result = attempt(tmp_path, good=True)
    assert result.artifacts == [{"path": "a", "size": 1, "sha256": sha256(b"a")}]
    assert result.result["data"] == {"x": 1}
    assert result.result["output"] == "x: 1\n[not shared: b: there is no such file or directory]"


def test_an_attempt_that_failed_shares_nothing(tmp_path: Path) -> None:
    result = attempt(tmp_path, good=False)
    assert (result.artifacts, result.error) == ([], "no")


def test_a_context_of_its_own_shares_nothing(tmp_path: Path) -> None:
    ctx = Context(tmp_path, threading.Event(), time.monotonic() + 9, "k")
    with pytest.raises(SkillError, match="a: files cannot be shared here"):
        ctx.share("a")


def test_several_skills_may_share_at_once(shared: Shared) -> None:
    names = [str(i) for i in range(60)]
    for name in names:
        sparse(shared.workspace / name, 1_000_000)
    refused: List[str] = []

    def add(name: str) -> None:
        try:
            shared.add(name)
        except SkillError:
            refused.append(name)

    threads = [threading.Thread(target=add, args=(name,)) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(refused) == 60 - 33 and len(shared.record()[0]) == 33


# --- secrets ------------------------------------------------------------------------------------

SECRET = "hush-0123456789"


@pytest.fixture
def guarded(tmp_path: Path) -> Shared:
    place = Shared(tmp_path / "g1-1", Redactor([SECRET]))
    place.workspace.mkdir()
    return place


def test_a_file_with_a_secret_is_not_shared(guarded: Shared) -> None:
    (guarded.workspace / "a").write_text(f"it is {SECRET}")
    (guarded.workspace / SECRET).write_text("harmless")
    for name in ("a", SECRET):
        with pytest.raises(SkillError, match="holds a secret of this machine"):
            guarded.add(name)
    assert guarded.record() == ([], "")


def test_a_file_that_gets_a_secret_later_is_not_recorded(guarded: Shared) -> None:
    (guarded.workspace / "a").write_text("harmless")
    guarded.add("a")
    (guarded.workspace / "a").write_text(SECRET)
    files, said = guarded.record()
    assert files == [] and "holds a secret of this machine" in said


def test_no_slice_holds_a_part_of_a_secret(guarded: Shared) -> None:
    """It came into the file after that was recorded; a slice may begin or end in its middle."""
    before = msg.FILE_SLICE_BYTES - 5
    (guarded.workspace / "a").write_text("x" * before + SECRET + "y" * msg.FILE_SLICE_BYTES * 2)
    for offset, is_told in ((0, False), (msg.FILE_SLICE_BYTES, False), (90_000, True)):
        wanted = msg.Fetch("g1-1", "a", offset)
        part = sharing.cut(guarded.workspace.parent, wanted, Redactor([SECRET]))
        assert (part.error is None) == is_told, offset
