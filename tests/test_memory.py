"""Freed memory goes back: measured in a process that works as a worker with large results does."""

from __future__ import annotations

import subprocess
import sys

WORK = """
import json, sys, threading
from pathlib import Path
from pibot.memory import give_back

def resident_mb():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 2**20

def handle(size, kept):
    body = json.dumps({"text": "x" * size}).encode()
    kept.append(b"y" * 600)  # small, and it stays: it stands behind the large ones
    return len(json.loads(body)["text"])

if sys.argv[1] == "yes":
    give_back()
kept = []
before = resident_mb()
for i in range(24):
    threads = [threading.Thread(target=handle, args=(2**20 * n, kept)) for n in (1, 2, 3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
print(resident_mb() - before)
"""


def grown_mb(gives_back: str) -> float:
    args = [sys.executable, "-c", WORK, gives_back]
    done = subprocess.run(args, check=True, capture_output=True, text=True, timeout=60)
    return float(done.stdout)


def test_what_was_large_does_not_stay() -> None:
    assert grown_mb("yes") < 3.0


def test_a_closed_process_can_not_be_looked_into() -> None:
    """3 is PR_GET_DUMPABLE; what that means is tried in security/test_attack_secrets.py."""
    code = "import ctypes; from pibot import memory; memory.close(); "
    code += "print(ctypes.CDLL(None).prctl(3, 0, 0, 0, 0))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "0\n", done.stderr
