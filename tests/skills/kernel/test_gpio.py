"""The header's pins, on a simulated chip; with FREE_PINS=17,27 on this machine's real one.

Nothing may be connected to those two pins. An emulated Pi (`make test-hardware`) has them.
"""

from __future__ import annotations

import errno
import os
import re
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any, Iterator, List

import pytest

from pibot.agent.tools import Result, Toolbox
from pibot.skills import Context, Permits, _gpiochip, _pinmux, gpio

FREE_PINS = os.environ.get("FREE_PINS", "")
PIN, OTHER = (int(pin) for pin in (FREE_PINS or "17,27").split(","))


@pytest.fixture
def pi(ctx: Context, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Context]:
    """The pins are permitted, and given back afterwards."""
    if not FREE_PINS:
        from skills.pi_hardware import recorded
        from skills.simulated_kernel import SimulatedChip

        SimulatedChip(recorded("pi4", tmp_path / "pi", monkeypatch), monkeypatch)
    ends = time.monotonic() + 120  # an emulated Pi is slow
    yield replace(ctx, deadline=ends, permits=Permits(gpio_pins=(PIN, OTHER)))
    for fd in gpio._HELD.values():
        _gpiochip.make_input(fd)
        os.close(fd)
    gpio._HELD.clear()


def call(ctx: Context, name: str, **args: Any) -> Result:
    one = getattr(gpio, name).__skill__
    assert one.available(ctx.permits) is None
    return Toolbox([one]).call(name, args, ctx)


def direction(ctx: Context, pin: int) -> str:
    pins = call(ctx, "gpio_list").data["pins"]
    return str(pins[pin]["direction"])


def functions() -> List[str]:
    """What each pin of the chip serves, where the kernel's debugging files tell."""
    return [file.read_text() for file in Path("/sys/kernel/debug/pinctrl").glob("*gpio*/pins")]


def test_the_list_shows_the_header(pi: Context) -> None:
    result = call(pi, "gpio_list")
    assert result.data["label"] in _gpiochip.LABELS
    assert [one["pin"] for one in result.data["pins"]] == list(range(28))
    may_write = [one["pin"] for one in result.data["pins"] if one["may_write"]]
    assert may_write == sorted((PIN, OTHER))
    assert f"GPIO{PIN}  input  may be driven" in result.output


def test_a_pin_stays_as_it_is_written(pi: Context) -> None:
    assert call(pi, "gpio_write", pin=PIN, value=True).success
    assert call(pi, "gpio_read", pin=PIN).data["value"] == 1
    assert direction(pi, PIN) == "output"
    assert call(pi, "gpio_write", pin=PIN, value="off").success
    assert call(pi, "gpio_read", pin=PIN).data["value"] == 0


def test_what_is_held_shows_its_user_and_is_nobody_elses(pi: Context) -> None:
    call(pi, "gpio_write", pin=PIN, value=True)
    assert call(pi, "gpio_list").data["pins"][PIN]["used_by"] == "pibot"
    with _gpiochip.header() as chip, pytest.raises(OSError) as refused:
        chip.request(PIN)
    assert refused.value.errno == errno.EBUSY


def test_a_pin_of_another_program_is_refused(pi: Context) -> None:
    with _gpiochip.header() as chip:
        theirs = chip.request(PIN)
    try:
        for name, args in (("gpio_read", {}), ("gpio_write", {"value": 1})):
            result = call(pi, name, pin=PIN, **args)
            assert not result.success
            assert f"GPIO{PIN} is in use by pibot" in result.output
    finally:
        os.close(theirs)


def test_a_pulse_ends_and_the_pin_is_put_back(pi: Context) -> None:
    started = time.monotonic()
    result = call(pi, "gpio_write", pin=PIN, value=True, seconds=0.5)
    assert result.success, result.output
    assert time.monotonic() - started >= 0.5
    assert direction(pi, PIN) == "input"
    assert call(pi, "gpio_list").data["pins"][PIN]["used_by"] is None


