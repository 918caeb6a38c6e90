#!/usr/bin/python3
"""The first process of an emulated machine: mounts, modules, devices, pytest, its status.

Its orders are files in /t: `modules` (a file and parameters a line) and `words` for Python.
"""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
import time
from pathlib import Path

LIBC = ctypes.CDLL(None, use_errno=True)
MOUNTS = {
    "/proc": "proc",
    "/sys": "sysfs",
    "/dev": "devtmpfs",
    "/tmp": "tmpfs",
    "/sys/kernel/debug": "debugfs",
}
FINIT_MODULE = {"aarch64": 273, "x86_64": 313}
POWER_OFF = 0x4321FEDC
SETTLE_S = 15.0


def check(what: str, answer: int) -> None:
    if answer:
        print(f"{what}: {os.strerror(ctypes.get_errno())}", flush=True)


def load(line: str) -> None:
    path, _, parameters = line.partition(" ")
    with open(path, "rb") as file:
        number = FINIT_MODULE[os.uname().machine]
        check(path, LIBC.syscall(number, file.fileno(), parameters.encode(), 0))


def fill_stub_bus() -> None:
    """Registers for the chip at 0x20; a temperature of 21.5 °C, and its driver, at 0x48."""
    from pibot.skills import _i2cbus as i2c

    for number, name in i2c.buses().items():
        if "stub" not in name:
            continue
        with i2c.opened(number) as bus:
            bus._choose(0x20)
            for register in range(256):
                data = ctypes.create_string_buffer(bytes([register ^ 0x5A]), 34)
                at = ctypes.addressof(data)
                i2c._asked(bus.fd, i2c.SMBUS, i2c.TRANSFER.pack(i2c.WRITE, register, 2, at))
            bus._choose(0x48)
            data = ctypes.create_string_buffer(bytes([0x15, 0x80]), 34)  # the high byte first
            word = i2c.TRANSFER.pack(i2c.WRITE, 0, 3, ctypes.addressof(data))
            i2c._asked(bus.fd, i2c.SMBUS, word)
        Path(f"/sys/bus/i2c/devices/i2c-{number}/new_device").write_text("lm75 0x48")


def main() -> None:
    for where, kind in MOUNTS.items():
        check(where, LIBC.mount(kind.encode(), where.encode(), kind.encode(), 0, None))
    for line in Path("/t/modules").read_text().splitlines():
        load(line)
    sys.path += ["/t/src"]
    fill_stub_bus()
    wanted = [Path(path) for path in os.environ.get("WAIT_FOR", "").split(",") if path]
    ends = time.monotonic() + SETTLE_S
    while time.monotonic() < ends and not all(path.exists() for path in wanted):
        time.sleep(0.1)
    python = {"PATH": "/usr/bin:/bin", "PYTHONPATH": "/t/site:/t/src:/t/tests", "HOME": "/tmp"}
    words = Path("/t/words").read_text().split()
    done = subprocess.run([sys.executable, *words], env={**os.environ, **python}, cwd="/t/tests")
    print(f"\nENDED {done.returncode}", flush=True)
    os.sync()
    LIBC.reboot(POWER_OFF)


main()
