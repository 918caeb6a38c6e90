"""Attacks through the hardware skills: pins, paths, words of programs, files of devices, programs.

Pins and buses are simulated at the kernel's side (tests/skills/simulated_kernel.py), so that each
case can see that nothing was driven or written. Everything else is real: files, links, processes.
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any, Dict, List

import pytest

from pibot.agent.library import load
from pibot.agent.tools import Context, Result, Toolbox
from pibot.skills import Permits, gpio
from recorded_machine import Machine
from security.hands import Hands, left_running
from skills.pi_hardware import RAN, calls, jpeg, script, wav
from skills.simulated_kernel import SimulatedBus, SimulatedChip

ENDLESS = "while True: out.write(b'x' * 65536)"


class Pi:
    """A recorded Pi whose programs are scripts, in the hands' directory."""

    def __init__(self, hands: Hands) -> None:
        self.hands = hands
        self.machine = Machine(hands.folder / "pi").recorded("pi5")
        for name in ("video0", "snd/pcmC2D0c", "snd/pcmC2D0p"):
            self.machine.file(f"/dev/{name}", mode=0o666)
        self.program("rpicam-still", f"out.write({jpeg()!r})")
        self.program("arecord", f"out.write({wav(0.1)!r})")
        self.program("aplay", "sys.stdin.buffer.read()")

    def program(self, name: str, do: str) -> None:
        script(self.machine, name, do)
        self.settle()

    def settle(self) -> None:
        """Only what a script writes belongs to the one whose hands these are: the rest is read."""
        root = self.machine.root
        (root / RAN).touch()
        self.hands.give(root / RAN)

    def call(self, skill: str, args: Dict[str, Any], **more: Any) -> Dict[str, Any]:
        root = self.machine.root
        patch = {
            "pibot.skills._hardware.ROOT": root,
            "pibot.skills._program.PLACES": [str(root / "usr/bin")],
        }
        return self.hands.call(skill, args, patch=patch, **more)


@pytest.fixture
def pi(hands: Hands) -> Pi:
    return Pi(hands)


# --- paths: nothing outside the workspace is written, read or played -----------------------------

PATHS = {
    "parents": "../outside/canary.jpg",
    "absolute": "/tmp/pibot-attack/photo.jpg",
    "deep parents": "a/../../outside/new.jpg",
    "system file": "/etc/cron.d/x.jpg",
    "zero byte": "photo.jpg\0.jpg",
    "an option": "--output=/etc/x.jpg",
    "short option": "-o/etc/x.jpg",
    "a device": "/dev/fb0.jpg",
    "newlines": "a\nb\x1b[2J.jpg",
}


@pytest.mark.parametrize("path", PATHS.values(), ids=PATHS.keys())
def test_a_photo_cannot_be_put_elsewhere(pi: Pi, path: str) -> None:
    done = pi.call("camera_photo", {"path": path})
    assert pi.hands.is_outside_unchanged()
    for call in calls(pi.machine):  # a path is never a word of the program
        assert path not in call["words"]
        assert call["words"][-4:] == ["--output", "-", "--camera", "0"]
    inside = {p.name for p in pi.hands.workspace.rglob("*")}
    assert done["success"] == bool(inside)  # a name like an option is a name in the workspace


@pytest.mark.parametrize("name", ["photo.jpg", "recording.wav"])
@pytest.mark.parametrize("how", ["link", "hard link", "fifo", "directory", "link on the way"])
def test_what_lies_there_is_not_written_through(pi: Pi, name: str, how: str) -> None:
    at, target = pi.hands.workspace / name, pi.hands.canary
    path = name
    if how == "link":
        at.symlink_to(target)
    elif how == "hard link":
        os.link(target, at)
        pi.hands.outside_is_now()
    elif how == "fifo":
        os.mkfifo(at)
    elif how == "directory":
        at.mkdir()
    else:
        (pi.hands.workspace / "d").symlink_to(pi.hands.outside)
        path = f"d/{name}"
    pi.hands.give(pi.hands.workspace, *pi.hands.workspace.iterdir())
    skill, args = ("camera_photo", {}) if name == "photo.jpg" else ("audio_record", {"seconds": 1})
    done = pi.call(skill, {**args, "path": path})
    assert not done["success"]
    assert pi.hands.is_outside_unchanged()


