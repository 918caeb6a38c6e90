"""What is plugged into this machine."""

from __future__ import annotations

from typing import Annotated, Any, Callable, Dict, List, Literal, Mapping, Optional, Tuple

from pibot.skills import Output, skill
from pibot.skills import _inventory as inventory

Kind = Literal["usb", "serial", "block", "cameras", "sound", "buses"]
One = Dict[str, Any]


@skill(
    timeout_s=20,
    phrases=[
        "[list] [the|all] [connected|attached] devices",
        'list [the|all] usb devices => {"kind": "usb"}',
        '[connected] usb [devices] => {"kind": "usb"}',
        '[list] [the|all] serial (ports|devices) => {"kind": "serial"}',
        '[list] [the|all] cameras => {"kind": "cameras"}',
        '[list] [the|all] sound (cards|devices) => {"kind": "sound"}',
        "[列出|查看][所有](外设|设备列表)",
        '[列出|查看][所有]usb(设备|外设)[列表] => {"kind": "usb"}',
        '[列出|查看][所有]串口[列表] => {"kind": "serial"}',
        '[列出|查看][所有](摄像头|相机)[列表] => {"kind": "cameras"}',
        '[列出|查看][所有]声卡[列表] => {"kind": "sound"}',
    ],
)
def devices(
    kind: Annotated[Optional[Kind], "one kind only; leave it out for all"] = None,
) -> Output:
    """List what is connected: USB devices, serial ports, disks, cameras, sound, I²C and SPI."""
    names = [kind] if kind else list(_KINDS)
    data = {name: _KINDS[name][0]() for name in names}
    lines = [f"{name}: {_KINDS[name][1](one)}" for name in names for one in data[name]]
    lines += [f"{name}: none" for name in names if not data[name]]
    return Output(data, "\n".join(lines))


def _usb(one: One) -> str:
    name = " ".join(text for text in (one["vendor"], one["product"]) if text) or "no name"
    classes = f" ({', '.join(one['classes'])})" if one["classes"] else ""
    return f"{one['port']} {one['vendor_id']}:{one['product_id']} {name}{classes}"


def _serial(one: One) -> str:
    more = [one["driver"], one["by_id"]]
    return " ".join([one["path"], *(text for text in more if text)])


def _block(one: One) -> str:
    size = f"{one['size_bytes'] / 1e9:.1f} GB"
    removable = " removable" if one["removable"] else ""
    return f"{one['name']} {one['model'] or 'no name'} {size}{removable}"


def _camera(one: One) -> str:
    return f"{one['path']} {one['name']}"


def _sound(one: One) -> str:
    can = [name for name in ("playback", "capture") if one[name]]
    return f"card {one['card']} device {one['device']} {one['name']} ({', '.join(can)})"


def _bus(one: One) -> str:
    return f"{one['kind']} {one['name']}" + (f" {one['what']}" if one["what"] else "")


_KINDS: Mapping[str, Tuple[Callable[[], List[One]], Callable[[One], str]]] = {
    "usb": (inventory.usb, _usb),
    "serial": (inventory.serial, _serial),
    "block": (inventory.block, _block),
    "cameras": (inventory.cameras, _camera),
    "sound": (inventory.sound, _sound),
    "buses": (inventory.buses, _bus),
}
