"""The envelope, byte for byte, and the keys with which messages are signed.

    {"sig":"SIG","kid":"KID","body":BODY}

SIG is 64 hex digits or empty, KID names the speaker (`w:worker-1`, `c:laptop`, `m:master`), BODY is
one JSON object. The MAC covers the topic, a zero byte and BODY's bytes as they were sent, and is
checked before BODY is parsed: of what a stranger wrote, only a guest parses two small hints (see
line.py).

A name's key is known to its owner and to the master. Of it two keys are derived (HMAC-SHA-256,
RFC 2104): `up` signs what the owner says, `down` what the master says to it. So nothing can be
reflected, and whoever steals one key speaks for one name.
"""

from __future__ import annotations

import functools
import hmac
import re
from typing import Callable, Dict, NamedTuple, Optional, Protocol, Sequence

from pibot.errors import BadMessage
from pibot.topics import RESERVED, Address

UP, DOWN, HIDE = "up", "down", "hide"
NO_KEY = ""  # signs with nothing
_MASTER = f"m:{RESERVED}"
_NONCE_BYTES = 16
_SECRET_BYTES = 32
_ENVELOPE = re.compile(
    rb'\{"sig":"([0-9a-f]{64}|)","kid":"([a-z]:[a-z0-9][a-z0-9-]{0,31})","body":(\{.*\})\}',
    re.DOTALL,
)


class Envelope(NamedTuple):
    sig: str
    kid: str
    body: bytes


class Forged(BadMessage):
    """An envelope whose signature does not fit."""


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


class Deaf(Unsigned):
    """The keyring of a client without a key, whose broker is elsewhere: it believes nobody."""

    def verify(self, envelope: Envelope, topic: str) -> bool:
        return False


class GuestKeys:
    """The keyring of a worker or client: it knows its own key, and hears the master only."""

    def __init__(self, key: str) -> None:
        self._key = key

    def sign(self, kid: str, topic: str, body: bytes) -> str:
        return _mac(self._key, UP, topic, body)

    def verify(self, envelope: Envelope, topic: str) -> bool:
        """False for what the master says to all, too: only the master can check that."""
        return envelope.kid == _MASTER and _fits(self._key, DOWN, envelope, topic)


class MasterKeys:
    """The keyring of the master, which knows everybody's key."""

    def __init__(
        self,
        own: Optional[str],
        parse: Callable[[str], Optional[Address]],
        keys_of: Callable[[str, str], Sequence[str]],
    ) -> None:
        """`parse` tells whose a topic is; `keys_of` the keys with which a name may speak there.

        It gets the kind, w or c, and the name; there are two keys while they are changed. A name
        without any is checked with the master's own: in a fleet that was made by hand all may share
        one key. A master without a key, on loopback, takes what is unsigned as well.
        """
        self._own, self._parse, self._keys_of = own, parse, keys_of
        self._last: Dict[str, str] = {}

    def sign(self, kid: str, topic: str, body: bytes) -> str:
        to = self._parse(topic)
        key = (self._own or NO_KEY) if to is None or to.kind == "m" else self.last(to.kind, to.name)
        return _mac(key, DOWN, topic, body)

    def verify(self, envelope: Envelope, topic: str) -> bool:
        """Whether the topic's owner has signed it; on `m/all`, whether it is our own word."""
        at = self._parse(topic)
        if at is None or envelope.kid != f"{at.kind}:{at.name}":
            return False
        if at.kind == "m":
            return _fits(self._own or NO_KEY, DOWN, envelope, topic)
        known = self._keys_of(at.kind, at.name)
        for key in self._or_own(known):
            if _fits(key, UP, envelope, topic):
                if known:  # of strangers nothing is kept
                    self._last[at.name] = key
                return True
        return False

    def last(self, kind: str, name: str) -> str:
        """The key with which a name has spoken last: it understands what is signed with that.

        Even if it may not speak any more: so it can be told.
        """
        found = self._last.get(name)
        return self._or_own(self._keys_of(kind, name))[0] if found is None else found

    def _or_own(self, known: Sequence[str]) -> Sequence[str]:
        return (*known, NO_KEY) if self._own is None else known or (self._own,)


def seal(keyring: Keyring, kid: str, topic: str, body: bytes) -> bytes:
    """Return the envelope's bytes around `body`."""
    return envelope(keyring.sign(kid, topic, body), kid, body)


def envelope(sig: str, kid: str, body: bytes) -> bytes:
    """The bytes of an envelope."""
    return b'{"sig":"%s","kid":"%s","body":%s}' % (sig.encode(), kid.encode(), body)


def unseal(keyring: Keyring, topic: str, payload: bytes) -> Envelope:
    """Check an envelope and return its parts; raise BadMessage if it is none, Forged if forged."""
    found = opened(payload)
    if not keyring.verify(found, topic):
        raise Forged(f"the signature of {found.kid} does not fit")
    return found


def opened(payload: bytes) -> Envelope:
    """The parts of an envelope, unchecked; raise BadMessage if it is none."""
    found = _ENVELOPE.fullmatch(payload)
    if found is None:
        raise BadMessage("not an envelope")
    return Envelope(found.group(1).decode(), found.group(2).decode(), found.group(3))


def hide(key: str, secret: str, nonce: bytes) -> str:
    """A secret of 64 hex digits as nobody without `key` can read it; raise ValueError.

    `nonce` are 16 random bytes. They come first, then the secret XOR their MAC: a pad that is used
    once, as long as the secret. What protects it from change is the envelope around it.
    """
    if len(nonce) != _NONCE_BYTES:
        raise ValueError("a nonce has 16 bytes")
    return (nonce + _xor(_secret(secret), _pad(key, nonce))).hex()


def reveal(key: str, hidden: str) -> str:
    """What `hide` has hidden with the same key; raise ValueError if that cannot be."""
    data = bytes.fromhex(hidden)
    if len(data) != _NONCE_BYTES + _SECRET_BYTES:
        raise ValueError("a hidden secret has another length")
    return _xor(data[_NONCE_BYTES:], _pad(key, data[:_NONCE_BYTES])).hex()


def _secret(text: str) -> bytes:
    data = bytes.fromhex(text)
    if len(data) != _SECRET_BYTES:
        raise ValueError("a secret that is hidden has 64 hex digits")
    return data


def _pad(key: str, nonce: bytes) -> bytes:
    return hmac.digest(_derived(key, HIDE), nonce, "sha256")


def _xor(one: bytes, other: bytes) -> bytes:
    return bytes(a ^ b for a, b in zip(one, other))


@functools.lru_cache(maxsize=20_000)
def _derived(key: str, purpose: str) -> bytes:
    return hmac.digest(key.encode(), f"pibot/1 {purpose}".encode(), "sha256")


def _mac(key: str, purpose: str, topic: str, body: bytes) -> str:
    if key == NO_KEY:
        return ""
    return hmac.digest(_derived(key, purpose), topic.encode() + b"\0" + body, "sha256").hex()


def _fits(key: str, purpose: str, found: Envelope, topic: str) -> bool:
    return hmac.compare_digest(_mac(key, purpose, topic, found.body), found.sig)
