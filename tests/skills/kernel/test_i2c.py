"""An I²C bus, on a real kernel with i2c-stub (an emulated PC has it) or on a simulated one."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Optional

import pytest

from pibot.agent.tools import Result, Toolbox
from pibot.skills import Context, _i2cbus, i2c

# i2c-stub was loaded for these addresses; lm75 is the driver that has the second.
FREE, DRIVEN = 0x20, 0x48
STUB = next((n for n, name in _i2cbus.buses().items() if "stub" in name), None)


@pytest.fixture
def bus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Optional[int]:
    if STUB is not None:
        return STUB
    from skills.pi_hardware import recorded
    from skills.simulated_kernel import SimulatedBus

    registers = bytes(i ^ 0x5A for i in range(256))
    simulated = SimulatedBus(
        recorded("", tmp_path / "pi", monkeypatch), monkeypatch, {FREE: registers}
    )
    simulated.drivers.append(DRIVEN)
    return None


def call(ctx: Context, name: str, **args: Any) -> Result:
    one = getattr(i2c, name).__skill__
    assert one.available(ctx.permits) is None
    return Toolbox([one]).call(name, args, ctx)


def test_a_scan_finds_what_answers(ctx: Context, bus: Optional[int]) -> None:
    result = call(ctx, "i2c_scan", bus=bus)
    assert result.success, result.output
    assert result.data["devices"] == [
        {"address": FREE, "hex": "0x20", "state": "there"},
        {"address": DRIVEN, "hex": "0x48", "state": "driver"},
    ]
    assert result.output.endswith(": 0x20, 0x48 (has a driver)")
    assert "stub" in result.data["name"]


@pytest.mark.parametrize(("register", "count"), [(0, 1), (0x10, 4), (0, 32), (255, 1)])
def test_registers_are_read(ctx: Context, bus: Optional[int], register: int, count: int) -> None:
    result = call(ctx, "i2c_read", address=FREE, register=register, count=count, bus=bus)
    assert result.success, result.output
    expected = [i ^ 0x5A for i in range(register, register + count)]
    assert result.data["bytes"] == expected
    assert result.output == bytes(expected).hex(" ")


def test_a_device_of_a_driver_is_left_to_it(ctx: Context, bus: Optional[int]) -> None:
    result = call(ctx, "i2c_read", address=DRIVEN, register=0, bus=bus)
    assert result.output == "0x48 belongs to a driver of the kernel; use sensors_read"


def test_where_nothing_answers(ctx: Context, bus: Optional[int]) -> None:
    result = call(ctx, "i2c_read", address=0x21, register=0, bus=bus)
    assert result.output.startswith("nothing could be read from 0x21 on bus")


def test_there_is_no_such_bus(ctx: Context, bus: Optional[int]) -> None:
    for number in (-1, 99, 2**40):
        result = call(ctx, "i2c_scan", bus=number)
        assert result.output.startswith(f"there is no I²C bus {number} here; there are: ")


@pytest.mark.parametrize(
    "args",
    [
        {"address": 0x07, "register": 0},
        {"address": 0x78, "register": 0},
        {"address": -1, "register": 0},
        {"address": 0x20, "register": 256},
        {"address": 0x20, "register": -1},
        {"address": 0x20, "register": 0, "count": 33},
        {"address": 0x20, "register": 0, "count": 0},
        {"address": 0x20, "register": 250, "count": 32},
    ],
)
def test_what_is_out_of_range(ctx: Context, bus: Optional[int], args: Any) -> None:
    result = call(ctx, "i2c_read", bus=bus, **args)
    assert not result.success
    assert " must be " in result.output
