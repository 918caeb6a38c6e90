"""A fleet with credentials: Mosquitto lets in whom the master's files name, and nobody else.

    with ClosedFleet(tmp_path) as fleet:
        fleet.add("worker-1")
        fleet.start_enrolled("worker-1")

What `setup` and the small root unit do on a real machine is done here: the first identities, and a
thread that puts the master's files in place whenever it has marked them as changed.
"""

from __future__ import annotations

import os
import shutil
import signal
import threading
from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence

from fleet_processes import ROOT, FleetProcesses, Process
from pibot.deploy.broker_files import check_acl, check_passwd
from pibot.identities import Identities, Secret
from pibot.mosquitto import write_broker_files
from pibot.values import read_env_file

LOOK_S = 0.02


class ClosedFleet(FleetProcesses):
    """Commands run as the client `laptop`."""

    def __init__(self, folder: Path, lines: Sequence[str] = ()) -> None:
        """`lines` are more of Mosquitto's configuration."""
        super().__init__(folder, broker="closed")
        self.lines = lines
        self.state = folder / "master" / "state"
        self.identities = self.state / "master" / "identities.json"
        self.placed = folder / "placed"
        self._done = threading.Event()
        self._placing = threading.Thread(target=self._place_when_changed)

    def __enter__(self) -> "ClosedFleet":
        try:
            self._set_up()
            self.start_master()
        except BaseException:
            self.close()
            raise
        return self

    def _set_up(self) -> None:
        made = Identities()
        self.master, laptop = made.add("m", "master"), made.add("c", "laptop")
        self.env.update(MQTT_USERNAME="laptop", MQTT_PASSWORD=laptop.password, PIBOT_KEY=laptop.key)
        made.save(self.identities)
        write_broker_files(made, "home", self.state / "broker")
        self.placed.mkdir()
        self._place()
        self.open_broker()

    def open_broker(self) -> None:
        """Start the broker, which lets in whom the files in `placed` name."""
        files = (f"password_file {self.placed / 'passwd'}", f"acl_file {self.placed / 'acl'}")
        self.start_broker(*files, "allow_anonymous false", *_limits(), *self.lines)
        self._placing.start()

    def close(self) -> None:
        self._done.set()
        if self._placing.is_alive():
            self._placing.join()
        super().close()

    # --- what the root unit does ----------------------------------------------------------------

    def _place(self) -> bool:
        mark = self.state / "broker" / "changed"
        if not mark.exists():
            return False
        mark.unlink()
        for name, check in (("passwd", check_passwd), ("acl", check_acl)):
            check((self.state / "broker" / name).read_text("ascii"))
            shutil.copy(self.state / "broker" / name, self.placed / name)
        return True

    def _place_when_changed(self) -> None:
        while not self._done.wait(LOOK_S):
            if self._place():
                os.kill(self.processes["broker"].popen.pid, signal.SIGHUP)

    # --- processes ------------------------------------------------------------------------------

    def start_master(self, name: str = "master", wait: bool = True, **env: str) -> Process:
        own: Secret = self.master
        known = {"MQTT_USERNAME": "master", "MQTT_PASSWORD": own.password, "PIBOT_KEY": own.key}
        return super().start_master(name, wait, **{**known, **env})

    def add(self, name: str, action: str = "add") -> Dict[str, Any]:
        """Make a worker's file, in the fleet's folder."""
        done = self.run("workers", action, name, "--host", "127.0.0.1")
        return dict(done.document)

    def settings(self, name: str) -> Dict[str, str]:
        """What stands in a worker's file."""
        found = read_env_file(self.folder / f"{name}.env")
        return {key: value.text for key, value in found.items()}

    def start_enrolled(self, name: str, env: Optional[Dict[str, str]] = None) -> Process:
        """Start a worker with its file."""
        return self.start_worker(name, **(env or self.settings(name)))

    def states(self) -> Dict[str, Optional[str]]:
        """The workers as `workers list` has them."""
        rows = self.run("workers", "list").document["workers"]
        return {row["worker_id"]: row["state"] for row in rows}


def _limits() -> List[str]:
    """What the broker's configuration that setup installs says about sizes."""
    lines = (ROOT / "systemd" / "mosquitto-pibot.conf").read_text("utf-8").splitlines()
    general = lines[: next(i for i, line in enumerate(lines) if line.startswith("listener"))]
    return [line for line in general if line.startswith(("max_", "memory_limit"))]
