"""A pibot.pyz as a file: whether it is one, and which, without running anything of it."""

from __future__ import annotations

import hashlib
import json
import re
import stat
import zipfile
import zlib
from pathlib import Path
from typing import NamedTuple

from pibot.errors import UsageError
from pibot.manifest import MAX_BYTES

_PACKAGE = "site-packages/pibot/__init__.py"
_VERSION = re.compile(rb'^__version__ = "([0-9A-Za-z.+-]{1,40})"$', re.MULTILINE)
_BUILD = re.compile(r"[0-9a-f]{64}")
MAX_UNPACKED = 8 * MAX_BYTES
# What zipfile and its kin raise about files that are none of ours; RuntimeError: encrypted ones.
_NO_RELEASE = (
    zipfile.BadZipFile,
    zlib.error,
    KeyError,
    ValueError,
    AttributeError,
    EOFError,
    RuntimeError,
)


class Release(NamedTuple):
    """`build` is the name that the program has for itself; two builds never have the same."""

    path: Path
    size: int
    sha256: str
    version: str
    build: str


def read(path: Path) -> Release:
    """Look at the file; raise UsageError if it is no pibot.pyz, or not a whole one."""
    try:
        found = path.stat()
        if not stat.S_ISREG(found.st_mode):  # a pipe would never end
            raise UsageError(f"{path} is no ordinary file: name a pibot.pyz")
        size = found.st_size
        if size > MAX_BYTES:
            raise UsageError(f"{path} has {size:,} bytes: a pibot.pyz has at most {MAX_BYTES:,}")
        data = path.read_bytes()
        version, build = _names(path)
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from None
    except _NO_RELEASE:
        raise UsageError(
            f"{path} is no pibot.pyz, or not a whole one: compare it with pibot.pyz.sha256, and "
            "copy it again"
        ) from None
    return Release(path, len(data), hashlib.sha256(data).hexdigest(), version, build)


def _names(path: Path) -> "tuple[str, str]":
    """Version and build; raises one of many things if it has none."""
    with zipfile.ZipFile(path) as archive:
        if sum(member.file_size for member in archive.infolist()) > MAX_UNPACKED:
            raise ValueError("it unpacks to too much")
        if archive.testzip() is not None:
            raise ValueError("a damaged member")
        archive.getinfo("__main__.py")
        found = _VERSION.search(archive.read(_PACKAGE))
        build = json.loads(archive.read("environment.json")).get("build_id", "")
    if found is None or not isinstance(build, str) or not _BUILD.fullmatch(build):
        raise ValueError("it does not say what it is")
    return found[1].decode(), build
