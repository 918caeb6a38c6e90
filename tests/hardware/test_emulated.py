"""The hardware skills on real kernels: a Raspberry Pi 3 and a PC that QEMU emulates."""

from __future__ import annotations

from pathlib import Path

import pytest

import emulated

pytestmark = [
    pytest.mark.system,
    pytest.mark.skipif(bool(emulated.what_is_missing()), reason=emulated.what_is_missing()),
]


def test_an_emulated_pi(tmp_path: Path) -> None:
    """GPIO through the kernel's pinctrl-bcm2835, the text console, USB, the thermometer."""
    tests = ["test_gpio.py", "test_console.py", "test_facts.py"]
    outcomes = emulated.run(emulated.PI, tmp_path, tests)
    said = (tmp_path / "console.txt").read_text("utf-8", "replace")
    assert set(outcomes.values()) == {"PASSED"}, said
    assert len(outcomes) >= 17, said


def test_an_emulated_pc(tmp_path: Path) -> None:
    """I²C through the kernel's i2c-stub, and a sensor there that has a driver."""
    outcomes = emulated.run(emulated.PC, tmp_path, ["test_i2c.py", "test_facts.py"])
    said = (tmp_path / "console.txt").read_text("utf-8", "replace")
    assert set(outcomes.values()) == {"PASSED"}, said
    assert len(outcomes) >= 17, said
