"""The machine's facts, read from recorded trees and from this machine."""

from __future__ import annotations

import time
from datetime import datetime
from pathlib import Path
from typing import Dict

import pytest

from pibot.agent.tools import Context, Toolbox
from pibot.skills import core, machine

PI4: Dict[str, str] = {
    "proc/cpuinfo": "processor\t: 0\nBogoMIPS\t: 108.00\n\nprocessor\t: 1\n\nprocessor\t: 2\n\n"
    "processor\t: 3\n\nModel\t\t: Raspberry Pi 4 Model B Rev 1.4\n",
    "proc/device-tree/model": "Raspberry Pi 4 Model B Rev 1.4\0",
    "proc/stat": "cpu  100 0 100 800 0 0 0 0 0 0\ncpu0 1 2 3\n",
    "proc/meminfo": "MemTotal:        3884360 kB\nMemFree:          400000 kB\n"
    "MemAvailable:    2913270 kB\nSwapTotal:        102400 kB\nSwapFree:          51200 kB\n",
    "proc/loadavg": "0.52 0.30 0.10 1/200 4242\n",
    "proc/uptime": "93784.55 300000.00\n",
    "proc/net/if_inet6": "fe80000000000000dea632fffe000001 02 40 20 80     eth0\n"
    "00000000000000000000000000000001 01 80 10 80       lo\n",
    "sys/class/thermal/thermal_zone0/type": "gpu-thermal\n",
    "sys/class/thermal/thermal_zone0/temp": "40100\n",
    "sys/class/thermal/thermal_zone1/type": "cpu-thermal\n",
    "sys/class/thermal/thermal_zone1/temp": "48312\n",
    "sys/devices/platform/soc/soc:firmware/get_throttled": "50005\n",
    "sys/class/net/eth0/operstate": "up\n",
    "sys/class/net/wlan0/operstate": "down\n",
    "sys/class/net/lo/operstate": "unknown\n",
}


