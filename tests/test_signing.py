"""The envelope, byte for byte, what is no envelope, and who can have signed one."""

from __future__ import annotations

import hashlib
import hmac
from typing import Dict, List, Optional

import pytest

from pibot.errors import BadMessage
from pibot.signing import (
    Envelope,
    Forged,
    GuestKeys,
    MasterKeys,
    Unsigned,
    envelope,
    hide,
    reveal,
    seal,
    unseal,
)
from pibot.topics import Topics

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


# --- the keys of a fleet --------------------------------------------------------------------------

TOPICS = Topics("home")
EVT, CMD = TOPICS.worker("worker-1", "evt"), TOPICS.worker("worker-1", "cmd")
REQ, REP = TOPICS.client("laptop", "req"), TOPICS.client("laptop", "rep")
KNOWN = {"worker-1": ["11" * 32], "worker-2": ["22" * 32], "laptop": ["33" * 32]}


def master(known: Optional[Dict[str, List[str]]] = None, own: str = "99" * 32) -> MasterKeys:
    names = KNOWN if known is None else known
    return MasterKeys(own, TOPICS.parse, lambda kind, name: names.get(name, []))


def test_each_side_understands_the_other() -> None:
    keys, worker, laptop = master(), GuestKeys("11" * 32), GuestKeys("33" * 32)
    assert unseal(keys, EVT, seal(worker, "w:worker-1", EVT, BODY)).body == BODY
    assert unseal(worker, CMD, seal(keys, "m:master", CMD, BODY)).body == BODY
    assert unseal(keys, REQ, seal(laptop, "c:laptop", REQ, BODY)).body == BODY
    assert unseal(laptop, REP, seal(keys, "m:master", REP, BODY)).body == BODY
    announce = seal(keys, "m:master", TOPICS.announce, BODY)
    assert unseal(keys, TOPICS.announce, announce).body == BODY


def test_the_mac_is_what_the_protocol_says() -> None:
    up = hmac.new(b"11" * 32, b"pibot/1 up", hashlib.sha256).digest()
    sig = hmac.new(up, EVT.encode() + b"\0" + BODY, hashlib.sha256).hexdigest()
    assert GuestKeys("11" * 32).sign("w:worker-1", EVT, BODY) == sig
    down = hmac.new(b"11" * 32, b"pibot/1 down", hashlib.sha256).digest()
    sig = hmac.new(down, CMD.encode() + b"\0" + BODY, hashlib.sha256).hexdigest()
    assert master().sign("m:master", CMD, BODY) == sig


def test_a_master_takes_nothing_that_another_key_has_signed() -> None:
    keys = master()
    worker, other = GuestKeys("11" * 32), GuestKeys("22" * 32)
    for forged in (
        seal(other, "w:worker-1", EVT, BODY),
        seal(other, "w:worker-2", EVT, BODY),
        seal(worker, "w:worker-1", TOPICS.worker("worker-2", "evt"), BODY),
        seal(worker, "w:worker-1", TOPICS.worker("worker-1", "hb"), BODY),
        seal(worker, "w:worker-9", EVT, BODY),
        seal(worker, "m:master", EVT, BODY),
        seal(Unsigned(), "w:worker-1", EVT, BODY),
        seal(keys, "m:master", CMD, BODY),
        envelope("0" * 64, "w:worker-1", BODY),
    ):
        with pytest.raises(Forged):
            unseal(keys, EVT, forged)


def test_a_guest_takes_only_what_the_master_says_to_it() -> None:
    keys, worker = master(), GuestKeys("11" * 32)
    for forged in (
        seal(worker, "w:worker-1", CMD, BODY),  # its own words
        seal(worker, "m:master", CMD, BODY),
        seal(keys, "m:master", TOPICS.worker("worker-2", "cmd"), BODY),
        seal(keys, "m:master", TOPICS.announce, BODY),
        seal(keys, "w:worker-2", CMD, BODY),
        seal(Unsigned(), "m:master", CMD, BODY),
        seal(master({"worker-1": ["44" * 32]}), "m:master", CMD, BODY),
    ):
        with pytest.raises(Forged):
            unseal(worker, CMD, forged)


