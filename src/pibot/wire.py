"""From messages to packets and back: header and envelope.

A packet stays under 64 KiB. What is larger travels in chunks: see transfer.py and line.py.
"""

from __future__ import annotations

from typing import NamedTuple, Optional

from pibot.errors import BadMessage, PibotError
from pibot.messages import Header, Message, decode, encode
from pibot.session import Channel
from pibot.signing import Keyring, opened, seal, unseal

PACKET_BYTES = 60_000  # of payload: leaves room for the topic and MQTT's own header
HINT_BYTES = 1_000  # so much of what nobody has signed may reach the parser


class Packet(NamedTuple):
    topic: str
    payload: bytes
    qos: int = 1
    retain: bool = False


class TooLarge(PibotError):
    """A message over the protocol's limit: refused here, before it is sent."""

    code = "too_large"

    def __init__(self, message: Message, size: int, limit: int) -> None:
        super().__init__(
            f"the {message.t} message has {size:,} bytes, more than the {limit:,} that may be sent"
        )


class Writer:
    """Makes the packets of one speaker: `kid` is its key's owner, `src` its name."""

    def __init__(self, kid: str, src: str, keyring: Keyring) -> None:
        self._kid, self._src, self._keyring = kid, src, keyring
        self._count = 0

    def new_id(self) -> str:
        """An id that no other message of this process has."""
        self._count += 1
        return f"{self._src}-{self._count}"

    def body(
        self, message: Message, channel: Optional[Channel] = None, epoch: int = 0, id: str = ""
    ) -> bytes:
        """A message with its header: the next one of the session, or outside of any."""
        ses, n = (channel.ses, channel.stamp()) if channel else ("", 0)
        header = Header(message.t, id or self.new_id(), self._src, ses, n, epoch)
        return encode(header, message)

    def seal(self, topic: str, body: bytes) -> bytes:
        """The payload of a packet."""
        return seal(self._keyring, self._kid, topic, body)

    def packet(
        self, topic: str, message: Message, channel: Optional[Channel] = None, epoch: int = 0
    ) -> bytes:
        """The payload that carries `message`; raise TooLarge if one packet is not enough."""
        body = self.body(message, channel, epoch)
        if len(body) > PACKET_BYTES:
            raise TooLarge(message, len(body), PACKET_BYTES)
        return self.seal(topic, body)


class Reader:
    """Opens packets: checks the envelope, decodes the body."""

    def __init__(self, keyring: Keyring) -> None:
        self._keyring = keyring

    def read(self, topic: str, payload: bytes) -> "tuple[str, Header, Message]":
        """Return (kid, header, message); raise BadMessage, which is Forged if the key is wrong."""
        if len(payload) > 2 * PACKET_BYTES:
            raise BadMessage(f"a packet of {len(payload)} bytes")
        envelope = unseal(self._keyring, topic, payload)
        header, message = decode(envelope.body)
        return envelope.kid, header, message


def hint(payload: bytes) -> "tuple[Header, Message]":
    """What anybody may have said: enough for a look, never for a decision. Raises BadMessage."""
    body = opened(payload).body
    if len(body) > HINT_BYTES:
        raise BadMessage("a signature that does not fit")
    return decode(body)
