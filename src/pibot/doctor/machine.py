"""The machine itself: Python, clock, disks, heat and power."""

from __future__ import annotations

import os
import platform
import sys
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Iterable, Iterator, List, Mapping, Tuple

from pibot import parts
from pibot.deploy.layout import PYTHON
from pibot.doctor.findings import Finding, fail, ok, warn
from pibot.doctor.surroundings import Surroundings
from pibot.skills import machine as facts

OLDEST = (3, 9)
SANE_YEARS = range(2025, 2100)
MIB = 2**20
LOW_MIB, FULL_MIB = 500, 50  # unpacking the program takes about 50 MB
LOW_FILES, NO_FILES = 2_000, 100
PI_C, OTHER_C = (80, 85), (95, 105)  # from where a processor is warm, from where too hot
_SPACE = "sudo apt clean && sudo journalctl --vacuum-size=50M"
_POWER = "use the power supply made for this Pi and a short cable"


def python(here: Surroundings) -> Iterator[Finding]:
    """This Python, and the one that starts the services."""
    yield ok("python", f"{platform.python_version()} ({sys.executable})")
    if not here.roles:
        return
    said = here.ask(PYTHON, "-I", "-c", "import sys; print(*sys.version_info[:3])")
    if said is None or said.status:
        yield fail("python", f"{PYTHON} does not run", "sudo apt install python3")
        return
    version = tuple(int(word) for word in said.out.split())
    if version < OLDEST:
        shown = ".".join(map(str, version))
        upgrade = "install Raspberry Pi OS bullseye or newer"
        yield fail("python", f"{PYTHON} is {shown}, and PiBot needs 3.9", upgrade)


def architecture(here: Surroundings) -> Iterator[Finding]:
    """Which parts of the release file serve here."""
    described = parts.describe()
    name = platform.machine()
    if described is None:
        yield ok("architecture", f"{name}; every package is installed")
        return
    said = [_part(part, one) for part, one in described.items()]
    if described["model"]["parts"]:
        yield ok("architecture", f"{name}; {', '.join(said)}")
    else:
        fix = "use the release file: one that `make pyz` built fits the machine that built it"
        yield warn("architecture", f"{name}; {', '.join(said)}", fix)


def _part(name: str, described: Mapping[str, Any]) -> str:
    if not described["parts"]:
        return f"no {name} part fits"
    tag = f" for {described['tag']}" if described["tag"] else ""
    return f"{name} part {described['parts']}{tag}"


# --- the clock ----------------------------------------------------------------------------------


def clock(here: Surroundings) -> Iterator[Finding]:
    """A sane date, and somebody who keeps it: TLS and logs need both."""
    enable = "sudo timedatectl set-ntp true"
    now = datetime.fromtimestamp(here.now(), timezone.utc)
    if now.year not in SANE_YEARS:
        yield fail("clock", f"the date is {now:%Y-%m-%d}", enable)
        return
    said = here.ask("/usr/bin/timedatectl", "show")
    if said is None or said.status:
        if here.at("/run/systemd/timesync/synchronized").exists():
            yield ok("clock", f"{now:%Y-%m-%d %H:%M} UTC, synchronised")
        else:
            yield ok("clock", f"{now:%Y-%m-%d %H:%M} UTC; systemd does not say if synchronised")
        return
    kept = dict(line.partition("=")[::2] for line in said.out.splitlines())
    if kept.get("NTPSynchronized") == "yes":
        yield ok("clock", f"{now:%Y-%m-%d %H:%M} UTC, synchronised")
    elif kept.get("CanNTP") == "no":
        install = "sudo apt install systemd-timesyncd"
        yield warn("clock", "nothing synchronises the clock with the network", install)
    elif kept.get("NTP") == "yes":
        look = "timedatectl timesync-status; sudo systemctl restart systemd-timesyncd"
        yield warn("clock", "no time server has been reached yet", look)
    else:
        yield warn("clock", "the clock is not synchronised with the network", enable)


