"""What is a pibot.pyz, found out without running it."""

from __future__ import annotations

import hashlib
import json
import os
import zipfile
from pathlib import Path
from typing import Callable, Dict

import pytest

import releases
from fleet_processes import program
from pibot import __version__
from pibot.cli import release
from pibot.errors import UsageError


def test_the_program_of_today() -> None:
    found = release.read(program())
    data = program().read_bytes()
    assert (found.size, found.sha256) == (len(data), hashlib.sha256(data).hexdigest())
    with zipfile.ZipFile(program()) as archive:
        build = json.loads(archive.read("environment.json"))["build_id"]
        assert build in archive.read("__main__.py").decode()
    assert (found.version, found.build) == (__version__, build)


def test_another_version_is_another_build(tmp_path: Path) -> None:
    found = release.read(releases.make(tmp_path / "new.pyz"))
    assert found.version == releases.VERSION and found.build != release.read(program()).build


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def _flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def _encrypted(path: Path) -> None:
    """As a zip says it of each of its members: bit 0 of their flags."""
    _other(_GOOD)(path)
    data = bytearray(path.read_bytes())
    for mark, at in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        here = data.find(mark)
        while here >= 0:
            data[here + at] |= 1
            here = data.find(mark, here + 1)
    path.write_bytes(data)


def _bomb(path: Path) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in _GOOD.items():
            archive.writestr(name, data)
        with archive.open("zeros", "w", force_zip64=True) as member:
            for _ in range(release.MAX_UNPACKED // (8 << 20) + 1):
                member.write(bytes(8 << 20))


def _other(files: Dict[str, bytes]) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        with zipfile.ZipFile(path, "w") as archive:
            for name, data in files.items():
                archive.writestr(name, data)

    return write


_BUILD = json.dumps({"build_id": "cd" * 32}).encode()
_GOOD = {"__main__.py": b"", release._PACKAGE: b'__version__ = "1"\n', "environment.json": _BUILD}


@pytest.mark.parametrize(
    "spoil",
    [
        _cut,
        _flip,
        _encrypted,
        _bomb,
        lambda path: path.write_bytes(b""),
        lambda path: path.write_text("#!/bin/sh\n"),
        *(_other({k: v for k, v in _GOOD.items() if k != name}) for name in _GOOD),
        _other({**_GOOD, release._PACKAGE: b"version = 1\n"}),
        _other({**_GOOD, "environment.json": b'{"build_id": "../x"}'}),
        _other({**_GOOD, "environment.json": b'{"build_id": 7}'}),
        _other({**_GOOD, "environment.json": b"[]"}),
    ],
)
def test_what_is_none(tmp_path: Path, spoil: Callable[[Path], object]) -> None:
    path = tmp_path / "new.pyz"
    path.write_bytes(program().read_bytes())
    spoil(path)
    with pytest.raises(UsageError, match="is no pibot.pyz, or not a whole one"):
        release.read(path)


def test_the_smallest_one(tmp_path: Path) -> None:
    _other(_GOOD)(tmp_path / "x.pyz")
    assert release.read(tmp_path / "x.pyz").build == "cd" * 32


def test_what_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be read: No such file"):
        release.read(tmp_path / "none.pyz")
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path, tmp_path / "pipe", Path("/dev/zero")):
        with pytest.raises(UsageError, match="is no ordinary file"):
            release.read(path)
