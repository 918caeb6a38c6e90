"""What a broker may do to the messages that it carries, if it wants to do harm. No sockets here.

It has all that was ever said, and nobody's key. For each message it makes up what is delivered in
its place, and when: the message or not, once or twice, sooner or later, changed, to others, with
words of before, and with words that nobody said.
"""

from __future__ import annotations

import itertools
import json
import random
import re
from collections import Counter
from typing import Callable, List, NamedTuple, Optional, Tuple

from security.inventions import CLIENT, TOPICS, WORKERS, Inventor, Overheard

LATE_S = 0.4
_ENVELOPE = re.compile(rb'\{"sig":"([0-9a-f]*)","kid":"([^"]*)","body":(.*)\}', re.DOTALL)
_NUMBER = re.compile(rb'"(?:att|n|ep|at_ms|ttl_ms|inc|size|i|of|have|lease_ms)":(\d+)')
_WORDS: List[Tuple[bytes, bytes]] = [
    (b'"succeeded"', b'"failed"'),
    (b'"succeeded"', b'"cancelled"'),
    (b'"skill":"work"', b'"skill":"shell"'),
    (b'"t":"hb_ack"', b'"t":"cancel"'),
    (b'"t":"accepted"', b'"t":"declined"'),
    (b'"running":[[', b'"running":[],"x":[['),
    (b"worker-1", b"worker-2"),
    (b'"src":"master"', b'"src":"worker-1"'),
    (b"xxx", b"xxxx"),
]


class Act(NamedTuple):
    """What is delivered after a while."""

    after_s: float
    topic: str
    payload: bytes


class Parts(NamedTuple):
    sig: bytes
    kid: bytes
    body: bytes

    def whole(self) -> bytes:
        return b'{"sig":"%s","kid":"%s","body":%s}' % self


