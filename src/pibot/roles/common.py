"""What the master's and the worker's wiring share."""

from __future__ import annotations

import logging
import secrets
import socket
from typing import Any, Callable, Dict, Tuple

from pibot.config import Settings
from pibot.errors import ConfigError
from pibot.health import HealthServer
from pibot.notify import Notify
from pibot.signing import Deaf, GuestKeys, Keyring, Unsigned
from pibot.topics import name_of_user
from pibot.transport import Link

log = logging.getLogger("pibot")

PORTS_TRIED = 20
MASTER_PORT = 5001


class Stop:
    """Put into a mailbox to end its loop."""


class BrokerNews:
    """Tells the log and systemd how it is with the broker; what they know already, not again.

    A machine without a broker tries every few seconds, for days if need be.
    """

    def __init__(self, log: logging.Logger, systemd: Notify) -> None:
        self._log, self._systemd = log, systemd
        self._told = ""

    def tell(self, connected: bool, why: str) -> None:
        news = "connected to the broker" if connected else why
        if news != self._told:
            self._told = news
            self._systemd.status(news)
            self._log.log(logging.INFO if connected else logging.WARNING, "%s", news)


def new_nonce() -> str:
    """64 random bits for a session."""
    return secrets.token_hex(8)


def new_goal_id() -> str:
    return "g" + secrets.token_hex(6)


def guest_keys(settings: Settings) -> Keyring:
    """How a worker or client signs: with its key, or not at all, which loopback allows."""
    if settings.key:
        return GuestKeys(settings.key)
    return Unsigned() if settings.is_loopback_broker else Deaf()


def link(settings: Settings, host: str, port: int) -> Link:
    ca_file = str(settings.mqtt_ca_file) if settings.mqtt_ca_file else None
    user, password = settings.mqtt_username, settings.mqtt_password
    return Link(host, port, user, password, ca_file, settings.ca)


def other_user(settings: Settings) -> str:
    """Why a worker that is let in may still not be heard; "" if it has its own user name."""
    user, name = settings.mqtt_username, settings.worker_id
    if settings.role != "worker" or user is None or name_of_user(user) == name:
        return ""
    return (
        f"{user} is let in, but this worker is called {name}: with the rights that setup makes, "
        f"{user} may not speak for {name}"
    )


def serve_health(
    settings: Settings, answer: Callable[[], Tuple[int, Dict[str, Any]]]
) -> HealthServer:
    """Start /health on the configured port; raise ConfigError if somebody else has it.

    The default port is only a habit: when it is taken (a second worker on one machine), the next
    free one serves, and the log says which.
    """
    names = (socket.gethostname(), settings.worker_id, settings.health_host)
    first = settings.health_port
    last = first if settings.health_port_explicit else first + PORTS_TRIED
    for port in range(first, last + 1):
        if port == MASTER_PORT != first:
            continue  # the master's own habit, on this machine perhaps a moment later
        server = HealthServer(settings.health_host, port, answer, names)
        try:
            server.start()
        except ConfigError:
            if port == last:
                raise
            continue
        if port != first:
            log.warning(
                "port %d is in use: /health answers on port %d; choose one with --port", first, port
            )
        return server
    raise AssertionError("the loop returns or raises")
