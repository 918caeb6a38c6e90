"""A real Mosquitto with users, rights and perhaps TLS, for the tests of the MQTT skills."""

from __future__ import annotations

import contextlib
import socket
import subprocess
from pathlib import Path
from typing import Iterator, Optional

from fleet_processes import MOSQUITTO, free_port, wait_for
from security.certificates import Certificate

USER, PASSWORD = "lamp", "se/cr:et @1"
QUOTED = "lamp:se%2Fcr%3Aet%20%401"
RIGHTS = "user lamp\ntopic readwrite home/#\ntopic read shown/#\n"


@contextlib.contextmanager
def mosquitto(folder: Path, certificate: Optional[Certificate] = None) -> Iterator[int]:
    """Yields the port on 127.0.0.1; with a certificate it speaks TLS only."""
    folder.mkdir(parents=True, exist_ok=True)
    port = free_port()
    passwords, rights = folder / "passwords", folder / "rights"
    passwords.touch(0o600)
    subprocess.run(["mosquitto_passwd", "-b", str(passwords), USER, PASSWORD], check=True)
    rights.write_text(RIGHTS)
    rights.chmod(0o600)
    listener = certificate.listener(port) if certificate else [f"listener {port} 127.0.0.1"]
    lines = [*listener, "user root", "allow_anonymous false", f"password_file {passwords}"]
    (folder / "conf").write_text("\n".join([*lines, f"acl_file {rights}", ""]))
    started = subprocess.Popen(
        [MOSQUITTO, "-c", str(folder / "conf")],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        wait_for(lambda: _accepts(port), 10, "the broker listens")
        yield port
    finally:
        started.terminate()
        started.wait(10)


def _accepts(port: int) -> bool:
    with contextlib.suppress(OSError):
        socket.create_connection(("127.0.0.1", port), 1).close()
        return True
    return False
