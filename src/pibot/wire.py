"""From messages to packets and back: header, envelope, and chunks for what is too large.

A packet stays under 64 KiB. A larger body travels as `chunk` messages, each an enveloped message
of its own, and is put together here; the end-to-end acknowledgement is that of the whole message.
"""

from __future__ import annotations

import base64
import hashlib
from collections import OrderedDict
from typing import Dict, Iterator, List, Optional, Tuple

from pibot.errors import BadMessage, PibotError
from pibot.messages import Chunk, Header, Message, decode, encode
from pibot.session import Channel
from pibot.signing import Keyring, seal, unseal

PACKET_BYTES = 60_000  # of payload: leaves room for the topic and MQTT's own header
SLICE_BYTES = 40_000  # becomes 53 340 characters of base64
WHOLE_BYTES = 32 * 1024 * 1024
SLICE_CHARS = -(-SLICE_BYTES // 3) * 4  # of base64
ASSEMBLING_BYTES = 2 * WHOLE_BYTES  # of unfinished bodies, from everyone together


class TooLarge(PibotError):
    """A message over the protocol's limit: refused here, before it is sent."""

    code = "too_large"


class Writer:
    """Makes the packets of one speaker: `kid` is its key's owner, `src` its name."""

    def __init__(self, kid: str, src: str, keyring: Keyring) -> None:
        self._kid, self._src, self._keyring = kid, src, keyring
        self._count = 0
        self.last_id = ""  # of the message made last

    def packets(
        self, topic: str, message: Message, channel: Optional[Channel] = None, epoch: int = 0
    ) -> List[bytes]:
        """Return the payloads that carry `message`, in order; raise TooLarge over the limit."""
        return [self._seal(topic, body) for body in self._bodies(message, channel, epoch)]

    def _bodies(self, message: Message, channel: Optional[Channel], epoch: int) -> Iterator[bytes]:
        body = self._body(message, channel, epoch)
        whole = self.last_id = self._id()
        if len(body) <= PACKET_BYTES:
            yield body
            return
        if len(body) > WHOLE_BYTES:
            raise TooLarge(
                f"the {message.t} message has {len(body):,} bytes, more than the {WHOLE_BYTES:,} "
                "that may be sent"
            )
        for chunk in slices(whole, body):
            yield self._body(chunk, channel, epoch)

    def _id(self) -> str:
        return f"{self._src}-{self._count}"

    def _body(self, message: Message, channel: Optional[Channel], epoch: int) -> bytes:
        self._count += 1
        ses, n = (channel.ses, channel.stamp()) if channel else ("", 0)
        return encode(Header(message.t, self._id(), self._src, ses, n, epoch), message)

    def _seal(self, topic: str, body: bytes) -> bytes:
        return seal(self._keyring, self._kid, topic, body)


def slices(whole: str, body: bytes) -> Iterator[Chunk]:
    """Cut a body into chunks that belong to the message `whole`."""
    sha256 = hashlib.sha256(body).hexdigest()
    parts = range(0, len(body), SLICE_BYTES)
    for i, start in enumerate(parts):
        data = base64.b64encode(body[start : start + SLICE_BYTES]).decode()
        yield Chunk(whole, i, len(parts), len(body), sha256, data)


class Reader:
    """Opens packets: checks the envelope, decodes the body, joins chunks."""

    def __init__(self, keyring: Keyring) -> None:
        self._keyring = keyring
        self._open: "OrderedDict[_Key, Dict[int, bytes]]" = OrderedDict()
        self._held = 0  # bytes of all chunks in _open, with what a chunk costs beside its data

    def read(self, topic: str, payload: bytes) -> "tuple[str, Header, Message]":
        """Return (kid, header, message); raise BadMessage."""
        if len(payload) > 2 * PACKET_BYTES:
            raise BadMessage(f"a packet of {len(payload)} bytes")
        envelope = unseal(self._keyring, topic, payload)
        header, message = decode(envelope.body)
        return envelope.kid, header, message

    def join(self, topic: str, header: Header, chunk: Chunk) -> "Optional[tuple[Header, Message]]":
        """Add a chunk; return the whole message once every chunk is there."""
        data = _check(chunk)
        key = (topic, header.ses, chunk.whole, chunk.size, chunk.sha256)
        parts = self._open.setdefault(key, {})
        self._open.move_to_end(key)
        if chunk.i not in parts:
            parts[chunk.i] = data
            self._held += _cost(data)
        if len(parts) < chunk.of:
            while self._held > ASSEMBLING_BYTES:
                self._drop(next(iter(self._open)))
            return None
        self._drop(key)
        body = b"".join(parts[i] for i in range(chunk.of))
        if len(body) != chunk.size or hashlib.sha256(body).hexdigest() != chunk.sha256:
            raise BadMessage(f"the chunks of {chunk.whole} do not fit together")
        return decode(body)

    def _drop(self, key: "_Key") -> None:
        self._held -= sum(_cost(data) for data in self._open.pop(key).values())


_Key = Tuple[str, str, str, int, str]


def _cost(data: bytes) -> int:
    return len(data) + 1_000


def _check(chunk: Chunk) -> bytes:
    """Return the chunk's bytes; raise BadMessage if its numbers or its base64 are wrong."""
    whole = 0 < chunk.size <= WHOLE_BYTES and chunk.of == -(-chunk.size // SLICE_BYTES)
    names = len(chunk.whole) <= 64 and len(chunk.sha256) == 64
    if not (whole and names and 0 <= chunk.i < chunk.of and len(chunk.data) <= SLICE_CHARS):
        raise BadMessage("chunk: its numbers do not fit")
    try:
        return base64.b64decode(chunk.data, validate=True)
    except ValueError:
        raise BadMessage("chunk: its data is not base64") from None
