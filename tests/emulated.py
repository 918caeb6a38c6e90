"""Machines that QEMU emulates, with a real kernel of Debian's, for what needs a kernel's drivers.

    outcomes = emulated.run(emulated.PI, folder, ["test_gpio.py"])

A machine's whole file system is in memory: a userland (build/userlands.py), the skills, pytest, and
the tests of tests/skills/kernel. Its first process is emulated_init.py; what it prints comes over
a serial line.
"""

from __future__ import annotations

import gzip
import importlib.util
import os
import re
import shutil
import stat
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Dict, Iterator, List, Mapping, Optional, Sequence, Tuple

from fleet_processes import ROOT, wait_for

sys.path.append(str(ROOT / "build"))
from userlands import ROOTS, Userland, prepare

TESTS = ROOT / "tests" / "skills" / "kernel"
PYTEST = ("pytest", "_pytest", "pluggy", "iniconfig", "packaging", "pygments", "py")
TOOLS = {"debootstrap": "debootstrap", "qemu-system-aarch64": "qemu-system-arm"}
TOOLS["qemu-system-x86_64"] = "qemu-system-x86"
RUN_S = 420.0  # twenty times what a machine of today needs
# Parts of a userland that a test does not need.
LEFT_OUT = re.compile(
    r"boot|var|usr/(sbin|libexec|share)|usr/bin/perl.*|usr/lib/modules|usr/lib/linux-image.*"
    r"|usr/lib/(locale|systemd|udev|apt|dpkg|valgrind)"
    r"|usr/lib/[^/]+-linux-gnu/(perl|perl-base|gconv|libperl.*|libapt.*|systemd)"
)


@dataclass(frozen=True)
class Emulated:
    """A machine: QEMU's words for it, its kernel's console, modules with their parameters."""

    name: str
    userland: Userland
    qemu: Tuple[str, ...]
    console: str
    modules: Mapping[str, str]
    environment: Mapping[str, str]
    device_tree: str = ""


HUB = ("-device", "usb-hub,bus=usb-bus.0,port=1")
KEYBOARD = ("-device", "usb-kbd,bus=usb-bus.0,port=1.1")
ADAPTER = (
    "-chardev",
    "null,id=none",
    "-device",
    "usb-serial,always-plugged=on,chardev=none,port=1.2",
)
PI = Emulated(
    "pi",
    Userland("bookworm", "arm64", "linux-image-arm64"),
    ("qemu-system-aarch64", "-M", "raspi3b", "-serial", "null", *HUB, *KEYBOARD, *ADAPTER),
    "ttyS1",
    dict.fromkeys(
        ("i2c_bcm2835", "bcm2835_thermal", "dwc2", "usbhid", "hid_generic", "ftdi_sio"), ""
    ),
    {"FREE_PINS": "17,27", "WAIT_FOR": "/sys/class/tty/ttyUSB0"},
    "bcm2837-rpi-3-b.dtb",
)
PC = Emulated(
    "pc",
    Userland("bookworm", "amd64", "linux-image-amd64"),
    ("qemu-system-x86_64", "-M", "pc", "-m", "1024"),
    "ttyS0",
    {"i2c_dev": "", "i2c_stub": "chip_addr=0x20,0x48", "lm75": ""},
    {},
)


def what_is_missing() -> str:
    """Why no machine can be emulated here, "" when one can."""
    packages = sorted(package for tool, package in TOOLS.items() if not shutil.which(tool))
    return f"run: apt-get install {' '.join(packages)}" if packages else ""


def run(machine: Emulated, folder: Path, tests: Sequence[str]) -> Dict[str, str]:
    """The outcome of each test, by its name; the whole output is in folder/console.txt."""
    prepare(machine.userland)
    root = ROOTS / machine.userland.name
    archive, console = folder / "files.cpio.gz", folder / "console.txt"
    with gzip.open(archive, "wb", compresslevel=1) as file:
        for number, entry in enumerate(_entries(machine, root, tests)):
            file.write(_written(number, *entry))
    console.unlink(missing_ok=True)
    words = [*machine.qemu, "-display", "none", "-no-reboot", "-serial", f"file:{console}"]
    words += ["-kernel", str(_only(root, "boot/vmlinuz-*")), "-initrd", str(archive)]
    if machine.device_tree:
        words += ["-dtb", str(_only(root, f"usr/lib/linux-image-*/broadcom/{machine.device_tree}"))]
    # The kernel hands on what it does not know to the first process as its environment.
    environment = {"PYTHONHASHSEED": "1", "EMULATED": machine.name, **machine.environment}
    settings = " ".join(f"{name}={value}" for name, value in environment.items())
    words += ["-append", f"console={machine.console},115200 loglevel=3 panic=-1 {settings}"]
    qemu = subprocess.Popen(words, stdin=subprocess.DEVNULL)
    try:
        wait_for(lambda: qemu.poll() is not None or _has_ended(console), RUN_S)
    finally:
        qemu.kill()
        qemu.wait()
    said = console.read_text("utf-8", "replace")
    return {name: how for how, name in re.findall(r"^(PASSED|FAILED|ERROR) (\S+)", said, re.M)}