def test_while_a_key_is_changed_both_are_good_and_the_latest_is_answered() -> None:
    known = {"worker-1": ["11" * 32, "55" * 32]}
    keys, old, new = master(known), GuestKeys("11" * 32), GuestKeys("55" * 32)
    unseal(old, CMD, seal(keys, "m:master", CMD, BODY))
    unseal(keys, EVT, seal(new, "w:worker-1", EVT, BODY))
    assert keys.last("w", "worker-1") == "55" * 32
    unseal(new, CMD, seal(keys, "m:master", CMD, BODY))
    unseal(keys, EVT, seal(old, "w:worker-1", EVT, BODY))
    unseal(old, CMD, seal(keys, "m:master", CMD, BODY))
    known["worker-1"] = ["55" * 32]
    with pytest.raises(Forged):
        unseal(keys, EVT, seal(old, "w:worker-1", EVT, BODY))
    unseal(keys, EVT, seal(new, "w:worker-1", EVT, BODY))
    unseal(new, CMD, seal(keys, "m:master", CMD, BODY))


def test_a_name_that_nobody_knows_may_share_the_key_of_the_master() -> None:
    keys, shared = master({}, own="one-key-for-all"), GuestKeys("one-key-for-all")
    assert unseal(keys, EVT, seal(shared, "w:worker-1", EVT, BODY)).body == BODY
    assert unseal(shared, CMD, seal(keys, "m:master", CMD, BODY)).body == BODY
    with pytest.raises(Forged):  # a name with a key of its own does not
        unseal(master(own="one-key-for-all"), EVT, seal(shared, "w:worker-1", EVT, BODY))


def test_a_master_without_a_key_takes_both_and_answers_in_kind() -> None:
    keys = MasterKeys(None, TOPICS.parse, lambda kind, name: KNOWN.get(name, []))
    worker, stranger, unsigned = GuestKeys("11" * 32), GuestKeys("77" * 32), Unsigned()
    for name in ("worker-1", "worker-9"):  # one with a key, one without
        topic, back = TOPICS.worker(name, "evt"), TOPICS.worker(name, "cmd")
        assert unseal(keys, topic, seal(unsigned, f"w:{name}", topic, BODY)).sig == ""
        assert unseal(unsigned, back, seal(keys, "m:master", back, BODY)).body == BODY
    assert unseal(keys, EVT, seal(worker, "w:worker-1", EVT, BODY)).body == BODY
    assert unseal(worker, CMD, seal(keys, "m:master", CMD, BODY)).body == BODY
    with pytest.raises(Forged):
        unseal(keys, EVT, seal(stranger, "w:worker-1", EVT, BODY))


def test_who_may_not_speak_any_more_can_still_be_told() -> None:
    known = {"worker-1": ["11" * 32]}
    keys, worker = master(known), GuestKeys("11" * 32)
    unseal(keys, EVT, seal(worker, "w:worker-1", EVT, BODY))
    del known["worker-1"]
    with pytest.raises(Forged):
        unseal(keys, EVT, seal(worker, "w:worker-1", EVT, BODY))
    assert unseal(worker, CMD, seal(keys, "m:master", CMD, BODY)).body == BODY


def test_a_hidden_secret_is_read_with_the_same_key_only() -> None:
    nonce = bytes(range(16))
    hidden = hide("33" * 32, "ab" * 32, nonce)
    assert reveal("33" * 32, hidden) == "ab" * 32
    assert reveal("44" * 32, hidden) != "ab" * 32
    assert "ab" * 8 not in hidden and hide("33" * 32, "ab" * 32, bytes(16)) != hidden
    for wrong in ("", "zz", hidden[2:], hidden + "00"):
        with pytest.raises(ValueError):
            reveal("33" * 32, wrong)
    for secret in ("", "ab" * 31, "xy" * 32):
        with pytest.raises(ValueError):
            hide("33" * 32, secret, nonce)
