"""The services of this machine: how they are, and a restart of those that the owner has listed."""

from __future__ import annotations

import time
from typing import Annotated, Any, Dict, List, Literal, Mapping, Optional

from pibot.permits import Permits
from pibot.skills import Context, Output, SkillError, skill
from pibot.skills import _systemd as systemd
from pibot.skills._hardware import label

State = Literal["all", "running", "failed", "stopped"]

_OFF_UNITS = (
    "restart_service is off: list the units that may be restarted, such as "
    "PIBOT_SERVICES=mosquitto.service"
)
_OWN = "pibot-"  # a worker that restarts itself never ends the task
_RESTART_S = 90.0
_WATCH_S = 2.0  # a service that cannot run has often ended by then
_LOOK_S = 0.25
_SHOWN = (
    *("Id", "Description", "LoadState", "ActiveState", "SubState", "UnitFileState", "MainPID"),
    *("NRestarts", "MemoryCurrent", "ExecMainStatus", "Result", "ActiveEnterTimestampMonotonic"),
)
_DENIED = ("authentication required", "access denied", "not permitted", "permission denied")
RULE = """\
polkit.addRule(function (action, subject) {{
    var units = [{units}];
    if (action.id == "org.freedesktop.systemd1.manage-units" && subject.user == "{user}" &&
        action.lookup("verb") == "restart" && units.indexOf(action.lookup("unit")) >= 0) {{
        return polkit.Result.YES;
    }}
}});
"""
RULE_FILE = "/etc/polkit-1/rules.d/50-pibot-restart.rules"


@skill(
    timeout_s=30,
    phrases=[
        "(list|show) [the|all] services",
        'list [the|all] failed services => {"state": "failed"}',
        'list [the|all] running services => {"state": "running"}',
        "(列出|显示)[所有]服务",
        '列出[所有][失败|出错]的服务 => {"state": "failed"}',
    ],
    available=systemd.off("list_services"),
)
def list_services(
    ctx: Context, state: Annotated[State, "which of them; all by default"] = "all"
) -> Output:
    """List the services of this machine and how they are."""
    words = ("--type=service", "--all", "--plain", "--no-legend", "--full")
    printed = systemd.systemctl(ctx, "list-units", *words)
    if printed.status:
        raise SkillError(f"systemd does not list its services: {printed.said}")
    rows = [_row(line) for line in printed.text.splitlines() if len(line.split()) >= 4]
    found = [row for row in rows if row["loaded"] and _is(row, state)]
    lines = [f"{row['unit']}: {row['sub_state']} – {row['description']}" for row in found]
    return Output({"services": found}, "\n".join(lines) or f"no service is {state}")


def _row(line: str) -> Dict[str, Any]:
    unit, loaded, active, sub, *rest = line.split(None, 4)
    description = label(rest[0]) if rest else ""
    return {
        "unit": unit,
        "loaded": loaded == "loaded",
        "state": active,
        "sub_state": sub,
        "description": description,
    }


def _is(row: Mapping[str, Any], state: str) -> bool:
    if state == "running":
        return bool(row["sub_state"] == "running")
    return state == "all" or bool(row["state"] == {"stopped": "inactive"}.get(state, state))


@skill(
    timeout_s=30,
    phrases=[
        "(status|state) of [the] service {unit:word}",
        "service {unit:word} status",
        "is [the] service {unit:word} (running|active|up)",
        "服务{unit:word}[的](状态|情况)",
    ],
    available=systemd.off("service_status"),
)
def service_status(ctx: Context, unit: Annotated[str, "such as mosquitto"]) -> Output:
    """Tell whether a service runs, since when, and how it ended if it does not."""
    data = _status(ctx, systemd.unit_name(unit))
    return Output(data, _in_words(data))


def _status(ctx: Context, name: str) -> Dict[str, Any]:
    (told,) = systemd.show(ctx, _SHOWN, name) or [{}]
    if told.get("LoadState") != "loaded":
        why = told.get("LoadState", "unknown")
        raise SkillError(f"there is no unit {name} here ({why}); `list_services` shows which are")
    entered_us = systemd.number(told.get("ActiveEnterTimestampMonotonic", ""))
    is_active = told.get("ActiveState") == "active"
    for_s = time.clock_gettime(time.CLOCK_MONOTONIC) - (entered_us or 0) / 1e6
    return {
        "unit": told.get("Id", name),
        "description": label(told.get("Description", "")),
        "state": told.get("ActiveState"),
        "sub_state": told.get("SubState"),
        "at_boot": told.get("UnitFileState") or None,
        "result": told.get("Result"),
        "exit_status": systemd.number(told.get("ExecMainStatus", "")),
        "main_pid": systemd.number(told.get("MainPID", "")) or None,
        "restarts": systemd.number(told.get("NRestarts", "")),
        "memory_bytes": _memory(told.get("MemoryCurrent", "")),
        "active_for_s": round(max(0.0, for_s)) if is_active and entered_us else None,
    }


