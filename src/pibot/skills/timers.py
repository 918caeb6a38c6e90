"""What this machine does at set times: systemd's timers."""

from __future__ import annotations

import re
import time
from typing import Any, Dict, List, Mapping, Optional, Union

from pibot.skills import Context, Output, skill
from pibot.skills import _systemd as systemd
from pibot.skills._hardware import label

_SHOWN = (
    *("Id", "Unit", "ActiveState", "NextElapseUSecRealtime", "NextElapseUSecMonotonic"),
    "LastTriggerUSec",
)
_DATE = re.compile(r"(?:[A-Z]\w\w )?(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d)(?:\.\d+)?( UTC)?.*")
_SPAN = re.compile(r"([\d.]+) ?(year|month|w|d|h|min|ms|us|s)[a-z]*")
_SPAN_S: Mapping[str, Union[int, float]] = {
    "year": 31_557_600,
    "month": 2_629_800,
    "w": 604_800,
    "d": 86_400,
    "h": 3600,
    "min": 60,
    "s": 1,
    "ms": 1e-3,
    "us": 1e-6,
}


@skill(
    timeout_s=30,
    phrases=[
        "(list|show) [the|all] [systemd] timers",
        "[systemd] timers",
        "(列出|查看|显示)[所有][系统]定时(任务|器)",
    ],
    available=systemd.off("timers"),
)
def timers(ctx: Context) -> Output:
    """List the systemd timers: when each ran, when it runs next, and what it starts."""
    told = systemd.show(ctx, _SHOWN, "*.timer")
    found = sorted((_timer(one) for one in told), key=_next_first)
    return Output({"timers": found}, "\n".join(map(_line, found)) or "there are no timers here")


def _timer(told: Mapping[str, str]) -> Dict[str, Any]:
    now = time.time()
    up_s = time.clock_gettime(time.CLOCK_MONOTONIC)
    since_boot = span_s(told.get("NextElapseUSecMonotonic", ""))
    next_at = [moment(told.get("NextElapseUSecRealtime", ""))]
    next_at.append(now - up_s + since_boot if since_boot else None)
    after = [at for at in next_at if at is not None]
    last = moment(told.get("LastTriggerUSec", ""))
    return {
        "timer": label(told.get("Id", "")),
        "starts": label(told.get("Unit", "")),
        "active": told.get("ActiveState") == "active",
        "next": _shown(min(after)) if after else None,
        "next_in_s": round(min(after) - now) if after else None,
        "last": None if last is None else _shown(last),
        "last_ago_s": None if last is None else round(now - last),
    }


def moment(text: str) -> Optional[float]:
    """Seconds since 1970 of "Mon 2026-01-05 10:31:10 CET": local time, unless it says UTC."""
    match = _DATE.fullmatch(text)
    if match is None:
        return None
    parsed = time.strptime(match[1], "%Y-%m-%d %H:%M:%S")
    if match[2]:
        import calendar

        return float(calendar.timegm(parsed))
    return time.mktime(parsed)


def span_s(text: str) -> Optional[float]:
    """Seconds of "1d 2h 3min 4.5s"; None for none, such as "infinity"."""
    parts = _SPAN.findall(text)
    return sum(float(number) * _SPAN_S[unit] for number, unit in parts) if parts else None


def _shown(at: float) -> str:
    from datetime import datetime

    return datetime.fromtimestamp(at).astimezone().isoformat(timespec="seconds")


def _next_first(timer: Mapping[str, Any]) -> List[Any]:
    return [timer["next_in_s"] is None, timer["next_in_s"] or 0, timer["timer"]]


def _line(timer: Mapping[str, Any]) -> str:
    return (
        f"{timer['timer']}: next {timer['next'] or 'never'}, last {timer['last'] or 'never'}, "
        f"starts {timer['starts']}"
    )
