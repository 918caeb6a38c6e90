"""Services, journal, timers, disks, packages and network, on a machine of recorded files."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any, Dict

import pytest

from pibot.agent.library import load
from pibot.agent.tools import Context, Result
from pibot.permits import Permits
from pibot.skills import _journal, network, timers
from pibot.skills.packages import upgrades
from skills.system_machine import SystemMachine

PERMITS = Permits(services=("mosquitto", "bad.service"))


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SystemMachine:
    monkeypatch.setattr(network, "ROOT", tmp_path / "machine")
    return SystemMachine(tmp_path / "machine").become(monkeypatch)


def call(ctx: Context, skill: str, permits: Permits = PERMITS, **args: Any) -> Result:
    toolbox, _ = load(None, permits)
    return toolbox.call(skill, args, replace(ctx, permits=permits))


def test_a_listed_unit_is_restarted_once_and_seen_to_run(
    ctx: Context, machine: SystemMachine
) -> None:
    done = call(ctx, "restart_service", unit="mosquitto")
    assert done.success and done.data["state"] == "active"
    restarts = [words for words in machine.asked() if "restart" in words]
    assert [words[-3:] for words in restarts] == [["restart", "--", "mosquitto.service"]]


def test_a_unit_that_does_not_stay_up_is_a_failure(ctx: Context, machine: SystemMachine) -> None:
    done = call(ctx, "restart_service", unit="bad")
    assert not done.success and "did not stay up" in done.output
    assert done.data["exit_status"] == 1
    machine.systemctl(mosquitto={"NRestarts": "3"})
    assert "did not stay up" in call(ctx, "restart_service", unit="mosquitto").output


@pytest.mark.parametrize("said", ["Access denied", "Interactive authentication required."])
def test_without_the_right_the_rule_is_told(
    ctx: Context, machine: SystemMachine, said: str
) -> None:
    machine.systemctl(denied=said)
    done = call(ctx, "restart_service", unit="mosquitto")
    assert not done.success and "/etc/polkit-1/rules.d/" in done.output
    assert '["bad.service", "mosquitto.service"]' in done.data["polkit_rule"]


def test_services_are_listed_and_told_about(ctx: Context, machine: SystemMachine) -> None:
    units = {
        state: [one["unit"] for one in call(ctx, "list_services", state=state).data["services"]]
        for state in ("all", "running", "failed", "stopped")
    }
    assert units == {
        "all": ["mosquitto.service", "apt-daily.service", "bad.service"],
        "running": ["mosquitto.service"],
        "failed": ["bad.service"],
        "stopped": ["apt-daily.service"],
    }
    told = call(ctx, "service_status", unit="mosquitto").data
    assert (told["main_pid"], told["memory_bytes"]) == (71, 2621440)
    assert "no unit nosuch.service" in call(ctx, "service_status", unit="nosuch").output


def test_the_journal_is_searched_for_plain_text(ctx: Context, machine: SystemMachine) -> None:
    done = call(ctx, "journal_search", words="NEW connection", priority="info", lines=5)
    assert [one["from"] for one in done.data["entries"]] == ["mosquitto"]
    assert (done.data["found"], done.data["searched"]) == (1, 3)
    assert {"--priority=info", "--lines=5000"} <= set(machine.asked()[-1])
    messages = [one["message"] for one in call(ctx, "service_logs", unit="x").data["entries"]]
    assert messages[1:] == ["bad \ufffd\ufffd red", "(a message that is too long to be shown)"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read every journal")
def test_a_closed_journal_says_what_to_do(machine: SystemMachine) -> None:
    machine.journal([], mode=0o000)
    assert "usermod -aG systemd-journal" in (_journal.closed() or "")


@pytest.mark.parametrize(
    ("text", "ago_s"), [("30m", 1800), ("2 h", 7200), ("1d", 86400), ("45s", 45), ("2w", 1209600)]
)
def test_times(text: str, ago_s: int) -> None:
    assert abs(time.time() - ago_s - int(_journal.since(text).partition("@")[2])) < 3


def test_timers(ctx: Context, machine: SystemMachine) -> None:
    found = {one["timer"]: one for one in call(ctx, "timers").data["timers"]}
    assert list(found)[-1] == "fstrim.timer" and found["fstrim.timer"]["next"] is None
    assert found["apt-daily.timer"]["last_ago_s"] > 86400
    assert timers.span_s("1d 2h 3min 4.5s") == 93784.5
    assert timers.moment("Mon 2026-11-23 10:31:10 UTC") == 1795429870


def test_what_apt_would_upgrade() -> None:
    said = (
        "Inst base-files [12.4] (12.4+deb12u5 Debian:12.5/stable [amd64])\n"
        "Inst jq [1.6-2] (1.6-3 Debian-Security:12/oldstable-security [amd64]) []\n"
        "Inst new (1.0 Debian:12.5/stable [amd64])\nConf jq (1.6-3 Debian:12 [amd64])\n"
    )
    found = [(one["package"], one["security"]) for one in upgrades(said)]
    assert found == [("jq", True), ("base-files", False)]


def test_damaged_disks_are_told(ctx: Context, machine: SystemMachine) -> None:
    machine.file(
        "/proc/self/mountinfo",
        "1 0 179:2 / / ro,relatime - ext4 /dev/mmcblk0p2 ro,errors=remount-ro\n"
        "2 1 179:2 /x / rw - ext4 /dev/mmcblk0p2 ro\n3 1 0:5 / /proc rw - proc proc rw\n",
    )
    machine.file("/sys/block/mmcblk0/device/life_time", "0x01 0x0a\n")
    machine.file("/sys/block/mmcblk0/device/pre_eol_info", "0x02\n")
    machine.journal(
        [
            {"MESSAGE": text, "PRIORITY": "3", "__REALTIME_TIMESTAMP": "1795400133334977"}
            for text in ("I/O error, dev mmcblk0, sector 1 op 0x0", "usb 1-1: new device")
        ]
    )
    data = call(ctx, "disk_health").data
    assert len(data["mounts"]) == 1 and data["mounts"][0]["read_only"]
    assert data["cards"][0]["life_used_pct"] == 100
    assert [(one["device"], one["errors"]) for one in data["io_errors"]] == [("mmcblk0", 1)]
    assert {"/ is read-only", "mmcblk0 is worn: make a copy and replace it"} <= set(
        data["problems"]
    )


def test_the_network_as_files_tell_it(ctx: Context, machine: SystemMachine) -> None:
    machine.file("/proc/net/route", "eth0\t00000000\t0101A8C0\t0003\t0\t0\t0\t00000000\t0\t0\t0\n")
    machine.file("/etc/resolv.conf", "# by hand\nnameserver 192.168.1.1\nsearch lan\n")
    machine.file("/sys/class/net/wlan0/operstate", "up\n")
    machine.file("/proc/net/wireless", " wlan0: 0000   54.  -56.  -256        0      0\n")
    data: Dict[str, Any] = dict(call(ctx, "network_info").data)
    assert data["gateways"] == [{"interface": "eth0", "address": "192.168.1.1"}]
    assert data["dns_servers"] == ["192.168.1.1"]
    assert data["interfaces"][0]["wifi_signal_dbm"] == -56


PINGS = """
import threading
from pibot.skills import SkillError, _ping
assert _ping.problem() is None, _ping.problem()
for address in ("127.0.0.1", "::1"):
    times = _ping.times_ms(address, 2, threading.Event())
    assert len(times) == 2 and all(0 <= one < 1000 for one in times), times
try:
    _ping.times_ms("10.9.9.9", 1, threading.Event())
except SkillError as error:
    assert "10.9.9.9 cannot be pinged" in str(error)
else:
    raise AssertionError("there is no way to 10.9.9.9")
"""


@pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("unshare"), reason="needs a namespace")
def test_ping_with_the_kernels_sockets() -> None:
    """In a network namespace that lets all ping, by a process that may do nothing else."""
    allow = "echo '0 2147483647' >/proc/sys/net/ipv4/ping_group_range && ip link set lo up"
    script = f'{allow} && exec setpriv --inh-caps=-all --bounding-set=-all "$@"'
    words = ["unshare", "--net", "sh", "-c", script, "sh", sys.executable, "-c", PINGS]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
