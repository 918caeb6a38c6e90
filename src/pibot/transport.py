"""MQTT behind a small interface: the paho adapter, and an in-memory one that ships for tests.

The broker is a lossy, duplicating, reordering bus. `publish` promises nothing: what counts is the
receiver's answer, so a message published while the connection is down is simply dropped.
"""

from __future__ import annotations

import logging
import secrets
import socket
import ssl
import threading
from dataclasses import dataclass
from typing import Any, Callable, List, Optional, Protocol, Sequence, Tuple

from pibot.errors import Unreachable

log = logging.getLogger(__name__)

KEEPALIVE_S = 15
INFLIGHT = 0  # no limit of ours: acknowledgements are end to end

OnMessage = Callable[[str, bytes], object]
OnState = Callable[[bool, str], None]  # connected?, why not


@dataclass(frozen=True)
class LastWill:
    topic: str
    payload: bytes
    qos: int = 1
    retain: bool = False


class Transport(Protocol):
    """What a role needs of a broker. The callbacks only enqueue; they run in other threads."""

    def start(self, on_message: OnMessage, on_state: OnState) -> None: ...

    def publish(self, topic: str, payload: bytes, qos: int = 1, retain: bool = False) -> bool: ...

    def close(self) -> None: ...


@dataclass(frozen=True)
class Link:
    """Where the broker is and how to enter."""

    host: str
    port: int
    username: Optional[str] = None
    password: Optional[str] = None
    ca_file: Optional[str] = None

    def where(self) -> str:
        return f"{self.host}:{self.port}"


class PahoTransport:
    """A connection that comes back by itself: clean sessions, one new client id per process."""

    def __init__(
        self, link: Link, name: str, filters: Sequence[str], will: Optional[LastWill] = None
    ) -> None:
        self._link, self._filters, self._will = link, list(filters), will
        self._client_id = f"pb-{name}-{secrets.token_hex(6)}"
        self._client: Any = None
        self._up = threading.Event()

    def start(self, on_message: OnMessage, on_state: OnState) -> None:
        """Connect in the background and keep trying, whatever the broker says."""
        import paho.mqtt.client as mqtt
        from paho.mqtt.enums import CallbackAPIVersion

        client = self._client = mqtt.Client(
            CallbackAPIVersion.VERSION2, self._client_id, clean_session=True
        )
        client.max_inflight_messages_set(INFLIGHT)
        client.reconnect_delay_set(min_delay=1, max_delay=4)
        self._credentials(client)
        client.on_socket_open = _no_delay
        client.on_message = self._caught(lambda c, u, m: on_message(m.topic, m.payload))
        client.on_connect = self._caught(self._on_connect(on_state))
        client.on_subscribe = self._caught(lambda *a: self._ready(on_state))
        client.on_disconnect = self._caught(self._on_disconnect(on_state))
        client.on_connect_fail = self._caught(lambda *a: on_state(False, _silent(self._link)))
        client.connect_async(self._link.host, self._link.port, keepalive=KEEPALIVE_S)
        client.loop_start()

    def _credentials(self, client: Any) -> None:
        if self._link.username:
            client.username_pw_set(self._link.username, self._link.password)
        if self._link.ca_file:
            client.tls_set(self._link.ca_file, tls_version=ssl.PROTOCOL_TLS_CLIENT)
        if self._will:
            w = self._will
            client.will_set(w.topic, w.payload, w.qos, w.retain)

    def _caught(self, callback: Callable[..., object]) -> Callable[..., None]:
        """An exception in a paho callback ends its thread and leaves a deaf client behind."""

        def safe(*args: Any) -> None:
            try:
                callback(*args)
            except Exception:
                log.exception("a message of the broker could not be handled")

        return safe

    def _on_connect(self, on_state: OnState) -> Callable[..., None]:
        def connected(client: Any, _user: Any, _flags: Any, reason: Any, _props: Any) -> None:
            if reason.is_failure:
                on_state(False, _refusal(self._link, str(reason)))
            elif self._filters:
                client.subscribe([(f, 1) for f in self._filters])
            else:
                self._ready(on_state)

        return connected

    def _ready(self, on_state: OnState) -> None:
        self._up.set()
        on_state(True, "")

    def _on_disconnect(self, on_state: OnState) -> Callable[..., None]:
        def disconnected(client: Any, _user: Any, _flags: Any, reason: Any, _props: Any) -> None:
            if self._up.is_set():
                self._up.clear()
                on_state(False, f"the connection to the broker {self._link.where()} was lost")

        return disconnected

    def publish(self, topic: str, payload: bytes, qos: int = 1, retain: bool = False) -> bool:
        if not self._up.is_set():
            return False
        self._client.publish(topic, payload, qos, retain)
        return True

    def close(self) -> None:
        """Disconnect without the last will; what is still queued gets a moment to leave."""
        if self._client is not None:
            self._client.disconnect()
            self._client.loop_stop()


