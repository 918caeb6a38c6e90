"""A small internet of the tests' own: public and private addresses, names, and web servers.

    with internet() as net:
        done = net.call("web_fetch", {"url": "http://a.test/"}, names={"a.test A": [["93.0.0.1"]]},
                        pages={"a.test/": {"body": "hello"}})
        assert done["requests"] == [["93.0.0.1", "a.test", "/"]]

It lies in network and mount namespaces of one child process, whose /etc/resolv.conf names a DNS
server of the tests. All of 93.0.0.0/8, 10.0.0.0/8, 192.168.0.0/16 and 169.254.0.0/16 are there, and
one web server answers at port 80 of each address. This file is also the program of that process.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any, Dict, Iterator, List, Mapping, Optional, Sequence

import pytest

_HERE = Path(__file__).resolve().parent
_PATH = os.pathsep.join(str(p) for p in (_HERE.parents[1] / "src", _HERE.parent))
_NETWORKS = (("93.0.0.1", 8), ("10.0.0.1", 8), ("192.168.0.1", 16), ("169.254.0.1", 16))
_READY_S = 20.0

Names = Mapping[str, Sequence[Sequence[str]]]
Pages = Mapping[str, Mapping[str, Any]]


class Internet:
    def __init__(self, child: "subprocess.Popen[str]") -> None:
        self._child = child

    def call(
        self,
        skill: str,
        args: Mapping[str, Any],
        *,
        names: Names,
        pages: Pages,
        permits: Optional[Mapping[str, Any]] = None,
        time_s: float = 20.0,
        fresh: bool = True,
    ) -> Dict[str, Any]:
        """A real call of a real skill. Returns its Result as JSON, with `requests` ([address,
        host, path] of each that a server got), `asked` (questions to the DNS server), `files` and
        `took_s`.

        `pages` are answers by "host/path" (the second time by "host/path#2" if it is there): body,
        status and headers, or raw. `fresh` forgets what is known of sites.
        """
        request = {"skill": skill, "args": args, "names": names, "pages": pages}
        more = {"permits": permits or {}, "time_s": time_s, "fresh": fresh}
        assert self._child.stdin and self._child.stdout
        self._child.stdin.write(json.dumps({**request, **more}) + "\n")
        self._child.stdin.flush()
        line = self._child.stdout.readline()
        assert line, "the process of the small internet has ended"
        found: Dict[str, Any] = json.loads(line)
        return found


@contextlib.contextmanager
def internet() -> Iterator[Internet]:
    """Skips the test where namespaces cannot be had."""
    spaces = ["unshare", "--user", "--map-root-user", "--net", "--mount"]
    if subprocess.run([*spaces, "true"], stderr=subprocess.DEVNULL).returncode:
        pytest.skip("this machine gives no network namespaces")
    child = subprocess.Popen(
        [*spaces, sys.executable, __file__],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": _PATH},
        encoding="utf-8",
    )
    try:
        assert child.stdout and child.stdout.readline() == "ready\n"
        yield Internet(child)
    finally:
        assert child.stdin and child.stdout
        child.stdin.close()
        child.wait(_READY_S)
        child.stdout.close()


# --- the process -----------------------------------------------------------------------------


def _raise_network() -> None:
    """Give the loopback device addresses of many networks; on it, whole networks are local."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        for number, (address, bits) in enumerate(_NETWORKS):
            name = f"lo:{number}".encode()
            mask = socket.inet_ntoa(struct.pack("!I", (1 << 32) - (1 << (32 - bits))))
            for request, value in ((0x8916, address), (0x891C, mask)):
                packed = struct.pack("16sHH4s8x", name, 2, 0, socket.inet_aton(value))
                fcntl.ioctl(sock, request, packed)
        fcntl.ioctl(sock, 0x8914, struct.pack("16sH14x", b"lo", 0x1 | 0x40))  # up, running


def _point_resolver(folder: str) -> None:
    for name, text in (
        ("resolv.conf", "nameserver 127.0.0.1\noptions timeout:1 attempts:1\n"),
        ("nsswitch.conf", "hosts: files dns\n"),
    ):
        mine, place = Path(folder, name), Path("/etc", name)
        mine.write_text(text)
        if place.exists():
            subprocess.run(["mount", "--bind", mine, place.resolve()], check=True)


class _Web:
    """Answers at port 80 of all addresses, and knows at which it was asked."""

    def __init__(self) -> None:
        self.requests: List[List[str]] = []
        self.pages: Pages = {}
        self._count: Dict[str, int] = {}
        self._listener = socket.create_server(("0.0.0.0", 80))
        threading.Thread(target=self._accept, daemon=True).start()

    def tell(self, pages: Pages) -> None:
        self.requests, self.pages, self._count = [], pages, {}

    def _accept(self) -> None:
        while True:
            connection, _ = self._listener.accept()
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError, IndexError):
            head = b""
            while b"\r\n\r\n" not in head:
                received = connection.recv(65536)
                if not received:
                    break
                head += received
            lines = head.decode("latin-1").split("\r\n")
            host = next((line[6:] for line in lines if line.startswith("Host: ")), "")
            path = lines[0].split()[1]
            self.requests.append([connection.getsockname()[0], host, path])
            connection.sendall(self._answer(host + path))

    def _answer(self, name: str) -> bytes:
        self._count[name] = nth = self._count.get(name, 0) + 1
        page = self.pages.get(f"{name}#{nth}") or self.pages.get(name) or {"status": "404 None"}
        if "raw" in page:
            return str(page["raw"]).encode()
        body = str(page.get("body", "")).encode()
        lines = [f"HTTP/1.1 {page.get('status', '200 OK')}", *page.get("headers", ())]
        if not any(line.startswith("Content-Length") for line in lines):
            lines.append(f"Content-Length: {len(body)}")
        return "\r\n".join([*lines, "", ""]).encode() + body


def _called(request: Mapping[str, Any], workspace: Path) -> Dict[str, Any]:
    from pibot.agent import library
    from pibot.agent.tools import Context
    from pibot.permits import Permits

    given = {k: tuple(v) if isinstance(v, list) else v for k, v in request["permits"].items()}
    permits = Permits(**given)
    deadline = time.monotonic() + request["time_s"]
    ctx = Context(workspace, threading.Event(), deadline, "t:1", permits)
    toolbox, _ = library.load(None, permits)
    began = time.monotonic()
    done = toolbox.call(request["skill"], request["args"], ctx).to_json()
    files = sorted(p.name for p in workspace.iterdir())
    return {**done, "took_s": time.monotonic() - began, "files": files}


def _program() -> None:
    from pibot.skills import _manners
    from security.dns_server import DnsServer

    with tempfile.TemporaryDirectory() as folder:
        _raise_network()
        _point_resolver(folder)
        dns, web = DnsServer(port=53), _Web()
        print("ready", flush=True)
        for line in sys.stdin:
            request = json.loads(line)
            dns.tell(request["names"])
            web.tell(request["pages"])
            if request["fresh"]:
                _manners._SITES._known.clear()
                _manners._PACE._until.clear()
            with tempfile.TemporaryDirectory() as workspace:
                done = _called(request, Path(workspace))
            print(json.dumps({**done, "requests": web.requests, "asked": dns.asked}), flush=True)


if __name__ == "__main__":
    _program()
