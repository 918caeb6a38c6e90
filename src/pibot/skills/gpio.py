"""The pins of the header: list them, read them, drive those that the owner permits."""

from __future__ import annotations

import errno
import os
import threading
import time
from contextlib import contextmanager
from dataclasses import replace
from typing import Annotated, Any, Dict, Iterator, List, Mapping, Optional, Set

from pibot.permits import Permits
from pibot.skills import Context, Output, SkillError, skill
from pibot.skills import _gpiochip as gpiochip
from pibot.skills import _hardware as hardware
from pibot.skills import _pinmux as pinmux

HEADER_PINS = 28  # BCM numbers 0 to 27; a chip has more lines, for the board's own use
MAX_SECONDS = 3600.0

# Lines that stay driven until they are written again or the worker ends, and pins being written.
# Both are the process's own, as lines are to the kernel; a pin is written by one call at a time.
_HELD: Dict[int, int] = {}
_BUSY: Set[int] = set()
_LOCK = threading.Lock()


def _no_writing(permits: Permits) -> Optional[str]:
    why = gpiochip.problem()
    if why is None and not permits.gpio_pins:
        why = "set PIBOT_GPIO_PINS to the pins that agents may drive, such as 17,27 (BCM numbers)"
    return f"gpio_write is off: {why}" if why else None


def _permitted(permits: Permits) -> str:
    return f"Pins that may be driven: {', '.join(map(str, permits.gpio_pins)) or 'none'}."


@skill(
    timeout_s=10,
    phrases=[
        "list [the|all] (gpio|gpios) [pins]",
        "gpio [pin] (list|overview|status)",
        "(列出|查看)[所有](gpio|引脚)[列表|状态]",
    ],
    available=hardware.off("gpio_list", gpiochip.problem),
)
def gpio_list(ctx: Context) -> Output:
    """List the pins of the header (BCM numbers): direction, who uses them, which may be driven."""
    with gpiochip.header() as chip:
        owners = pinmux.owners()
        lines = [_line(chip, pin, owners) for pin in range(min(HEADER_PINS, chip.lines))]
    pins = [_facts(line, ctx.permits) for line in lines]
    data = {"chip": chip.name, "label": chip.label, "lines": chip.lines, "pins": pins}
    return Output(data, "\n".join(map(_pin_line, pins)))


@skill(
    timeout_s=10,
    phrases=[
        "(read|get) [the] [gpio] pin {pin:word}",
        "(read|get) gpio {pin:word}",
        "[the] (state|level|value) of [gpio] pin {pin:word}",
        "(读取|读|查看)(引脚|gpio){pin:word}",
    ],
    available=hardware.off("gpio_read", gpiochip.problem),
)
def gpio_read(pin: Annotated[int, "BCM number, such as 17"]) -> Output:
    """Read the level of a pin of the header: 1 (high) or 0 (low). It changes nothing."""
    with gpiochip.header() as chip, _explained(pin):
        line = _line(chip, pin, pinmux.owners())
        with _reading(chip, line) as fd:
            value = int(gpiochip.level(fd))
    data = {"pin": pin, "value": value, "direction": line.direction, "name": line.name}
    return Output(data, f"GPIO{pin} is {_level(value)} ({line.direction})")


@skill(
    timeout_s=MAX_SECONDS + 5,
    phrases=[
        '(turn|switch) on [gpio] pin {pin:word} => {"value": true}',
        '(turn|switch) off [gpio] pin {pin:word} => {"value": false}',
        'set [gpio] pin {pin:word} [to] (high|1|on) => {"value": true}',
        'set [gpio] pin {pin:word} [to] (low|0|off) => {"value": false}',
        '(打开|拉高)(引脚|gpio){pin:word} => {"value": true}',
        '(关闭|拉低)(引脚|gpio){pin:word} => {"value": false}',
    ],
    sensitive=True,
    repeatable=False,
    available=_no_writing,
    note=_permitted,
)
def gpio_write(
    ctx: Context,
    pin: Annotated[int, "BCM number, such as 17"],
    value: Annotated[bool, "true: high, false: low"],
    seconds: Annotated[Optional[float], "for so long; then the pin is put back"] = None,
) -> Output:
    """Drive a pin of the header high or low, for some seconds or until it is written again."""
    _check_write(ctx, pin, seconds)
    with gpiochip.header() as chip, _alone(pin), _explained(pin):
        line = _line(chip, pin, pinmux.owners())
        if seconds is None:
            _hold(chip, line, value)
        else:
            _pulse(ctx, chip, line, value, seconds)
    data = {"pin": pin, "value": int(value), "seconds": seconds}
    if seconds is None:
        return Output(data, f"GPIO{pin} is {_level(value)}, until it is written again")
    return Output(data, f"GPIO{pin} was {_level(value)} for {seconds:g} s, and is put back")


