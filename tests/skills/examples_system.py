"""The examples of the system skills: a recorded machine with systemd, and this machine's own."""

from __future__ import annotations

import contextlib
import socket
from dataclasses import replace

from pibot.permits import Permits
from pibot.skills import _ping
from skills.stage import Prepared, Stage, nothing
from skills.system_machine import SystemMachine


def _systemd(stage: Stage) -> None:
    SystemMachine(stage.tmp / "machine").become(stage.patch)


def _restart(stage: Stage) -> None:
    _systemd(stage)
    stage.ctx = replace(stage.ctx, permits=Permits(services=("mosquitto.service",)))


def _apt(stage: Stage) -> None:
    machine = SystemMachine(stage.tmp / "machine").become(stage.patch)
    machine.says(
        "/usr/bin/apt-get",
        "Inst jq [1.6-2] (1.6-3 Debian-Security:12/oldstable-security [amd64])",
    )


def _answering(stage: Stage) -> None:
    """Where the kernel has no ping socket for us, as in a container, the time is a made one."""
    permits = Permits(hosts=("127.0.0.1",))
    stage.ctx, stage.args["host"] = replace(stage.ctx, permits=permits), "127.0.0.1"
    if _ping.problem():
        stage.patch.setattr(_ping, "times_ms", lambda address, count, stop: [0.1] * count)


def _listening(stage: Stage) -> None:
    server = stage.closing.enter_context(contextlib.closing(socket.create_server(("127.0.0.1", 0))))
    port = server.getsockname()[1]
    stage.args.update(host="127.0.0.1", port=port)
    stage.ctx = replace(stage.ctx, permits=Permits(hosts=(f"127.0.0.1:{port}",)))


def _disks(stage: Stage) -> None:
    machine = SystemMachine(stage.tmp / "machine").become(stage.patch)
    machine.file("/proc/self/mountinfo", "1 0 8:1 / / rw - ext4 /dev/root rw\n")


PREPARE: Prepared = {
    "list_services": _systemd,
    "service_status": _systemd,
    "restart_service": _restart,
    "service_logs": _systemd,
    "journal_search": _systemd,
    "timers": _systemd,
    "processes": nothing,
    "packages_upgradable": _apt,
    "disk_health": _disks,
    "network_info": nothing,
    "ping": _answering,
    "check_port": _listening,
}
