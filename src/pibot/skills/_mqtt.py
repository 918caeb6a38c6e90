"""One short connection to a broker: to send a message, or to hear some. Everything is bounded.

paho runs in the caller's thread, so that nothing of a connection outlives its call.
"""

from __future__ import annotations

import logging
import secrets
import select
import ssl
import time
from dataclasses import dataclass
from typing import Any, Callable, List, Optional

from pibot.skills import Context, SkillError

_LOG = logging.getLogger(__name__)
CONNECT_S = 5.0
ANSWER_S = 10.0  # for CONNACK, SUBACK and PUBACK
MOST_BYTES = 64 * 1024  # of a message
_MOST_READ = 4 << 20  # in a call
_KEEPALIVE_S = 10  # also the limit of paho's TLS handshake
_LOOK_S = 0.1
_MISC_S = 1.0
_FAULT = 0x80  # from here on a SUBACK's code is a refusal


@dataclass(frozen=True)
class Broker:
    """Where it is and how to enter; a person is shown `where` only."""

    host: str
    port: int
    tls: bool
    user: Optional[str]
    password: Optional[str]

    @property
    def where(self) -> str:
        return f"{self.host}:{self.port}"


@dataclass(frozen=True)
class Heard:
    topic: str
    payload: bytes
    retained: bool


def broker(url: Optional[str]) -> Broker:
    """The broker of PIBOT_MQTT_URL. Raises SkillError, which does not show the URL."""
    from urllib.parse import unquote, urlsplit

    try:
        parts = urlsplit(url or "")
        host, port = parts.hostname, parts.port
    except ValueError:
        host, port = None, None
    if not host or parts.path not in ("", "/") or parts.query or parts.fragment:
        raise SkillError("PIBOT_MQTT_URL cannot be used: write mqtt://user:password@host:1883")
    tls = parts.scheme == "mqtts"
    user, password = (
        None if one is None else unquote(one) for one in (parts.username, parts.password)
    )
    return Broker(host, port or (8883 if tls else 1883), tls, user, password)