def tree(root: Path, files: Dict[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


def test_a_recorded_pi(tmp_path: Path) -> None:
    told = core.status_of(root=tree(tmp_path, PI4))
    expected = {
        "cpu_count": 4,
        "cpu_model": None,
        "machine_model": "Raspberry Pi 4 Model B Rev 1.4",
        "cpu_used_pct": None,  # a recording does not move on
        "cpu_temp_c": 48.3,
        "zones_temp_c": {"gpu-thermal": 40.1, "cpu-thermal": 48.3},
        "throttled": True,
        "throttled_since_boot": True,
        "throttling_now": ["under-voltage", "throttled"],
        "throttling_since_boot": ["under-voltage", "throttled"],
        "mem_total_mib": 3793,
        "mem_available_mib": 2845,
        "mem_used_pct": 25.0,
        "swap_total_mib": 100,
        "swap_used_mib": 50,
        "load1": 0.52,
        "load5": 0.3,
        "load15": 0.1,
        "uptime_s": 93784,
        "interfaces": [
            {"name": "eth0", "up": True, "addresses": ["fe80::dea6:32ff:fe00:1"]},
            {"name": "wlan0", "up": False, "addresses": []},
        ],
        "services_running": None,
        "services_failed": None,
    }
    assert {name: told.data[name] for name in expected} == expected
    assert set(told.data) - set(expected) == {"disk_total_gib", "disk_free_gib", "disk_used_pct"}


def test_the_summary_reads_well(tmp_path: Path) -> None:
    lines = core.status_of(root=tree(tmp_path, PI4)).text.splitlines()
    assert lines[0] == "cpu: 4 cores, Raspberry Pi 4 Model B Rev 1.4, unknown"
    assert lines[1] == "temperature: 48.3 °C"
    both = "under-voltage, throttled"
    assert lines[2] == f"throttling: {both} now; {both} since boot"
    assert lines[3] == "memory: 25.0 % used, 2845 of 3793 MiB available"
    assert lines[4].startswith("disk: ")
    assert lines[5] == "load: 0.52 0.3 0.1 (1, 5, 15 minutes)"
    assert lines[6] == "uptime: 1 d 2 h 3 min"
    assert lines[7] == "network: eth0 up fe80::dea6:32ff:fe00:1; wlan0 down"
    assert lines[8] == "services: unknown"


def test_a_machine_that_says_nothing(tmp_path: Path) -> None:
    told = core.status_of(root=tmp_path)
    for name in ("cpu_temp_c", "throttled", "mem_used_pct", "load1", "uptime_s", "cpu_used_pct"):
        assert told.data[name] is None
    assert told.text.count("unknown") == 8
    facts = machine.machine_facts(tmp_path)
    assert {name for name, value in facts.items() if value is not None} == {"disk_used_pct"}


@pytest.mark.parametrize(
    ("word", "throttled", "since_boot"),
    [("0", False, False), ("50000", False, True), ("8", True, False), ("nonsense", None, None)],
)
def test_the_throttling_word(
    tmp_path: Path, word: str, throttled: object, since_boot: object
) -> None:
    name = "sys/devices/platform/soc/soc:firmware/get_throttled"
    facts = machine.throttling(tree(tmp_path, {name: word}))
    assert (facts["throttled"], facts["throttled_since_boot"]) == (throttled, since_boot)


def test_damaged_files_are_unknown_facts(tmp_path: Path) -> None:
    damaged = dict.fromkeys(PI4, "\0\xff :: x\n")
    told = core.status_of(root=tree(tmp_path, damaged))
    assert told.data["cpu_temp_c"] is None
    assert told.data["mem_used_pct"] is None


def test_the_cpus_own_zone_is_preferred_and_any_zone_will_do(tmp_path: Path) -> None:
    zone = "sys/class/thermal/thermal_zone0"
    root = tree(tmp_path, {f"{zone}/type": "iwlwifi", f"{zone}/temp": "30000"})
    assert machine.temperature(root)["cpu_temp_c"] == 30.0


def test_a_heartbeats_facts(tmp_path: Path) -> None:
    facts = machine.machine_facts(tree(tmp_path, PI4))
    assert list(facts) == ["cpu_temp_c", "load1", "mem_used_pct", "disk_used_pct", "throttled"]
    assert 0 <= facts.pop("disk_used_pct") <= 100
    assert facts == {"cpu_temp_c": 48.3, "load1": 0.52, "mem_used_pct": 25.0, "throttled": True}


def test_a_heartbeats_facts_are_cheap() -> None:
    machine.machine_facts()
    started = time.monotonic()
    for _ in range(20):
        machine.machine_facts()
    assert (time.monotonic() - started) / 20 < 0.05


def test_the_firmware_is_asked_once_a_minute(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = tmp_path / "asked"
    program = tmp_path / "vcgencmd"
    program.write_text(f"#!/bin/sh\necho $1 >> {asked}\necho throttled=0x50001\n")
    program.chmod(0o755)
    monkeypatch.setattr(machine, "_VCGENCMD", str(program))
    machine._firmware_word.cache_clear()
    assert [machine._firmware_word(minute) for minute in (7, 7, 7, 8)] == [0x50001] * 4
    machine._firmware_word.cache_clear()
    assert asked.read_text().split() == ["get_throttled"] * 2


def test_services_are_counted_from_what_systemctl_lists(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "systemctl"
    program.write_text(
        "#!/bin/sh\ncat <<END\n"
        "cron.service loaded active running Regular background program processing daemon\n"
        "● nginx.service loaded failed failed A web server\n"
        "apt.service loaded inactive dead Daily apt\nEND\n"
    )
    program.chmod(0o755)
    monkeypatch.setattr(machine, "_SYSTEMCTL", str(program))
    told = core.status_of("services")
    assert told.data == {"services_running": ["cron.service"], "services_failed": ["nginx.service"]}
    assert told.text == "services: 1 running; failed: nginx.service"
    program.write_text("#!/bin/sh\nexit 1\n")
    assert core.status_of("services").data["services_running"] is None


def test_this_machine_can_be_asked(ctx: Context) -> None:
    box = Toolbox([core.system_status.__skill__])  # type: ignore[attr-defined]
    result = box.call("system_status", {}, ctx)
    assert result.success
    assert result.data["cpu_count"] >= 1
    assert 0 < result.data["mem_used_pct"] < 100
    assert result.data["uptime_s"] > 0
    only = box.call("system_status", {"part": "Disk"}, ctx)
    assert set(only.data) == {"disk_total_gib", "disk_free_gib", "disk_used_pct"}
    wrong = box.call("system_status", {"part": "engine"}, ctx)
    assert wrong.output.startswith("system_status: part must be one of cpu, temperature")


def test_the_time_is_local_and_says_its_offset() -> None:
    told = core.get_time()
    when = datetime.fromisoformat(told.data["iso"])
    assert when.utcoffset() is not None
    assert abs(when.timestamp() - time.time()) < 5
    assert told.data["unix_s"] == int(when.timestamp())
    assert told.data["weekday"] == when.strftime("%A")
    assert told.text.endswith(f"(UTC{told.data['utc_offset']})")


def test_the_offset_of_half_hours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "IST-5:30")
    time.tzset()
    try:
        assert core.get_time().data["utc_offset"] == "+05:30"
    finally:
        monkeypatch.undo()
        time.tzset()


def test_echo() -> None:
    assert core.echo("你好  there") == "你好  there"
