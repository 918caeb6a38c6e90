"""Files that nobody else may read: written whole or not at all."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import Union


def write_all(fd: int, data: bytes) -> None:
    """Write all of it: one write may take less, on a disk that is almost full."""
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(fd, rest) :]


def create_private(path: Path, text: Union[str, bytes]) -> None:
    """Make a file that was not there, mode 0600 from its first byte; raise OSError.

    FileExistsError if something has that name. A file that could not be written is removed.
    """
    opened = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    try:
        with open(opened, "wb") as file:
            file.write(text.encode("utf-8") if isinstance(text, str) else text)
            file.flush()
            os.fsync(file.fileno())
    except BaseException:
        with suppress(OSError):
            path.unlink()
        raise


def write_private(path: Path, text: Union[str, bytes]) -> None:
    """Put a file in place of what is there, or leave that as it was; raise OSError.

    It survives a power cut: the data is on the disk before the name, and the name before this
    returns.
    """
    beside = path.with_name(path.name + ".new")
    with suppress(FileNotFoundError):
        beside.unlink()
    create_private(beside, text)
    try:
        os.replace(beside, path)
    except BaseException:
        with suppress(OSError):
            beside.unlink()
        raise
    sync_folder(path.parent)


def name_twice(source: Path, target: Path) -> None:
    """Make `target` a second name of the file `source`, at once; raise OSError."""
    if target.exists() and os.path.samefile(source, target):
        return  # to rename one over the other would do nothing
    beside = target.with_name(f".{target.name}.new")
    with suppress(FileNotFoundError):
        beside.unlink()
    os.link(source, beside)
    os.replace(beside, target)
    sync_folder(target.parent)


def sync_tree(folder: Path) -> None:
    """Everything below there survives a power cut from now on, if its own name does."""
    for at, _, files in os.walk(folder):
        for name in files:
            opened = os.open(os.path.join(at, name), os.O_RDONLY | os.O_NOFOLLOW)
            try:
                os.fsync(opened)
            finally:
                os.close(opened)
        sync_folder(Path(at))


def sync_folder(folder: Path) -> None:
    """Names that were made or changed there survive a power cut from now on."""
    opened = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)
