"""A recorded machine: files under a directory, and small scripts in the place of its programs."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Callable, List

import pytest

from pibot.deploy.layout import COMMAND, PROGRAM
from pibot.doctor.findings import Finding
from pibot.doctor.surroundings import Surroundings

RECORDED = Path(__file__).parent / "recorded"
PI = "Raspberry Pi 4 Model B Rev 1.4\0"


class Machine:
    """Files and programs under a root, and the surroundings that the checks get."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def file(self, path: str, text: str = "", mode: int = 0o644) -> Path:
        there = self.root / path.lstrip("/")
        there.parent.mkdir(parents=True, exist_ok=True)
        there.write_text(text, encoding="utf-8")
        there.chmod(mode)
        return there

    def says(self, path: str, text: str, status: int = 0) -> None:
        """A program that prints a text, whatever it is asked."""
        self.file(path, f"#!/bin/sh\ncat <<'END'\n{text}\nEND\nexit {status}\n", 0o755)

    def script(self, path: str, text: str) -> None:
        self.file(path, f"#!/bin/sh\n{text}\n", 0o755)

    def pi(self) -> "Machine":
        self.file("/proc/device-tree/model", PI)
        return self

    def recorded(self, name: str) -> "Machine":
        """The files of tests/recorded/NAME.txt, whose lines are

        /path = text with \\n and \\0      /path =x 00000002 bytes      /path -> where a link leads
        """
        for line in (RECORDED / f"{name}.txt").read_text("utf-8").splitlines():
            path, kind, value = (*line.split(" ", 2), "", "")[:3]
            if not path.startswith("/"):
                continue
            there = self.file(path)
            if kind == "->":
                there.unlink()
                there.symlink_to(value)
            elif kind == "=x":
                there.write_bytes(bytes.fromhex(value))
            else:
                there.write_bytes(value.replace("\\n", "\n").replace("\\0", "\0").encode())
        return self

    def role(self, role: str, env: str = "", exec_start: str = "") -> Path:
        """What `setup` leaves of a role: its settings, its unit and the program."""
        start = exec_start or f"/usr/bin/python3 -I {PROGRAM} --role {role}"
        unit = f"[Service]\nUser=pibot\nExecStart={start}\n"
        self.file(f"/etc/systemd/system/pibot-{role}.service", unit)
        self.file(PROGRAM, "", 0o755)
        self.file(COMMAND, "", 0o755)
        self.file("/etc/passwd", "root:x:0:0::/root:/bin/sh\npibot:x:987:987::/x:/bin/sh\n")
        return self.file(f"/etc/pibot/{role}.env", env, 0o600)

    def here(self, **more: Any) -> Surroundings:
        known = {"program": Path("/nowhere/pibot.pyz"), "environ": {"HOME": os.fspath(self.root)}}
        return Surroundings(**{**known, "root": self.root, **more})

    def find(self, check: Callable[..., Any], *args: Any, **more: Any) -> List[Finding]:
        return list(check(self.here(**more), *args))


needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="the owners of files count")
