"""Which pins of the header serve another device, such as an I²C bus, as the device tree says.

The kernel lends such a pin to whoever asks, also when it is only to be read, and makes it a plain
input afterwards: the bus is dead then. Nothing but the device tree says which pins these are.
"""

from __future__ import annotations

import os
import re
import struct
from pathlib import Path
from typing import Dict, Iterator, List, Tuple

from pibot.skills import _hardware as hardware

_MOST_NODES = 4000
_PLAIN = (0, 1)  # brcm,function of an input and an output
_ON = (b"okay\0", b"ok\0")


def owners() -> Dict[int, str]:
    """The pins that serve a device which is on, with its name in the device tree."""
    pins: Dict[str, List[int]] = {}  # of a setting, and of its parts, by its directory
    settings: Dict[int, str] = {}
    users: List[Tuple[str, bytes]] = []
    for folder, files in _nodes(hardware.path("proc/device-tree")):
        if "phandle" in files:
            settings.update(dict.fromkeys(_numbers(Path(folder, "phandle")), folder))
        if "pins" in files or "brcm,pins" in files:
            for place in (folder, os.path.dirname(folder)):
                pins.setdefault(place, []).extend(_pins_of(Path(folder)))
        if "pinctrl-0" in files:
            users.append((os.path.basename(folder), _raw(Path(folder, "pinctrl-0"))))
    return {
        pin: hardware.label(name)
        for name, wanted in users
        for phandle in _big_endian(wanted)
        for pin in pins.get(settings.get(phandle, ""), [])
    }


def _nodes(top: Path) -> Iterator[Tuple[str, List[str]]]:
    """The directories and files of all nodes but those that are off, and what is below them."""
    for count, (folder, names, files) in enumerate(os.walk(top)):
        if count >= _MOST_NODES:
            return
        if "status" not in files or _raw(Path(folder, "status")) in _ON:
            yield folder, files
        else:
            names.clear()


def _pins_of(node: Path) -> List[int]:
    function = _numbers(node / "brcm,function")
    if function and function[0] not in _PLAIN:
        return _numbers(node / "brcm,pins")
    named = _raw(node / "function").rstrip(b"\0")
    if named and named not in (b"gpio", b"gpio_in", b"gpio_out"):
        return [int(n) for n in re.findall(rb"gpio(\d{1,3})\0", _raw(node / "pins"))]
    return []


def _numbers(file: Path) -> List[int]:
    return _big_endian(_raw(file))


def _big_endian(raw: bytes) -> List[int]:
    return [n for (n,) in struct.iter_unpack(">I", raw[: len(raw) // 4 * 4])]


def _raw(file: Path) -> bytes:
    return hardware.read_bytes(file) or b""
