"""Types the blocks of a guide into the machines of a lab, and compares what comes of it."""

from __future__ import annotations

import re
import time
from typing import Mapping

import guide
from fleet_processes import Finished
from machines import Lab, Machine
from terminal import Terminal

SETTLE_S = 30.0
AGAIN_S = 0.5
# What only asks may be asked again until the fleet has settled, as a person does.
_ASKS = re.compile(
    r"(sudo )?(cat|curl|journalctl|sha256sum|systemctl (is-|show|status)|ss|stat|timedatectl"
    r"|pibot\.pyz (status|health|doctor|selftest|tasks|skills|version|workers list))\b"
)
_NANO = '#!/bin/sh\ncat /etc/to-type >>"$1"\n'  # it types what was laid ready


def follow(lab: Lab, block: guide.Block, own: Mapping[str, str] = {}) -> None:
    """Do what a block says; raise AssertionError when what comes is not what the guide says.

    `own` are the words of the guide that a person has words of one's own for, such as a key.
    """
    machine = lab[block.place]
    if block.typed is not None:
        _lay_ready(machine, block.typed, own)
    if block.script == "sudo reboot\n":
        machine.reboot()
        return
    deadline = time.monotonic() + (SETTLE_S if _only_asks(block.script) else 0)
    while True:
        done = _type(machine, block)
        if done.status == 0 and block.agrees(done.out):
            return
        if time.monotonic() > deadline:
            raise AssertionError(_difference(block, done, lab))
        time.sleep(AGAIN_S)


def _type(machine: Machine, block: guide.Block) -> Finished:
    script = f"set -e\n{block.script}"
    if not block.questions:
        return machine.run(script, check=None)

    def answer(terminal: Terminal) -> None:
        for question, words in block.questions:
            terminal.expect(question)
            terminal.send(words + "\r")

    return machine.converse(script, answer)


def _only_asks(script: str) -> bool:
    return all(_ASKS.match(line) for line in script.splitlines())


def _lay_ready(machine: Machine, typed: str, own: Mapping[str, str]) -> None:
    for words, others in own.items():
        typed = typed.replace(words, others)
    machine.write("/etc/to-type", typed)
    machine.write("/usr/local/bin/nano", _NANO, 0o755)


def _difference(block: guide.Block, done: Finished, lab: Lab) -> str:
    where = f"line {block.line} on {block.place}, status {done.status}\n{block.script}"
    expected = "" if block.printed is None else f"--- the page says\n{block.printed}"
    return f"{where}{expected}--- it printed\n{done.out}\n{lab.journals()}"
