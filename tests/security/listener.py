"""A web server of the attacker: it serves his pages, and remembers all that it is told."""

from __future__ import annotations

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Dict, List, Tuple


class Listener:
    """`heard` holds each request as bytes; `pages` are (status, content type, body) by path."""

    def __init__(self) -> None:
        self.heard: List[bytes] = []
        self.pages: Dict[str, Tuple[int, str, bytes]] = {}
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self.host = f"127.0.0.1:{self._http.server_port}"
        threading.Thread(target=self._http.serve_forever, args=(0.02,), daemon=True).start()

    @property
    def told(self) -> bytes:
        """All that it has heard but for the question which pages robots may read."""
        return b"\n".join(one for one in self.heard if b"GET /robots.txt" not in one)

    def close(self) -> None:
        self._http.shutdown()
        self._http.server_close()

    def _handler(self) -> Any:
        listener = self

        class Handler(BaseHTTPRequestHandler):
            def _take(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                listener.heard.append(self.requestline.encode() + bytes(self.headers) + body)
                absent = 404 if self.path == "/robots.txt" else 200
                status, kind, answer = listener.pages.get(
                    self.path, (absent, "text/plain", b"thank you")
                )
                self.send_response(status)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            do_GET = do_POST = do_PUT = do_HEAD = _take

            def log_message(self, format: str, *args: Any) -> None:
                """Keep tests quiet."""

        return Handler
