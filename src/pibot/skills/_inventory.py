"""What is connected to this machine, as /sys and /proc tell it."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any, Dict, List, Mapping, Optional

from pibot.skills import _hardware as hardware
from pibot.skills import _i2cbus as i2cbus

Found = List[Dict[str, Any]]

_SECTOR_BYTES = 512
_USB_CLASSES: Mapping[str, str] = {
    "01": "audio",
    "02": "serial",
    "03": "input",
    "06": "image",
    "07": "printer",
    "08": "storage",
    "09": "hub",
    "0a": "serial",
    "0b": "smart card",
    "0e": "video",
    "e0": "wireless",
    "ff": "vendor's own",
}
# Video devices of a Pi that are no cameras: its decoders, encoders and image processors.
_NO_CAMERA = re.compile(r"bcm2835-(codec|isp).*|rpivid.*|rpi-hevc.*|pispbe.*")
_PCM = re.compile(r"(\d{1,3})-(\d{1,3}): (.*)")


def usb() -> Found:
    """Devices, without the machine's own root hubs. Their serial numbers are left out."""
    folders = hardware.below(hardware.path("sys/bus/usb/devices"), r"\d+-[\d.]+")
    return [_usb_device(folder) for folder in folders]


def _usb_device(folder: Path) -> Dict[str, Any]:
    interfaces = hardware.below(folder, re.escape(folder.name) + r":[\d.]+")
    codes = [hardware.name(folder / "bDeviceClass") or ""]
    codes += [hardware.name(one / "bInterfaceClass") or "" for one in interfaces]
    classes = [_USB_CLASSES[code] for code in codes if code in _USB_CLASSES]
    return {
        "port": folder.name,
        "vendor_id": hardware.name(folder / "idVendor"),
        "product_id": hardware.name(folder / "idProduct"),
        "vendor": hardware.name(folder / "manufacturer"),
        "product": hardware.name(folder / "product"),
        "classes": list(dict.fromkeys(classes)),
        "speed_mbps": hardware.number(folder / "speed"),
    }


def serial() -> Found:
    """Serial ports with something behind them, and the name that stays when they are moved."""
    by_id = {
        os.path.basename(hardware.target(link) or ""): f"/dev/serial/by-id/{link.name}"
        for link in hardware.below(hardware.path("dev/serial/by-id"), r"[\w.:+-]+")
    }
    ports = hardware.below(hardware.path("sys/class/tty"), r"tty(AMA|S|USB|ACM|SC|GS)\d+")
    return [
        {
            "path": f"/dev/{port.name}",
            "driver": hardware.target(port / "device/driver"),
            "by_id": by_id.get(port.name),
        }
        for port in ports
        if (port / "device").exists() and hardware.name(port / "type") != "0"
    ]


def block() -> Found:
    """Disks, cards and sticks, without what only lives in memory."""
    disks = hardware.below(hardware.path("sys/block"), r"(?!loop|ram|zram|dm-)[\w!-]+")
    return [
        {
            "name": disk.name,
            "model": hardware.name(disk / "device/model") or hardware.name(disk / "device/name"),
            "size_bytes": int(hardware.number(disk / "size") or 0) * _SECTOR_BYTES,
            "removable": hardware.number(disk / "removable") == 1,
        }
        for disk in disks
    ]


def cameras() -> Found:
    """Video devices that take pictures; one camera may have several."""
    videos = hardware.below(hardware.path("sys/class/video4linux"), r"video\d+")
    named = [(video, hardware.name(video / "name") or video.name) for video in videos]
    return [
        {"path": f"/dev/{video.name}", "name": name}
        for video, name in named
        if not _NO_CAMERA.fullmatch(name)
    ]


def sound() -> Found:
    """Sound devices: which card and device of ALSA, what it is, what it can do."""
    lines = (hardware.read(hardware.path("proc/asound/pcm")) or "").splitlines()
    return [_sound_device(match) for match in map(_PCM.match, lines) if match]


def _sound_device(match: "re.Match[str]") -> Dict[str, Any]:
    card, device = int(match[1]), int(match[2])
    identity = hardware.name(hardware.path(f"proc/asound/card{card}/id"))
    said = match[3].split(" : ")  # two names, and what it can do
    name, can = said[1] if len(said) > 1 else "", said[2:]
    return {
        "card": card,
        "device": device,
        "id": identity,
        "name": hardware.label(name) or identity,
        "playback": any(one.startswith("playback") for one in can),
        "capture": any(one.startswith("capture") for one in can),
    }


def buses() -> Found:
    """I²C and SPI buses that programs may use, 1-wire masters and GPIO chips."""
    found: Found = [
        {"kind": "i2c", "name": f"i2c-{number}", "what": name}
        for number, name in i2cbus.buses().items()
    ]
    for kind, folder, pattern in (
        ("spi", "sys/class/spidev", r"spidev\d+\.\d+"),
        ("1-wire", "sys/bus/w1/devices", r"w1_bus_master\d+"),
        ("gpio", "sys/bus/gpio/devices", r"gpiochip\d+"),
    ):
        names = [one.name for one in hardware.below(hardware.path(folder), pattern)]
        found += [{"kind": kind, "name": name, "what": None} for name in names]
    return found


def board() -> Optional[str]:
    """What kind of machine this is, as its firmware says."""
    return hardware.name(hardware.path("proc/device-tree/model"))