def _memory(text: str) -> Optional[int]:
    found = systemd.number(text)
    return found if found and found < 2**63 else None  # without accounting: the largest number


def _in_words(data: Mapping[str, Any]) -> str:
    parts = [f"{data['unit']}: {data['state']} ({data['sub_state']})"]
    if data["active_for_s"] is not None:
        parts.append(f"for {data['active_for_s']} s")
    if data["state"] == "failed":
        parts.append(f"result {data['result']}, exit status {data['exit_status']}")
    if data["memory_bytes"] is not None:
        parts.append(f"{data['memory_bytes'] / 2**20:.1f} MiB")
    if data["restarts"]:
        parts.append(f"restarted {data['restarts']} times by systemd")
    return ", ".join(parts)


def _why_no_restart(permits: Permits) -> Optional[str]:
    return systemd.off("restart_service")(permits) if permits.services else _OFF_UNITS


@skill(
    timeout_s=_RESTART_S + 20,
    phrases=[
        "restart [the] service {unit:word}",
        "restart [the] {unit:word} service",
        "重启服务{unit:word}",
        "重启{unit:word}服务",
    ],
    sensitive=True,
    repeatable=False,
    parallel=False,
    available=_why_no_restart,
    note=lambda permits: f"Units: {', '.join(permits.services)}.",
)
def restart_service(ctx: Context, unit: Annotated[str, "one of the listed units"]) -> Output:
    """Restart a service that the owner has listed, and see that it comes up."""
    name = systemd.unit_name(unit)
    _check_listed(ctx, name)
    before = _status(ctx, name)
    if before["unit"] != name:
        raise SkillError(
            f"{name} was not restarted: it is another name of {before['unit']}; have that listed "
            "in PIBOT_SERVICES"
        )
    done = systemd.systemctl(ctx, "restart", "--", name, limit_s=_RESTART_S)
    if done.status:
        raise _refused(ctx, name, done.said)
    data = _watched(ctx, name)
    is_up = data["state"] in ("active", "reloading") and not data["restarts"]
    if not is_up and (data["restarts"] or data["result"] != "success"):
        raise SkillError(
            f"{name} was restarted and did not stay up: {_in_words(data)}; `service_logs` may "
            "tell why",
            data,
        )
    return Output(data, f"restarted; {_in_words(data)}")


def _check_listed(ctx: Context, name: str) -> None:
    listed: List[str] = [systemd.unit_name(one) for one in ctx.permits.services]
    if name.startswith(_OWN):
        raise SkillError(f"{name} was not restarted: PiBot's own services are left to a person")
    if name not in listed:
        raise SkillError(
            f"{name} was not restarted: PIBOT_SERVICES does not list it, but {', '.join(listed)}"
        )


def _watched(ctx: Context, name: str) -> Dict[str, Any]:
    """How it is some moments later, or as soon as it has ended."""
    ends = time.monotonic() + _WATCH_S
    while True:
        data = _status(ctx, name)
        if data["state"] != "active" or time.monotonic() > ends or ctx.cancelled.wait(_LOOK_S):
            return data


def _refused(ctx: Context, name: str, said: str) -> SkillError:
    if not any(word in said.lower() for word in _DENIED):
        return SkillError(f"{name} could not be restarted: {said}")
    text = rule(ctx.permits)
    return SkillError(
        f"systemd does not let the worker restart {name}. Put this into {RULE_FILE} (polkit 0.106 "
        f"or newer; apt install polkitd):\n{text}",
        {"polkit_rule": text, "file": RULE_FILE},
    )


def rule(permits: Permits) -> str:
    """polkit's rule that lets the worker's user restart the listed units, and no more."""
    import os
    import pwd

    units = sorted({systemd.unit_name(one) for one in permits.services})
    try:
        user = pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        user = "pibot"
    return RULE.format(units=", ".join(f'"{one}"' for one in units), user=user)