class Session:
    """A connection that a call has; `close` it."""

    def __init__(self, ctx: Context, to: Broker) -> None:
        self.heard: List[Heard] = []
        self._ctx, self._to = ctx, to
        self._accepted: Optional[str] = None  # "" or why not
        self._granted: Optional[bool] = None
        self._acknowledged = False
        self._lost = ""
        self._too_large = 0
        self._read = 0
        self._misc_at = 0.0
        self._client = self._new_client()

    # --- what a skill does ----------------------------------------------------------------------

    def open(self) -> None:
        to = self._to
        try:
            if to.tls:
                self._client.tls_set_context(ssl.create_default_context())
            self._client.connect(to.host, to.port, keepalive=_KEEPALIVE_S)
        except ssl.SSLCertVerificationError as error:
            raise SkillError(
                f"the certificate of the broker {to.where} is not trusted: {error.verify_message}"
            ) from None
        except (OSError, ValueError) as error:
            raise SkillError(f"the broker {to.where} cannot be reached: {error}") from None
        self._until(lambda: self._accepted is not None, ANSWER_S, "does not answer")
        if self._accepted:
            raise SkillError(
                f"the broker {to.where} does not let the worker in: {self._accepted}; see the user "
                "and the password in PIBOT_MQTT_URL"
            )

    def subscribe(self, topic: str) -> None:
        self._client.subscribe(topic, 1)
        self._until(lambda: self._granted is not None, ANSWER_S, "does not answer")
        if not self._granted:
            raise SkillError(f"the broker {self._to.where} does not let the worker read {topic}")

    def listen(self, count: int, seconds: float) -> List[Heard]:
        """The first messages that come, for so long at most."""
        ends = time.monotonic() + seconds
        while len(self.heard) < count and time.monotonic() < ends and self._read < _MOST_READ:
            self._step(min(_LOOK_S, max(0.0, ends - time.monotonic())))
        return self.heard[:count]

    def publish(self, topic: str, payload: bytes, retain: bool) -> None:
        """Send a message and wait for the broker's word that it has it."""
        self._client.publish(topic, payload, 1, retain)
        self._until(lambda: self._acknowledged, ANSWER_S, "does not acknowledge the message")

    @property
    def left_out(self) -> int:
        """How many messages were too large to be read."""
        return self._too_large

    def close(self) -> None:
        try:
            self._client.disconnect()
        except Exception as error:  # a broker that sends what is no MQTT has broken it before
            _LOG.debug("the connection was not closed in order: %s", error)
        sock = self._client.socket()
        if sock is not None:
            sock.close()

    # --- what paho does -------------------------------------------------------------------------

    def _new_client(self) -> Any:
        import paho.mqtt.client as mqtt
        from paho.mqtt.enums import CallbackAPIVersion

        client = mqtt.Client(
            CallbackAPIVersion.VERSION2,
            f"pibot-skill-{secrets.token_hex(5)}",
            clean_session=True,
            reconnect_on_failure=False,
        )
        client.connect_timeout = CONNECT_S
        if self._to.user is not None:
            client.username_pw_set(self._to.user, self._to.password)
        client.on_connect = self._on_connect
        client.on_subscribe = self._on_subscribe
        client.on_publish = self._on_publish
        client.on_disconnect = self._on_disconnect
        client.on_message = self._on_message
        return client

    def _until(self, done: Callable[[], bool], limit_s: float, fault: str) -> None:
        ends = time.monotonic() + limit_s
        while not done():
            if time.monotonic() > ends or self._read > _MOST_READ:
                raise SkillError(f"the broker {self._to.where} {fault}")
            self._step(_LOOK_S)

    def _step(self, wait_s: float) -> None:
        """Read and write what can be; raise SkillError when that has come to an end."""
        if self._ctx.cancelled.is_set():
            raise SkillError("stopped: the call was cancelled")
        sock = self._client.socket()
        if sock is None:
            raise SkillError(self._end())
        try:
            self._serve(sock, wait_s)
        except SkillError:
            raise
        except Exception as error:  # paho's, about bytes that are no MQTT
            kind = type(error).__name__
            raise SkillError(f"the broker {self._to.where} says what is no MQTT: {kind}") from None

    def _serve(self, sock: Any, wait_s: float) -> None:
        buffered = isinstance(sock, ssl.SSLSocket) and sock.pending() > 0
        poller = select.poll()
        poller.register(sock, select.POLLIN | (select.POLLOUT if self._client.want_write() else 0))
        events = dict(poller.poll(0 if buffered else wait_s * 1000)).get(sock.fileno(), 0)
        if events & select.POLLOUT:
            self._client.loop_write()
        if buffered or events & ~select.POLLOUT:
            self._client.loop_read()
            self._check_size()
        if time.monotonic() >= self._misc_at:
            self._misc_at = time.monotonic() + _MISC_S
            self._client.loop_misc()

    def _check_size(self) -> None:
        """paho would keep up to 256 MiB of a message that is still coming."""
        if self._client._in_packet["remaining_length"] > _MOST_READ:
            raise SkillError(f"the broker {self._to.where} sends a message that is too large")

    def _end(self) -> str:
        """Why there is no connection any more."""
        if self._accepted:
            return f"the broker {self._to.where} does not let the worker in: {self._accepted}"
        return f"the connection to the broker {self._to.where} was lost{self._lost}"

    def _on_connect(self, _c: Any, _u: Any, _f: Any, reason: Any, _p: Any) -> None:
        self._accepted = str(reason) if reason.is_failure else ""

    def _on_subscribe(self, _c: Any, _u: Any, _id: int, reasons: Any, _p: Any) -> None:
        self._granted = bool(reasons) and all(reason.value < _FAULT for reason in reasons)

    def _on_publish(self, *_: Any) -> None:
        self._acknowledged = True

    def _on_disconnect(self, _c: Any, _u: Any, _f: Any, reason: Any, _p: Any) -> None:
        self._lost = f": {reason}" if str(reason) not in ("", "Unspecified error") else ""

    def _on_message(self, _c: Any, _u: Any, packet: Any) -> None:
        self._read += len(packet.payload)
        if len(packet.payload) > MOST_BYTES:
            self._too_large += 1
            return
        try:
            topic = packet.topic
        except UnicodeDecodeError:  # no broker should pass such a topic on
            return
        self.heard.append(Heard(topic, bytes(packet.payload), bool(packet.retain)))
