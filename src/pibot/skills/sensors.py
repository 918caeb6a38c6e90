"""What the sensors measure that the kernel has drivers for: 1-wire, hwmon, IIO, thermal zones."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Callable, Dict, Iterator, List, Literal, Mapping, Optional, Tuple

from pibot.skills import Context, Output, SkillError, skill
from pibot.skills import _hardware as hardware

Kind = Literal["1-wire", "hwmon", "iio", "thermal"]
_POWER_ON_C = 85.0  # what a DS18B20 says when it has not measured yet

# What a value is called, and how much one of the kernel's units is of it.
Measure = Tuple[str, float]
_HWMON: Mapping[str, Measure] = {
    r"temp\d+": ("temperature_c", 0.001),
    r"in\d+": ("voltage_mv", 1.0),
    r"curr\d+": ("current_ma", 1.0),
    r"power\d+": ("power_mw", 0.001),
    r"humidity\d+": ("humidity_pct", 0.001),
    r"fan\d+": ("fan_rpm", 1.0),
}
_IIO: Mapping[str, Measure] = {
    r"in_temp\d*": ("temperature_c", 0.001),
    r"in_humidityrelative": ("humidity_pct", 0.001),
    r"in_pressure\d*": ("pressure_hpa", 10.0),
    r"in_illuminance\d*": ("illuminance_lux", 1.0),
    r"in_voltage\d+": ("voltage_mv", 1.0),
    r"in_current\d+": ("current_ma", 1.0),
}
_UNITS = {"c": "°C", "mv": "mV", "ma": "mA", "mw": "mW", "pct": "%", "rpm": "rpm"}
_UNITS.update({"hpa": "hPa", "lux": "lx"})


@dataclass(frozen=True)
class Reading:
    """One value of a sensor; `value` is None when it did not answer, and `problem` says so."""

    kind: str
    sensor: str
    what: str
    value: Optional[float]
    label: Optional[str] = None
    problem: Optional[str] = None

    def data(self) -> Dict[str, Any]:
        optional = {"label": self.label, "problem": self.problem}
        shown = {name: text for name, text in optional.items() if text}
        return {"kind": self.kind, "sensor": self.sensor, self.what: self.value, **shown}

    def line(self) -> str:
        where = f"{self.sensor} {self.label}" if self.label else self.sensor
        if self.what == "undervoltage":
            return f"{where}: {'under-voltage now' if self.value else 'no under-voltage'}"
        name, _, unit = self.what.rpartition("_")
        value = "no answer" if self.value is None else f"{self.value:g} {_UNITS[unit]}"
        return f"{where}: {name} {value}" + (f" ({self.problem})" if self.problem else "")


def _nothing() -> Optional[str]:
    if any(folders() for folders, _ in _KINDS.values()):
        return None
    return (
        "the kernel has no sensor here; for 1-wire put dtoverlay=w1-gpio into"
        f" /boot/firmware/config.txt, for others their overlay, {hardware.DROP_IN}"
    )


@skill(
    timeout_s=60,
    phrases=[
        "(read|list) [the|all] sensors",
        "sensor (readings|values|data)",
        "(room|outside|ambient) temperature",
        "[the] humidity",
        "[air] pressure",
        "(读取|查看|列出)[所有]传感器[数据]",
        "传感器(数据|读数)",
        "(室内|室外|环境)[的]温度",
        "室温",
        "[空气]湿度",
        "气压",
    ],
    available=hardware.off("sensors_read", _nothing),
)
def sensors_read(
    ctx: Context,
    kind: Annotated[Optional[Kind], "one kind only; leave it out for all"] = None,
) -> Output:
    """Read the sensors that the kernel knows: temperature, humidity, pressure, voltage, fans."""
    readings: List[Reading] = []
    for one in [kind] if kind else _KINDS:
        folders, read = _KINDS[one]
        for folder in folders():
            if ctx.cancelled.is_set():
                raise SkillError("stopped", {"sensors": [r.data() for r in readings]})
            readings += read(folder)
    if not readings:
        raise SkillError(f"there is no {kind or 'sensor'} here; ask for all, without a kind")
    data = {"sensors": [reading.data() for reading in readings]}
    return Output(data, "\n".join(reading.line() for reading in readings))


# --- 1-wire ----------------------------------------------------------------------------------


def _one_wire() -> List[Path]:
    return hardware.below(hardware.path("sys/bus/w1/devices"), r"(10|22|28|3b|42)-[0-9a-f]{12}")


def _thermometer(folder: Path) -> Iterator[Reading]:
    """The two lines of w1_slave: what came over the wire with its check sum, and t=21562."""
    said = hardware.read(folder / "w1_slave") or ""
    first, _, second = said.partition("\n")
    value: Optional[float] = None
    problem: Optional[str] = "it does not answer"
    if first.rstrip().endswith("YES") and "t=" in second:
        value = _milli(second.rpartition("t=")[2].strip())
        problem = "what it says is no number" if value is None else None
    elif first:
        problem = "its answer was garbled on the wire; check the cable and the 4.7 kΩ resistor"
    if value == _POWER_ON_C:
        problem = "that is what it says before it has measured; check its supply, read again"
    yield Reading("1-wire", folder.name, "temperature_c", value, problem=problem)


def _milli(text: str) -> Optional[float]:
    return int(text) / 1000 if re.fullmatch(r"-?[0-9]{1,7}", text) else None


# --- hwmon -----------------------------------------------------------------------------------


def _monitors() -> List[Path]:
    """Without those that show a thermal zone or a 1-wire thermometer once more."""
    zones = {hardware.name(zone / "type") for zone in _zones()}
    shown_elsewhere = {str(zone).replace("-", "_") for zone in zones} | {"w1_slave_temp"}
    folders = hardware.below(hardware.path("sys/class/hwmon"), r"hwmon\d+")
    return [f for f in folders if hardware.name(f / "name") not in shown_elsewhere]


def _monitor(folder: Path) -> Iterator[Reading]:
    sensor = hardware.name(folder / "name") or folder.name
    for pattern, (what, unit) in _HWMON.items():
        for file in hardware.below(folder, pattern + "_input"):
            stem = file.name[: -len("_input")]
            label = hardware.name(folder / f"{stem}_label") or stem
            yield _reading("hwmon", sensor, what, _times(hardware.number(file), unit), label)
    for file in hardware.below(folder, r"in\d+_lcrit_alarm"):  # a Pi's under-voltage detector
        alarm = hardware.number(file)
        yield Reading("hwmon", sensor, "undervoltage", None if alarm is None else bool(alarm))


# --- IIO -------------------------------------------------------------------------------------


def _converters() -> List[Path]:
    return hardware.below(hardware.path("sys/bus/iio/devices"), r"iio:device\d+")


def _converter(folder: Path) -> Iterator[Reading]:
    sensor = hardware.name(folder / "name") or folder.name
    for pattern, (what, unit) in _IIO.items():
        for file in hardware.below(folder, pattern + "_(input|raw)"):
            stem, _, form = file.name.rpartition("_")
            if form == "raw" and (folder / f"{stem}_input").exists():
                continue
            value = hardware.number(file) if form == "input" else _scaled(folder, stem)
            yield _reading("iio", sensor, what, _times(value, unit), stem[len("in_") :])


def _scaled(folder: Path, stem: str) -> Optional[float]:
    """(raw + offset) × scale, whose files may be of the channel or of its whole kind."""
    raw = hardware.number(folder / f"{stem}_raw")
    kind = stem.rstrip("0123456789")
    parts = {}
    for name, usual in (("offset", 0.0), ("scale", 1.0)):
        own = hardware.number(folder / f"{stem}_{name}")
        shared = hardware.number(folder / f"{kind}_{name}") if own is None else own
        parts[name] = usual if shared is None else shared
    return None if raw is None else (raw + parts["offset"]) * parts["scale"]


# --- thermal zones ---------------------------------------------------------------------------


def _zones() -> List[Path]:
    return hardware.below(hardware.path("sys/class/thermal"), r"thermal_zone\d+")


def _zone(folder: Path) -> Iterator[Reading]:
    value = _times(hardware.number(folder / "temp"), 0.001)
    sensor = hardware.name(folder / "type") or folder.name
    yield _reading("thermal", sensor, "temperature_c", value, None)


def _reading(
    kind: str, sensor: str, what: str, value: Optional[float], label: Optional[str]
) -> Reading:
    problem = "it does not answer; try again" if value is None else None
    return Reading(kind, sensor, what, value, label, problem)


def _times(value: Optional[float], unit: float) -> Optional[float]:
    return None if value is None else round(value * unit, 3)


_KINDS: Mapping[str, Tuple[Callable[[], List[Path]], Callable[[Path], Iterator[Reading]]]] = {
    "1-wire": (_one_wire, _thermometer),
    "hwmon": (_monitors, _monitor),
    "iio": (_converters, _converter),
    "thermal": (_zones, _zone),
}
