"""Pis for the tests of hardware skills: recorded files, and scripts in the place of programs."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import List

import pytest

from pibot.skills import _hardware, _program
from recorded_machine import Machine

RAN = "ran.json"  # what a script was called with, a line of JSON a call

# Says how it was called, and then does what the test says in DO.
SCRIPT = """#!/usr/bin/python3
import json, os, sys, time
call = {{"words": sys.argv[1:], "environment": dict(os.environ)}}
call["input"] = os.readlink("/proc/self/fd/0")
with open({ran!r}, "a") as ran:
    print(json.dumps(call), file=ran)
out = sys.stdout.buffer
{do}
"""


def recorded(name: str, folder: Path, patch: pytest.MonkeyPatch) -> Machine:
    """A recorded machine in the place of this one, for the skills of this process."""
    machine = Machine(folder)
    if name:
        machine.recorded(name)
    patch.setattr(_hardware, "ROOT", folder)
    patch.setattr(_program, "PLACES", (str(folder / "usr/bin"),))
    return machine


def script(machine: Machine, name: str, do: str) -> None:
    """A program that runs these lines of Python; `out` is its standard output."""
    text = SCRIPT.format(ran=str(machine.root / RAN), do=do)
    machine.file(f"/usr/bin/{name}", text, 0o755)


def calls(machine: Machine) -> List[dict]:
    """How the scripts were called so far."""
    file = machine.root / RAN
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def device(machine: Machine, path: str) -> None:
    """A file where a device is: what matters here is whether it may be opened."""
    machine.file(path, mode=0o666)


def jpeg(width: int = 640, height: int = 480) -> bytes:
    """The beginning of a JPEG image of that size, with a comment before its frame."""
    comment = b"\xff\xfe" + struct.pack(">H", 9) + b"a Pi \xff\xd8"
    frame = b"\xff\xc0" + struct.pack(">HBHHB", 17, 8, height, width, 3) + bytes(9)
    return b"\xff\xd8" + comment + frame + b"\xff\xd9"


def wav(seconds: float = 1.0, rate: int = 16000) -> bytes:
    """Silence of 16 bits a sample, one channel."""
    samples = bytes(int(seconds * rate) * 2)
    form = struct.pack("<HHIIHH", 1, 1, rate, rate * 2, 2, 16)
    body = b"WAVEfmt " + struct.pack("<I", 16) + form + b"data" + struct.pack("<I", len(samples))
    return b"RIFF" + struct.pack("<I", len(body) + len(samples)) + body + samples