@pytest.mark.parametrize("how", ["link", "hard link", "fifo", "socket", "parents", "words", "elf"])
def test_what_is_no_file_of_ours_is_not_played(pi: Pi, how: str) -> None:
    path, at = "bell.wav", pi.hands.workspace / "bell.wav"
    secret = pi.hands.outside / "secret.wav"
    secret.write_bytes(wav(0.1))
    pi.hands.give(secret)
    if how == "link":
        at.symlink_to(secret)
    elif how == "hard link":
        os.link(secret, at)
    elif how == "fifo":
        os.mkfifo(at)
    elif how == "socket":
        import socket

        with socket.socket(socket.AF_UNIX) as made:
            made.bind(str(at))
    elif how == "parents":
        path = "../outside/secret.wav"
    else:
        at.write_bytes(b"\x7fELF" + bytes(100) if how == "elf" else b"words")
    started = time.monotonic()
    done = pi.call("audio_play", {"path": path})
    assert not done["success"]
    assert time.monotonic() - started < 15
    assert calls(pi.machine) == []


# --- arguments: nothing but numbers in range reaches a program ----------------------------------

ARGUMENTS: Dict[str, Any] = {
    "width as option": ("camera_photo", {"width": "--post-process-file=/etc/x", "height": 1}),
    "huge photo": ("camera_photo", {"width": 10**12, "height": 10**12}),
    "negative photo": ("camera_photo", {"width": -1, "height": -1}),
    "camera as list": ("camera_photo", {"camera": ["0", "-o", "/etc/x"]}),
    "camera below 0": ("camera_photo", {"camera": -1}),
    "unknown argument": ("camera_photo", {"output": "/etc/x"}),
    "huge recording": ("audio_record", {"seconds": 10**9}),
    "no time": ("audio_record", {"seconds": 0}),
    "time before now": ("audio_record", {"seconds": -5}),
    "not a number": ("audio_record", {"seconds": "5; reboot"}),
    "card as option": ("audio_record", {"seconds": 1, "card": "0 --dump-hw-params"}),
    "card of a plugin": ("audio_record", {"seconds": 1, "card": "file:/etc/x"}),
    "card below 0": ("audio_record", {"seconds": 1, "card": -1}),
    "infinite time": ("audio_record", {"seconds": float("1e308")}),
}


@pytest.mark.parametrize(("skill", "args"), ARGUMENTS.values(), ids=ARGUMENTS.keys())
def test_arguments_out_of_range_start_nothing(pi: Pi, skill: str, args: Dict[str, Any]) -> None:
    done = pi.call(skill, args)
    assert not done["success"]
    assert calls(pi.machine) == []


# --- programs that do not behave ----------------------------------------------------------------


def test_a_program_that_prints_for_ever_is_ended(pi: Pi) -> None:
    marker = f"endless-{os.getpid()}-{pi.hands.user}"
    pi.program("rpicam-still", f"# {marker}\n{ENDLESS}")
    done = pi.call("camera_photo", {})
    assert not done["success"]
    assert "printed more than 33554432 bytes" in done["output"]
    assert left_running(str(pi.machine.root)) == []
    assert list(pi.hands.workspace.iterdir()) == []


def test_errors_for_ever_fill_no_memory(pi: Pi) -> None:
    pi.program("rpicam-still", "while True: sys.stderr.write('e' * 65536)")
    done = pi.call("camera_photo", {}, time_s=1)
    assert not done["success"]
    assert len(json.dumps(done)) < 5000
    assert left_running(str(pi.machine.root)) == []


def test_a_program_that_hangs_is_ended_in_time(pi: Pi) -> None:
    pi.program("rpicam-still", "import signal; signal.signal(15, 1); time.sleep(600)")
    started = time.monotonic()
    done = pi.call("camera_photo", {}, time_s=1)
    assert not done["success"]
    assert time.monotonic() - started < 12
    assert left_running(str(pi.machine.root)) == []


def test_a_program_leaves_no_children(pi: Pi) -> None:
    child = f"{pi.machine.root}/usr/bin/left-behind"
    pi.machine.file("/usr/bin/left-behind", "#!/bin/sh\nwhile :; do /bin/sleep 1; done\n", 0o755)
    do = f"import subprocess; subprocess.Popen([{child!r}]); out.write({jpeg()!r})"
    pi.program("rpicam-still", do)
    started = time.monotonic()
    done = pi.call("camera_photo", {})
    assert done["success"], done["output"]
    assert time.monotonic() - started < 12  # the child has its pipe, and is not waited for
    assert left_running("left-behind") == []


