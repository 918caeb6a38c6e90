"""Who speaks to a party under test, and the transport on which nothing else happens."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import socket
import zlib
from collections import deque
from pathlib import Path
from typing import Any, Callable, Deque, Dict, List, Tuple, Type, TypeVar

from fleet_processes import free_port
from pibot import config
from pibot import messages as msg
from pibot.errors import BadMessage
from pibot.messages import Header, Message
from pibot.signing import Unsigned, seal, unseal
from pibot.topics import Topics
from pibot.transfer import SLICE_BYTES

TOPICS = Topics("home")
M = TypeVar("M", bound=Message)
Sent = Deque[Tuple[str, bytes]]


class Nowhere:
    """A transport without an other end; what was published last can be read."""

    def __init__(self, *_: Any) -> None:
        self.sent: Sent = deque(maxlen=500)

    def start(self, on_message: Any, on_state: Any, wake: Any) -> None:
        on_state(True, "")

    def poll(self, wait_s: float, wake: socket.socket) -> None: ...

    def publish(self, topic: str, payload: bytes, qos: int = 1, retain: bool = False) -> bool:
        self.sent.append((topic, payload))
        return True

    def renew(self) -> None: ...

    def close(self) -> None: ...


def settings(role: str, folder: Path, name: str = "") -> config.Settings:
    environ = {
        "PIBOT_STATE_DIR": str(folder / role),
        "PIBOT_HEALTH_PORT": str(free_port()),
        "PIBOT_HEALTH_HOST": "127.0.0.1",
        "MQTT_HOST": "127.0.0.1",
        **({"WORKER_ID": name} if name else {}),
    }
    return config.load(role, {}, environ, None, folder / "pibot.pyz")


class Peer:
    """One speaker: its kind and name, and its session once it has one."""

    def __init__(self, kind: str, name: str) -> None:
        self.kind, self.name, self.ses, self.n = kind, name, "", 0
        self.wholes = 0

    def welcomed(self, ses: str) -> None:
        if ses != self.ses:
            self.ses, self.n = ses, 0

    def body(self, message: Message) -> bytes:
        self.n += 1
        header = Header(message.t, f"{self.name}-{self.n}", self.name, self.ses, self.n)
        return msg.encode(header, message)

    def sealed(self, topic: str, body: bytes) -> bytes:
        return seal(Unsigned(), f"{self.kind}:{self.name}", topic, body)

    def spoken(self, payload: bytes, mended: Callable[[Dict[str, Any]], None]) -> List[bytes]:
        """A payload as bodies of this session: most of them in order, so that they are read on.

        `mended` changes what a bent body names into what the party knows. One of eight goes out
        as it is, one of eight in chunks.
        """
        dice = zlib.crc32(payload) % 8
        if dice == 0:
            return [payload]
        dressed = self._dressed(payload, mended)
        return self._chunked(dressed) if dice == 1 else [dressed]

    def _dressed(self, payload: bytes, mended: Callable[[Dict[str, Any]], None]) -> bytes:
        with contextlib.suppress(ValueError, RecursionError):
            body = json.loads(payload)
            if isinstance(body, dict):
                self.n += 1
                body.update(src=self.name, ses=self.ses, n=self.n)
                mended(body)
                return json.dumps(body).encode()
        return payload

    def _chunked(self, body: bytes) -> List[bytes]:
        self.wholes += 1
        sha256 = hashlib.sha256(body).hexdigest()
        starts = range(0, len(body), SLICE_BYTES)
        slices = (base64.b64encode(body[at : at + SLICE_BYTES]).decode() for at in starts)
        whole = f"{self.name}-w{self.wholes}"
        return [
            self.body(msg.Chunk(whole, i, len(starts), len(body), sha256, data))
            for i, data in enumerate(slices)
        ]


def heard(sent: Sent, topic: str, kind: Type[M]) -> List[M]:
    """What was published on a topic, of one type."""
    found = []
    for where, payload in list(sent):
        if where == topic:
            with contextlib.suppress(BadMessage):
                message = msg.decode(unseal(Unsigned(), topic, payload).body)[1]
                if isinstance(message, kind):
                    found.append(message)
    return found


def kind_of(payload: bytes) -> str:
    """The type that a body seems to have."""
    start = payload.find(b'"t":')
    return payload[start + 4 : start + 24].strip(b' "').split(b'"')[0].decode("ascii", "replace")