def _no_delay(_client: Any, _user: Any, sock: Any) -> None:
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def _silent(link: Link) -> str:
    return f"no broker answers at {link.where()}: is it running, are MQTT_HOST and MQTT_PORT right?"


def _refusal(link: Link, reason: str) -> str:
    if "authori" in reason.lower() or "user name" in reason.lower():
        return (
            f"the broker {link.where()} refused the user name or password: check MQTT_USERNAME "
            "and MQTT_PASSWORD"
        )
    return f"the broker {link.where()} refused the connection: {reason}"


def probe(link: Link, timeout_s: float = 3.0) -> None:
    """Raise Unreachable, in words, if nothing listens where the broker should be."""
    try:
        socket.create_connection((link.host, link.port), timeout_s).close()
    except OSError as error:
        raise Unreachable(
            f"no broker answers at {link.where()} ({error.strerror or error}): start the master "
            "there, or set MQTT_HOST and MQTT_PORT"
        ) from None


class MemoryBus:
    """A broker in memory: real topics and filters, retained messages, wills."""

    def __init__(self) -> None:
        self.retained: "dict[str, bytes]" = {}
        self.log: List[Tuple[str, bytes]] = []
        self._guests: "List[MemoryTransport]" = []
        self._lock = threading.RLock()

    def join(self, guest: "MemoryTransport") -> None:
        with self._lock:
            self._guests.append(guest)

    def leave(self, guest: "MemoryTransport") -> None:
        with self._lock:
            self._guests = [g for g in self._guests if g is not guest]

    def publish(self, topic: str, payload: bytes, retain: bool) -> None:
        with self._lock:
            self.log.append((topic, payload))
            if retain:
                self.retained.pop(topic, None)
                if payload:
                    self.retained[topic] = payload
            for guest in list(self._guests):
                guest.deliver(topic, payload)


class MemoryTransport:
    """A connection to a MemoryBus."""

    def __init__(
        self, bus: MemoryBus, filters: Sequence[str], will: Optional[LastWill] = None
    ) -> None:
        self._bus, self._filters, self._will = bus, list(filters), will
        self._on_message: Optional[OnMessage] = None

    def start(self, on_message: OnMessage, on_state: OnState) -> None:
        self._on_message = on_message
        self._bus.join(self)
        on_state(True, "")

    def deliver(self, topic: str, payload: bytes) -> None:
        if self._on_message and any(matches(f, topic) for f in self._filters):
            self._on_message(topic, payload)

    def publish(self, topic: str, payload: bytes, qos: int = 1, retain: bool = False) -> bool:
        self._bus.publish(topic, payload, retain)
        return True

    def close(self) -> None:
        self._bus.leave(self)

    def die(self) -> None:
        """Vanish as a killed process does: the bus publishes the will."""
        self._bus.leave(self)
        if self._will:
            self._bus.publish(self._will.topic, self._will.payload, self._will.retain)


def matches(pattern: str, topic: str) -> bool:
    """Whether an MQTT topic filter matches a topic (MQTT 3.1.1, section 4.7)."""
    wanted, have = pattern.split("/"), topic.split("/")
    for i, level in enumerate(wanted):
        if level == "#":
            return True
        if i >= len(have) or (level != "+" and level != have[i]):
            return False
    return len(wanted) == len(have)
