"""The envelope, byte for byte, and what is no envelope."""

from __future__ import annotations

import hashlib
import hmac

import pytest

from pibot.errors import BadMessage
from pibot.signing import Envelope, Unsigned, seal, unseal

TOPIC = "pibot/1/home/w/worker-1/evt"
BODY = '{"v":1,"t":"bye","text":"dög"}'.encode()


class Keys:
    """A keyring with one key; notes what it was asked to check."""

    def __init__(self) -> None:
        self.asked = 0

    def sign(self, kid: str, topic: str, body: bytes) -> str:
        return hmac.new(b"k", topic.encode() + b"\0" + body, hashlib.sha256).hexdigest()

    def verify(self, envelope: Envelope, topic: str) -> bool:
        self.asked += 1
        return hmac.compare_digest(self.sign(envelope.kid, topic, envelope.body), envelope.sig)


def test_unsigned_bytes() -> None:
    sealed = seal(Unsigned(), "w:worker-1", TOPIC, BODY)
    assert sealed == b'{"sig":"","kid":"w:worker-1","body":' + BODY + b"}"
    assert unseal(Unsigned(), TOPIC, sealed) == Envelope("", "w:worker-1", BODY)


def test_signed_bytes_and_the_topic_is_part_of_them() -> None:
    sealed = seal(Keys(), "c:laptop", TOPIC, BODY)
    sig = hmac.new(b"k", TOPIC.encode() + b"\0" + BODY, hashlib.sha256).hexdigest()
    assert sealed == b'{"sig":"' + sig.encode() + b'","kid":"c:laptop","body":' + BODY + b"}"
    assert unseal(Keys(), TOPIC, sealed).body == BODY
    for forged in (sealed.replace(b"bye", b"by3"), sealed.replace(sig[:1].encode(), b"x", 1)):
        with pytest.raises(BadMessage):
            unseal(Keys(), TOPIC, forged)
    with pytest.raises(BadMessage, match="c:laptop"):
        unseal(Keys(), TOPIC + "x", sealed)


def test_a_signature_where_none_is_known_is_refused() -> None:
    with pytest.raises(BadMessage):
        unseal(Unsigned(), TOPIC, seal(Keys(), "c:laptop", TOPIC, BODY))


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"{}",
        b"\xff\xfe",
        BODY,
        b'{"sig":"","kid":"w:a","body":[]}',
        b'{"sig":"","kid":"w:a","body":{}',
        b'{"sig":"","kid":"w:a","body":{}} ',
        b'{"sig":"","kid":"w:a","body":{}}\n',
        b' {"sig":"","kid":"w:a","body":{}}',
        b'{"kid":"w:a","sig":"","body":{}}',
        b'{"sig":"","kid":"w:a","body": {}}',
        b'{"sig":"abc","kid":"w:a","body":{}}',
        b'{"sig":"' + b"A" * 64 + b'","kid":"w:a","body":{}}',
        b'{"sig":"","kid":"a","body":{}}',
        b'{"sig":"","kid":"w:A","body":{}}',
        b'{"sig":"","kid":"w:' + b"a" * 33 + b'","body":{}}',
        b'{"sig":"","kid":"w:a","kid":"w:b","body":{}}',
        b'{"sig":"","kid":"w:\xc3\xa9","body":{}}',
    ],
)
def test_what_is_no_envelope_is_refused_before_any_key_is_used(payload: bytes) -> None:
    keys = Keys()
    with pytest.raises(BadMessage):
        unseal(keys, TOPIC, payload)
    assert keys.asked == 0


def test_the_body_is_not_parsed_here() -> None:
    """What stands between the braces is checked with the key first, whatever it is."""
    sealed = seal(Unsigned(), "w:a", TOPIC, b'{not json, "body":{}}}}\0\xff}')
    assert unseal(Unsigned(), TOPIC, sealed).body == b'{not json, "body":{}}}}\0\xff}'
