"""I²C devices that no driver of the kernel has: which addresses answer, and what registers hold."""

from __future__ import annotations

from typing import Annotated, Any, Dict, List, Optional

from pibot.skills import Context, Output, SkillError, skill
from pibot.skills import _hardware as hardware
from pibot.skills import _i2cbus as i2cbus


@skill(
    timeout_s=60,
    phrases=[
        "(scan|list) [the] i2c [bus|devices]",
        "i2c (scan|devices)",
        "scan [the] i2c bus {bus:word}",
        "(扫描|列出)i2c[总线|设备]",
    ],
    parallel=False,
    available=hardware.off("i2c_scan", i2cbus.problem),
)
def i2c_scan(
    ctx: Context,
    bus: Annotated[Optional[int], "number of the bus; 1 is on a Pi's header"] = None,
) -> Output:
    """Find the addresses of an I²C bus at which a device answers. Nothing is written to them."""
    found: List[Dict[str, Any]] = []
    with i2cbus.opened(bus) as opened:
        for address in range(i2cbus.FIRST, i2cbus.LAST + 1):
            if ctx.cancelled.is_set():
                raise SkillError("the scan was stopped", {"devices": found})
            state = opened.state(address)
            if state:
                found.append({"address": address, "hex": f"0x{address:02x}", "state": state})
        number, name = opened.number, i2cbus.buses().get(opened.number, "")
    shown = [f"{d['hex']}{' (has a driver)' if d['state'] == 'driver' else ''}" for d in found]
    text = f"bus {number}: {', '.join(shown) or 'nothing answers'}"
    return Output({"bus": number, "name": name, "devices": found}, text)


@skill(timeout_s=20, parallel=False, available=hardware.off("i2c_read", i2cbus.problem))
def i2c_read(
    address: Annotated[int, "7-bit address of the device, 8 to 119 (0x77)"],
    register: Annotated[int, "the first register, 0 to 255"],
    count: Annotated[int, "how many bytes, 1 to 32"] = 1,
    bus: Annotated[Optional[int], "number of the bus; 1 is on a Pi's header"] = None,
) -> Output:
    """Read registers of an I²C device, such as a sensor without a driver."""
    if not i2cbus.FIRST <= address <= i2cbus.LAST:
        raise SkillError(f"address must be {i2cbus.FIRST} to {i2cbus.LAST}, not {address}")
    if not 0 <= register <= 255 or not 1 <= count <= min(i2cbus.MOST_BYTES, 256 - register):
        raise SkillError("register must be 0 to 255, count 1 to 32, and the last register 255")
    with i2cbus.opened(bus) as opened:
        try:
            raw = opened.read(address, register, count)
        except OSError as error:
            raise SkillError(
                f"nothing could be read from 0x{address:02x} on bus {opened.number}"
                f" ({error.strerror}); i2c_scan shows what answers"
            ) from None
        number = opened.number
    data = {"bus": number, "address": address, "register": register, "bytes": list(raw)}
    return Output({**data, "hex": raw.hex(" ")}, raw.hex(" "))
