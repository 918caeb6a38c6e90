"""Which interpreter gets which form of a part."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any, Dict, List, Optional, Tuple

import pytest

from pibot import parts


def offer(python: Tuple[int, int], archives: List[str], tags: List[str]) -> Dict[str, Any]:
    return {"part": "model", "python": list(python), "archives": archives, "tags": tags}


X86, ARM = "cpython-311-x86_64-linux-gnu", "cpython-311-arm-linux-gnueabihf"
OLD = "cpython-39-x86_64-linux-gnu"
OFFERS = [
    offer((3, 10), ["new", "new-x86_64"], [X86]),
    offer((3, 10), ["new", "new-armv7l"], [ARM]),
    offer((3, 10), ["new", "pure"], []),
    offer((3, 9), ["old", "old-x86_64"], [OLD]),
    offer((3, 9), ["old", "pure"], []),
]


@pytest.mark.parametrize(
    "python, tag, archives",
    [
        ((3, 11), X86, ["new", "new-x86_64"]),
        ((3, 11), ARM, ["new", "new-armv7l"]),
        ((3, 11), "", ["new", "pure"]),
        ((3, 11), "cpython-311-x86_64-linux-musl", ["new", "pure"]),
        ((3, 15), "cpython-315-x86_64-linux-gnu", ["new", "pure"]),
        ((3, 9), OLD, ["old", "old-x86_64"]),
        ((3, 9), "cpython-39-riscv64-linux-gnu", ["old", "pure"]),
        ((3, 8), OLD, None),
    ],
)
def test_the_first_offer_that_fits(
    python: Tuple[int, int], tag: str, archives: Optional[List[str]]
) -> None:
    chosen = parts.choose(OFFERS, "model", python, tag)
    assert (chosen["archives"] if chosen else None) == archives
    assert chosen is None or chosen["tag"] == (tag if "pure" not in archives else None)
    assert parts.choose(OFFERS, "broker", python, tag) is None


@pytest.mark.parametrize(
    "suffixes, machine, tag",
    [
        ([".cpython-311-x86_64-linux-gnu.so", ".abi3.so", ".so"], "x86_64", X86),
        # A 32-bit system on a 64-bit kernel is what its interpreter says.
        ([".cpython-311-arm-linux-gnueabihf.so", ".abi3.so", ".so"], "aarch64", ARM),
        # A Pi Zero says the same as an ARMv7, whose libraries it cannot run.
        ([".cpython-311-arm-linux-gnueabihf.so", ".abi3.so", ".so"], "armv6l", ""),
        ([".pypy39-pp73-x86_64-linux-gnu.so"], "x86_64", ""),
        ([], "x86_64", ""),
    ],
)
def test_what_an_interpreter_is_called(suffixes: List[str], machine: str, tag: str) -> None:
    assert parts.own_tag(suffixes, machine) == tag


def test_an_installation_needs_no_parts() -> None:
    code = "from pibot import parts; parts.ensure('model'); print(parts.describe())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("None\n", "")
    command = [sys.executable, "-m", "pibot.cli", "version"]
    said = subprocess.run(command, capture_output=True, text=True).stdout
    assert said.splitlines()[-1] == "parts: the installation's own"
    assert not Path(parts.__file__).with_suffix(".json").exists()
