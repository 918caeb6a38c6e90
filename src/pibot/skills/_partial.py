"""A file of the workspace that is being downloaded, and can be gone on with after a break.

.download-ID.part   its beginning, as far as it has come
.download-ID.json   what tells whether the server still has the same file
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from contextlib import suppress
from typing import Any

from pibot.errors import BadMessage, SkillError
from pibot.files import write_all
from pibot.skills import Context
from pibot.skills._workspace import explained, open_file, open_parent
from pibot.strictjson import parse

_READ_BYTES = 1 << 20
_RECORD_BYTES = 16_384
# A strong ETag, or a date: what If-Range takes, and nothing that could begin another header.
_VALIDATOR = re.compile(r'"[\x21\x23-\x7e]{1,200}"|[A-Z][a-z]{2}, [0-9A-Za-z: ]{10,30}')


class Partial:
    """What there is of a URL's file. `size` is in bytes; `validator` is "" without a record."""

    def __init__(self, ctx: Context, folder: str, url: str) -> None:
        name = f".download-{hashlib.sha256(url.encode()).hexdigest()[:12]}"
        self._ctx = ctx
        self._url = url
        self._path = f"{folder}/{name}.part" if folder else f"{name}.part"
        self._record = self._path[: -len("part")] + "json"
        self._digest = hashlib.sha256()
        self.size = 0
        self.validator = ""

    def __enter__(self) -> Partial:
        """Open or make the file, and read what there is of it."""
        with explained(self._path):
            self._opened = open_file(self._ctx, self._path, os.O_RDWR | os.O_CREAT)
            self._fd = self._opened.__enter__()
            while data := os.read(self._fd, _READ_BYTES):
                self._digest.update(data)
                self.size += len(data)
        self.validator = self._recorded() if self.size else ""
        return self

    def __exit__(self, *ended: Any) -> None:
        """Close it. Of nothing, and of what cannot be gone on with, nothing is kept."""
        self._opened.__exit__(None, None, None)
        if not (self.size and self.validator):
            self._remove()

    def begin(self, validator: str) -> None:
        """Start anew; `validator` is the answer's ETag or Last-Modified, "" if it has none."""
        os.lseek(self._fd, 0, os.SEEK_SET)
        os.ftruncate(self._fd, 0)
        self._digest, self.size = hashlib.sha256(), 0
        self.validator = validator if _VALIDATOR.fullmatch(validator) else ""
        if self.validator:
            text = json.dumps({"url": self._url, "validator": self.validator})
            with open_file(self._ctx, self._record, os.O_WRONLY | os.O_CREAT) as fd:
                os.ftruncate(fd, 0)
                write_all(fd, text.encode())

    def append(self, data: bytes) -> None:
        write_all(self._fd, data)
        self._digest.update(data)
        self.size += len(data)

    def finish(self, path: str) -> str:
        """Give it its name, which nothing has yet, and return the SHA-256."""
        with open_parent(self._ctx, path, make=True) as (folder, name):
            mine = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644, dir_fd=folder)
            os.close(mine)  # the name is ours: only this empty file is replaced
            with open_parent(self._ctx, self._path) as (source, part):
                os.rename(part, name, src_dir_fd=source, dst_dir_fd=folder)
        self.validator = ""
        return self._digest.hexdigest()

    def _recorded(self) -> str:
        try:
            with open_file(self._ctx, self._record, os.O_RDONLY) as fd:
                found = parse(os.read(fd, _RECORD_BYTES))
        except (OSError, SkillError, BadMessage):
            return ""
        validator = found.get("validator")
        is_ours = found.get("url") == self._url and isinstance(validator, str)
        return str(validator) if is_ours and _VALIDATOR.fullmatch(str(validator)) else ""

    def _remove(self) -> None:
        for path in (self._path, self._record):
            with suppress(OSError, SkillError), open_parent(self._ctx, path) as (fd, name):
                os.unlink(name, dir_fd=fd)
