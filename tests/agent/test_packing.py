"""A skill as bytes: what goes in comes out; the attacks are in tests/security."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pibot.agent import packing
from pibot.errors import UsageError

MAIN = "---\nname: tea\ndescription: Make tea.\n---\nBoil water.\n"


@pytest.fixture
def tea(tmp_path: Path) -> Path:
    folder = tmp_path / "tea"
    (folder / "scripts").mkdir(parents=True)
    (folder / "SKILL.md").write_text(MAIN)
    script = folder / "scripts" / "boil.sh"
    script.write_text("#!/bin/sh\necho hot\n")
    script.chmod(0o755)
    return folder


def test_a_folder_comes_out_as_it_went_in(tea: Path, tmp_path: Path) -> None:
    name, form, data = packing.pack(tea)
    packing.unpack(form, data, tmp_path / "out")
    assert (name, form) == ("tea", packing.FOLDER)
    assert (tmp_path / "out" / "SKILL.md").read_text() == MAIN
    assert os.access(tmp_path / "out" / "scripts" / "boil.sh", os.X_OK)
    assert not os.access(tmp_path / "out" / "SKILL.md", os.X_OK)


def test_the_same_folder_is_the_same_bytes(tea: Path) -> None:
    before = packing.pack(tea)
    os.utime(tea / "SKILL.md", (1, 1))
    assert packing.pack(tea) == before


def test_a_file_is_packed_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "lamp.py").write_bytes(b"x\r\n\xff")
    assert packing.pack(tmp_path / "lamp.py") == ("lamp", packing.FILE, b"x\r\n\xff")


def test_a_directory_may_be_named_from_within(tea: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tea)
    assert packing.pack(Path("."))[0] == "tea"


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "lamp.py")
    with pytest.raises(UsageError, match="is not an ordinary file"):
        packing.pack(tmp_path / "lamp.py")


@pytest.mark.parametrize(
    ("name", "size", "why"),
    [
        ("Lamp.py", 1, "rename it"),
        ("lämp.py", 1, "rename it"),
        ("lamp.txt", 1, "neither a .py file nor a folder"),
        ("lamp.py", packing.PACKED_BYTES + 1, "has more than the 1,048,576 bytes"),
    ],
)
def test_what_is_no_skill_is_said(tmp_path: Path, name: str, size: int, why: str) -> None:
    (tmp_path / name).write_bytes(b"x" * size)
    with pytest.raises(UsageError, match=why):
        packing.pack(tmp_path / name)


def test_what_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be read: no such file"):
        packing.pack(tmp_path / "lamp.py")


def test_a_folder_has_its_limits(tea: Path) -> None:
    (tea / "large").write_bytes(b"\0" * (packing.UNPACKED_BYTES + 1))
    with pytest.raises(UsageError, match="4,194,304 bytes in its files"):
        packing.pack(tea)
    (tea / "large").write_bytes(os.urandom(packing.PACKED_BYTES + 1))
    with pytest.raises(UsageError, match="has more than the 1,048,576 bytes"):
        packing.pack(tea)
    (tea / "large").unlink()
    (tea / "link").symlink_to("/etc/passwd")
    with pytest.raises(UsageError, match="links are not followed"):
        packing.pack(tea)
    (tea / "link").unlink()
    for n in range(packing.FILES):
        (tea / f"f{n}").touch()
    with pytest.raises(UsageError, match="has more than 200 files"):
        packing.pack(tea)
