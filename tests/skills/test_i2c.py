"""What must not happen on a bus, seen from its other end."""

from __future__ import annotations

from pathlib import Path

import pytest

from pibot.agent.tools import Context, Toolbox
from pibot.skills import Permits, _i2cbus, i2c
from skills.pi_hardware import recorded
from skills.simulated_kernel import SimulatedBus

BOX = Toolbox([i2c.i2c_scan.__skill__, i2c.i2c_read.__skill__])  # type: ignore[attr-defined]
REGISTERS = bytes(range(256))


@pytest.fixture
def bus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SimulatedBus:
    machine = recorded("pi4", tmp_path / "pi", monkeypatch)
    return SimulatedBus(machine, monkeypatch, dict.fromkeys((0x20, 0x36, 0x57), REGISTERS))


def test_memories_and_clocks_are_read_and_not_written(ctx: Context, bus: SimulatedBus) -> None:
    found = BOX.call("i2c_scan", {}, ctx).data["devices"]
    assert [one["address"] for one in found] == [0x20, 0x36, 0x57]
    gentle = {*range(0x30, 0x38), *range(0x50, 0x60)}
    assert not gentle & set(bus.written)
    assert set(bus.written) == {*range(0x08, 0x78)} - gentle


def test_an_adapter_without_empty_writes_is_read(ctx: Context, bus: SimulatedBus) -> None:
    bus.functions &= ~_i2cbus.CAN_QUICK
    assert len(BOX.call("i2c_scan", {}, ctx).data["devices"]) == 3
    assert bus.written == []


def test_an_adapter_without_blocks_reads_bytes(ctx: Context, bus: SimulatedBus) -> None:
    bus.functions &= ~_i2cbus.CAN_READ_BLOCK
    read = BOX.call("i2c_read", {"address": 0x20, "register": 7, "count": 3}, ctx)
    assert read.data["bytes"] == [7, 8, 9]
    assert bus.written == []


def test_bus_1_is_the_usual_one(ctx: Context, bus: SimulatedBus) -> None:
    result = BOX.call("i2c_scan", {}, ctx)
    assert (result.data["bus"], result.data["name"]) == (1, "SMBus stub driver")
    assert result.output == "bus 1: 0x20, 0x36, 0x57"
    bus.devices = {}
    assert BOX.call("i2c_scan", {}, ctx).output == "bus 1: nothing answers"


def test_it_is_off_and_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    machine = recorded("", tmp_path / "pc", monkeypatch)
    for name in ("i2c_scan", "i2c_read"):
        why = BOX.skills[["i2c_scan", "i2c_read"].index(name)].available
        assert why is not None
        said = why(Permits())
        assert said is not None
        assert said.startswith(f"{name} is off: there is no I²C bus here: put dtparam=i2c_arm=on")
    machine.file("/sys/class/i2c-dev/i2c-1/name", "x\n")
    assert _i2cbus.problem() == (
        "the worker's unit hides /dev/i2c-1: give it the drop-in, see docs/hardware.md"
    )
    machine.file("/dev/i2c-1", mode=0o600)
    assert _i2cbus.problem() is None
