"""The envelope, byte for byte, and the place where messages are signed.

    {"sig":"SIG","kid":"KID","body":BODY}

SIG is 64 hex digits or empty, KID names the key's owner (`w:worker-1`, `c:laptop`, `m:master`),
BODY is one JSON object. The MAC covers the topic, a zero byte and BODY's bytes as they were sent,
and is checked before BODY is parsed: nothing that a stranger wrote reaches the JSON parser.
"""

from __future__ import annotations

import re
from typing import NamedTuple, Protocol

from pibot.errors import BadMessage

_ENVELOPE = re.compile(
    rb'\{"sig":"([0-9a-f]{64}|)","kid":"([a-z]:[a-z0-9][a-z0-9-]{0,31})","body":(\{.*\})\}',
    re.DOTALL,
)


class Envelope(NamedTuple):
    sig: str
    kid: str
    body: bytes


class Keyring(Protocol):
    """Signs what this process sends and checks what it receives."""

    def sign(self, kid: str, topic: str, body: bytes) -> str: ...

    def verify(self, envelope: Envelope, topic: str) -> bool: ...


class Unsigned:
    """The keyring of a fleet whose broker is on loopback: every signature is empty."""

    def sign(self, kid: str, topic: str, body: bytes) -> str:
        return ""

    def verify(self, envelope: Envelope, topic: str) -> bool:
        return envelope.sig == ""


def seal(keyring: Keyring, kid: str, topic: str, body: bytes) -> bytes:
    """Return the envelope's bytes around `body`."""
    sig = keyring.sign(kid, topic, body)
    return b'{"sig":"%s","kid":"%s","body":%s}' % (sig.encode(), kid.encode(), body)


def unseal(keyring: Keyring, topic: str, payload: bytes) -> Envelope:
    """Check an envelope and return its parts; raise BadMessage if it is not one or is forged."""
    found = _ENVELOPE.fullmatch(payload)
    if found is None:
        raise BadMessage("not an envelope")
    envelope = Envelope(found.group(1).decode(), found.group(2).decode(), found.group(3))
    if not keyring.verify(envelope, topic):
        raise BadMessage(f"the signature of {envelope.kid} does not fit")
    return envelope
