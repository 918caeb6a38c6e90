"""MQTT behind a small interface, and the paho adapter; `bus` has one in memory.

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
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Callable, Dict, List, Optional, Protocol, Sequence, Tuple

from pibot import tls
from pibot.outbox import Out, Outbox

KEEPALIVE_S = 15
RETRY_S = (0.25, 0.5, 1.0, 2.0)
REFUSED_S = 5.0  # the same no is sooner or later in somebody's log
UP_S = 10.0  # from a socket to a subscription
MISC_S = 1.0  # how often paho looks after its keepalive
FLUSH_S = 1.0
GROUP = 200  # packets read before the loop handles them
INFLIGHT = 0  # no limit of ours: acknowledgements are end to end
PACKET_BYTES = 300_000  # what is larger is nothing that anybody here reads

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
        """Hand a packet over; False, and it is dropped, without a connection or without room."""

    def renew(self) -> None:
        """Give up a connection that seems deaf, and make another."""

    def close(self) -> None: ...


@dataclass(frozen=True)
class Link:
    """Where the broker is and how to enter."""

    host: str
    port: int
    username: Optional[str] = None
    password: Optional[str] = None
    ca_file: Optional[str] = None
    ca: Optional[bytes] = None  # the certificate of the fleet's own authority, as DER

    @property
    def tls(self) -> bool:
        return bool(self.ca_file or self.ca)

    def where(self) -> str:
        return f"{self.host}:{self.port}"


class PahoTransport:
    """A connection that comes back by itself; each one has a clean session and a new client id.

    paho runs in the caller's loop: a thread of its own costs a task on a worker twice the time.
    Only connecting, which may block for seconds, happens in a thread beside it. A paho client
    serves for one connection: what one has queued never reaches the next.
    """

    def __init__(
        self, link: Link, name: str, filters: Sequence[str], will: Optional[LastWill] = None
    ) -> None:
        self._link, self._filters, self._will = link, list(filters), will
        self._name = name
        self._client: Any = None
        self._context: Optional[ssl.SSLContext] = None
        self._outbox = Outbox()
        self._refused = ""
        self._state = "down"  # down, connecting, open (a socket), up (subscribed), closed
        self._retry_at = 0.0
        self._tries = 0
        self._misc_at = self._up_by = 0.0
        self._got = 0  # packets in this poll

    def start(self, on_message: OnMessage, on_state: OnState, wake: Wake) -> None:
        self._on_message, self._on_state, self._wake = on_message, on_state, wake

    # --- connecting -----------------------------------------------------------------------------

    def _new_client(self) -> Any:
        import paho.mqtt.client as mqtt
        from paho.mqtt.enums import CallbackAPIVersion

        client = mqtt.Client(
            CallbackAPIVersion.VERSION2,
            f"pb-{self._name}-{secrets.token_hex(6)}",
            clean_session=True,
            reconnect_on_failure=False,  # it would fall back to MQTT 3.1, silently
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
        client.on_subscribe = self._on_subscribe
        client.on_disconnect = self._on_disconnect
        return client

    def _begin(self) -> None:
        self._state, self._client = "connecting", self._new_client()
        self._outbox = Outbox()
        args = (self._client,)
        threading.Thread(target=self._connect, args=args, name="connect", daemon=True).start()

    def _connect(self, client: Any) -> None:
        """In a thread of its own: name resolution, TCP and TLS may take their time."""
        link = self._link
        try:
            if link.tls:
                self._context = self._context or tls.client_context(link.ca, link.ca_file)
                client.tls_set_context(self._context)
            client.connect(link.host, link.port, keepalive=KEEPALIVE_S)
        except (OSError, ValueError) as error:
            if self._state == "connecting":
                untrusted = isinstance(error, ssl.SSLCertVerificationError)
                self._later(_silent(link, error), REFUSED_S if untrusted else 0.0)
        else:
            if self._state == "closed":  # meanwhile
                _let_go(client)
                return
            self._up_by = time.monotonic() + UP_S
            self._state = "open"
        self._wake()

    def _later(self, why: str, pause_s: float = 0.0) -> None:
        """Report a failure, and try again after a growing, jittered pause."""
        pause_s = pause_s or RETRY_S[min(self._tries, len(RETRY_S) - 1)]
        self._tries += 1
        self._retry_at = time.monotonic() + pause_s * (1 + random.random() / 4)
        self._state = "down"
        self._on_state(False, why)

    def _on_packet(self, _client: Any, _user: Any, packet: Any) -> None:
        self._got += 1
        if len(packet.payload) > PACKET_BYTES:  # before it is copied, and waits with others
            return
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

    def _on_subscribe(self, _client: Any, _user: Any, _id: int, reasons: Any, _props: Any) -> None:
        if any(reason.is_failure for reason in reasons):
            self._hang_up(_may_not_read(self._link), REFUSED_S)
        else:
            self._ready()

    def _ready(self) -> None:
        self._state, self._tries = "up", 0
        self._on_state(True, "")

    def _on_disconnect(self, *_: Any) -> None:
        if self._state in ("open", "up"):  # paho tells it twice after a keepalive time-out
            lost = f"the connection to the broker {self._link.where()} was lost"
            if self._state == "open":
                lost = _mute(self._link)
            refused, self._refused = self._refused, ""
            self._later(refused or lost, REFUSED_S if refused else 0.0)

    def _hang_up(self, why: str, pause_s: float = 0.0) -> None:
        """End a connection that is there but of no use."""
        self._later(why, pause_s)
        _let_go(self._client)

    def renew(self) -> None:
        if self._state in ("open", "up"):
            self._hang_up(
                f"nobody answers through the broker {self._link.where()}: connecting anew"
            )
            self._retry_at = 0.0

    # --- running --------------------------------------------------------------------------------

    def poll(self, wait_s: float, wake: socket.socket) -> None:
        now = time.monotonic()
        if self._state in ("open", "up"):
            self._look_after(now)
        if self._state == "down" and now >= self._retry_at:
            self._begin()
        elif self._state == "down":
            wait_s = min(wait_s, self._retry_at - now)
        sock = self._client.socket() if self._state in ("open", "up") else None
        if sock is None:
            _wait([(wake, select.POLLIN)], min(wait_s, MISC_S))
            return
        try:
            self._serve(sock, min(wait_s, MISC_S), wake)
        except Exception as error:  # paho's, about bytes that are no MQTT
            self._hang_up(f"the broker {self._link.where()} says what is no MQTT: {error!r}")

    def _look_after(self, now: float) -> None:
        if self._client.socket() is None:
            self._on_disconnect()  # lost while connecting: paho said so before we listened
        elif self._state == "open" and now >= self._up_by:
            self._hang_up(f"the broker {self._link.where()} does not answer within {UP_S:g} s")
        elif now >= self._misc_at:
            self._misc_at = now + MISC_S
            self._client.loop_misc()

    def _serve(self, sock: Any, wait_s: float, wake: socket.socket) -> None:
        """Read what is there, at most a group of packets, and write what waits."""
        client = self._client
        self._got = 0
        while self._got < GROUP:
            self._feed()
            wanted = select.POLLIN | (select.POLLOUT if client.want_write() else 0)
            buffered = isinstance(sock, ssl.SSLSocket) and sock.pending() > 0
            ready = _wait([(wake, select.POLLIN), (sock, wanted)], 0.0 if buffered else wait_s)
            events = ready.get(sock.fileno(), 0)
            if events & select.POLLOUT:
                client.loop_write()
            if buffered or events & ~select.POLLOUT:
                self._read(client)
            elif not events:
                return
            if self._state not in ("open", "up") or client.socket() is not sock:
                return
            wait_s = 0.0

    def _read(self, client: Any) -> None:
        """Read messages as long as they come; paho reads one packet at a time."""
        before = -1
        while before != self._got < GROUP:
            before = self._got
            client.loop_read()

    # --- sending --------------------------------------------------------------------------------

    def publish(self, topic: str, payload: bytes, qos: int = 1, retain: bool = False) -> bool:
        if self._state != "up":
            return False
        out = Out(topic, payload, qos, retain)
        if self._outbox or self._client.want_write():
            return self._outbox.add(out)  # paho would keep everything that it cannot write
        self._send(out)
        return True

    def _feed(self) -> None:
        while self._outbox and self._state == "up" and not self._client.want_write():
            self._send(self._outbox.take())

    def _send(self, out: Out) -> None:
        """Let paho write a packet and forget it.

        It would keep one of QoS 1 until its PUBACK, which a crowded Mosquitto leaves out, and read
        as many packets at once as it keeps. A PUBACK proves nothing to us.
        """
        self._client.publish(*out)
        self._client.drop_out_messages()

    def close(self) -> None:
        """Disconnect without the last will; what is still queued gets a moment to leave."""
        if self._state not in ("open", "up"):
            self._state = "closed"
            return
        client, until = self._client, time.monotonic() + FLUSH_S
        while (client.want_write() or self._outbox) and time.monotonic() < until:
            if client.socket() is None:
                break
            _wait([(client.socket(), select.POLLOUT)], 0.1)
            client.loop_write()
            self._feed()
        self._state = "closed"
        client.disconnect()
        while (sock := client.socket()) is not None and time.monotonic() < until:
            _wait([(sock, select.POLLIN)], 0.1)
            client.loop_read()


def _wait(wanted: "List[Tuple[Any, int]]", wait_s: float) -> Dict[int, int]:
    """poll(2): which descriptors are ready for what, within `wait_s`."""
    poller = select.poll()
    for sock, events in wanted:
        poller.register(sock, events)
    return dict(poller.poll(max(0.0, wait_s) * 1000))


def _let_go(client: Any) -> None:
    """Say goodbye, if that can leave, so that nobody takes us for dead; then close the socket."""
    with suppress(Exception):
        client.disconnect()
    sock = client.socket()
    if sock is not None:
        sock.close()


def _no_delay(_client: Any, _user: Any, sock: Any) -> None:
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def _silent(link: Link, error: Exception) -> str:
    """Why there is no connection."""
    where = link.where()
    if isinstance(error, ssl.SSLError):
        return tls.why_not(error, where, link.ca_file)
    if isinstance(error, FileNotFoundError):
        return f"MQTT_CA_FILE {link.ca_file} is not there"
    if link.tls and isinstance(error, ConnectionResetError):
        return f"the broker {where} hangs up on TLS: is MQTT_PORT the port with TLS?"
    return f"no broker answers at {where}: is it running, are MQTT_HOST and MQTT_PORT right?"


def _mute(link: Link) -> str:
    """Why somebody who listens there says nothing that a broker says."""
    said = f"{link.where()} takes connections but does not answer as a broker"
    return said if link.tls else f"{said}: if it wants TLS, PIBOT_CA or MQTT_CA_FILE is missing"


def _may_not_read(link: Link) -> str:
    who = link.username or "whoever has no user name"
    return (
        f"the broker {link.where()} does not let {who} read the topics of this fleet: check its "
        "access rights and PIBOT_FLEET"
    )


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
