"""Where the broker is, and, on the master, a private one when there is none.

MQTT_HOST if set; else whatever already answers as MQTT on this machine; else the embedded
amqtt; else a private `mosquitto` child. A private broker listens on loopback only. If the master
has a password, it lets in whom the master knows, and nobody else.
"""

from __future__ import annotations

import importlib.util
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Callable, Optional, Tuple

from pibot import parts
from pibot.config import Settings
from pibot.errors import ConfigError, Unreachable
from pibot.topics import RESERVED

LOOPBACK = "127.0.0.1"
_PROBE_S = 2.0
_START_S = 5.0
_PR_SET_PDEATHSIG = 1
_KINDS = {
    "configured": "using the broker at {0.host}:{0.port}",
    "found": "using the broker that already answers on {0.host}:{0.port}",
    "amqtt": "started the embedded broker on {0.host}:{0.port}",
    "mosquitto": "started a private mosquitto on {0.host}:{0.port}",
}


@dataclass(frozen=True)
class BrokerHandle:
    """A broker to connect to; close() ends it if it is ours."""

    host: str
    port: int
    kind: str  # configured | found | amqtt | mosquitto
    close: Callable[[], None] = field(default=lambda: None, repr=False)
    reload: Callable[[], None] = field(default=lambda: None, repr=False)  # other people may come in

    def describe(self) -> str:
        return _KINDS[self.kind].format(self)


def locate(settings: Settings) -> Tuple[str, int]:
    """The host and port where every process but the master looks for the broker."""
    return settings.mqtt_host or LOOPBACK, settings.mqtt_port


def find_or_start(settings: Settings) -> BrokerHandle:
    """Return the master's broker, starting a private one on loopback when there is none.

    Call it from the main thread: a mosquitto child ends together with the thread that started it.
    Raises ConfigError when something else holds the port, Unreachable when nothing can serve.
    """
    host, port = locate(settings)
    if settings.mqtt_host:
        return BrokerHandle(host, port, "configured")
    if _answers(port):
        return BrokerHandle(host, port, "found")
    try:
        return _start(settings, port)
    except OSError as error:
        if _answers(port):  # another master was faster
            return BrokerHandle(host, port, "found")
        raise Unreachable(
            f"No broker could be started on {host}:{port}: {error}; set MQTT_HOST to one that runs."
        ) from None


def _start(settings: Settings, port: int) -> BrokerHandle:
    guarded = settings.mqtt_password is not None
    if guarded and settings.mqtt_username != RESERVED:
        raise ConfigError(
            f"With MQTT_PASSWORD and a broker of its own the master is the user {RESERVED}: set "
            f"MQTT_USERNAME={RESERVED}."
        )
    if _has_amqtt():
        from pibot.admission import Admission
        from pibot.embedded import EmbeddedBroker

        known = settings.state_dir / RESERVED / "identities.json"
        broker = EmbeddedBroker(port, Admission(known, settings.fleet) if guarded else None)
        broker.start()
        return BrokerHandle(LOOPBACK, port, "amqtt", broker.close, broker.review)
    # /usr/sbin is not in an ordinary user's PATH, and that is where Debian has it.
    program = shutil.which("mosquitto", path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin")
    if program is None:
        raise Unreachable(
            "There is no broker on this machine and none can be embedded here:"
            " install one with `sudo apt install mosquitto`, or set MQTT_HOST."
        )
    child = _start_mosquitto(program, port, settings.state_dir / "broker" if guarded else None)
    reload = partial(child.send_signal, signal.SIGHUP)
    return BrokerHandle(LOOPBACK, port, "mosquitto", lambda: _end(child), reload)


def _has_amqtt() -> bool:
    """Not on Python 3.9, and not in an installation that left it out."""
    if sys.version_info < (3, 10):
        return False
    parts.ensure("broker")
    return importlib.util.find_spec("amqtt") is not None


def _answers(port: int) -> bool:
    """Whether an MQTT broker answers; raise ConfigError when something else does."""
    client = b"pb-probe-" + secrets.token_hex(4).encode()
    body = b"\x00\x04MQTT\x04\x02\x00\x0a" + len(client).to_bytes(2, "big") + client
    try:
        with socket.create_connection((LOOPBACK, port), _PROBE_S) as sock:
            sock.sendall(b"\x10" + bytes([len(body)]) + body)
            answer = _read(sock, 4)
            if answer[:2] == b"\x20\x02":  # CONNACK, whatever it says about credentials
                sock.sendall(b"\xe0\x00")
                return True
    except ConnectionRefusedError:
        return False
    except OSError:
        pass
    raise ConfigError(
        f"Port {port} on this machine is taken by something that is no MQTT broker:"
        " choose another with MQTT_PORT."
    )


def _read(sock: socket.socket, size: int) -> bytes:
    deadline = time.monotonic() + _PROBE_S
    data = b""
    while len(data) < size:
        sock.settimeout(max(0.01, deadline - time.monotonic()))
        part = sock.recv(size - len(data))
        if not part:
            break
        data += part
    return data


def _start_mosquitto(program: str, port: int, users: Optional[Path]) -> subprocess.Popen[bytes]:
    """Start a mosquitto that ends with the calling thread; raise OSError if it cannot serve.

    `users` is the folder of the master's passwd and acl; without one everybody is let in.
    """
    with tempfile.TemporaryDirectory(prefix="pibot-") as folder:
        config = Path(folder, "mosquitto.conf")
        config.write_text(_mosquitto_config(port, users), encoding="utf-8")
        with tempfile.TemporaryFile() as said:
            child = subprocess.Popen(
                [program, "-c", str(config)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=said,
                start_new_session=True,  # Ctrl-C ends the master first, then this
                preexec_fn=die_with_parent(),
            )
            try:
                _wait_until_serving(child, port)
            except BaseException as error:
                _end(child)
                said.seek(0)
                lines = said.read(4096).decode("utf-8", "replace").split("\n")
                reason = next((line for line in lines if "Error" in line), str(error))
                raise OSError(f"mosquitto: {reason.strip()}") from None
    return child


def _mosquitto_config(port: int, users: Optional[Path]) -> str:
    closed = ["allow_anonymous false", f"password_file {users}/passwd", f"acl_file {users}/acl"]
    lines = [
        f"listener {port} {LOOPBACK}",
        *(closed if users else ["allow_anonymous true"]),
        "persistence false",
        "set_tcp_nodelay true",
        "max_packet_size 300000",  # as the embedded one
        "max_connections 250",
        "max_inflight_messages 100",
        "max_queued_messages 2000",
        "max_queued_bytes 33554432",
        "memory_limit 134217728",
        "log_dest stderr",
        "log_type error",
    ]
    if os.geteuid() == 0:
        lines.append("user root")  # a change of user would undo the death signal
    return "\n".join(lines) + "\n"


def die_with_parent() -> Callable[[], None]:
    """Made before the fork, so that the child only makes two system calls."""
    import ctypes

    prctl, parent = ctypes.CDLL(None).prctl, os.getpid()

    def ask_for_signal() -> None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:  # it died before we asked
            os._exit(1)

    return ask_for_signal


def _wait_until_serving(child: subprocess.Popen[bytes], port: int) -> None:
    deadline = time.monotonic() + _START_S
    while child.poll() is None:
        if _answers(port):
            return
        if time.monotonic() > deadline:
            raise OSError("it did not answer in time")
        time.sleep(0.02)
    raise OSError(f"it ended with status {child.returncode}")


def _end(child: subprocess.Popen[bytes]) -> None:
    child.terminate()
    try:
        child.wait(_START_S)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()
