"""What disks and cards know of their own wear: SMART by smartctl, and the registers of eMMC."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any, Dict, List, Optional

from pibot.skills import Context
from pibot.skills import _hardware as hardware
from pibot.skills import _program as program

_LIMIT_S = 10.0
_DISKS = r"(sd[a-z]{1,2}|nvme\d+n\d+)"
_PRE_EOL = {1: "normal", 2: "warning", 3: "urgent"}
_FAILS = 0b0000_0111  # bits of smartctl's status: it could not ask the disk at all


def cards() -> List[Dict[str, Any]]:
    """SD cards, which do not tell their wear, and eMMC chips, which do since version 5."""
    blocks = hardware.below(hardware.path("sys/block"), r"mmcblk\d+")
    return [_card(block) for block in blocks]


def _card(block: Path) -> Dict[str, Any]:
    device = block / "device"
    used = _life_used_pct(hardware.read(device / "life_time") or "")
    state = _hex((hardware.read(device / "pre_eol_info") or "").strip())
    return {
        "device": block.name,
        "kind": hardware.name(device / "type"),
        "name": hardware.name(device / "name"),
        "made": hardware.name(device / "date"),
        "life_used_pct": used,
        "pre_end_of_life": _PRE_EOL.get(state or 0),
    }


def _life_used_pct(text: str) -> Optional[int]:
    """Of "0x01 0x03", steps of 10 %, the larger one; 11 is: more than it was made for."""
    steps = [_hex(word) or 0 for word in text.split()]
    return max(steps) * 10 if steps and 0 < max(steps) <= 11 else None


def _hex(text: str) -> Optional[int]:
    return int(text, 16) if re.fullmatch(r"0x[0-9A-Fa-f]{1,2}", text) else None


def disks(ctx: Context) -> List[Dict[str, Any]]:
    """Of each disk that smartctl is installed for and that the worker may open."""
    found = program.find("smartctl")
    if found is None:
        return []
    names = [block.name for block in hardware.below(hardware.path("sys/block"), _DISKS)]
    usable = [name for name in names if os.access(hardware.path(f"dev/{name}"), os.R_OK)]
    asked = [(name, _asked(ctx, found, f"/dev/{name}")) for name in usable]
    return [_disk(name, told) for name, told in asked if told]


def _asked(ctx: Context, found: str, device: str) -> Dict[str, Any]:
    printed = program.run(ctx, [found, "--json", "--info", "--health", "-A", device], _LIMIT_S)
    try:
        told = json.loads(printed.out)
    except (ValueError, RecursionError):
        return {}
    return told if isinstance(told, dict) and not printed.status & _FAILS else {}


def _disk(name: str, told: Dict[str, Any]) -> Dict[str, Any]:
    passed = _part(told, "smart_status", "passed")
    return {
        "device": name,
        "name": hardware.label(str(told.get("model_name", ""))),
        "passed": passed if isinstance(passed, bool) else None,
        "temperature_c": _whole(_part(told, "temperature", "current")),
        "power_on_h": _whole(_part(told, "power_on_time", "hours")),
    }


def _part(told: Dict[str, Any], outer: str, inner: str) -> Any:
    found = told.get(outer)
    return found.get(inner) if isinstance(found, dict) else None


def _whole(value: Any) -> Optional[int]:
    return value if isinstance(value, int) and not isinstance(value, bool) else None
