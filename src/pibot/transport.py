"""MQTT behind a small interface: the paho adapter, and an in-memory one that ships for tests.

The broker is a lossy, duplicating, reordering bus. `publish` promises nothing: what counts is the
receiver's answer, so a message published while the connection is down is simply dropped.
"""

from __future__ import annotations

import random
import secrets
import select
import socket
import ssl
import threading
import time
from dataclasses import dataclass
from typing import Any, Callable, Dict, List, Optional, Protocol, Sequence, Tuple

KEEPALIVE_S = 15
RETRY_S = (0.5, 1.0, 2.0, 4.0)
MISC_S = 1.0  # how often paho looks after its keepalive
FLUSH_S = 1.0
GROUP = 200  # packets read before the loop handles them
INFLIGHT = 0  # no limit of ours: acknowledgements are end to end

OnMessage = Callable[[str, bytes], object]
OnState = Callable[[bool, str], object]  # connected?, why not
Wake = Callable[[], None]


@dataclass(frozen=True)
class LastWill:
    topic: str
    payload: bytes
    qos: int = 1
    retain: bool = False


class Transport(Protocol):
    """What a role needs of a broker. Its loop calls `poll`; callbacks run there, and only add."""

    def start(self, on_message: OnMessage, on_state: OnState, wake: Wake) -> None:
        """Connect, and come back after each loss. `wake` ends a `poll` from another thread."""

    def poll(self, wait_s: float, wake: socket.socket) -> None:
        """Take in what has come; wait for it, but not longer, nor when `wake` is readable."""

    def publish(self, topic: str, payload: bytes, qos: int = 1, retain: bool = False) -> bool:
        """Hand a packet over; False, and it is dropped, while there is no connection."""

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
    """A connection that comes back by itself: clean sessions, one new client id per process.

    paho runs in the caller's loop: a thread of its own costs a task on a worker twice the time.
    Only connecting, which may block for seconds, happens in a thread beside it.
    """

    def __init__(
        self, link: Link, name: str, filters: Sequence[str], will: Optional[LastWill] = None
    ) -> None:
        self._link, self._filters, self._will = link, list(filters), will
        self._client_id = f"pb-{name}-{secrets.token_hex(6)}"
        self._client: Any = None
        self._refused = ""
        self._state = "down"  # down, connecting, open (a socket), up (subscribed)
        self._retry_at = 0.0
        self._tries = 0
        self._misc_at = 0.0

    def start(self, on_message: OnMessage, on_state: OnState, wake: Wake) -> None:
        import paho.mqtt.client as mqtt
        from paho.mqtt.enums import CallbackAPIVersion

        self._on_message, self._on_state, self._wake = on_message, on_state, wake
        client = self._client = mqtt.Client(
            CallbackAPIVersion.VERSION2, self._client_id, clean_session=True
        )
        client.max_inflight_messages_set(INFLIGHT)
        if self._link.username:
            client.username_pw_set(self._link.username, self._link.password)
        if self._will:
            w = self._will
            client.will_set(w.topic, w.payload, w.qos, w.retain)
        client.on_socket_open = _no_delay
        client.on_message = self._on_packet
        client.on_connect = self._on_connect
        client.on_subscribe = lambda *a: self._ready()
        client.on_disconnect = self._on_disconnect

    # --- connecting -----------------------------------------------------------------------------

    def _connect(self) -> None:
        """In a thread of its own: name resolution, TCP and TLS may take their time."""
        client, link = self._client, self._link
        try:
            if link.ca_file and not client._ssl_context:
                client.tls_set(link.ca_file, tls_version=ssl.PROTOCOL_TLS_CLIENT)
            client.connect(link.host, link.port, keepalive=KEEPALIVE_S)
        except (OSError, ValueError) as error:
            self._later(_silent(link, error))
        else:
            self._state = "open"
        self._wake()

    def _later(self, why: str) -> None:
        """Report a failure, and try again after a growing, jittered pause."""
        pause_s = RETRY_S[min(self._tries, len(RETRY_S) - 1)]
        self._tries += 1
        self._retry_at = time.monotonic() + pause_s * (1 + random.random() / 4)
        self._state = "down"
        self._on_state(False, why)

    def _on_packet(self, _client: Any, _user: Any, packet: Any) -> None:
        try:
            topic = packet.topic
        except UnicodeDecodeError:  # no broker should pass such a topic on
            return
        self._on_message(topic, bytes(packet.payload))

    def _on_connect(self, client: Any, _user: Any, _flags: Any, reason: Any, _props: Any) -> None:
        if reason.is_failure:
            self._refused = _refusal(self._link, str(reason))
        elif self._filters:
            client.subscribe([(f, 1) for f in self._filters])
        else:
            self._ready()

    def _ready(self) -> None:
        self._state, self._tries = "up", 0
        self._on_state(True, "")

    def _on_disconnect(self, *_: Any) -> None:
        if self._state in ("open", "up"):  # paho tells it twice after a keepalive time-out
            lost = f"the connection to the broker {self._link.where()} was lost"
            if self._state == "open":
                lost = f"{self._link.where()} takes connections but does not answer as a broker"
            why, self._refused = self._refused or lost, ""
            self._later(why)

    # --- running --------------------------------------------------------------------------------

    def poll(self, wait_s: float, wake: socket.socket) -> None:
        now = time.monotonic()
        if self._state in ("open", "up") and self._client.socket() is None:
            self._on_disconnect()  # lost while connecting: paho said so before we listened
        if self._state == "down" and now >= self._retry_at:
            self._state = "connecting"
            threading.Thread(target=self._connect, name="connect", daemon=True).start()
        elif self._state == "down":
            wait_s = min(wait_s, self._retry_at - now)
        elif self._state in ("open", "up") and now >= self._misc_at:
            self._misc_at = now + MISC_S
            self._client.loop_misc()
        sock = self._client.socket() if self._state in ("open", "up") else None
        if sock is None:
            _wait([(wake, select.POLLIN)], min(wait_s, MISC_S))
        else:
            self._serve(sock, min(wait_s, MISC_S), wake)

    def _serve(self, sock: Any, wait_s: float, wake: socket.socket) -> None:
        """Read what is there, at most a group of packets, and write what waits."""
        for _ in range(GROUP):
            wanted = select.POLLIN | (select.POLLOUT if self._client.want_write() else 0)
            buffered = isinstance(sock, ssl.SSLSocket) and sock.pending() > 0
            ready = _wait([(wake, select.POLLIN), (sock, wanted)], 0.0 if buffered else wait_s)
            events = ready.get(sock.fileno(), 0)
            if events & select.POLLOUT:
                self._client.loop_write()
            if buffered or events & ~select.POLLOUT:
                self._client.loop_read()
            elif not events:
                return
            if self._client.socket() is not sock:
                return
            wait_s = 0.0

    def publish(self, topic: str, payload: bytes, qos: int = 1, retain: bool = False) -> bool:
        if self._state != "up":
            return False
        self._client.publish(topic, payload, qos, retain)
        return True

    def close(self) -> None:
        """Disconnect without the last will; what is still queued gets a moment to leave."""
        if self._state not in ("open", "up"):
            return
        until = time.monotonic() + FLUSH_S
        while self._client.want_write() and self._client.socket() and time.monotonic() < until:
            _wait([(self._client.socket(), select.POLLOUT)], 0.1)
            self._client.loop_write()
        self._state = "closed"
        self._client.disconnect()
        while (sock := self._client.socket()) is not None and time.monotonic() < until:
            _wait([(sock, select.POLLIN)], 0.1)
            self._client.loop_read()


