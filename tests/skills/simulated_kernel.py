"""The kernel's side of a GPIO chip and of an I²C bus, where no real one can be had.

These stand in for the kernel alone: they are asked with the bytes of its ABI, through files that
are opened and closed. tests/skills/kernel runs on both, and on an emulated Pi's real kernel.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
from typing import Dict, List, Tuple, Union

import pytest

from pibot.skills import _gpiochip as chip
from pibot.skills import _i2cbus as i2c
from recorded_machine import Machine

LINES = 54


class SimulatedChip:
    """54 lines; one that nobody has any more becomes an input, as on a kernel of kernel.org."""

    def __init__(self, machine: Machine, patch: pytest.MonkeyPatch) -> None:
        machine.file("/sys/bus/gpio/devices/gpiochip0/uevent")
        machine.file("/dev/gpiochip0", mode=0o660)
        self.levels: Dict[int, int] = {}
        self.outputs: List[int] = []
        self._held: Dict[int, Tuple[int, int, bytes]] = {}  # fd, inode, consumer
        patch.setattr(chip, "_asked", self.asked)

    def asked(self, fd: int, what: int, data: bytes) -> bytes:
        self._free()
        if what == chip.GET_CHIP_INFO:
            return chip.CHIP_INFO.pack(b"gpiochip0", b"pinctrl-bcm2835", LINES)
        if what == chip.GET_LINE_INFO:
            return self._info(chip.LINE_INFO.unpack(data)[2])
        if what == chip.GET_LINE:
            return self._take(data)
        pin = next(pin for pin, held in self._held.items() if held[0] == fd)
        if what == chip.GET_VALUES:
            return chip.LINE_VALUES.pack(self.levels.get(pin, 0), 1)
        if what == chip.SET_VALUES:
            assert pin in self.outputs
            self.levels[pin] = chip.LINE_VALUES.unpack(data)[0]
            return data
        assert what == chip.SET_CONFIG
        return self._configure(pin, data)

    def _info(self, pin: int) -> bytes:
        flags = chip.OUTPUT if pin in self.outputs else chip.INPUT
        held = self._held.get(pin)
        consumer = held[2] if held else b""
        flags |= chip.USED if held else 0
        return chip.LINE_INFO.pack(f"GPIO{pin}".encode(), consumer, pin, 0, flags)

    def _take(self, data: bytes) -> bytes:
        pin, consumer, config, count, buffer, _ = chip.LINE_REQUEST.unpack(data)
        assert (count, config) == (1, chip.config(0))
        if pin in self._held:
            raise OSError(errno.EBUSY, os.strerror(errno.EBUSY))
        fd = os.memfd_create("line", os.MFD_CLOEXEC)
        self._held[pin] = (fd, os.fstat(fd).st_ino, consumer)
        return chip.LINE_REQUEST.pack(pin, consumer, config, count, buffer, fd)

    def _configure(self, pin: int, data: bytes) -> bytes:
        if data == chip.config(chip.INPUT):
            self.outputs.remove(pin)
            return data
        values = {chip.config(chip.OUTPUT, bool(value)): value for value in (0, 1)}
        self.levels[pin] = values[data]
        self.outputs += [] if pin in self.outputs else [pin]
        return data

    def _free(self) -> None:
        """The kernel sees that a descriptor is closed; here it is looked up."""
        for pin, (fd, inode, _) in list(self._held.items()):
            try:
                is_open = os.fstat(fd).st_ino == inode
            except OSError:
                is_open = False
            if not is_open:
                del self._held[pin]
                if pin in self.outputs:
                    self.outputs.remove(pin)


class SimulatedBus:
    """Bus 1 with devices that have 256 registers; `drivers` are addresses that the kernel has."""

    def __init__(
        self, machine: Machine, patch: pytest.MonkeyPatch, devices: Dict[int, bytes]
    ) -> None:
        machine.file("/sys/class/i2c-dev/i2c-1/name", "SMBus stub driver\n")
        machine.file("/dev/i2c-1", mode=0o660)
        self.devices = devices
        self.drivers: List[int] = []
        self.functions = i2c.CAN_QUICK | i2c.CAN_READ_BYTE | i2c.CAN_READ_BYTE_DATA
        self.functions |= i2c.CAN_READ_BLOCK
        self.written: List[int] = []
        self._address = -1
        patch.setattr(i2c, "_asked", self.asked)

    def asked(self, fd: int, what: int, argument: Union[int, bytes, bytearray]) -> None:
        if what == i2c.FUNCS:
            assert isinstance(argument, bytearray)
            argument[:] = struct.pack("@L", self.functions)
        elif what == i2c.SLAVE:
            assert isinstance(argument, int)
            if argument in self.drivers:
                raise OSError(errno.EBUSY, os.strerror(errno.EBUSY))
            self._address = argument
        else:
            assert what == i2c.SMBUS
            assert isinstance(argument, bytes)
            self._transfer(*i2c.TRANSFER.unpack(argument))

    def _transfer(self, direction: int, command: int, size: int, address: int) -> None:
        if direction == i2c.WRITE:
            self.written.append(self._address)
        registers = self.devices.get(self._address)
        if registers is None:
            raise OSError(errno.ENXIO, os.strerror(errno.ENXIO))
        if size == i2c.I2C_BLOCK:
            count = ctypes.string_at(address, 1)[0]
            ctypes.memmove(address + 1, registers[command : command + count], count)
        elif direction == i2c.READ:
            ctypes.memmove(address, registers[command : command + 1], 1)
