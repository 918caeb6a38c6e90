"""A DNS server of the tests' own, which changes its mind: each question gets the next answer."""

from __future__ import annotations

import socket
import struct
import threading
from typing import Dict, List, Mapping, Sequence, Tuple

A, CNAME, AAAA = 1, 5, 28
_TYPES = {A: "A", AAAA: "AAAA"}


class DnsServer:
    """Answers from `names`: {"a.test A": [["1.2.3.4"], ["127.0.0.1", "cname:b.test"]]}.

    Each list is one answer; the last one is given again and again. An answer is "" for a packet
    that is none. What is not there has no address.
    """

    def __init__(self, host: str = "127.0.0.1", port: int = 0) -> None:
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind((host, port))
        self.port = self._socket.getsockname()[1]
        self._lock = threading.Lock()
        self._names: Dict[str, List[Sequence[str]]] = {}
        self.asked: List[str] = []
        threading.Thread(target=self._serve, daemon=True).start()

    def tell(self, names: Mapping[str, Sequence[Sequence[str]]]) -> None:
        with self._lock:
            self._names = {name: list(answers) for name, answers in names.items()}
            self.asked = []

    def close(self) -> None:
        self._socket.close()

    def _serve(self) -> None:
        while True:
            try:
                packet, sender = self._socket.recvfrom(4096)
            except OSError:
                return
            reply = self._reply(packet)
            self._socket.sendto(reply, sender)

    def _reply(self, packet: bytes) -> bytes:
        name, kind, end = _question(packet)
        with self._lock:
            question = f"{name} {_TYPES.get(kind, kind)}"
            self.asked.append(question)
            answers = self._names.get(question, [])
            answer = answers.pop(0) if len(answers) > 1 else answers[0] if answers else ()
        if "" in answer:
            return packet[:2] + b"\x81\x80 nonsense"
        records = b"".join(_records(name, answer))
        count = len(answer)
        known = any(one.partition(" ")[0] == name for one in self._names)
        flags = 0x8180 if known else 0x8183  # there is no such name
        head = packet[:2] + struct.pack("!HHHHH", flags, 1, count, 0, 0)
        return head + packet[12:end] + records


def _question(packet: bytes) -> Tuple[str, int, int]:
    """Name, type and where the question ends."""
    labels, at = [], 12
    while packet[at]:
        labels.append(packet[at + 1 : at + 1 + packet[at]].decode("ascii").lower())
        at += 1 + packet[at]
    kind = struct.unpack("!H", packet[at + 1 : at + 3])[0]
    return ".".join(labels), kind, at + 5


def _records(name: str, answer: Sequence[str]) -> List[bytes]:
    made = []
    for value in answer:
        if value.startswith("cname:"):
            target = value[len("cname:") :]
            made.append(_record(name, CNAME, _encoded(target)))
            name = target
        elif ":" in value:
            made.append(_record(name, AAAA, socket.inet_pton(socket.AF_INET6, value)))
        else:
            made.append(_record(name, A, socket.inet_pton(socket.AF_INET, value)))
    return made


def _record(name: str, kind: int, data: bytes) -> bytes:
    return _encoded(name) + struct.pack("!HHIH", kind, 1, 0, len(data)) + data


def _encoded(name: str) -> bytes:
    labels = [label.encode("ascii") for label in name.split(".")]
    return b"".join(bytes([len(label)]) + label for label in labels) + b"\0"
