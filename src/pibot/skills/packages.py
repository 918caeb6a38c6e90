"""Which packages of this machine could be upgraded. Nothing is installed: apt is only asked."""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import Any, Dict, List, Optional

from pibot.permits import Permits
from pibot.skills import Context, Output, SkillError, skill
from pibot.skills import _program as program

UPDATED = (  # what an `apt update` touches
    "/var/lib/apt/lists",
    "/var/lib/apt/lists/partial",
    "/var/lib/apt/periodic/update-success-stamp",
)
_LIMIT_S = 90.0
_MOST_BYTES = 4 << 20
_OLD_S = 7 * 86_400
_DAY_S = 86_400
# Inst NAME [OLD] (NEW Origin:release/suite [arch]) …; without [OLD] it is a new package
_LINE = re.compile(r"Inst (\S+) \[([^\]\s]+)\] \((\S+) (.*?) \[(\S+)\]\)")
_SECURITY = re.compile(r"-security\b|debian-security", re.IGNORECASE)


def _why_not(permits: Permits) -> Optional[str]:
    if program.find("apt-get"):
        return None
    return "packages_upgradable is off: this machine has no apt"


@skill(
    timeout_s=_LIMIT_S + 10,
    phrases=[
        "[list|show] [the] (upgradable|outdated) packages",
        "(are there|any) [package|software|security] updates",
        "[查看|列出](可升级|可更新)[的](软件包|软件)",
        "有(软件|系统|安全)更新吗",
    ],
    available=_why_not,
)
def packages_upgradable(ctx: Context) -> Output:
    """List the packages that apt would upgrade, security updates first. Installs nothing."""
    found = program.find("apt-get")
    if found is None:
        raise SkillError("this machine has no apt")
    words = [found, "--simulate", "--option", "Debug::NoLocking=1", "dist-upgrade"]
    printed = program.run(ctx, words, _LIMIT_S, most_bytes=_MOST_BYTES)
    if printed.status:
        raise SkillError(f"apt cannot tell: {printed.said}")
    packages = upgrades(printed.text)
    security = sum(one["security"] for one in packages)
    age_s = _age_s()
    data = {"packages": packages, "total": len(packages), "security": security}
    data["lists_age_s"] = age_s
    lines = [f"{len(packages)} packages can be upgraded, {security} of them for security"]
    lines += [f"{one['package']} {one['installed']} -> {one['new']}" for one in packages]
    if age_s is None or age_s > _OLD_S:
        age = "of unknown age" if age_s is None else f"{age_s // _DAY_S} days old"
        lines.append(f"(the package lists are {age}: `sudo apt update` makes them new)")
    return Output(data, "\n".join(lines))


def upgrades(text: str) -> List[Dict[str, Any]]:
    """What `apt-get --simulate` says that it would upgrade."""
    found = []
    for match in filter(None, map(_LINE.match, text.splitlines())):
        name, old, new, origin, arch = match.groups()
        facts = {"package": name, "installed": old, "new": new, "arch": arch, "origin": origin}
        found.append({**facts, "security": bool(_SECURITY.search(origin))})
    return sorted(found, key=lambda one: (not one["security"], one["package"]))


def _age_s() -> Optional[int]:
    """Seconds since the lists were last brought up to date, as far as files tell."""
    times = []
    for place in UPDATED:
        try:
            times.append(Path(place).stat().st_mtime)
        except OSError:
            continue
    return max(0, round(time.time() - max(times))) if times else None
