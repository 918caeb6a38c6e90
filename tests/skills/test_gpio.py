"""Why pins are not offered, and whose they are; tests/skills/kernel drives them."""

from __future__ import annotations

from pathlib import Path

import pytest

from pibot.agent.tools import Context, Toolbox
from pibot.skills import Permits, _gpiochip, _pinmux, gpio
from skills.pi_hardware import recorded
from skills.simulated_kernel import SimulatedChip

WRITE, READ = gpio.gpio_write.__skill__, gpio.gpio_read.__skill__  # type: ignore[attr-defined]
SOME = Permits(gpio_pins=(17, 27))


def test_they_are_off_and_say_what_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = recorded("", tmp_path / "pi", monkeypatch)
    why = "gpio_write is off: this machine has no GPIO pins that its kernel knows of"
    assert WRITE.available(SOME) == why
    machine.file("/sys/bus/gpio/devices/gpiochip0/uevent")
    assert WRITE.available(SOME) == (
        "gpio_write is off: the worker's unit hides /dev/gpiochip0: give it the drop-in, see"
        " docs/hardware.md"
    )
    machine.file("/dev/gpiochip0", mode=0o660)  # a file, and no chip
    assert WRITE.available(SOME).startswith(
        "gpio_write is off: no GPIO chip of this machine is a Raspberry Pi's (pinctrl-bcm2835,"
    )


def test_writing_needs_the_setting_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    SimulatedChip(recorded("pi4", tmp_path / "pi", monkeypatch), monkeypatch)
    assert READ.available(Permits()) is None
    assert WRITE.available(SOME) is None
    assert WRITE.available(Permits()) == (
        "gpio_write is off: set PIBOT_GPIO_PINS to the pins that agents may drive, such as 17,27"
        " (BCM numbers)"
    )
    assert WRITE.settled(SOME, "hardware").note == "Pins that may be driven: 17, 27."


@pytest.mark.parametrize(
    ("name", "owners"),
    [
        ("pi5", {2: "i2c@74000", 3: "i2c@74000"}),  # its SPI bus is switched off
        ("pi4", {2: "i2c@7e804000", 3: "i2c@7e804000"}),
        ("zero2", {}),
    ],
)
def test_which_pins_serve_a_bus(
    name: str, owners: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorded(name, tmp_path / "pi", monkeypatch)
    assert _pinmux.owners() == owners


def test_an_output_that_nobody_holds_is_not_read_where_that_would_end_it(
    ctx: Context, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = recorded("pi4", tmp_path / "pi", monkeypatch)
    chip = SimulatedChip(machine, monkeypatch)
    chip.outputs.append(22)  # by the firmware
    box = Toolbox([READ])
    said = box.call("gpio_read", {"pin": 22}, ctx).output
    assert said == "GPIO22 is an output that no program holds; to read it would end that"
    assert chip.outputs == [22]
    machine.file("/sys/module/pinctrl_bcm2835/parameters/persist_gpio_outputs", "Y\n")
    assert box.call("gpio_read", {"pin": 22}, ctx).success


def test_what_the_kernel_refuses_is_said_in_words(
    ctx: Context, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chip = SimulatedChip(recorded("pi4", tmp_path / "pi", monkeypatch), monkeypatch)
    answer = chip.asked

    def refuse(fd: int, what: int, data: bytes) -> bytes:
        if what == _gpiochip.GET_VALUES:
            raise OSError(5, "Input/output error")
        return answer(fd, what, data)

    monkeypatch.setattr(_gpiochip, "_asked", refuse)
    said = Toolbox([READ]).call("gpio_read", {"pin": 17}, ctx).output
    assert said == "GPIO17 cannot be used: Input/output error"
