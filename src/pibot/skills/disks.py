"""The health of this machine's disks: room, damage, wear."""

from __future__ import annotations

import os
import re
from collections import Counter
from typing import Any, Dict, List, Mapping, Optional

from pibot.skills import Context, Output, SkillError, _journal, _smart, skill
from pibot.skills import _hardware as hardware

# Not those of other machines: a server that is away would hold up every question about its disk.
_LOCAL = (
    *("ext2", "ext3", "ext4", "vfat", "exfat", "btrfs", "xfs", "f2fs", "bcachefs", "zfs"),
    *("ntfs", "ntfs3", "fuseblk", "overlay"),
)
_FULL_PCT = 90
_WORN_PCT = 90
_ENDING = ("warning", "urgent")
_MOST_BYTES = 1 << 20
_ENTRIES = 1000
_ERRORS = re.compile(
    r"I/O error,? (?:on )?dev(?:ice)? (?P<a>[\w-]{1,32})|(?:EXT4|FAT|BTRFS|XFS)-fs error \(device "
    r"(?P<b>[\w-]{1,32})\)|(?P<c>mmc\d{1,3}): .*(?:error|timeout)|(?P<d>ata\d{1,3})[.:].*(?:error|"
    r"failed)|(?P<e>nvme\d{1,3}): .*(?:error|timeout)",
    re.IGNORECASE,
)


@skill(
    timeout_s=60,
    phrases=[
        "(disk|disks|sd card|storage) health",
        "(is|are) [the] (disk|disks|sd card) (healthy|ok|fine)",
        "(磁盘|硬盘|sd卡|存储卡)[的]健康[状态|状况|情况]",
    ],
)
def disk_health(ctx: Context) -> Output:
    """Tell how the disks are: free space and inodes, read-only mounts, I/O errors, wear."""
    data: Dict[str, Any] = {
        "mounts": mounts(),
        "cards": _smart.cards(),
        "disks": _smart.disks(ctx),
        "io_errors": _io_errors(ctx),
    }
    data["problems"] = problems(data)
    return Output(data, "\n".join(_lines(data)))


# --- file systems ---------------------------------------------------------------------------------


def mounts() -> List[Dict[str, Any]]:
    """The file systems of this machine's disks, each once."""
    found: Dict[str, Dict[str, Any]] = {}
    for line in _mountinfo().splitlines():
        before, _, after = line.partition(" - ")
        left, right = before.split(" "), after.split(" ")
        if len(left) < 6 or len(right) < 3 or right[0] not in _LOCAL:
            continue
        facts = _mount(_plain(left[4]), right)
        known = found.get(left[2])  # the device's numbers: it may be mounted in several places
        if facts and (known is None or len(facts["mount"]) < len(known["mount"])):
            found[left[2]] = facts
    return list(found.values())


def _mountinfo() -> str:
    try:
        with hardware.path("proc/self/mountinfo").open("rb") as file:
            return file.read(_MOST_BYTES).decode("utf-8", "replace")
    except OSError:
        return ""


def _plain(text: str) -> str:
    """A path as it is: spaces and the like are written as \\040."""
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), text)


def _mount(path: str, about: List[str]) -> Optional[Dict[str, Any]]:
    """`about`: type, device, options of the file system itself, which the worker's unit leaves."""
    try:
        stat = os.statvfs(hardware.path(path.lstrip("/")))
    except (OSError, ValueError):
        return None
    used = stat.f_blocks - stat.f_bfree
    return {
        "mount": hardware.label(path),
        "device": hardware.label(_plain(about[1])),
        "type": about[0],
        "read_only": "ro" in about[2].split(","),
        "total_bytes": stat.f_blocks * stat.f_frsize,
        "free_bytes": stat.f_bavail * stat.f_frsize,
        "used_pct": _pct(used, used + stat.f_bavail),
        "inodes_used_pct": _pct(stat.f_files - stat.f_ffree, stat.f_files),
    }


def _pct(part: int, whole: int) -> Optional[float]:
    return round(100 * part / whole, 1) if whole else None


# --- errors ---------------------------------------------------------------------------------------


def _io_errors(ctx: Context) -> Optional[List[Dict[str, Any]]]:
    """How often the kernel has complained of a device since the start; None: it cannot be read.

    Only our own words and names of devices are told: lines of a log are not to be trusted.
    """
    if _journal.closed():
        return None
    words = ("--dmesg", "--priority=warning")
    try:
        entries = _journal.read(ctx, words, _ENTRIES)
    except SkillError:
        return None
    matches = [(one["time"], _ERRORS.search(one["message"])) for one in entries]
    hits = [(at, next(filter(None, match.groups()))) for at, match in matches if match]
    last = {device: at for at, device in hits}
    counted = Counter(device for _, device in hits)
    return [
        {"device": device, "errors": number, "last": last[device]}
        for device, number in sorted(counted.items())
    ]


def problems(data: Mapping[str, Any]) -> List[str]:
    """What somebody should look after, in words."""
    found = []
    for one in data["mounts"]:
        if (one["used_pct"] or 0) >= _FULL_PCT:
            found.append(f"{one['mount']} is {one['used_pct']:g} % full")
        if (one["inodes_used_pct"] or 0) >= _FULL_PCT:
            found.append(f"{one['mount']} has used {one['inodes_used_pct']:g} % of its inodes")
        if one["read_only"]:
            found.append(f"{one['mount']} is read-only")
    for one in data["cards"]:
        if (one["life_used_pct"] or 0) >= _WORN_PCT or one["pre_end_of_life"] in _ENDING:
            found.append(f"{one['device']} is worn: make a copy and replace it")
    failing = [one["device"] for one in data["disks"] if one["passed"] is False]
    found += [f"{device} says that it is failing (SMART)" for device in failing]
    for one in data["io_errors"] or ():
        found.append(f"{one['device']}: {one['errors']} errors since the start")
    return found


def _lines(data: Mapping[str, Any]) -> List[str]:
    found = [f"problem: {one}" for one in data["problems"]] or ["no problem was found"]
    for one in data["mounts"]:
        gib = one["free_bytes"] / 2**30
        used = "" if one["used_pct"] is None else f", {one['used_pct']:g} % used"
        found.append(f"{one['mount']} ({one['device']}, {one['type']}): {gib:.1f} GiB free{used}")
    for one in data["cards"]:
        worn = one["life_used_pct"]
        told = "its wear is not known" if worn is None else f"up to {worn} % of its life used"
        found.append(f"{one['device']} ({one['kind']} {one['name']}): {told}")
    for one in data["disks"]:
        told = {True: "is well", False: "is failing", None: "does not tell"}[one["passed"]]
        found.append(f"{one['device']} ({one['name']}) {told}")
    if data["io_errors"] is None:
        found.append("(errors of the kernel are not known: the journal cannot be read)")
    return found
