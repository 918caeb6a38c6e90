"""Which processes take this machine's CPU and memory, by name: what else they were told is theirs.

The words of a command line often hold passwords, so no skill shows them.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Annotated, Any, Dict, Literal, Mapping, NamedTuple, Optional

from pibot.skills import Context, Output, SkillError, skill
from pibot.skills._hardware import label

ROOT = Path("/")  # tests put a recorded /proc here
MAX_COUNT = 50
_SAMPLE_S = 0.5
_MOST = 20_000
_STATES = {"R": "running", "S": "sleeping", "D": "waiting", "Z": "ended", "T": "stopped"}
_HIDDEN = "only the worker's own processes are visible to it: its unit hides the others"


class _Process(NamedTuple):
    name: str
    state: str
    ticks: int
    started_ticks: int
    pages: int
    uid: int


@skill(
    timeout_s=20,
    phrases=[
        "(list|show) [the|all] [running|top] processes",
        "[top] processes",
        'what (uses|is using|takes) [the|all] [the] memory => {"sort": "memory"}',
        'what (uses|is using|takes) [the|all] [the] cpu => {"sort": "cpu"}',
        "(列出|查看|显示)[所有]进程",
        '内存占用最(高|多)的进程 => {"sort": "memory"}',
        'cpu占用最(高|多)的进程 => {"sort": "cpu"}',
    ],
)
def processes(
    ctx: Context,
    sort: Annotated[Literal["cpu", "memory"], "by what they are sorted"] = "cpu",
    count: Annotated[int, "how many, 1 to 50"] = 10,
) -> Output:
    """List the processes that take most of the CPU or the memory."""
    if not 1 <= count <= MAX_COUNT:
        raise SkillError(f"count must be 1 to {MAX_COUNT}, not {count}")
    before, began = _all(), time.monotonic()
    ctx.cancelled.wait(_SAMPLE_S)
    after, took_s = _all(), time.monotonic() - began
    found = [_facts(pid, one, before.get(pid), took_s) for pid, one in after.items()]
    key = "cpu_pct" if sort == "cpu" else "memory_bytes"
    found.sort(key=lambda one: (-one[key], one["pid"]))
    all_visible = 1 in after
    lines = [_line(one) for one in found[:count]]
    data = {"processes": found[:count], "total": len(found), "all_visible": all_visible}
    return Output(data, "\n".join([*lines, *([] if all_visible else [f"({_HIDDEN})"])]))


def _all() -> Dict[int, _Process]:
    with os.scandir(ROOT / "proc") as entries:
        pids = [int(one.name) for one in entries if one.name.isdecimal()]
    read = {pid: _read(pid) for pid in sorted(pids)[:_MOST]}
    return {pid: one for pid, one in read.items() if one is not None}


def _read(pid: int) -> Optional[_Process]:
    """A process, by /proc/PID/stat; None when it has ended meanwhile."""
    folder = ROOT / "proc" / str(pid)
    try:
        text = (folder / "stat").read_text("utf-8", "replace")
        uid = folder.stat().st_uid
        name, _, rest = text.partition("(")[2].rpartition(") ")  # a name may hold brackets
        words = rest.split()
        ticks = int(words[11]) + int(words[12])
        return _Process(label(name), words[0], ticks, int(words[19]), int(words[21]), uid)
    except (OSError, ValueError, IndexError):
        return None


def _facts(pid: int, now: _Process, before: Optional[_Process], took_s: float) -> Dict[str, Any]:
    hertz = os.sysconf("SC_CLK_TCK")
    is_same = before is not None and before.started_ticks == now.started_ticks
    used = now.ticks - (before.ticks if before and is_same else now.ticks)
    up_s = time.clock_gettime(time.CLOCK_BOOTTIME)
    return {
        "pid": pid,
        "name": now.name,
        "user": _user(now.uid),
        "state": _STATES.get(now.state, "idle"),
        "cpu_pct": round(100 * used / hertz / took_s, 1) if took_s > 0 else 0.0,
        "memory_bytes": now.pages * os.sysconf("SC_PAGE_SIZE"),
        "running_s": max(0, round(up_s - now.started_ticks / hertz)),
    }


def _user(uid: int) -> str:
    import pwd

    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def _line(one: Mapping[str, Any]) -> str:
    mib = one["memory_bytes"] / 2**20
    return f"{one['name']} ({one['pid']}, {one['user']}): CPU {one['cpu_pct']:g} %, {mib:.1f} MiB"