def _wait(wanted: "List[Tuple[Any, int]]", wait_s: float) -> Dict[int, int]:
    """poll(2): which descriptors are ready for what, within `wait_s`."""
    poller = select.poll()
    for sock, events in wanted:
        poller.register(sock, events)
    return dict(poller.poll(max(0.0, wait_s) * 1000))


def _no_delay(_client: Any, _user: Any, sock: Any) -> None:
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def _silent(link: Link, error: Exception) -> str:
    if isinstance(error, ssl.SSLError):
        return f"the broker {link.where()} cannot be trusted: {error}; check MQTT_CA_FILE"
    if isinstance(error, FileNotFoundError):
        return f"MQTT_CA_FILE {link.ca_file} is not there"
    return f"no broker answers at {link.where()}: is it running, are MQTT_HOST and MQTT_PORT right?"


def _refusal(link: Link, reason: str) -> str:
    if "authori" in reason.lower() or "user name" in reason.lower():
        if link.username is None:
            return (
                f"the broker {link.where()} refused whoever has no user name, and none is set: "
                "run commands as the user who ran `sudo … setup --role master`, without sudo, or "
                "set MQTT_USERNAME and MQTT_PASSWORD"
            )
        return (
            f"the broker {link.where()} refused the user name or password: check MQTT_USERNAME "
            "and MQTT_PASSWORD"
        )
    return f"the broker {link.where()} refused the connection: {reason}"


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

    def start(self, on_message: OnMessage, on_state: OnState, wake: Wake) -> None:
        self._on_message = on_message
        self._bus.join(self)
        on_state(True, "")

    def poll(self, wait_s: float, wake: socket.socket) -> None:
        _wait([(wake, select.POLLIN)], wait_s)

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