def test_what_a_program_says_cannot_change_a_terminal(pi: Pi) -> None:
    pi.program("rpicam-still", r"sys.exit('\x1b]0;owned\x07\x1b[2Jno \u202ecamera\r\n' * 2000)")
    said = pi.call("camera_photo", {})["output"]
    assert said.isprintable()
    assert len(said) < 400


def test_programs_get_no_secret_and_no_terminal(pi: Pi) -> None:
    assert pi.call("camera_photo", {})["success"]
    (call,) = calls(pi.machine)
    assert "canary" not in json.dumps(call)
    assert call["input"] == "/dev/null"


def test_a_program_in_the_workspace_is_not_started(pi: Pi) -> None:
    evil = pi.hands.workspace / "rpicam-still"
    evil.write_text(f"#!/bin/sh\ntouch {pi.hands.outside}/owned\n")
    evil.chmod(0o755)
    pi.hands.give(evil)
    (pi.machine.root / "usr/bin/rpicam-still").unlink()
    assert not pi.call("camera_photo", {})["success"]
    assert pi.hands.is_outside_unchanged()


def test_a_device_of_others_is_not_offered(pi: Pi) -> None:
    device = pi.machine.root / "dev/video0"
    device.chmod(0o600)
    os.chown(device, 0, 0) if os.geteuid() == 0 else device.unlink()
    done = pi.call("camera_photo", {})
    assert done["success"] == pi.hands.is_root
    assert bool(calls(pi.machine)) == pi.hands.is_root
    if not pi.hands.is_root:
        (note,) = (one for one in done["notes"] if one.startswith("camera_photo"))
        assert "put it into the group video" in note or "give it the drop-in" in note


# --- what devices and /sys say ------------------------------------------------------------------

ESCAPES = "\x1b]0;owned\x07\x1b[2J\x1b[31mStick\u202egnp\r\n\x9b5n\x00end"


def test_names_of_usb_devices_are_short_and_harmless(pi: Pi) -> None:
    product = pi.machine.root / "sys/bus/usb/devices/1-1/product"
    product.write_text(ESCAPES + "A" * 100_000)
    pi.settle()
    done = pi.call("devices", {"kind": "usb"})
    assert done["success"]
    name = done["data"]["usb"][0]["product"]
    assert name.isprintable()
    assert len(name) <= 64
    assert done["output"].replace("\n", "").isprintable()


SYS: Dict[str, bytes] = {
    "binary": bytes(range(256)) * 12,
    "formats": "\u00ad\u200b\u200f\ufeff\u0600\U000e0041".encode() * 100,
    "huge number": b"9" * 4000,
    "exponent": b"1e308\n",
    "not a number": b"nan\n",
    "infinite": b"inf\n",
    "escapes": ESCAPES.encode(),
    "empty": b"",
    "digits of others": "٣٤\n".encode(),
}


@pytest.mark.parametrize("content", SYS.values(), ids=SYS.keys())
def test_files_of_sys_that_hold_nonsense(pi: Pi, content: bytes) -> None:
    for path in pi.machine.root.joinpath("sys").rglob("*"):
        if path.is_file() and not path.is_symlink():
            path.write_bytes(content)
    for skill in ("sensors_read", "devices", "pi_facts"):
        done = pi.call(skill, {})
        assert done["output"].replace("\n", "").isprintable()
        json.dumps(done["data"], allow_nan=False)
        assert " failed: " not in done["output"]  # nothing that nobody foresaw


def test_files_of_sys_without_end_links_in_loops_and_pipes(pi: Pi) -> None:
    hwmon = pi.machine.root / "sys/class/hwmon"
    for folder, target in (("hwmon7", "hwmon7"), ("hwmon8", "/dev/zero"), ("hwmon9", "..")):
        (hwmon / folder).symlink_to(target)
    (hwmon / "hwmon6").mkdir()
    (hwmon / "hwmon6/temp1_input").symlink_to("/dev/zero")
    os.mkfifo(hwmon / "hwmon6/temp2_input")
    (hwmon / "hwmon6/name").symlink_to(pi.hands.canary)
    endless = hwmon / "hwmon6/temp3_input"
    endless.write_bytes(b"1")
    os.truncate(endless, 1 << 40)
    started = time.monotonic()
    done = pi.call("sensors_read", {})
    assert time.monotonic() - started < 10
    found = [one for one in done["data"]["sensors"] if one.get("label") in ("temp1", "temp2")]
    assert any(one["temperature_c"] is None for one in found)


