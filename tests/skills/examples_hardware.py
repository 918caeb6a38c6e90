"""The examples of the hardware skills: a recorded Pi, a simulated chip and bus, scripts."""

from __future__ import annotations

import os
import pty
import tty
from dataclasses import replace

from pibot.skills import gpio
from recorded_machine import Machine
from skills.pi_hardware import device, jpeg, recorded, script, wav
from skills.simulated_kernel import SimulatedBus, SimulatedChip
from skills.stage import Prepared, Stage


def _pi(stage: Stage) -> Machine:
    return recorded("pi5", stage.tmp / "pi", stage.patch)


def _recorded(stage: Stage) -> None:
    _pi(stage)


def _chip(stage: Stage) -> None:
    SimulatedChip(_pi(stage), stage.patch)
    permits = replace(stage.ctx.permits, gpio_pins=(stage.args.get("pin", 17),))
    stage.ctx = replace(stage.ctx, permits=permits)
    stage.closing.callback(gpio._HELD.clear)


def _bus(stage: Stage) -> None:
    SimulatedBus(_pi(stage), stage.patch, {0x20: bytes(range(256))})


def _camera(stage: Stage) -> None:
    machine = _pi(stage)
    device(machine, "/dev/video0")
    script(machine, "rpicam-still", f"out.write({jpeg()!r})")


def _microphone(stage: Stage) -> None:
    machine = _pi(stage)
    device(machine, "/dev/snd/pcmC2D0c")
    script(machine, "arecord", f"out.write({wav(5)!r})")


def _speaker(stage: Stage) -> None:
    machine = _pi(stage)
    device(machine, "/dev/snd/pcmC2D0p")
    script(machine, "aplay", "sys.stdin.buffer.read()")
    (stage.ctx.workspace / stage.args["path"]).write_bytes(wav(0.1))


def _screen(stage: Stage) -> None:
    machine = _pi(stage)
    ends = pty.openpty()
    for fd in ends:
        stage.closing.callback(os.close, fd)
    tty.setraw(ends[1])
    (machine.root / "dev").mkdir(exist_ok=True)
    (machine.root / "dev/tty1").symlink_to(os.ttyname(ends[1]))


PREPARE: Prepared = {
    "gpio_list": _chip,
    "gpio_read": _chip,
    "gpio_write": _chip,
    "sensors_read": _recorded,
    "i2c_scan": _bus,
    "i2c_read": _bus,
    "camera_photo": _camera,
    "audio_record": _microphone,
    "audio_play": _speaker,
    "display_text": _screen,
    "devices": _recorded,
    "pi_facts": _recorded,
}
