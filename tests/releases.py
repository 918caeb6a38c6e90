"""Other versions of build/pibot.pyz, good ones and bad ones, made of the one that is there."""

from __future__ import annotations

import hashlib
import json
import re
import zipfile
from pathlib import Path
from typing import Callable, Dict, Optional

from fleet_processes import program

VERSION = "9.9.9"
HEADER = b"#!/usr/bin/env python3\n"
PACKAGE = "site-packages/pibot/__init__.py"
CLI = "site-packages/pibot/cli/__init__.py"
WORKER = "site-packages/pibot/roles/worker.py"
Change = Callable[[Dict[str, bytes]], None]


def make(path: Path, change: Optional[Change] = None, version: str = VERSION) -> Path:
    """A program of another version at `path`, with something else changed in its files."""
    with zipfile.ZipFile(program()) as old:
        files = {name: old.read(name) for name in old.namelist()}
    files[PACKAGE] = re.sub(rb'__version__ = "[^"]+"', _assigned(version), files[PACKAGE])
    if change:
        change(files)
    environment = json.loads(files["environment.json"])
    everything = b"".join(files[name] for name in sorted(files)) + version.encode()
    build = hashlib.sha256(everything).hexdigest()
    before = environment["build_id"]
    environment["build_id"] = build
    files["environment.json"] = json.dumps(environment).encode()
    files["__main__.py"] = files["__main__.py"].replace(before.encode(), build.encode())
    with path.open("wb") as file:
        file.write(HEADER)
        with zipfile.ZipFile(file, "w") as new:
            for name, data in files.items():
                kind = zipfile.ZIP_STORED if name.endswith(".xz") else zipfile.ZIP_DEFLATED
                new.writestr(name, data, kind)
    return path


def _assigned(version: str) -> bytes:
    return f'__version__ = "{version}"'.encode()


def crashes(files: Dict[str, bytes]) -> None:
    """It ends at once, whatever it is asked for."""
    files[CLI] = b'raise SystemExit("this program is broken")\n' + files[CLI]


def never_gets_healthy(files: Dict[str, bytes]) -> None:
    """A worker that starts, says so, and does nothing more."""
    ready = b"self._systemd.ready()\n"
    assert ready in files[WORKER]
    forever = ready + b"            threading.Event().wait()\n"
    files[WORKER] = files[WORKER].replace(ready, forever)
