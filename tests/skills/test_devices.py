"""What is connected, as recorded Pis tell it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pibot.agent.tools import Context, Result, Toolbox
from pibot.skills import devices, pi
from skills.pi_hardware import calls, device, recorded, script

BOX = Toolbox([devices.devices.__skill__, pi.pi_facts.__skill__])  # type: ignore[attr-defined]


def ask(ctx: Context, name: str = "devices", **args: Any) -> Result:
    result = BOX.call(name, args, ctx)
    assert result.success, result.output
    return result


def test_a_pi_5(ctx: Context, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recorded("pi5", tmp_path / "pi", monkeypatch)
    data = ask(ctx).data
    stick = {"port": "1-1", "vendor_id": "0781", "product_id": "5567", "vendor": "SanDisk"}
    assert data["usb"][0] == {
        **stick,
        "product": "Cruzer Blade",
        "classes": ["storage"],
        "speed_mbps": 480.0,
    }
    assert data["usb"][1]["classes"] == ["audio", "input"]
    assert data["serial"] == [{"path": "/dev/ttyAMA0", "driver": "uart-pl011", "by_id": None}]
    card = {"name": "mmcblk0", "model": "SD32G", "size_bytes": 62333952 * 512}
    assert data["block"][0] == {**card, "removable": False}
    assert [one["name"] for one in data["block"]] == ["mmcblk0", "sda"]
    assert data["cameras"] == [{"path": "/dev/video0", "name": "rp1-cfe-csi2_ch0"}]
    assert [(s["id"], s["playback"], s["capture"]) for s in data["sound"]] == [
        ("vc4hdmi0", True, False),
        ("Device", True, True),
    ]
    assert [(one["kind"], one["name"]) for one in data["buses"]] == [
        ("i2c", "i2c-1"),
        ("i2c", "i2c-13"),
        ("spi", "spidev0.0"),
        ("1-wire", "w1_bus_master1"),
        ("gpio", "gpiochip0"),
    ]


def test_a_serial_adapter_has_a_name_that_stays(
    ctx: Context, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorded("pi4", tmp_path / "pi", monkeypatch)
    result = ask(ctx, kind="serial")
    by_id = "/dev/serial/by-id/usb-Silicon_Labs_CP2102-if00-port0"
    assert result.data == {"serial": [{"path": "/dev/ttyUSB0", "driver": "cp210x", "by_id": by_id}]}
    assert result.output == f"serial: /dev/ttyUSB0 cp210x {by_id}"
    assert ask(ctx, kind="usb").output.splitlines()[1] == (
        "usb: 1-1.3 10c4:ea60 Silicon Labs CP2102 USB to UART Bridge (vendor's own)"
    )
    assert ask(ctx, kind="cameras").output == "cameras: none"


def test_serial_numbers_of_usb_devices_stay_here(
    ctx: Context, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorded("pi5", tmp_path / "pi", monkeypatch)
    result = ask(ctx)
    assert "4C530001130614115384" not in f"{result.data}{result.output}"


def test_this_machine_can_be_asked(ctx: Context) -> None:
    assert list(ask(ctx).data) == ["usb", "serial", "block", "cameras", "sound", "buses"]


FIRMWARE = """
said = {
    "measure_temp": "temp=48.3'C",
    "measure_volts core": "volt=0.8875V",
    "measure_volts sdram_c": "volt=1.1000V",
    "measure_clock arm": "frequency(48)=1500398464",
    "measure_clock core": "frequency(1)=500000992",
    "pmic_read_adc": "3V3_SYS_V volt(2)=3.33V\\n EXT5V_V volt(24)=5.14490000V",
}.get(" ".join(sys.argv[1:]))
if said is None:
    sys.exit(255)
print(said)
"""


def test_the_facts_of_the_firmware(
    ctx: Context, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = recorded("pi4", tmp_path / "pi", monkeypatch)
    script(machine, "vcgencmd", FIRMWARE)
    device(machine, "/dev/vcio")
    result = ask(ctx, "pi_facts")
    expected = {
        "model": "Raspberry Pi 4 Model B Rev 1.4",
        "cpu_temp_c": 48.3,
        "throttling_now": ["under-voltage", "throttled"],
        "core_mv": 887.5,
        "sdram_core_mv": 1100.0,
        "sdram_io_mv": None,
        "arm_mhz": 1500.4,
        "core_mhz": 500.0,
        "v3d_mhz": None,
        "input_mv": 5144.9,
    }
    assert {name: result.data[name] for name in expected} == expected
    lines = result.output.splitlines()
    assert lines[0] == "Raspberry Pi 4 Model B Rev 1.4"
    assert "core: 887.5 mV" in lines
    assert "cpu temp: 48.3 °C" in lines
    assert ["measure_temp"] in [call["words"] for call in calls(machine)]


def test_what_the_kernel_knows_without_the_program(
    ctx: Context, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = recorded("pi5", tmp_path / "pi", monkeypatch)
    data = ask(ctx, "pi_facts").data
    assert (data["cpu_temp_c"], data["arm_mhz"], data["throttled"]) == (47.1, 2400.0, False)
    assert data["core_mv"] is None
    script(machine, "vcgencmd", FIRMWARE)  # but its device is closed to the worker
    assert ask(ctx, "pi_facts").data["core_mv"] is None
    assert calls(machine) == []


def test_it_is_off_on_other_machines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    machine = recorded("", tmp_path / "pc", monkeypatch)
    check = pi.pi_facts.__skill__.available  # type: ignore[attr-defined]
    assert check(None) == "pi_facts is off: this machine is no Raspberry Pi"
    machine.file("/proc/device-tree/model", "Orange Pi Zero\0")
    assert check(None) == "pi_facts is off: this machine is no Raspberry Pi"
    machine.pi()
    assert check(None) is None