def _has_ended(console: Path) -> bool:
    said = console.read_bytes() if console.exists() else b""
    return b"\nENDED " in said or b"Kernel panic" in said


def _only(root: Path, pattern: str) -> Path:
    (found,) = root.glob(pattern)
    return found


# --- its files ---------------------------------------------------------------------------------

Entry = Tuple[str, int, bytes]  # name, mode, content


def _entries(machine: Emulated, root: Path, tests: Sequence[str]) -> Iterator[Entry]:
    for name in ("proc", "sys", "dev", "tmp", "t", "t/site", "t/tests", "t/modules.d"):
        yield name, stat.S_IFDIR | 0o755, b""
    yield from _tree(root, "", LEFT_OUT)
    yield from _tree(ROOT / "src", "t/src", None)
    for name in PYTEST:
        yield from _package(name)
    for path in (TESTS.parent / "conftest.py", *TESTS.glob("*.py")):
        yield f"t/tests/{path.name}", stat.S_IFREG | 0o644, path.read_bytes()
    lines = []
    for path, parameters in _modules(root, machine.modules):
        yield f"t/modules.d/{path.name}", stat.S_IFREG | 0o644, path.read_bytes()
        lines.append(f"/t/modules.d/{path.name} {parameters}")
    yield "t/modules", stat.S_IFREG | 0o644, "\n".join(lines).encode()
    options = (
        "-B -m pytest -p no:cacheprovider --import-mode=importlib --color=no -q -rA --tb=short"
    )
    yield "t/words", stat.S_IFREG | 0o644, " ".join([options, *tests]).encode()
    yield "init", stat.S_IFREG | 0o755, (ROOT / "tests" / "emulated_init.py").read_bytes()
    yield "TRAILER!!!", 0, b""


def _tree(top: Path, name: str, left_out: Optional["re.Pattern[str]"]) -> Iterator[Entry]:
    """A directory and what is in it, without compiled Python and what is left out."""
    if name:
        yield name, stat.S_IFDIR | 0o755, b""
    for path in sorted(top.iterdir()):
        inner = f"{name}/{path.name}" if name else path.name
        mode = path.lstat().st_mode
        if path.name == "__pycache__" or left_out and left_out.fullmatch(inner):
            continue
        if stat.S_ISDIR(mode):
            yield from _tree(path, inner, left_out)
        elif stat.S_ISLNK(mode):
            yield inner, mode, os.readlink(path).encode()
        elif stat.S_ISREG(mode):
            yield inner, stat.S_IFREG | mode & 0o777, path.read_bytes()


def _package(name: str) -> Iterator[Entry]:
    found = importlib.util.find_spec(name)
    assert found is not None and found.origin is not None
    origin = Path(found.origin)
    if origin.name == "__init__.py":
        yield from _tree(origin.parent, f"t/site/{name}", None)
    else:
        yield f"t/site/{origin.name}", stat.S_IFREG | 0o644, origin.read_bytes()


def _modules(root: Path, wanted: Mapping[str, str]) -> List[Tuple[Path, str]]:
    """The files of modules, each after those that it needs."""
    files = {path.stem.replace("-", "_"): path for path in root.glob("usr/lib/modules/**/*.ko")}
    found: Dict[Path, str] = {}

    def add(name: str) -> None:
        path = files.get(name.replace("-", "_"))
        if path is None or path in found:
            return  # built into the kernel
        needs = re.search(rb"\0depends=([^\0]*)\0", path.read_bytes())
        for need in needs[1].decode().split(",") if needs else []:
            add(need)
        found[path] = wanted.get(name, "")

    for name in wanted:
        add(name)
    return list(found.items())


def _written(number: int, name: str, mode: int, content: bytes) -> bytes:
    """An entry of a cpio archive, as the kernel reads it (`newc`)."""
    fields = (number, mode, 0, 0, 1, 0, len(content), 0, 0, 0, 0, len(name.encode()) + 1, 0)
    head = b"070701" + b"".join(b"%08X" % field for field in fields) + name.encode() + b"\0"
    return head + bytes(-len(head) % 4) + content + bytes(-len(content) % 4)
