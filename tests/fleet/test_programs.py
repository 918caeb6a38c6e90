"""The master's programs: real files, cut short at any place."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from pibot.errors import Refused, StoreError, UsageError
from pibot.fleet.programs import KEPT, Programs
from pibot.manifest import MAX_BYTES

BODY = bytes(range(256)) * 100
SIZE = len(BODY)
SHA = hashlib.sha256(BODY).hexdigest()


def programs(folder: Path) -> Programs:
    return Programs(folder / "programs", spare_bytes=0)


def give(store: Programs, body: bytes, step: int = 1_000) -> str:
    sha256, have = hashlib.sha256(body).hexdigest(), 0
    while have < len(body):
        have = store.take(sha256, len(body), have, body[have : have + step])
    return sha256


def test_a_program_is_kept_and_read(tmp_path: Path) -> None:
    store = programs(tmp_path)
    assert store.size(SHA) is None
    assert give(store, BODY) == SHA
    assert store.size(SHA) == SIZE
    assert store.read(SHA, 100, 50) == BODY[100:150] and store.read(SHA, SIZE, 50) == b""
    assert store.take(SHA, SIZE, 0, BODY[:10]) == SIZE  # it is here


def test_an_upload_goes_on_where_it_was(tmp_path: Path) -> None:
    assert programs(tmp_path).take(SHA, SIZE, 0, BODY[:1_000]) == 1_000
    store = programs(tmp_path)
    assert store.take(SHA, SIZE, 0, b"") == 1_000
    assert store.take(SHA, SIZE, 0, BODY[:1_000]) == 1_000  # twice
    assert store.take(SHA, SIZE, 2_000, BODY[2_000:]) == 1_000  # too early
    assert store.take(SHA, SIZE, 1_000, BODY[1_000:]) == SIZE


def test_what_comes_wrong_is_not_kept(tmp_path: Path) -> None:
    store = programs(tmp_path)
    with pytest.raises(Refused, match="SHA-256"):
        store.take(SHA, SIZE, 0, BODY[::-1])
    assert store.size(SHA) is None and store.take(SHA, SIZE, 0, b"") == 0
    with pytest.raises(Refused, match="SHA-256"):
        store.take(SHA, SIZE - 1, 0, BODY)
    assert give(store, BODY) == SHA


@pytest.mark.parametrize("size", [0, -1, MAX_BYTES + 1])
def test_sizes_that_no_program_has(tmp_path: Path, size: int) -> None:
    with pytest.raises(UsageError, match="bytes"):
        programs(tmp_path).take(SHA, size, 0, b"")
    assert list(tmp_path.iterdir()) == []


def test_the_oldest_go(tmp_path: Path) -> None:
    store = programs(tmp_path)
    names = [give(store, BODY + bytes([n])) for n in range(KEPT)]
    for age, name in enumerate(names):
        os.utime(tmp_path / "programs" / name, (age, age))
    store.keep(names[0])
    give(store, BODY)
    assert store.size(names[1]) is None
    assert [store.size(name) for name in (names[0], *names[2:])] == [SIZE + 1] * (KEPT - 1)
    with pytest.raises(StoreError, match="does not keep"):
        store.read(names[1], 0, 1)


def test_a_full_disk_is_said_before_it_is_full(tmp_path: Path) -> None:
    store = Programs(tmp_path / "programs", spare_bytes=1 << 62)
    with pytest.raises(StoreError, match=f"no room for {SIZE:,} bytes"):
        store.take(SHA, SIZE, 0, BODY)


def test_a_folder_that_cannot_be_made_is_said(tmp_path: Path) -> None:
    (tmp_path / "programs").write_text("a file")
    with pytest.raises(StoreError, match="cannot keep"):
        programs(tmp_path).take(SHA, SIZE, 0, BODY)
