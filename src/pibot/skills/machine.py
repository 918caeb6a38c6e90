"""Facts about this machine, read from /proc and /sys; None where the machine cannot say.

Each part is a function of the root of the file system, so that a recorded tree can stand in for
a machine. What no file tells (services, the firmware's throttling word, IPv4 addresses) is asked
of the live system only.
"""

from __future__ import annotations

import functools
import os
import re
import time
from pathlib import Path
from typing import Any, Callable, Dict, List, Mapping, Optional, Tuple

Facts = Dict[str, Any]

ROOT = Path("/")
_CPU_SAMPLE_S = 0.2
_COMMAND_S = 5.0
_VCGENCMD = "/usr/bin/vcgencmd"
_SYSTEMCTL = "/usr/bin/systemctl"
_SIOCGIFADDR = 0x8915
_INTERFACES = 32
_CPU_ZONES = ("cpu", "x86_pkg", "soc", "acpitz")  # thermal zones, the most telling first
_THROTTLING = ("under-voltage", "frequency capped", "throttled", "soft temperature limit")


def machine_facts(root: Path = ROOT) -> Facts:
    """What a heartbeat tells: {"cpu_temp_c","load1","mem_used_pct","disk_used_pct","throttled"}.

    Takes about a millisecond. The one program it may start (vcgencmd, on a Pi whose kernel does
    not tell about throttling) is started at most once in each minute.
    """
    return {
        "cpu_temp_c": temperature(root)["cpu_temp_c"],
        "load1": load(root)["load1"],
        "mem_used_pct": memory(root)["mem_used_pct"],
        "disk_used_pct": disk(root)["disk_used_pct"],
        "throttled": throttling(root)["throttled"],
    }


def cpu(root: Path = ROOT) -> Facts:
    info = _read(root, "proc/cpuinfo")
    model = re.search(r"^model name\s*:\s*(.+)$", info, re.MULTILINE)
    board = _read(root, "proc/device-tree/model").strip("\0\n ")
    before = _cpu_times(root)
    time.sleep(_CPU_SAMPLE_S)
    after = _cpu_times(root)
    return {
        "cpu_count": len(re.findall(r"^processor\s*:", info, re.MULTILINE)) or os.cpu_count(),
        "cpu_model": model.group(1).strip() if model else None,
        "machine_model": board or None,
        "cpu_used_pct": _pct(after[0] - before[0], after[1] - before[1]),
    }


def temperature(root: Path = ROOT) -> Facts:
    zones: Dict[str, float] = {}
    for zone in sorted((root / "sys/class/thermal").glob("thermal_zone*")):
        milli_c = _number(_read(zone, "temp"))
        if milli_c is not None:
            zones.setdefault(_read(zone, "type").strip() or zone.name, round(milli_c / 1000, 1))
    telling = [c for want in _CPU_ZONES for name, c in zones.items() if want in name.lower()]
    cpu_temp_c = next(iter(telling or zones.values()), None)
    return {"cpu_temp_c": cpu_temp_c, "zones_temp_c": zones}


def throttling(root: Path = ROOT) -> Facts:
    word = _throttled_word(root)
    if word is None:
        names = ("throttled", "throttled_since_boot", "throttling_now", "throttling_since_boot")
        return dict.fromkeys(names)
    now = [name for bit, name in enumerate(_THROTTLING) if word >> bit & 1]
    since_boot = [name for bit, name in enumerate(_THROTTLING) if word >> (bit + 16) & 1]
    return {
        "throttled": bool(now),
        "throttled_since_boot": bool(since_boot),
        "throttling_now": now,
        "throttling_since_boot": since_boot,
    }


def memory(root: Path = ROOT) -> Facts:
    lines = re.findall(r"^(\w+):\s+(\d+) kB$", _read(root, "proc/meminfo"), re.MULTILINE)
    kib = {name: int(number) for name, number in lines}
    total, available = kib.get("MemTotal"), kib.get("MemAvailable")
    swap_total, swap_free = kib.get("SwapTotal"), kib.get("SwapFree")
    return {
        "mem_total_mib": _scaled(total, 1024),
        "mem_available_mib": _scaled(available, 1024),
        "mem_used_pct": _pct(_minus(total, available), total),
        "swap_total_mib": _scaled(swap_total, 1024),
        "swap_used_mib": _scaled(_minus(swap_total, swap_free), 1024),
    }


def disk(root: Path = ROOT) -> Facts:
    try:
        stat = os.statvfs(root)
    except OSError:
        return dict.fromkeys(("disk_total_gib", "disk_free_gib", "disk_used_pct"))
    used = stat.f_blocks - stat.f_bfree
    gib = 2**30 / stat.f_frsize
    return {
        "disk_total_gib": round(stat.f_blocks / gib, 1),
        "disk_free_gib": round(stat.f_bavail / gib, 1),
        "disk_used_pct": _pct(used, used + stat.f_bavail),  # as df counts: of what users may fill
    }


