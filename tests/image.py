"""An image for `setup --prefix`, and a directory with the program and what lies beside it."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Dict, List, Sequence, Tuple

from fleet_processes import environment, program

WORKER_1 = """\
WORKER_ID=worker-1
PIBOT_FLEET=home
MQTT_HOST=192.168.1.10
MQTT_USERNAME=worker-1
MQTT_PASSWORD=secret-password
PIBOT_KEY=secret-key
"""
V3_UNIT = """\
[Service]
User=pi
WorkingDirectory=/home/pi/pibot
EnvironmentFile=/home/pi/pibot/.env
ExecStart=/usr/bin/python3 /home/pi/pibot/pibot.pyz --role worker --worker-id worker-1 --port 5000
[Install]
WantedBy=default.target
"""
V3_ENV = """\
VOLC_API_KEY=real-key-0123456789
VOLC_BASE_URL=https://ark.cn-beijing.volces.com/api/coding/v3
MODEL_NAME=your_model_name_here
WORKER_1_IP=192.168.1.11
FLASK_DEBUG=1
this line is no assignment
"""
Done = "subprocess.CompletedProcess[str]"
Snapshot = Dict[str, Tuple[object, ...]]


class Image:
    """A directory for --prefix, and one with the program and what lies beside it."""

    def __init__(self, folder: Path) -> None:
        self.root, self.home = folder / "image", folder / "home"
        self.python = sys.executable
        self.root.mkdir()
        self.home.mkdir()
        self.pyz = Path(shutil.copy(program(), self.home / "pibot.pyz"))

    def beside(self, name: str, text: str, mode: int = 0o600) -> Path:
        path = self.home / name
        path.write_text(text, encoding="utf-8")
        path.chmod(mode)
        return path

    def put(self, path: str, text: str, mode: int = 0o644) -> None:
        there = self.root / path.lstrip("/")
        there.parent.mkdir(parents=True, exist_ok=True)
        there.write_text(text, encoding="utf-8")
        there.chmod(mode)

    def text(self, path: str) -> str:
        return (self.root / path.lstrip("/")).read_text("utf-8")

    def settings(self, role: str) -> Dict[str, str]:
        lines = self.text(f"/etc/pibot/{role}.env").splitlines()
        return dict(line.split("=", 1) for line in lines if not line.startswith("#"))

    def command(self, *args: str) -> List[str]:
        return [self.python, str(self.pyz), "setup", *args, "--prefix", str(self.root)]

    def setup(self, *args: str, status: int = 0, before: Sequence[str] = ()) -> "Done":
        done = subprocess.run(
            [*before, *self.command(*args)],
            env=environment(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            encoding="utf-8",
            timeout=60,
        )
        assert done.returncode == status, done.stdout + done.stderr
        if status:
            assert done.stderr.startswith("pibot: ") and done.stderr.count("\n") == 1, done.stderr
        return done

    def snapshot(self) -> Snapshot:
        """All paths, with all that could change."""
        found: Snapshot = {}
        for path in sorted(self.root.rglob("*")):
            status = path.lstat()
            content = os.readlink(path) if path.is_symlink() else ""
            if path.is_file() and not path.is_symlink():
                content = hashlib.sha256(path.read_bytes()).hexdigest()
            name = f"/{path.relative_to(self.root)}"
            found[name] = (oct(status.st_mode), status.st_uid, status.st_mtime_ns, content)
        return found

    def files(self) -> List[str]:
        return [name for name in self.snapshot() if not (self.root / name[1:]).is_dir()]


def with_v3(image: Image) -> None:
    image.put("/etc/systemd/system/pibot-worker.service", V3_UNIT)
    image.put("/home/pi/pibot/.env", V3_ENV)
    wants = image.root / "etc/systemd/system/default.target.wants"
    wants.mkdir()
    (wants / "pibot-worker.service").symlink_to("/etc/systemd/system/pibot-worker.service")
