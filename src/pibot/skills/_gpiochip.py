"""Lines of a GPIO chip, through the kernel's character device.

That is /dev/gpiochipN with version 2 of its ABI; every kernel from 5.10 on has it, so no package
is needed. A line belongs to one program at a time, until that closes it or ends.
"""

from __future__ import annotations

import os
import struct
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Iterator, Optional

from pibot.skills import SkillError
from pibot.skills import _hardware as hardware

# The header's pins are lines of these chips, and their offsets are the BCM numbers.
LABELS = ("pinctrl-bcm2835", "pinctrl-bcm2711", "pinctrl-rp1")
CONSUMER = b"pibot"

CHIP_INFO = struct.Struct("=32s32sI")
LINE_INFO = struct.Struct("=32s32sIIQ160x16x")
LINE_CONFIG = struct.Struct("=QI20x" + "I4xQQ" * 10)  # flags, attributes: id, value, mask
LINE_REQUEST = struct.Struct(f"=I252x32s{LINE_CONFIG.size}sII20xi")
LINE_VALUES = struct.Struct("=QQ")  # bits, mask


def _request(number: int, size: int, writes: bool = True) -> int:
    """The number of an ioctl, as _IOR and _IOWR make it."""
    return (3 if writes else 2) << 30 | size << 16 | 0xB4 << 8 | number


GET_CHIP_INFO = _request(0x01, CHIP_INFO.size, writes=False)
GET_LINE_INFO = _request(0x05, LINE_INFO.size)
GET_LINE = _request(0x07, LINE_REQUEST.size)
SET_CONFIG = _request(0x0D, LINE_CONFIG.size)
GET_VALUES = _request(0x0E, LINE_VALUES.size)
SET_VALUES = _request(0x0F, LINE_VALUES.size)

USED, INPUT, OUTPUT = 1 << 0, 1 << 2, 1 << 3
_OUTPUT_VALUES = 2  # the attribute that says which lines of a request are high


@dataclass(frozen=True)
class Line:
    """What the kernel says of a line. `consumer` is who has it, "" when it is free."""

    offset: int
    name: str
    consumer: str
    flags: int

    @property
    def direction(self) -> str:
        return "output" if self.flags & OUTPUT else "input"


@dataclass(frozen=True)
class Chip:
    """An open chip. A line that is requested of it lives on when the chip is closed."""

    fd: int
    name: str
    label: str
    lines: int

    def line(self, offset: int) -> Line:
        raw = _asked(self.fd, GET_LINE_INFO, LINE_INFO.pack(b"", b"", offset, 0, 0))
        name, consumer, _, _, flags = LINE_INFO.unpack(raw)
        used_by = _text(consumer) or "the kernel" if flags & USED else ""
        return Line(offset, _text(name), used_by, flags)

    def request(self, offset: int) -> int:
        """The descriptor of a line, which stays as it is. Raises OSError (EBUSY: another's)."""
        raw = _asked(self.fd, GET_LINE, requested(offset))
        descriptor: int = LINE_REQUEST.unpack(raw)[-1]
        return descriptor


def requested(offset: int) -> bytes:
    """A request of one line without any flags: neither its direction nor its level changes."""
    return LINE_REQUEST.pack(offset, CONSUMER, config(0), 1, 0, 0)


def config(flags: int, value: Optional[bool] = None) -> bytes:
    """What one line shall be; `value` is the level of an output."""
    if value is None:
        return LINE_CONFIG.pack(flags, 0, *[0] * 30)
    return LINE_CONFIG.pack(flags, 1, _OUTPUT_VALUES, int(value), 1, *[0] * 27)


def make_output(fd: int, value: bool) -> None:
    _asked(fd, SET_CONFIG, config(OUTPUT, value))


def make_input(fd: int) -> None:
    _asked(fd, SET_CONFIG, config(INPUT))


def level(fd: int) -> bool:
    bits, _ = LINE_VALUES.unpack(_asked(fd, GET_VALUES, LINE_VALUES.pack(0, 1)))
    return bool(bits & 1)


def set_level(fd: int, value: bool) -> None:
    _asked(fd, SET_VALUES, LINE_VALUES.pack(int(value), 1))


def outputs_persist() -> bool:
    """Whether an output that nobody holds any more stays one, as on Raspberry Pi's own kernels."""
    drivers = hardware.below(hardware.path("sys/module"), r"pinctrl_(bcm2835|rp1)")
    return any(hardware.read(d / "parameters/persist_gpio_outputs") == "Y\n" for d in drivers)


@contextmanager
def header() -> Iterator[Chip]:
    """The chip of the header's pins. Raises SkillError when there is none or it is closed."""
    chip = _opened()
    if chip is None:
        raise SkillError(problem() or "the GPIO pins cannot be opened just now; try again")
    try:
        yield chip
    finally:
        os.close(chip.fd)


def problem() -> Optional[str]:
    """Why there is no header here that can be used; None when there is one."""
    chip = _opened()
    if chip is not None:
        os.close(chip.fd)
        return None
    known = hardware.below(hardware.path("sys/bus/gpio/devices"), r"gpiochip\d+")
    if not known:
        return "this machine has no GPIO pins that its kernel knows of"
    closed = (hardware.closed(hardware.path(f"dev/{one.name}"), "gpio") for one in known)
    no_pi = f"no GPIO chip of this machine is a Raspberry Pi's ({', '.join(LABELS)})"
    return next(filter(None, closed), no_pi)


def _opened() -> Optional[Chip]:
    for device in hardware.below(hardware.path("dev"), r"gpiochip\d+"):
        try:
            fd = os.open(device, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
        except OSError:
            continue
        try:
            raw = _asked(fd, GET_CHIP_INFO, bytes(CHIP_INFO.size))
        except OSError:  # not a chip
            os.close(fd)
            continue
        name, label, lines = CHIP_INFO.unpack(raw)
        if _text(label) in LABELS:
            return Chip(fd, _text(name), _text(label), lines)
        os.close(fd)
    return None


def _asked(fd: int, what: int, data: bytes) -> bytes:
    import fcntl

    answer = bytearray(data)
    fcntl.ioctl(fd, what, answer)
    return bytes(answer)


def _text(raw: bytes) -> str:
    return hardware.label(raw.partition(b"\0")[0].decode("utf-8", "replace"))
