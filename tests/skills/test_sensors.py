"""What sensors measure, read from recorded Pis."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Dict, List

import pytest

from pibot.agent.tools import Context, Result, Toolbox
from pibot.skills import Permits, sensors
from skills.pi_hardware import recorded

SKILL = sensors.sensors_read.__skill__  # type: ignore[attr-defined]


def read(ctx: Context, **args: Any) -> Result:
    return Toolbox([SKILL]).call("sensors_read", args, ctx)


def values(result: Result, kind: str) -> List[Dict[str, Any]]:
    return [
        {name: value for name, value in one.items() if name != "kind"}
        for one in result.data["sensors"]
        if one["kind"] == kind
    ]


def test_one_wire_thermometers(
    ctx: Context, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorded("pi5", tmp_path / "pi", monkeypatch)
    result = read(ctx, kind="1-wire")
    second, first = values(result, "1-wire")
    assert first == {"sensor": "28-0316a2794b12", "temperature_c": 21.562}
    assert second["temperature_c"] == 85.0
    assert second["problem"].startswith("that is what it says before it has measured")
    assert result.output.splitlines()[1] == "28-0316a2794b12: temperature 21.562 °C"


def test_a_garbled_answer_is_no_temperature(
    ctx: Context, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorded("zero2", tmp_path / "pi", monkeypatch)
    (one,) = values(read(ctx, kind="1-wire"), "1-wire")
    assert one["temperature_c"] is None
    assert "garbled on the wire" in one["problem"]


def test_converters_in_the_units_of_people(
    ctx: Context, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorded("pi4", tmp_path / "pi", monkeypatch)
    assert values(read(ctx, kind="iio"), "iio") == [
        {"sensor": "bme280", "label": "temp", "temperature_c": 22.87},
        {"sensor": "bme280", "label": "humidityrelative", "humidity_pct": 43.918},
        {"sensor": "bme280", "label": "pressure", "pressure_hpa": 1007.322},
        {"sensor": "ads1015", "label": "voltage0", "voltage_mv": (1090 + 5) * 3.0},
        {"sensor": "ads1015", "label": "voltage1", "voltage_mv": (-3 + 5) * 2.0},
    ]


def test_a_sensor_that_does_not_answer_says_so(
    ctx: Context, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorded("zero2", tmp_path / "pi", monkeypatch)
    result = read(ctx, kind="iio")
    assert {one["problem"] for one in values(result, "iio")} == {"it does not answer; try again"}
    assert "dht11@4 temp: temperature no answer (it does not answer; try again)" in result.output


def test_monitors_without_what_is_shown_elsewhere(
    ctx: Context, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorded("pi5", tmp_path / "pi", monkeypatch)
    result = read(ctx)
    assert values(result, "hwmon") == [
        {"sensor": "rp1_adc", "label": "temp1", "temperature_c": 51.42},
        {"sensor": "rp1_adc", "label": "in1", "voltage_mv": 1477.0},
        {"sensor": "pwmfan", "label": "fan1", "fan_rpm": 2836.0},
        {"sensor": "rpi_volt", "undervoltage": False},
    ]
    assert values(result, "thermal") == [{"sensor": "cpu-thermal", "temperature_c": 47.15}]
    assert "pwmfan fan1: fan 2836 rpm" in result.output
    assert "rpi_volt: no under-voltage" in result.output


def test_under_voltage(ctx: Context, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recorded("pi4", tmp_path / "pi", monkeypatch)
    result = read(ctx, kind="hwmon")
    assert values(result, "hwmon") == [{"sensor": "rpi_volt", "undervoltage": True}]
    assert result.output == "rpi_volt: under-voltage now"


def test_it_is_off_without_sensors(
    ctx: Context, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorded("", tmp_path / "none", monkeypatch)
    why = SKILL.available(Permits())
    assert why.startswith("sensors_read is off: the kernel has no sensor here; for 1-wire put")
    assert "there is no sensor here" in read(ctx).output


@pytest.mark.parametrize("name", ["pi5", "pi4", "zero2"])
def test_it_is_on_with_one(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recorded(name, tmp_path / "pi", monkeypatch)
    assert SKILL.available(Permits()) is None


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("t=21562", 21.562),
        ("t=-1250", -1.25),
        ("t=0", 0.0),
        ("t=", None),
        ("t=abc", None),
        ("t=--5", None),
        ("t=" + "9" * 40, None),
        ("t=²", None),
    ],
)
def test_numbers_of_thermometers(
    ctx: Context, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, value: object
) -> None:
    machine = recorded("", tmp_path / "pi", monkeypatch)
    machine.file("/sys/bus/w1/devices/28-000000000001/w1_slave", f"xx : crc=c9 YES\nxx {text}\n")
    (one,) = values(read(ctx), "1-wire")
    assert one["temperature_c"] == value
