"""Echo requests through the kernel's ping sockets: no program and no privileges are needed."""

from __future__ import annotations

import os
import struct
import threading
import time
from typing import Any, List, Optional

from pibot.skills import SkillError

GROUPS = "net.ipv4.ping_group_range"
_PACE_S = 0.5
_WAIT_S = 2.0
_LOOK_S = 0.05
_REQUEST = {4: 8, 6: 128}
_REPLY = {4: 0, 6: 129}
_DATA_BYTES = 32
_MOST_STRAYS = 1000  # packets of others while one of ours is awaited


def problem() -> Optional[str]:
    """Why the kernel gives this process no ping socket; None when it does."""
    import socket

    try:
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM, socket.IPPROTO_ICMP).close()
    except OSError as error:
        return (
            f"the kernel does not let the worker ping ({error.strerror}): set {GROUPS} to "
            '"0 2147483647" with sysctl'
        )
    return None


def times_ms(address: str, count: int, stop: threading.Event) -> List[Optional[float]]:
    """How long each answer took; None for one that has not come. An address is numeric."""
    import socket

    version = 6 if ":" in address else 4
    family, protocol = {
        4: (socket.AF_INET, socket.IPPROTO_ICMP),
        6: (socket.AF_INET6, socket.IPPROTO_ICMPV6),
    }[version]
    found: List[Optional[float]] = []
    try:
        with socket.socket(family, socket.SOCK_DGRAM, protocol) as sock:
            sock.connect((address, 0))
            for number in range(1, count + 1):
                if found and stop.wait(_PACE_S):
                    raise SkillError("ping was stopped: the call was cancelled")
                found.append(_once(sock, version, number, stop))
    except OSError as error:
        raise SkillError(f"{address} cannot be pinged: {error.strerror or error}") from None
    return found


def _once(sock: Any, version: int, number: int, stop: threading.Event) -> Optional[float]:
    """The kernel sets identifier and checksum, and passes on only what answers this socket."""
    data = os.urandom(_DATA_BYTES)
    began = time.monotonic()
    sock.send(struct.pack("!BBHHH", _REQUEST[version], 0, 0, 0, number) + data)
    for _ in range(_MOST_STRAYS):
        packet = _next(sock, began + _WAIT_S, stop)
        if packet is None:
            return None
        if packet[:1] == bytes([_REPLY[version]]) and packet[8:] == data:
            return round((time.monotonic() - began) * 1000, 2)
    return None


def _next(sock: Any, ends: float, stop: threading.Event) -> Optional[bytes]:
    import socket

    while time.monotonic() < ends and not stop.is_set():
        sock.settimeout(_LOOK_S)
        try:
            packet: bytes = sock.recv(2048)
            return packet
        except socket.timeout:
            continue
    return None