def load(root: Path = ROOT) -> Facts:
    words = [*_read(root, "proc/loadavg").split()[:3], "", "", ""]
    return {name: _number(word) for name, word in zip(("load1", "load5", "load15"), words)}


def uptime(root: Path = ROOT) -> Facts:
    seconds = _number(_read(root, "proc/uptime").partition(" ")[0])
    return {"uptime_s": None if seconds is None else int(seconds)}


def network(root: Path = ROOT) -> Facts:
    ipv6 = _ipv6_addresses(_read(root, "proc/net/if_inet6"))
    interfaces = []
    for device in sorted((root / "sys/class/net").glob("*"))[:_INTERFACES]:
        if device.name == "lo" or not device.is_dir():
            continue
        ipv4 = _ipv4_addresses(device.name) if root == ROOT else []
        is_up = _read(device, "operstate").strip() in ("up", "unknown")
        addresses = ipv4 + ipv6.get(device.name, [])
        interfaces.append({"name": device.name, "up": is_up, "addresses": addresses})
    return {"interfaces": interfaces}


def services(root: Path = ROOT) -> Facts:
    command = (_SYSTEMCTL, "list-units", "--type=service", "--all", "--plain", "--no-legend")
    listed = _ask(*command, "--no-pager", "--full") if root == ROOT else None
    if listed is None:
        return {"services_running": None, "services_failed": None}
    units = [line.replace("●", " ").split()[:4] for line in listed.splitlines()]
    units = [unit for unit in units if len(unit) == 4]
    return {
        "services_running": [name for name, _, _, sub in units if sub == "running"],
        "services_failed": [name for name, _, active, _ in units if active == "failed"],
    }


PARTS: Mapping[str, Callable[[Path], Facts]] = {
    "cpu": cpu,
    "temperature": temperature,
    "throttling": throttling,
    "memory": memory,
    "disk": disk,
    "load": load,
    "uptime": uptime,
    "network": network,
    "services": services,
}


# --- reading ---------------------------------------------------------------------------------


def _read(root: Path, path: str) -> str:
    try:
        return (root / path).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _ask(*command: str) -> Optional[str]:
    """What a program prints, or None when it is not there, fails or takes too long."""
    if not os.access(command[0], os.X_OK):
        return None
    import subprocess

    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=_COMMAND_S,
            env={"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8"},
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.decode("utf-8", "replace") if done.returncode == 0 else None


def _throttled_word(root: Path) -> Optional[int]:
    """The firmware's bits: 0-3 hold now, 16-19 have held since the machine started."""
    for path in (root / "sys/devices/platform").glob("*/*firmware*/get_throttled"):
        word = _hex(_read(path.parent, path.name))
        if word is not None:
            return word
    return _firmware_word(int(time.monotonic() // 60)) if root == ROOT else None


@functools.lru_cache(maxsize=1)
def _firmware_word(minute: int) -> Optional[int]:
    """Asked of vcgencmd; the argument makes the cache forget when a new minute begins."""
    said = _ask(_VCGENCMD, "get_throttled")
    return None if said is None else _hex(said.partition("=")[2])


def _cpu_times(root: Path) -> Tuple[int, int]:
    """Clock ticks of all CPUs since the start: (busy, all)."""
    first = _read(root, "proc/stat").partition("\n")[0].split()[1:9]
    ticks = [int(word) for word in first if word.isdigit()]
    return sum(ticks) - sum(ticks[3:5]), sum(ticks)


def _ipv4_addresses(name: str) -> List[str]:
    import fcntl
    import socket
    import struct

    request = struct.pack("256s", name.encode()[:15])
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            answer = fcntl.ioctl(probe.fileno(), _SIOCGIFADDR, request)
        except OSError:
            return []
    return [socket.inet_ntoa(answer[20:24])]


def _ipv6_addresses(table: str) -> Dict[str, List[str]]:
    import socket

    found: Dict[str, List[str]] = {}
    for line in table.splitlines():
        words = line.split()
        if len(words) == 6 and re.fullmatch("[0-9a-f]{32}", words[0]):
            address = socket.inet_ntop(socket.AF_INET6, bytes.fromhex(words[0]))
            found.setdefault(words[5], []).append(address)
    return found


def _number(text: str) -> Optional[float]:
    try:
        return float(text)
    except ValueError:
        return None


def _hex(text: str) -> Optional[int]:
    try:
        return int(text.strip(), 16)
    except ValueError:
        return None


def _scaled(number: Optional[int], unit: int) -> Optional[int]:
    return None if number is None else round(number / unit)


def _minus(total: Optional[int], part: Optional[int]) -> Optional[int]:
    return None if total is None or part is None else total - part


def _pct(part: Optional[float], whole: Optional[float]) -> Optional[float]:
    return round(100 * part / whole, 1) if whole and part is not None else None