def test_a_directory_with_more_names_than_there_are_devices(pi: Pi) -> None:
    tty = pi.machine.root / "sys/class/tty"
    for number in range(400):
        (tty / f"ttyUSB{number}/device").mkdir(parents=True)
    done = pi.call("devices", {"kind": "serial"})
    assert done["success"]
    assert len(done["data"]["serial"]) <= 256


# --- pins and buses, simulated at the kernel's side ---------------------------------------------


@pytest.fixture
def chip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SimulatedChip:
    from skills.pi_hardware import recorded

    return SimulatedChip(recorded("pi4", tmp_path / "pi", monkeypatch), monkeypatch)


def drive(tmp_path: Path, args: Dict[str, Any], pins: "tuple[int, ...]" = (17,)) -> Result:
    import threading

    permits = Permits(gpio_pins=pins)
    toolbox, _ = load(None, permits)
    ctx = Context(tmp_path, threading.Event(), time.monotonic() + 20, "t:1", permits)
    return toolbox.call("gpio_write", args, ctx)


PINS: Dict[str, Any] = {
    "not listed": {"pin": 18, "value": 1},
    "negative": {"pin": -1, "value": 1},
    "wraps to 17": {"pin": 17 + 2**32, "value": 1},
    "huge": {"pin": 10**30, "value": 1},
    "a fraction": {"pin": 17.5, "value": 1},
    "two pins": {"pin": [17, 18], "value": 1},
    "another chip": {"pin": "gpiochip1/17", "value": 1},
    "no level": {"pin": 17, "value": "blink"},
    "backwards": {"pin": 17, "value": 1, "seconds": -1},
    "no time": {"pin": 17, "value": 1, "seconds": 0},
    "for ever": {"pin": 17, "value": 1, "seconds": 1e300},
    "not a number": {"pin": 17, "value": 1, "seconds": "nan"},
    "longer than the task": {"pin": 17, "value": 1, "seconds": 3000},
}


@pytest.mark.parametrize("args", PINS.values(), ids=PINS.keys())
def test_no_pin_is_driven(chip: SimulatedChip, tmp_path: Path, args: Dict[str, Any]) -> None:
    assert not drive(tmp_path, args).success
    assert (chip.levels, chip.outputs) == ({}, [])
    assert gpio._HELD == {}


def test_a_pin_of_the_i2c_bus_is_not_driven_though_it_is_listed(
    chip: SimulatedChip, tmp_path: Path
) -> None:
    done = drive(tmp_path, {"pin": 2, "value": 1}, pins=(2, 17))
    assert not done.success
    assert "in use by i2c@7e804000" in done.output
    assert chip.outputs == []


def test_nobody_drives_pins_without_the_setting(chip: SimulatedChip, tmp_path: Path) -> None:
    done = drive(tmp_path, {"pin": 17, "value": 1}, pins=())
    assert "there is no skill 'gpio_write' here" in done.output
    done = Toolbox([gpio.gpio_write.__skill__]).call(  # type: ignore[attr-defined]
        "gpio_write", {"pin": 17, "value": 1}, _bare(tmp_path)
    )
    assert "PIBOT_GPIO_PINS permits none" in done.output
    assert chip.outputs == []


def _bare(tmp_path: Path) -> Context:
    import threading

    return Context(tmp_path, threading.Event(), time.monotonic() + 20, "t:1", Permits())


REGISTERS: List[Dict[str, Any]] = [
    {"address": 0x20, "register": 256},
    {"address": 0x20, "register": -1},
    {"address": 0x20, "register": 255, "count": 2},
    {"address": 0x20, "register": 0, "count": 33},
    {"address": 0x20, "register": 0, "count": -1},
    {"address": 0x20 + 2**7, "register": 0},
    {"address": 0, "register": 0},
    {"address": 0x48, "register": 0},
    {"address": 0x20, "register": 0, "bus": -1},
    {"address": 0x20, "register": 0, "bus": "1/../../mem"},
]


@pytest.mark.parametrize("args", REGISTERS, ids=[str(args) for args in REGISTERS])
def test_no_register_is_written_and_none_out_of_range_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, args: Dict[str, Any]
) -> None:
    from skills.pi_hardware import recorded

    machine = recorded("", tmp_path / "pi", monkeypatch)
    bus = SimulatedBus(machine, monkeypatch, {0x20: bytes(256), 0x48: bytes(256)})
    bus.drivers.append(0x48)
    toolbox, _ = load(None, Permits())
    done = toolbox.call("i2c_read", args, _bare(tmp_path))
    assert not done.success
    assert " failed: " not in done.output  # nothing that nobody foresaw
    assert bus.written == []
