"""The embedded broker: amqtt on loopback, in a thread with its own event loop.

Only the master that starts it imports this module; it needs Python 3.10 and loads asyncio. The
sockets are ours: `doorkeeper` says what amqtt gets to read and to write.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from contextlib import suppress
from typing import Any, Dict, List, Optional

from amqtt.broker import Broker
from amqtt.plugins.base import BaseAuthPlugin

from pibot.admission import Admission
from pibot.doorkeeper import Doorkeeper

_NEVER_S = 10 * 365 * 86_400  # added to a client's keepalive: the doorkeeper counts its silence
_STOP_S = 5.0
log = logging.getLogger(__name__)


class Loopback(BaseAuthPlugin):  # type: ignore[misc, unused-ignore]
    """Lets everyone in, without the password hashing that amqtt's own plugins import.

    Whoever comes here has passed the doorkeeper, and the listener is bound to loopback.
    """

    async def authenticate(self, *, session: Any) -> bool:
        return True


class EmbeddedBroker:
    """amqtt serving 127.0.0.1:port between start() and close()."""

    def __init__(self, port: int, admission: Optional[Admission] = None) -> None:
        self._port, self._admission = port, admission
        self._door: Optional[Doorkeeper] = None
        self._loop: Optional[asyncio.AbstractEventLoop] = None
        self._stop: Optional[asyncio.Event] = None
        self._failures: List[BaseException] = []
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run, name="broker", daemon=True)

    def start(self) -> None:
        """Return once it listens; raise OSError when the port cannot be had."""
        if self._admission is not None:
            self._admission.read()
        self._thread.start()
        self._ready.wait()
        if self._failures:
            self._thread.join()
            raise OSError(str(self._failures[0]))

    def review(self) -> None:
        """Other people may come in now; those who may not any more are sent away."""
        if self._loop is not None and self._door is not None:
            with suppress(RuntimeError):  # it has ended
                self._loop.call_soon_threadsafe(self._door.review)

    def close(self) -> None:
        if self._loop is not None and self._stop is not None and self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._stop.set)
            self._thread.join(2 * _STOP_S)

    def _run(self) -> None:
        for name in ("amqtt", "transitions"):
            logging.getLogger(name).setLevel(logging.CRITICAL)  # they tell each connection's story
        try:
            asyncio.run(self._serve())
        except Exception as error:
            self._failures.append(error)
        finally:
            self._ready.set()

    async def _serve(self) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        self._loop.set_exception_handler(_note)
        config = {
            "listeners": {"default": {"type": "external"}},
            "timeout_disconnect_delay": _NEVER_S,
            "plugins": {f"{__name__}.Loopback": {}},
        }
        broker = Broker(config)
        await broker.start()
        door = self._door = Doorkeeper(broker, "default", self._admission)
        watching = asyncio.create_task(door.watch())
        server = await asyncio.start_server(door.serve, "127.0.0.1", self._port)
        self._ready.set()
        await self._stop.wait()
        server.close()
        await asyncio.wait_for(broker.shutdown(), _STOP_S)
        watching.cancel()
        door.close()


def _note(_loop: asyncio.AbstractEventLoop, context: Dict[str, Any]) -> None:
    """What a client's bytes have led amqtt to raise: that connection is over, and that is all."""
    log.debug("the embedded broker: %s %r", context.get("message"), context.get("exception"))