class Malice:
    def __init__(self, seed: int) -> None:
        self.did: "Counter[str]" = Counter()
        self._random = random.Random(seed)
        self._said: List[Tuple[str, bytes]] = []
        self._known = Overheard()
        self._inventor = Inventor(self._random, self._known)
        self._ways: List[Tuple[int, Callable[[str, bytes], List[Act]]]] = [
            (12, self._drop),
            (20, self._delay),
            (14, self._repeat),
            (20, self._tamper),
            (14, self._reflect),
            (100, lambda topic, payload: [Act(0.0, topic, payload)]),
        ]

    # --- what it hears --------------------------------------------------------------------------

    def hear(self, topic: str, payload: bytes) -> bool:
        """Remember a message; False if it is none of those that are signed."""
        parts = _parts(payload)
        if parts is None:
            return False
        self._said.append((topic, payload))
        name = parts.kid.decode().partition(":")[2]
        self._known.learn(topic, name, parts.sig.decode(), json.loads(parts.body))
        return True

    def twist(self, topic: str, payload: bytes) -> List[Act]:
        """What becomes of a message that was heard."""
        weights = [weight for weight, _ in self._ways]
        (_, way), *_ = self._random.choices(self._ways, weights)
        return way(topic, payload)

    # --- what it does to a message ----------------------------------------------------------------

    def _drop(self, topic: str, payload: bytes) -> List[Act]:
        self.did["dropped"] += 1
        return []

    def _delay(self, topic: str, payload: bytes) -> List[Act]:
        self.did["delayed"] += 1
        return [Act(self._late(), topic, payload)]

    def _repeat(self, topic: str, payload: bytes) -> List[Act]:
        self.did["repeated"] += 1
        return [
            Act(0.0, topic, payload),
            Act(0.0, topic, payload),
            Act(self._late(), topic, payload),
        ]

    def _tamper(self, topic: str, payload: bytes) -> List[Act]:
        """A changed one: before the true one, or in its place."""
        parts = _parts(payload)
        assert parts is not None
        ways = [self._other_sig, self._other_kid, self._other_byte, self._other_word]
        ways += [self._other_number, self._other_field]
        way = self._random.choice(ways)
        self.did[f"tampered: {way.__name__[7:]}"] += 1
        changed = Act(0.0, topic, way(parts).whole())
        return [changed] if self._random.random() < 0.2 else [changed, Act(0.0, topic, payload)]

    def _reflect(self, topic: str, payload: bytes) -> List[Act]:
        self.did["reflected"] += 1
        return [Act(0.0, topic, payload), Act(0.0, self._random.choice(_listened()), payload)]

    def _late(self) -> float:
        return self._random.random() * LATE_S

    # --- changes --------------------------------------------------------------------------------

    def _other_sig(self, parts: Parts) -> Parts:
        other = self._random.choice(self._known.sigs).encode()
        digit = self._random.randrange(64)
        flipped = b"%x" % (int(parts.sig[digit : digit + 1] or b"0", 16) ^ 1)
        near = parts.sig[:digit] + flipped + parts.sig[digit + 1 :]
        sigs = [b"", b"0" * 64, near, parts.sig.upper(), parts.sig[:-1], other]
        return parts._replace(sig=self._random.choice(sigs))

    def _other_kid(self, parts: Parts) -> Parts:
        kids = [b"m:master", b"w:worker-1", b"w:worker-2", b"c:laptop", b"c:worker-1", b"w:nobody"]
        return parts._replace(kid=self._random.choice([k for k in kids if k != parts.kid]))

    def _other_byte(self, parts: Parts) -> Parts:
        at = self._random.randrange(len(parts.body))
        other = bytes([parts.body[at] ^ 1 << self._random.randrange(8)])
        return parts._replace(body=parts.body[:at] + other + parts.body[at + 1 :])

    def _other_word(self, parts: Parts) -> Parts:
        fit = [(old, new) for old, new in _WORDS if old in parts.body]
        old, new = self._random.choice(fit) if fit else (b"{", b"{ ")
        return parts._replace(body=parts.body.replace(old, new))

    def _other_number(self, parts: Parts) -> Parts:
        found = self._random.choice(list(_NUMBER.finditer(parts.body)))
        number = b"%d" % (int(found[1]) + self._random.choice((-1, 1, 1_000)))
        start, end = found.span(1)
        return parts._replace(body=parts.body[:start] + number + parts.body[end:])

    def _other_field(self, parts: Parts) -> Parts:
        more = self._random.choice((b',"att":9}', b',"x":1}', b',"t":"bye"}', b" }", b"}}"))
        return parts._replace(body=parts.body[:-1] + more)

    # --- words of before, and of nobody -----------------------------------------------------------

    def replay(self) -> List[Act]:
        """Something that was said at any time, where it was said."""
        if not self._said:
            return []
        self.did["replayed"] += 1
        return [Act(0.0, *self._random.choice(self._said))]

    def invent(self) -> List[Act]:
        """What nobody has said."""
        kind, topic, payload = self._inventor.invent()
        self.did[f"invented: {kind}"] += 1
        return [Act(0.0, topic, payload)]

    def ask(self) -> List[Act]:
        """A goal in words, as programs without keys may ask where that is allowed."""
        self.did["asked"] += 1
        return [
            Act(0.0, TOPICS.ask, b"echo forged on worker-1"),
            Act(0.0, TOPICS.ask, b"disk space"),
        ]

    # --- bytes ----------------------------------------------------------------------------------

    def nonsense(self) -> bytes:
        """A packet that no broker should send."""
        self.did["nonsense"] += 1
        topic = b"\x00\x04\xff\xfe\x00a"
        return self._random.choice(
            (
                b"\x30\x08" + topic + b"xx",  # a topic that is not UTF-8
                b"\x36\x09" + topic + b"\x00\x01x",  # QoS 3
                b"\x90\x03\x00\x07\x80",  # a subscription denied, that nobody asked for
                b"\x40\x02\x12\x34",  # something acknowledged that was never sent
                b"\x30\xff\xff\xff\xff\xff",  # a length without an end
                b"\xf0\x00",
                b"\x20\x02\x00\x05",  # refused, in the midst of it
                b"\x30\x01\x00",
                b"\x30\x04\x00\x10ab",  # a topic longer than its packet
            )
        )


def _parts(payload: bytes) -> Optional[Parts]:
    found = _ENVELOPE.fullmatch(payload)
    return Parts(*found.groups()) if found else None


def _listened() -> List[str]:
    workers = itertools.product(WORKERS, ("cmd", "evt", "hb", "prog", "will"))
    clients = [TOPICS.client(CLIENT, channel) for channel in ("req", "rep")]
    return [*(TOPICS.worker(name, c) for name, c in workers), *clients, TOPICS.announce]
