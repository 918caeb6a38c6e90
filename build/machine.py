"""A machine of a fleet as its user has it: a folder with pibot.pyz and `.env`, and one service."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import socket
import subprocess
import time
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, List, Mapping, Optional

from fleet_processes import wait_for

LOG_LINES = 30


def free_ports(count: int) -> List[int]:
    """So many different ports; one after the other, the same could come twice."""
    with contextlib.ExitStack() as held:
        sockets = [held.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [int(sock.getsockname()[1]) for sock in sockets]


@dataclass
class Machine:
    """The service of `role`, and commands beside it, both run by `python` in `folder`.

    Whatever does not come within `patience_s` raises.
    """

    role: str
    folder: Path
    python: Path
    patience_s: float
    port: int
    service: Optional["subprocess.Popen[bytes]"] = None

    def install(self, pyz: Path, settings: Mapping[str, str]) -> None:
        """Copy the file and write the settings beside it."""
        self.folder.mkdir()
        shutil.copy(pyz, self.folder / "pibot.pyz")
        (self.folder / ".env").touch(0o600)
        (self.folder / ".env").write_text("".join(f"{k}={v}\n" for k, v in settings.items()))

    def start(self) -> float:
        """Start the service; return the seconds until /health says that it is well."""
        words = ["--role", self.role, "--port", str(self.port)]
        words += ["--worker-id", "worker-1"] if self.role == "worker" else []
        began = time.monotonic()
        with self._log.open("ab") as log:
            self.service = self._popen(words, stdout=log, stderr=log)
        wait_for(self._is_healthy, self.patience_s, f"the {self.role} is healthy")
        return time.monotonic() - began

    def stop(self) -> None:
        """End the service as systemd does."""
        assert self.service is not None
        self.service.terminate()
        status = self.service.wait(self.patience_s)
        assert status == 0, f"the {self.role} ended with status {status}"

    def kill(self) -> None:
        """End the service if it still runs, whatever state it is in."""
        if self.service is not None:
            self.service.kill()
            self.service.wait()

    def run(self, *words: str) -> Any:
        """Run a command of the program to its good end; return its JSON document."""
        command = self._popen(
            [*words, "--json"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, encoding="utf-8"
        )
        try:
            out, err = command.communicate(timeout=self.patience_s)
        finally:
            command.kill()
            command.wait()
        ended = f"`{' '.join(words)}` ended with status {command.returncode}\n{out}{err}"
        assert command.returncode == 0, ended
        return json.loads(out)

    def health(self) -> Dict[str, Any]:
        """What /health answers with status 200, else {}."""
        assert self.service is not None
        assert self.service.poll() is None, f"the {self.role} ended by itself"
        with contextlib.suppress(OSError):
            url = f"http://127.0.0.1:{self.port}/health"
            with urllib.request.urlopen(url, timeout=5) as answer:
                return dict(json.load(answer))
        return {}

    def _is_healthy(self) -> bool:
        return self.health().get("status") == "healthy"

    def said(self) -> str:
        """What the service has logged."""
        return self._log.read_text("utf-8", "replace") if self._log.exists() else ""

    def last_words(self) -> str:
        """The end of the log, for the message of a failure."""
        return "\n".join([f"--- {self.role}", *self.said().splitlines()[-LOG_LINES:]])

    def memory_mb(self) -> float:
        """The service's resident memory."""
        assert self.service is not None
        status = Path(f"/proc/{self.service.pid}/status").read_text()
        resident = re.search(r"VmRSS:\s*(\d+) kB", status)
        assert resident, status
        return int(resident.group(1)) / 1024

    def cache_mb(self) -> float:
        """What the unpacked program takes on the disk, as du counts it."""
        return sum(path.lstat().st_blocks for path in self._cache.rglob("*")) * 512 / 1024**2

    def empty_cache(self) -> None:
        """Make the next start the first one."""
        if self._cache.exists():
            shutil.rmtree(self._cache)

    @property
    def _log(self) -> Path:
        return self.folder / "log"

    @property
    def _cache(self) -> Path:
        return self.folder / "cache"

    def _popen(self, words: List[str], **streams: Any) -> "subprocess.Popen[Any]":
        """Start the program with a service's directories, and with nothing of our environment."""
        environment = {
            "PATH": os.environ.get("PATH", os.defpath),
            "LANG": "C.UTF-8",
            "HOME": str(self.folder),
            "STATE_DIRECTORY": str(self.folder / "state"),
            "CACHE_DIRECTORY": str(self._cache),
        }
        return subprocess.Popen(
            [str(self.python), "-I", str(self.folder / "pibot.pyz"), *words],
            env=environment,
            cwd=self.folder,
            stdin=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C is for us; we end what we started
            **streams,
        )