def test_a_pulse_on_a_held_pin_goes_back_to_its_level(pi: Context) -> None:
    call(pi, "gpio_write", pin=PIN, value=True)
    assert call(pi, "gpio_write", pin=PIN, value=False, seconds=0.1).success
    assert call(pi, "gpio_read", pin=PIN).data == {
        **call(pi, "gpio_read", pin=PIN).data,
        "value": 1,
        "direction": "output",
    }


def test_a_pulse_drives_the_pin_meanwhile_and_a_cancel_puts_it_back(pi: Context) -> None:
    outcome = []
    pulse = threading.Thread(
        target=lambda: outcome.append(call(pi, "gpio_write", pin=PIN, value=True, seconds=60))
    )
    pulse.start()
    while direction(pi, PIN) != "output":
        assert pulse.is_alive()
    busy = call(pi, "gpio_write", pin=PIN, value=False)
    assert "is being driven by another call" in busy.output
    assert call(pi, "gpio_write", pin=OTHER, value=True).success  # others are free
    pi.cancelled.set()
    pulse.join(10)
    pi.cancelled.clear()
    assert not outcome[0].success
    assert f"GPIO{PIN} is put back" in outcome[0].output
    assert direction(pi, PIN) == "input"


def test_to_read_a_pin_changes_nothing(pi: Context) -> None:
    call(pi, "gpio_write", pin=OTHER, value=True)
    before = call(pi, "gpio_list").data, functions()
    assert before[1] or "EMULATED" not in os.environ
    for pin in range(28):
        call(pi, "gpio_read", pin=pin)
    assert (call(pi, "gpio_list").data, functions()) == before
    assert call(pi, "gpio_read", pin=OTHER).data["value"] == 1


def test_the_pins_of_a_bus_are_left_alone(pi: Context) -> None:
    owners = _pinmux.owners()
    if not owners:
        pytest.skip("no pin of this machine serves a bus")
    pin, owner = next(iter(owners.items()))
    everything = replace(pi, permits=Permits(gpio_pins=tuple(range(28))))
    for name, args in (("gpio_read", {}), ("gpio_write", {"value": 1})):
        result = call(everything, name, pin=pin, **args)
        assert result.output == (
            f"GPIO{pin} is in use by {owner}; end that first, or use another pin"
        )


@pytest.mark.skipif("EMULATED" not in os.environ, reason="it ends a bus of this machine")
def test_to_read_a_pin_of_a_bus_would_end_it(pi: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    """Why they are left alone."""
    others = re.findall(r"pin (\d+) \S+ \S+ function alt", "".join(functions()))
    pin = next(int(one) for one in others if int(one) in _pinmux.owners())
    monkeypatch.setattr(_pinmux, "owners", dict)
    before = functions()
    assert call(pi, "gpio_read", pin=pin).success
    assert functions() != before


@pytest.mark.parametrize("pin", [-1, 999, 2**31, -(2**63)])
def test_there_is_no_such_pin(pi: Context, pin: int) -> None:
    everything = replace(pi, permits=Permits(gpio_pins=(pin,)))
    assert f"there is no GPIO{pin}" in call(pi, "gpio_read", pin=pin).output
    assert f"there is no GPIO{pin}" in call(everything, "gpio_write", pin=pin, value=1).output


def test_a_pin_that_is_not_permitted_is_not_driven(pi: Context) -> None:
    forbidden = next(
        one["pin"]
        for one in call(pi, "gpio_list").data["pins"]
        if not one["used_by"] and not one["may_write"] and one["direction"] == "input"
    )
    result = call(pi, "gpio_write", pin=forbidden, value=True)
    assert result.output.startswith(f"GPIO{forbidden} may not be driven: PIBOT_GPIO_PINS permits")
    assert direction(pi, forbidden) == "input"