def _check_write(ctx: Context, pin: int, seconds: Optional[float]) -> None:
    permitted = ctx.permits.gpio_pins
    if pin not in permitted:
        raise SkillError(
            f"GPIO{pin} may not be driven: PIBOT_GPIO_PINS permits"
            f" {', '.join(map(str, permitted)) or 'none'}; add it there if agents may drive it"
        )
    if seconds is not None and not 0 < seconds <= MAX_SECONDS:
        raise SkillError(f"seconds must be more than 0 and at most {MAX_SECONDS:g}")
    left_s = ctx.deadline - time.monotonic()
    if seconds is not None and seconds > left_s:
        raise SkillError(f"the task ends in {left_s:.0f} s; give it more time or fewer seconds")


def _hold(chip: gpiochip.Chip, line: gpiochip.Line, value: bool) -> None:
    """Drive the line; its descriptor is kept, because what nobody has may change."""
    held = _HELD.get(line.offset)
    fd = _request(chip, line) if held is None else held
    _HELD[line.offset] = fd
    gpiochip.make_output(fd, value)


def _pulse(
    ctx: Context, chip: gpiochip.Chip, line: gpiochip.Line, value: bool, seconds: float
) -> None:
    """Drive the line for a while, and leave it as it was, also when the call is stopped."""
    held = _HELD.get(line.offset)
    fd = _request(chip, line) if held is None else held
    was_output, before = bool(line.flags & gpiochip.OUTPUT), gpiochip.level(fd)
    started = time.monotonic()
    try:
        gpiochip.make_output(fd, value)
        stopped = ctx.cancelled.wait(seconds)
    finally:
        if was_output:
            gpiochip.set_level(fd, before)
            _HELD[line.offset] = fd
        else:
            gpiochip.make_input(fd)
            os.close(fd)
    if stopped:
        driven_s = round(time.monotonic() - started, 1)
        raise SkillError(
            f"stopped after {driven_s:g} s; GPIO{line.offset} is put back",
            {"pin": line.offset, "seconds": driven_s},
        )


# --- lines -----------------------------------------------------------------------------------


@contextmanager
def _alone(pin: int) -> Iterator[None]:
    """Nobody else of this worker writes the pin meanwhile."""
    with _LOCK:
        if pin in _BUSY:
            raise SkillError(f"GPIO{pin} is being driven by another call; try again later")
        _BUSY.add(pin)
    try:
        yield
    finally:
        with _LOCK:
            _BUSY.discard(pin)


@contextmanager
def _explained(pin: int) -> Iterator[None]:
    """What the kernel refuses, in words."""
    try:
        yield
    except OSError as error:
        raise SkillError(f"GPIO{pin} cannot be used: {error.strerror}") from None


def _line(chip: gpiochip.Chip, pin: int, owners: Mapping[int, str]) -> gpiochip.Line:
    if not 0 <= pin < chip.lines:
        raise SkillError(f"there is no GPIO{pin}; the header has GPIO0 to GPIO{HEADER_PINS - 1}")
    line = chip.line(pin)
    return line if line.consumer else replace(line, consumer=owners.get(pin, ""))


@contextmanager
def _reading(chip: gpiochip.Chip, line: gpiochip.Line) -> Iterator[int]:
    """The line, without a change of it: for what the kernel does to one that is given back."""
    held = _HELD.get(line.offset)
    if held is not None:  # it is never closed
        yield held
        return
    if not line.consumer and line.flags & gpiochip.OUTPUT and not gpiochip.outputs_persist():
        raise SkillError(
            f"GPIO{line.offset} is an output that no program holds; to read it would end that"
        )
    fd = _request(chip, line)
    try:
        yield fd
    finally:
        os.close(fd)


def _request(chip: gpiochip.Chip, line: gpiochip.Line) -> int:
    try:
        if not line.consumer:
            return chip.request(line.offset)
    except OSError as error:
        if error.errno != errno.EBUSY:
            raise
    user = line.consumer or "another program"
    raise SkillError(f"GPIO{line.offset} is in use by {user}; end that first, or use another pin")


def _facts(line: gpiochip.Line, permits: Permits) -> Dict[str, Any]:
    return {
        "pin": line.offset,
        "name": line.name,
        "direction": line.direction,
        "used_by": line.consumer or None,
        "may_write": line.offset in permits.gpio_pins,
    }


def _pin_line(pin: Dict[str, Any]) -> str:
    words: List[str] = [f"GPIO{pin['pin']}", pin["direction"]]
    words += [f"used by {pin['used_by']}"] if pin["used_by"] else []
    words += ["may be driven"] if pin["may_write"] else []
    return "  ".join(words)


def _level(value: int) -> str:
    return "high" if value else "low"
