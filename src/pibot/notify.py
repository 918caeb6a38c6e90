"""systemd's notification protocol: ready, status, watchdog, stopping. Without systemd, nothing."""

from __future__ import annotations

import os
import socket
from typing import MutableMapping, Optional

SEND_S = 1.0  # a socket that nobody empties must not hold the caller


class Notify:
    """Where a service reports to; by default nowhere."""

    def __init__(self, address: Optional[str] = None, watchdog_s: Optional[float] = None) -> None:
        """`watchdog_s` is how long systemd bears silence; None when it does not watch."""
        self._address = address
        self._interval_s = watchdog_s / 2 if watchdog_s else None
        self._alive_at = float("-inf")

    @classmethod
    def taken(cls, environ: MutableMapping[str, str]) -> "Notify":
        """What systemd asked for, taken out of `environ`: it is not meant for our children."""
        address = environ.pop("NOTIFY_SOCKET", "")
        usec, pid = environ.pop("WATCHDOG_USEC", ""), environ.pop("WATCHDOG_PID", "")
        if not address.startswith(("/", "@")):
            return cls()
        mine = pid in ("", str(os.getpid()))
        watched = mine and usec.isascii() and usec.isdigit() and int(usec) > 0
        return cls(address, int(usec) / 1_000_000 if watched else None)

    def ready(self) -> None:
        self._send("READY=1")

    def stopping(self) -> None:
        self._send("STOPPING=1")

    def status(self, text: str) -> None:
        """One line that `systemctl status` shows."""
        self._send("STATUS=" + " ".join(text.split()))

    def alive(self, now: float) -> None:
        """Call it in each round of the loop; it speaks at half the watchdog's interval."""
        if self._interval_s is not None and now - self._alive_at >= self._interval_s:
            self._alive_at = now
            self._send("WATCHDOG=1")

    def _send(self, state: str) -> None:
        if self._address is None:
            return
        address = "\0" + self._address[1:] if self._address[0] == "@" else self._address
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
                sock.settimeout(SEND_S)
                sock.sendto(state.encode("utf-8", "replace"), address)
        except OSError:  # a service works on when nobody listens
            pass
