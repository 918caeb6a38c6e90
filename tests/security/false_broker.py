"""Somebody else in the broker's place: he takes connections and writes down what they say."""

from __future__ import annotations

import socket
import ssl
import threading
from typing import List, Optional


class FalseBroker:
    """Without `tls` he speaks in the clear; with it, TLS, and hears what is inside."""

    def __init__(self, tls: Optional[ssl.SSLContext] = None) -> None:
        self.heard = b""
        self.ended = 0  # connections that are over
        self._tls = tls
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._server.getsockname()[1]
        self._threads: List[threading.Thread] = []

    def __enter__(self) -> "FalseBroker":
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.close()

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._server.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(sock,), daemon=True).start()

    def _serve(self, sock: socket.socket) -> None:
        try:
            sock.settimeout(1.0)
            if self._tls:
                sock = self._tls.wrap_socket(sock, server_side=True)
            while data := sock.recv(4096):
                self.heard += data
                sock.sendall(b"\x20\x02\x00\x00")  # be my guest
        except OSError:
            pass
        sock.close()
        self.ended += 1
