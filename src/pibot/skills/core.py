"""The skills that every worker has: say something back, tell the time, tell how the machine is."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Callable, Dict, Literal, Mapping, Optional

from pibot.skills import Output, skill
from pibot.skills.machine import PARTS, ROOT, Facts, machine_facts

__all__ = ["echo", "get_time", "machine_facts", "status_of", "system_status"]

Part = Literal[
    "cpu",
    "temperature",
    "throttling",
    "memory",
    "disk",
    "load",
    "uptime",
    "network",
    "services",
]


@skill(timeout_s=10, phrases=["echo {text}", "回显{text}"])
def echo(text: Annotated[str, "what to say back"]) -> str:
    """Return the text unchanged. Useful to test a worker."""
    return text


@skill(
    timeout_s=10,
    phrases=[
        "[current] time",
        "what time is it",
        "what (day|date) is (it|today)",
        "[current|today's] date [and time|today]",
        "[现在|当前][的|是]时间",
        "[现在|当前][是]几点[了|钟|钟了]",
        "(现在|当前)[是]什么时间[了]",
        "今天[是](几号|几月几号|星期几|周几|礼拜几)[了]",
        "今天[的]日期",
    ],
)
def get_time() -> Output:
    """Tell this machine's local date, time and offset from UTC."""
    now = datetime.now().astimezone().replace(microsecond=0)
    offset = now.strftime("%z")
    offset = f"{offset[:3]}:{offset[3:5]}"
    weekday = now.strftime("%A")
    data = {"iso": now.isoformat(), "utc_offset": offset, "weekday": weekday}
    return Output(
        {**data, "unix_s": int(now.timestamp())},
        f"{weekday} {now:%Y-%m-%d %H:%M:%S} (UTC{offset})",
    )


@skill(
    timeout_s=20,
    phrases=[
        "[system|machine] status",
        "how (is|are) (the|your) (machine|machines|system) [doing]",
        "[系统|机器|设备][的](状态|情况)",
        'cpu [usage|utilization|info|status] => {"part": "cpu"}',
        '(cpu|处理器)[的](使用率|占用率|占用|使用情况) => {"part": "cpu"}',
        '[current|cpu] (temperature|temp) => {"part": "temperature"}',
        'how (hot|warm) (is it|are you) => {"part": "temperature"}',
        'how (hot|warm) is the (cpu|pi|machine) => {"part": "temperature"}',
        '[cpu|处理器|机器|系统|树莓派][的]温度 => {"part": "temperature"}',
        '(throttling|undervoltage|under-voltage) [status] => {"part": "throttling"}',
        'is (it|the cpu|the pi|anything) throttled => {"part": "throttling"}',
        '[是否|有没有](降频|欠压)[了][吗] => {"part": "throttling"}',
        '[free] (memory|ram) [usage|use|status] => {"part": "memory"}',
        'how much (memory|ram) is (free|used|left|available) => {"part": "memory"}',
        '[剩余|可用]内存[的][使用率|占用|使用情况|情况|还剩] => {"part": "memory"}',
        '[free] disk [space] [usage|use|status] => {"part": "disk"}',
        'how much [disk] space is (free|used|left|available) => {"part": "disk"}',
        'how full is the disk => {"part": "disk"}',
        '(磁盘|硬盘)[剩余|可用][空间][使用率|占用|使用情况|情况] => {"part": "disk"}',
        '(磁盘|硬盘)[空间]还剩[多少空间] => {"part": "disk"}',
        '[system] load [average] => {"part": "load"}',
        '[系统|平均|cpu]负载[情况] => {"part": "load"}',
        'uptime => {"part": "uptime"}',
        'how long (has it|have you) been (up|running) => {"part": "uptime"}',
        '[系统|已|已经]运行[了](时间|多久|多长时间)[了] => {"part": "uptime"}',
        'network [status|interfaces|addresses] => {"part": "network"}',
        '[your] ip [address|addresses] => {"part": "network"}',
        '网络[的][状态|情况|接口|地址] => {"part": "network"}',
        'ip地址 => {"part": "network"}',
        '[failed|running] services => {"part": "services"}',
        '[失败的|运行中的|系统]服务[的][状态|列表] => {"part": "services"}',
    ],
)
def system_status(
    part: Annotated[Optional[Part], "one part only; leave it out for all"] = None,
) -> Output:
    """Tell how this machine is: CPU, temperature, memory, disk, load, uptime, network, services."""
    return status_of(part)


def status_of(part: Optional[str] = None, root: Path = ROOT) -> Output:
    """The facts of one part of the machine whose files lie under `root`, or of all parts."""
    data: Dict[str, Any] = {}
    lines = []
    for name in [part] if part else PARTS:
        facts = PARTS[name](root)
        data.update(facts)
        lines.append(f"{name}: {_SUMMARIES[name](facts)}")
    return Output(data, "\n".join(lines))


# --- summaries -------------------------------------------------------------------------------


def _cpu(facts: Facts) -> str:
    what = facts["machine_model"] or facts["cpu_model"] or "unknown model"
    return f"{facts['cpu_count']} cores, {what}, {_or_unknown(facts['cpu_used_pct'], ' % used')}"


def _throttling(facts: Facts) -> str:
    if facts["throttled"] is None:
        return "unknown"
    now = ", ".join(facts["throttling_now"]) or "none"
    return f"{now} now; {', '.join(facts['throttling_since_boot']) or 'none'} since boot"


def _memory(facts: Facts) -> str:
    if facts["mem_used_pct"] is None:
        return "unknown"
    free, total = facts["mem_available_mib"], facts["mem_total_mib"]
    return f"{facts['mem_used_pct']} % used, {free} of {total} MiB available"


def _disk(facts: Facts) -> str:
    if facts["disk_used_pct"] is None:
        return "unknown"
    free, total = facts["disk_free_gib"], facts["disk_total_gib"]
    return f"{facts['disk_used_pct']} % used, {free} of {total} GiB free"


def _load(facts: Facts) -> str:
    if facts["load1"] is None:
        return "unknown"
    return f"{facts['load1']} {facts['load5']} {facts['load15']} (1, 5, 15 minutes)"


def _uptime(facts: Facts) -> str:
    if facts["uptime_s"] is None:
        return "unknown"
    minutes = facts["uptime_s"] // 60
    return f"{minutes // 1440} d {minutes // 60 % 24} h {minutes % 60} min"


def _network(facts: Facts) -> str:
    shown = [
        f"{one['name']} {'up' if one['up'] else 'down'} {' '.join(one['addresses'])}".strip()
        for one in facts["interfaces"]
    ]
    return "; ".join(shown) or "no interfaces"


def _services(facts: Facts) -> str:
    if facts["services_running"] is None:
        return "unknown"
    failed = ", ".join(facts["services_failed"]) or "none"
    return f"{len(facts['services_running'])} running; failed: {failed}"


def _or_unknown(value: Any, unit: str) -> str:
    return "unknown" if value is None else f"{value}{unit}"


_SUMMARIES: Mapping[str, Callable[[Facts], str]] = {
    "cpu": _cpu,
    "temperature": lambda facts: _or_unknown(facts["cpu_temp_c"], " °C"),
    "throttling": _throttling,
    "memory": _memory,
    "disk": _disk,
    "load": _load,
    "uptime": _uptime,
    "network": _network,
    "services": _services,
}
