"""The system calls that a command in the sandbox may not make, as a program for the kernel.

A classic BPF program over `struct seccomp_data` (seccomp(2), linux/filter.h, linux/audit.h): what
opens ways out of namespaces (mounts, other namespaces, tracing, keys, kernel modules …) answers
"not permitted". A filter has to check the architecture of each call, because a number means another
call on another one: a 64-bit ARM kernel also runs 32-bit programs, so both have a table; on x86_64
nothing but its own calls is let through, x32 neither.
"""

from __future__ import annotations

import errno
import platform
import struct
from typing import Dict, List, Mapping, Optional, Tuple

_X86_64, _AARCH64, _ARM = 0xC000003E, 0xC00000B7, 0x40000028  # AUDIT_ARCH_*
_X32 = 0x40000000  # the bit in a call's number
# CLONE_NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET
_NEW_NAMESPACES = 0x7E020000
_TERMINAL_INPUT = (0x5412, 0x541C)  # TIOCSTI, TIOCLINUX: type into somebody's terminal
_FAMILIES = (1, 2, 10, 16)  # AF_UNIX, INET, INET6, NETLINK; others are not all in a namespace

# Of every architecture since Linux 5.1.
_COMMON = {
    "io_uring_setup": 425,
    "io_uring_enter": 426,
    "io_uring_register": 427,
    "open_tree": 428,
    "move_mount": 429,
    "fsopen": 430,
    "fsconfig": 431,
    "fsmount": 432,
    "fspick": 433,
    "pidfd_getfd": 438,
    "mount_setattr": 442,
    "quotactl_fd": 443,
}
# The names stand once, in the order of the numbers below.
_NAMES = (
    "ptrace keyctl add_key request_key bpf userfaultfd perf_event_open mount umount2 pivot_root"
    " unshare setns kexec_load kexec_file_load init_module finit_module delete_module"
    " name_to_handle_at open_by_handle_at process_vm_readv process_vm_writev kcmp chroot swapon"
    " swapoff reboot acct quotactl syslog clock_settime settimeofday adjtimex clock_adjtime"
    " sethostname setdomainname clone ioctl socket"
)
_NUMBERS: Mapping[int, str] = {
    _X86_64: (
        "101 250 248 249 321 323 298 165 166 155 272 308 246 320 175 313 176 303 304 310 311 312"
        " 161 167 168 169 163 179 103 227 164 159 305 170 171 56 16 41"
    ),
    _AARCH64: (
        "117 219 217 218 280 282 241 40 39 41 97 268 104 294 105 273 106 264 265 270 271 272"
        " 51 224 225 142 89 60 116 112 170 171 266 161 162 220 29 198"
    ),
    _ARM: (
        "26 311 309 310 386 388 364 21 52 218 337 375 347 401 128 379 129 370 371 376 377 378"
        " 61 87 115 88 51 131 103 262 79 124 372 74 121 120 54 281"
    ),
}
_MORE: Mapping[int, Mapping[str, int]] = {
    _X86_64: {"iopl": 172, "ioperm": 173, "modify_ldt": 154, "uselib": 134, "_sysctl": 156},
    _ARM: {"clock_settime64": 404, "clock_adjtime64": 405, "uselib": 86, "_sysctl": 149},
}
_CLONE3 = 435
_FAMILIES_OF_MACHINES: Mapping[str, Tuple[int, ...]] = {
    "x86_64": (_X86_64,),
    "aarch64": (_AARCH64, _ARM),
    **dict.fromkeys(("armv6l", "armv7l", "armv8l"), (_ARM,)),
}
_LOOKED_INTO = frozenset({"clone", "ioctl", "socket"})

_LOAD, _EQUAL, _ANY_BIT, _JUMP, _RETURN = 0x20, 0x15, 0x45, 0x05, 0x06
_ALLOW = 0x7FFF0000
_KILL = 0x80000000  # the whole process
_ERRNO = 0x00050000
_NR, _ARCH, _ARGS = 0, 4, 16  # offsets in seccomp_data

Instruction = Tuple[int, int, int, int]


def program(machine: str = "") -> Optional[bytes]:
    """The filter for a machine as uname(1) names it; None when there are no tables for it."""
    archs = _FAMILIES_OF_MACHINES.get(machine or platform.machine())
    if archs is None:
        return None
    code: List[Instruction] = [(_LOAD, 0, 0, _ARCH)]
    for arch in archs:
        part = _part(arch)
        code += [(_EQUAL, 1, 0, arch), (_JUMP, 0, 0, len(part)), *part]
    code.append(_answer(_KILL))
    return b"".join(struct.pack("<HBBI", *one) for one in code)


def table(arch: int) -> Dict[str, int]:
    """The numbers of the calls that are denied or looked into."""
    return {
        **dict(zip(_NAMES.split(), map(int, _NUMBERS[arch].split()))),
        **_COMMON,
        **_MORE.get(arch, {}),
    }


def _part(arch: int) -> List[Instruction]:
    numbers = table(arch)
    code: List[Instruction] = [(_LOAD, 0, 0, _NR)]
    if arch == _X86_64:
        code += [(_ANY_BIT, 0, 1, _X32), _answer(_KILL)]
    for name, number in numbers.items():
        if name not in _LOOKED_INTO:
            code += [(_EQUAL, 0, 1, number), _answer(_ERRNO | errno.EPERM)]
    # Its flags lie in memory, where nothing can look: without it, programs use clone.
    code += [(_EQUAL, 0, 1, _CLONE3), _answer(_ERRNO | errno.ENOSYS)]
    code += _looking(numbers["clone"], 0, [(_ANY_BIT, 0, 1, _NEW_NAMESPACES)], deny=True)
    requests = [(_EQUAL, 0, 1, one) for one in _TERMINAL_INPUT]
    code += _looking(numbers["ioctl"], 1, requests, deny=True)
    families = [(_EQUAL, 0, 1, one) for one in _FAMILIES]
    code += _looking(numbers["socket"], 0, families, deny=False)
    return [*code, _answer(_ALLOW)]


def _looking(number: int, arg: int, tests: List[Instruction], deny: bool) -> List[Instruction]:
    """For one call: deny (or allow) what one of the tests finds in an argument's lower half."""
    found = _answer(_ERRNO | errno.EPERM if deny else _ALLOW)
    other = _answer(_ALLOW if deny else _ERRNO | errno.EPERM)
    body = [(_LOAD, 0, 0, _ARGS + 8 * arg)]
    for test in tests:
        body += [test, found]
    body.append(other)
    return [(_EQUAL, 0, len(body), number), *body]


def _answer(value: int) -> Instruction:
    return (_RETURN, 0, 0, value)
