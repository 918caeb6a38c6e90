"""A skill as one piece of bytes: a Python file as it is, a folder as a zip. Nothing is trusted.

A zip may name files outside, be links, or become a thousand times its size: what it says of itself
is checked before anything is written, and what comes out is counted while it does.
"""

from __future__ import annotations

import io
import os
import re
import stat
import zipfile
import zlib
from pathlib import Path
from typing import Tuple

from pibot.agent import folders
from pibot.errors import UsageError

PACKED_BYTES = 1 << 20
UNPACKED_BYTES = 4 << 20
FILES = 200
FILE, FOLDER = "py", "zip"
NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")
_PART = re.compile(r"[A-Za-z0-9_+@=,. -]{1,100}")
_DAMAGED = (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, LookupError, ValueError)
_WHEN = (1980, 1, 1, 0, 0, 0)  # the same bytes each time


def pack(path: Path) -> Tuple[str, str, bytes]:
    """Name, form and bytes of the skill at a path. Raises UsageError."""
    name = path.resolve().name if path.is_dir() else path.stem
    if not NAME.fullmatch(name):
        raise UsageError(f"{path}: the name must be 1-64 of a-z, 0-9, _ and -; rename it")
    try:
        if path.is_dir():
            return name, FOLDER, _bounded(path, _zipped(path))
        if path.suffix != ".py":
            raise UsageError(f"{path}: is neither a .py file nor a folder with a {folders.MAIN}")
        return name, FILE, _bounded(path, _content(path))
    except folders.BadFolder as error:
        raise UsageError(f"{path}: {error}") from None
    except OSError as error:
        why = (error.strerror or str(error)).lower()
        raise UsageError(f"{path} cannot be read: {why}") from None


def _content(path: Path) -> bytes:
    """A file's bytes, or one more than a skill may have. A pipe or a device is not read."""
    with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb") as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise UsageError(f"{path}: is not an ordinary file")
        return file.read(PACKED_BYTES + 1)


def unpack(form: str, data: bytes, place: Path) -> None:
    """Write what was packed to a path that is not there yet. Raises UsageError, OSError."""
    if form == FILE:
        place.write_bytes(data)
        return
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as packed:
            _unzip(packed, place)
    except _DAMAGED as error:
        raise UsageError(f"the folder cannot be unpacked: {error}") from None


def _bounded(path: Path, data: bytes) -> bytes:
    if len(data) > PACKED_BYTES:
        raise UsageError(
            f"{path}: has more than the {PACKED_BYTES:,} bytes (packed) that a skill may have"
        )
    return data


def _zipped(folder: Path) -> bytes:
    made = io.BytesIO()
    total = 0
    with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as packed:
        for name, size in folders.files_of(folder):
            total += size
            if total > UNPACKED_BYTES:
                raise UsageError(f"{folder}: has more than {UNPACKED_BYTES:,} bytes in its files")
            _check(name)
            path = folder / name
            info = zipfile.ZipInfo(name, _WHEN)
            info.external_attr = (0o755 if os.access(path, os.X_OK) else 0o644) << 16
            info.compress_type = zipfile.ZIP_DEFLATED
            packed.writestr(info, path.read_bytes())
    return made.getvalue()


def _unzip(packed: zipfile.ZipFile, place: Path) -> None:
    entries = packed.infolist()
    if len(entries) > FILES:
        raise UsageError(f"the folder has more than {FILES} files")
    room = UNPACKED_BYTES
    place.mkdir(mode=0o755)
    for entry in entries:
        if entry.is_dir():
            continue
        _check(entry.filename)
        kind = stat.S_IFMT(entry.external_attr >> 16)
        if kind not in (0, stat.S_IFREG):
            raise UsageError(f"{entry.filename!r} in it is not an ordinary file")
        if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise UsageError(f"{entry.filename!r} in it is packed in another way than we do")
        with packed.open(entry) as file:  # never believe the size that it says
            content = file.read(room + 1)
        room -= len(content)
        if room < 0:
            raise UsageError(f"the folder has more than {UNPACKED_BYTES:,} bytes in its files")
        path = place / entry.filename
        path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        mode = 0o755 if (entry.external_attr >> 16) & 0o100 else 0o644
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as target:
            target.write(content)


def _check(name: str) -> None:
    parts = name.split("/")
    if not all(_PART.fullmatch(part) and part.strip(".") for part in parts) or len(parts) > 8:
        raise UsageError(f"the file name {name[:200]!r} in it is not one that a skill may have")
