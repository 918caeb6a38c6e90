"""One connection to a model endpoint.

`Line` does the blocking part of a model call in a thread of its own, so that the caller can
leave at any moment: while the name is looked up, while the endpoint is silent, in mid-stream.
"""

from __future__ import annotations

import re
import socket
import threading
from typing import TYPE_CHECKING, Any, Callable, Iterable, Iterator, Mapping, Optional, Union

from pibot import parts
from pibot.agent.failures import EndpointError, explain
from pibot.agent.reply import DONE, events
from pibot.config import ModelSettings

if TYPE_CHECKING:
    from openai import OpenAI

CONNECT_S = 10.0
_KEY = re.compile(r"[\x21-\x7e]+")
MAX_STREAM_BYTES = 64 * 1024 * 1024

Event = Union[bytes, EndpointError, None]  # a payload; how it failed; None: the end


class Line:
    """One client for one exchange at a time, so that its only socket is known and can be cut."""

    def __init__(self, settings: ModelSettings, silence_s: float) -> None:
        self._settings = settings
        self._silence_s = silence_s
        self._client: Optional[OpenAI] = None
        self._socket: Optional[socket.socket] = None
        self._lock = threading.Lock()
        self._busy = False
        self._cut = False

    def start(self, body: Mapping[str, Any], put: Callable[[Event], None]) -> None:
        """Send `body` and put the payloads of the answer, at last None; returns at once."""
        self._busy = True
        threading.Thread(
            target=self._exchange, args=(body, put), name="model-call", daemon=True
        ).start()

    def _exchange(self, body: Mapping[str, Any], put: Callable[[Event], None]) -> None:
        try:
            self._stream(body, put)
        except Exception as error:
            put(explain(error, self._settings))
        with self._lock:
            self._busy = False
            cut = self._cut
        if cut:
            self._close()
        put(None)

    def cut(self) -> None:
        """End the exchange at once, wherever it is, and close the connection for good."""
        with self._lock:
            self._cut = True
            busy = self._busy
            if self._socket is not None:
                _shut_down(self._socket)
        if not busy:
            self._close()

    def _stream(self, body: Mapping[str, Any], put: Callable[[Event], None]) -> None:
        parts.ensure("model")
        import openai

        if self._client is None:
            self._client = self._open()
        # The generic post spares the walk over the whole history that `chat.completions` makes.
        with self._client.post(
            "/chat/completions",
            body=body,
            cast_to=object,
            stream=True,
            stream_cls=openai.Stream[object],
        ) as stream:
            response = stream.response
            pieces = _bounded(response.iter_bytes())
            kind = response.headers.get("content-type", "").partition(";")[0].strip().lower()
            if kind == "application/json":  # it does not stream: the whole completion at once
                put(b"".join(pieces))
                put(DONE)
            elif kind == "text/html":
                raise EndpointError(
                    "The address of the model endpoint answered with a web page;"
                    " check VOLC_BASE_URL or OPENAI_BASE_URL."
                )
            else:  # read to the very end, so that the connection can serve the next call
                for payload in events(pieces):
                    put(payload)

    def _open(self) -> OpenAI:
        import openai

        if not _KEY.fullmatch(self._settings.api_key):
            # Sent as it is, it would end up in the debug log of the HTTP library.
            raise EndpointError(
                "The key of the model endpoint holds a space or a character that no key has;"
                " check VOLC_API_KEY or OPENAI_API_KEY."
            )
        # trust_env=False: proxies, .netrc and certificate files from the environment could send
        # the key elsewhere than to the configured host, and a stray ALL_PROXY would stop a
        # service for no reason that its user can see. Redirects are refused for the same reason.
        http = openai.DefaultHttpxClient(
            trust_env=False,
            follow_redirects=False,
            event_hooks={"request": [self._watch]},
        )
        return openai.OpenAI(
            api_key=self._settings.api_key,
            base_url=self._settings.base_url,
            max_retries=0,
            timeout=openai.Timeout(self._silence_s, connect=CONNECT_S),
            http_client=http,
        )

    def _watch(self, request: Any) -> None:
        request.extensions["trace"] = self._trace

    def _trace(self, event: str, info: Mapping[str, Any]) -> None:
        """Remember the socket of each new connection; a line that was cut gets none."""
        if event in ("connection.connect_tcp.complete", "connection.start_tls.complete"):
            with self._lock:
                self._socket = info["return_value"].get_extra_info("socket")
                if self._cut and self._socket is not None:
                    _shut_down(self._socket)

    def _close(self) -> None:
        if self._client is not None:
            self._client.close()


def _shut_down(sock: socket.socket) -> None:
    # close() would not wake a thread that waits in recv(); the base class's shutdown() is used
    # because that of a TLS socket takes the session away under the reading thread.
    try:
        socket.socket.shutdown(sock, socket.SHUT_RDWR)
    except OSError:
        pass


def _bounded(pieces: Iterable[bytes]) -> Iterator[bytes]:
    size = 0
    for piece in pieces:
        size += len(piece)
        if size > MAX_STREAM_BYTES:
            raise EndpointError(
                f"The model endpoint sent more than {MAX_STREAM_BYTES >> 20} MiB for one answer."
            )
        yield piece
