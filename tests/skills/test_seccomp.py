"""The filter of system calls: read by a small machine here, by the kernel in the attack cases."""

from __future__ import annotations

import re
import struct
from pathlib import Path
from typing import Dict, Sequence

import pytest

from pibot.skills import _seccomp

ALLOW, KILL, EPERM, ENOSYS = 0x7FFF0000, 0x80000000, 0x00050001, 0x00050026
X86_64, AARCH64, ARM, I386 = 0xC000003E, 0xC00000B7, 0x40000028, 0x40000003
HEADERS = {
    X86_64: ("/usr/include/x86_64-linux-gnu/asm/unistd_64.h", "/usr/include/asm/unistd_64.h"),
    AARCH64: ("/usr/include/asm-generic/unistd.h",),
}


def verdict(machine: str, arch: int, number: int, args: Sequence[int] = ()) -> int:
    """What the kernel would answer (net/core/filter.c, kernel/seccomp.c)."""
    program = _seccomp.program(machine)
    assert program is not None
    code = list(struct.iter_unpack("<HBBI", program))
    padded = [*args, *[0] * (6 - len(args))]
    data = struct.pack("<iIQ6Q", number, arch, 0, *padded)
    at = accumulator = 0
    while True:
        op, yes, no, k = code[at]
        at += 1
        if op == 0x20:
            (accumulator,) = struct.unpack_from("<I", data, k)
        elif op == 0x15:
            at += yes if accumulator == k else no
        elif op == 0x45:
            at += yes if accumulator & k else no
        elif op == 0x05:
            at += k
        else:
            assert op == 0x06
            return int(k)


KINDS = [("x86_64", X86_64), ("aarch64", AARCH64), ("aarch64", ARM), ("armv7l", ARM)]


@pytest.mark.parametrize(("machine", "arch"), KINDS)
def test_what_is_denied(machine: str, arch: int) -> None:
    table = _seccomp.table(arch)
    looked_into = {name: table.pop(name) for name in ("clone", "ioctl", "socket")}
    assert {name for name, n in table.items() if verdict(machine, arch, n) != EPERM} == set()
    assert verdict(machine, arch, 435) == ENOSYS
    clone, ioctl, socket = looked_into.values()
    for bit in (17, 25, 26, 27, 28, 29, 30):
        assert verdict(machine, arch, clone, [1 << bit]) == EPERM
    assert verdict(machine, arch, clone, [0x01200011]) == ALLOW  # as fork(3) calls it
    assert verdict(machine, arch, ioctl, [0, 0x5412]) == EPERM
    assert verdict(machine, arch, ioctl, [0, 0x5413]) == ALLOW
    assert [verdict(machine, arch, socket, [f]) for f in (1, 2, 10, 16)] == [ALLOW] * 4
    assert [verdict(machine, arch, socket, [f]) for f in (17, 38, 40)] == [EPERM] * 3
    allowed = set(range(400)) - {*table.values(), *looked_into.values()}
    assert {n for n in allowed if verdict(machine, arch, n) != ALLOW} == set()


@pytest.mark.parametrize(
    ("machine", "arch"),
    [("x86_64", I386), ("x86_64", ARM), ("aarch64", X86_64), ("armv7l", AARCH64), ("armv6l", 0)],
)
def test_calls_of_another_architecture_end_the_process(machine: str, arch: int) -> None:
    assert verdict(machine, arch, 1) == KILL


def test_x32_ends_the_process() -> None:
    assert verdict("x86_64", X86_64, 0x40000000 + 1) == KILL


def test_a_machine_without_a_table_has_no_filter() -> None:
    assert _seccomp.program("riscv64") is None


def test_the_program_is_one_that_the_kernel_takes() -> None:
    for machine in ("x86_64", "aarch64", "armv7l"):
        program = _seccomp.program(machine) or b""
        assert 0 < len(program) // 8 <= 4096  # BPF_MAXINSNS


@pytest.mark.parametrize("arch", sorted(HEADERS))
def test_the_numbers_are_those_of_the_kernels_headers(arch: int) -> None:
    path = next((Path(name) for name in HEADERS[arch] if Path(name).exists()), None)
    if path is None:
        pytest.skip("the headers of this kind of machine are not installed")
    form = re.compile(r"^#define __NR(?:3264)?_(\w+)\s+(\d+)", re.MULTILINE)
    known: Dict[str, int] = {name: int(n) for name, n in form.findall(path.read_text())}
    table = _seccomp.table(arch)
    assert {name: known[name] for name in table if name in known} == {
        name: n for name, n in table.items() if name in known
    }
    assert len(known.keys() & table.keys()) > 40
