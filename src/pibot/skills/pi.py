"""What a Raspberry Pi's firmware knows: temperature, throttling, voltages, clocks."""

from __future__ import annotations

import re
from typing import Any, Dict, List, Mapping, Optional

from pibot.skills import Context, Output, machine, skill
from pibot.skills import _hardware as hardware
from pibot.skills import _inventory as inventory
from pibot.skills import _program as program

_LIMIT_S = 5.0
_VOLTS: Mapping[str, str] = {
    "core_mv": "core",
    "sdram_core_mv": "sdram_c",
    "sdram_io_mv": "sdram_i",
    "sdram_phy_mv": "sdram_p",
}
_CLOCKS: Mapping[str, str] = {"arm_mhz": "arm", "core_mhz": "core", "v3d_mhz": "v3d"}
_INPUT_VOLTS = re.compile(r"EXT5V_V volt\(\d+\)=([\d.]+)V")  # a Pi 5 measures its supply


def _problem() -> Optional[str]:
    board = inventory.board() or ""
    return None if board.startswith("Raspberry Pi") else "this machine is no Raspberry Pi"


@skill(
    timeout_s=30,
    phrases=[
        "(pi|raspberry pi|firmware) (facts|status|info)",
        "[core|pi] voltage",
        "vcgencmd",
        "树莓派(状态|信息|电压)",
        "[核心]电压",
    ],
    available=hardware.off("pi_facts", _problem),
)
def pi_facts(ctx: Context) -> Output:
    """Tell what a Raspberry Pi's firmware knows: temperature, throttling, voltages, clocks."""
    root = hardware.ROOT
    throttling = machine.throttling(root)
    data: Dict[str, Any] = {
        "model": inventory.board(),
        "cpu_temp_c": _measured(ctx, "measure_temp") or machine.temperature(root)["cpu_temp_c"],
        **throttling,
        "arm_mhz": _clock_of_kernel(),
    }
    for name, what in _VOLTS.items():
        data[name] = _times(_measured(ctx, "measure_volts", what), 1000)
    for name, what in _CLOCKS.items():
        data[name] = _times(_measured(ctx, "measure_clock", what), 1e-6) or data.get(name)
    data["input_mv"] = _times(_input_volts(ctx), 1000)
    return Output(data, "\n".join(_lines(data)))


def _asked(ctx: Context, *words: str) -> str:
    """What vcgencmd says; "" without it, without its device, and when it fails."""
    found = program.find("vcgencmd")
    if found is None or hardware.closed(hardware.path("dev/vcio"), "video"):
        return ""
    printed = program.run(ctx, [found, *words], _LIMIT_S)
    return printed.text if printed.status == 0 else ""


def _measured(ctx: Context, *words: str) -> Optional[float]:
    """The number in an answer such as temp=48.3'C or frequency(48)=1500398464."""
    match = re.match(r"[\w()]+=(\d{1,12}(?:\.\d{1,9})?)", _asked(ctx, *words))
    return float(match[1]) if match else None


def _input_volts(ctx: Context) -> Optional[float]:
    match = _INPUT_VOLTS.search(_asked(ctx, "pmic_read_adc"))
    return float(match[1]) if match else None


def _clock_of_kernel() -> Optional[float]:
    khz = hardware.number(hardware.path("sys/devices/system/cpu/cpu0/cpufreq/scaling_cur_freq"))
    return _times(khz, 0.001)


def _times(value: Optional[float], unit: float) -> Optional[float]:
    return None if value is None else round(value * unit, 1)


def _lines(data: Mapping[str, Any]) -> List[str]:
    now, since = data["throttling_now"], data["throttling_since_boot"]
    throttled = "unknown" if now is None else f"{', '.join(now) or 'none'} now"
    if since is not None:
        throttled += f"; {', '.join(since) or 'none'} since boot"
    lines = [f"{data['model']}", f"throttling: {throttled}"]
    for name, value in data.items():
        what, _, unit = name.rpartition("_")
        if unit in _UNITS and value is not None:
            lines.append(f"{what.replace('_', ' ')}: {value:g} {_UNITS[unit]}")
    return lines


_UNITS: Mapping[str, str] = {"c": "°C", "mv": "mV", "mhz": "MHz"}