# --- disks --------------------------------------------------------------------------------------


def disks(here: Surroundings, folders: Iterable[Path]) -> Iterator[Finding]:
    """Space, files and write protection of the file systems under `/` and the state directories."""
    seen = set()
    for folder in [here.root, *folders]:
        there = next(p for p in (folder, *folder.parents) if os.path.exists(p))
        if there.stat().st_dev not in seen:
            seen.add(there.stat().st_dev)
            space = os.statvfs(there)
            free_mib = space.f_bavail * space.f_frsize // MIB
            free_files = space.f_favail if space.f_files else LOW_FILES
            yield judge_space(here.shown(there), free_mib, free_files)
    yield from _read_only(here, folders)


def judge_space(where: str, free_mib: int, free_files: int) -> Finding:
    if free_mib < FULL_MIB:
        return fail("disk", f"{where} is full: {free_mib} MiB are free", _SPACE)
    if free_files < NO_FILES:
        return fail("disk", f"{where} has room for {free_files} more files only", _SPACE)
    if free_mib < LOW_MIB:
        return warn("disk", f"{where} is nearly full: {free_mib} MiB are free", _SPACE)
    if free_files < LOW_FILES:
        return warn("disk", f"{where} has room for {free_files} more files only", _SPACE)
    amount = f"{free_mib / 1024:.1f} GiB" if free_mib > 1024 else f"{free_mib} MiB"
    return ok("disk", f"{where} has {amount} free")


def _read_only(here: Surroundings, folders: Iterable[Path]) -> Iterator[Finding]:
    """Linux makes an SD card read-only after errors: everything seems to run, nothing is kept."""
    mounts = _mounts(here)
    found = {_mount_of(here.shown(folder), mounts) for folder in [here.root, *folders]}
    for place, options in sorted(found):
        if "ro" in options.split(","):
            fix = f"sudo dmesg | grep -iE 'mmc|ext4|error'; sudo mount -o remount,rw {place}"
            yield fail("disk", f"{place} is mounted read-only; a worn SD card does that", fix)


def _mounts(here: Surroundings) -> List[Tuple[str, str]]:
    rows = [line.split() for line in here.text("/proc/mounts").splitlines()]
    return [(row[1].replace("\\040", " "), row[3]) for row in rows if len(row) > 3]


def _mount_of(path: str, mounts: List[Tuple[str, str]]) -> Tuple[str, str]:
    """The mount that holds a path; of several on one place the last one shows."""
    best = ("/", "")
    for place, options in mounts:
        inside = path == place or path.startswith(place.rstrip("/") + "/")
        if inside and len(place) >= len(best[0]):
            best = (place, options)
    return best


# --- heat and power -----------------------------------------------------------------------------


def temperature(here: Surroundings) -> Iterator[Finding]:
    celsius = facts.temperature(here.root)["cpu_temp_c"]
    if celsius is None:
        return
    warm, hot = PI_C if here.is_pi else OTHER_C
    said = f"the processor has {celsius:g} °C"
    if celsius >= warm:
        judge = fail if celsius >= hot else warn
        yield judge("temperature", said, "give it a heat sink, a fan, or more air")
    else:
        yield ok("temperature", said)


def throttling(here: Surroundings) -> Iterator[Finding]:
    """What a Pi's firmware says about power and heat."""
    said = facts.throttling(here.root)
    if said["throttled"] is None:
        return
    now, before = said["throttling_now"], said["throttling_since_boot"]
    if "under-voltage" in now:
        yield fail("power", f"now: {', '.join(now)}", _POWER)
    elif now:
        yield warn("power", f"now: {', '.join(now)}", "give it a heat sink, a fan, or more air")
    elif "under-voltage" in before:
        yield warn("power", f"since the start: {', '.join(before)}", _POWER)
    elif before:
        cool = "give it a heat sink, a fan, or more air"
        yield warn("power", f"since the start: {', '.join(before)}", cool)
    else:
        yield ok("power", "no under-voltage and no throttling since the start")
