"""An I²C bus of the kernel (/dev/i2c-N) and its SMBus transfers, for reading only.

A device that a driver of the kernel has is left to it.
"""

from __future__ import annotations

import errno
import os
import struct
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Dict, Iterator, List, Optional, Union

from pibot.skills import SkillError
from pibot.skills import _hardware as hardware

FUNCS, SLAVE, SMBUS = 0x0705, 0x0703, 0x0720
CAN_QUICK, CAN_READ_BYTE, CAN_READ_BYTE_DATA, CAN_READ_BLOCK = 1 << 16, 1 << 17, 1 << 19, 1 << 26
TRANSFER = struct.Struct("@BBIP")  # direction, command, size, address of the data
READ, WRITE = 1, 0
QUICK, BYTE, BYTE_DATA, I2C_BLOCK = 0, 1, 2, 8
MOST_BYTES = 32
FIRST, LAST = 0x08, 0x77  # the others are reserved


@dataclass(frozen=True)
class Bus:
    """An open bus, and what its adapter can do."""

    number: int
    fd: int
    functions: int

    def state(self, address: int) -> str:
        """ "there", "driver" (the kernel has it) or "" at an address.

        Where an empty write could change something (EEPROMs, clocks) a byte is read instead.
        """
        if not self._choose(address):
            return "driver"
        gentle = address in range(0x30, 0x38) or address in range(0x50, 0x60)
        reads = self.functions & CAN_READ_BYTE and (gentle or not self.functions & CAN_QUICK)
        try:
            if reads:
                self._transfer(READ, 0, BYTE)
            else:
                self._transfer(WRITE, 0, QUICK)
        except OSError:
            return ""
        return "there"

    def read(self, address: int, register: int, count: int) -> bytes:
        """Bytes from a register on. Raises OSError, SkillError when a driver has the device."""
        if not self._choose(address):
            raise SkillError(f"0x{address:02x} belongs to a driver of the kernel; use sensors_read")
        if self.functions & CAN_READ_BLOCK:
            return self._transfer(READ, register, I2C_BLOCK, count)[1 : count + 1]
        single = range(register, register + count)
        return b"".join(self._transfer(READ, one, BYTE_DATA)[:1] for one in single)

    def _choose(self, address: int) -> bool:
        try:
            _asked(self.fd, SLAVE, address)
        except OSError as error:
            if error.errno != errno.EBUSY:
                raise
            return False
        return True

    def _transfer(self, direction: int, command: int, size: int, count: int = 0) -> bytes:
        import ctypes

        data = ctypes.create_string_buffer(bytes([count]), MOST_BYTES + 2)
        _asked(self.fd, SMBUS, TRANSFER.pack(direction, command, size, ctypes.addressof(data)))
        return data.raw


def buses() -> Dict[int, str]:
    """The buses that the kernel has, with their names."""
    found = hardware.below(hardware.path("sys/class/i2c-dev"), r"i2c-\d+")
    return {int(one.name[4:]): hardware.name(one / "name") or one.name for one in found}


def problem() -> Optional[str]:
    """Why no bus can be used here; None when one can."""
    numbers = list(buses())
    if not numbers:
        return (
            "there is no I²C bus here: put dtparam=i2c_arm=on into /boot/firmware/config.txt and"
            " i2c-dev into /etc/modules, and restart the machine"
        )
    closed = [hardware.closed(hardware.path(f"dev/i2c-{number}"), "i2c") for number in numbers]
    return None if None in closed else closed[0]


@contextmanager
def opened(number: Optional[int]) -> Iterator[Bus]:
    """A bus; without a number bus 1, which is on a Pi's header, or the first. Raises SkillError."""
    there: List[int] = list(buses())
    chosen = number if number is not None else 1 if 1 in there else min(there, default=1)
    if chosen not in there:
        known = ", ".join(map(str, there)) or "none"
        raise SkillError(f"there is no I²C bus {chosen} here; there are: {known}")
    try:
        device = hardware.path(f"dev/i2c-{chosen}")
        fd = os.open(device, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
    except OSError as error:
        raise SkillError(f"/dev/i2c-{chosen} cannot be opened: {error.strerror}") from None
    try:
        functions = bytearray(struct.calcsize("@L"))
        try:
            _asked(fd, FUNCS, functions)
        except OSError as error:
            raise SkillError(f"/dev/i2c-{chosen} is no I²C bus: {error.strerror}") from None
        yield Bus(chosen, fd, struct.unpack("@L", functions)[0])
    finally:
        os.close(fd)


def _asked(fd: int, what: int, argument: Union[int, bytes, bytearray]) -> None:
    import fcntl

    fcntl.ioctl(fd, what, argument)
