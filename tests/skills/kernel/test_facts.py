"""What an emulated machine's real kernel tells of its devices and sensors."""

from __future__ import annotations

import os

import pytest

from pibot.agent.tools import Toolbox
from pibot.skills import Context, _inventory, devices, pi, sensors

EMULATED = os.environ.get("EMULATED")
BOX = Toolbox(
    [
        one.__skill__  # type: ignore[attr-defined]
        for one in (devices.devices, pi.pi_facts, sensors.sensors_read)
    ]
)


@pytest.mark.skipif(EMULATED != "pi", reason="only the emulated Pi has these devices")
def test_an_emulated_pi(ctx: Context) -> None:
    assert _inventory.board() == "Raspberry Pi 3 Model B"
    found = BOX.call("devices", {}, ctx).data
    usb = {one["product"]: one["classes"] for one in found["usb"]}
    assert usb["QEMU USB Keyboard"] == ["input"]
    assert usb["QEMU USB Hub"] == ["hub"]
    assert {"/dev/ttyUSB0"} <= {one["path"] for one in found["serial"]}
    adapter = next(one for one in found["serial"] if one["path"] == "/dev/ttyUSB0")
    assert adapter["driver"] == "ftdi_sio"
    assert {"gpiochip0"} <= {one["name"] for one in found["buses"]}
    facts = BOX.call("pi_facts", {}, ctx)
    assert facts.data["cpu_temp_c"] > 0
    assert facts.output.startswith("Raspberry Pi 3 Model B\n")
    read = BOX.call("sensors_read", {"kind": "thermal"}, ctx)
    assert read.data["sensors"][0]["sensor"] == "cpu-thermal"


@pytest.mark.skipif(EMULATED != "pc", reason="only the emulated PC has this sensor")
def test_a_sensor_with_a_driver(ctx: Context) -> None:
    read = BOX.call("sensors_read", {"kind": "hwmon"}, ctx)
    assert {"kind": "hwmon", "sensor": "lm75", "label": "temp1", "temperature_c": 21.5} in (
        read.data["sensors"]
    )
