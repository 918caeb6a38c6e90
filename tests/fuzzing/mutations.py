"""Payloads that nobody should send: good ones, bent in one to four ways. One seed is one series.

A payload that is JSON is bent as a document (types, sizes, depths, names, Unicode, parts of other
payloads) or as bytes (flips, cuts, splices, other encodings); any other one as bytes.
"""

from __future__ import annotations

import copy
import json
import random
from typing import Any, Callable, Iterator, List, Sequence, Tuple

MAX_BYTES = 200_000

# Values at the edges of what decoders think of.
EDGES: Tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 2, 255, 2**31, 2**53, -(2**63), 2**64, 10**299, 10**301,
    0.0, -0.0, 1e-320, 1e15, 1e308, float("nan"), float("inf"), float("-inf"), 1.5,
    "", " ", "0", "1", "null", "true", "NaN", "a" * 33, "a" * 41, "A", "-", "..", "../../x",
    "/", "\x00", "\x1b[2J", "\ud800", "\udfff\ud800", "é", "日本語", "\u202e", "\u2028", "\ufeff",
    "😀", "%s%n", "{}", "[]", "[[[[", "w:worker-1", "master", "worker-1", "#", "+", "$SYS",
    [], {}, [[]], [{}], {"": None}, [None], ["x", 1], [["x", 1]], {"a": {"b": {"c": []}}},
)  # fmt: skip
BYTES: Tuple[bytes, ...] = (
    b"\x00", b"\xff", b"\xc3", b"\xed\xa0\x80", b"\xef\xbb\xbf", b"\\u0000", b"\\ud800", b'"', b"{",
    b"}", b"[", b"]", b",", b":", b"\\", b"\n", b"\r\n", b"1e999", b"NaN", b"-Infinity",
    b"9" * 5000, b"/*", b"</think>", b"<tool_call>", b"data: ", b"[DONE]", b"```", b"%", b"=",
    b"#", b"${X}",
)  # fmt: skip


class Mutations:
    """Endless payloads made of good ones."""

    def __init__(self, good: Sequence[bytes], rng: random.Random) -> None:
        self._good, self._rng = list(good), rng
        self._grown = False
        self._documents = [d for d in map(_document, good) if d is not None]

    def __iter__(self) -> Iterator[bytes]:
        while True:
            yield self.next()

    def next(self) -> bytes:
        rng = self._rng
        dice = rng.random()
        if self._documents and dice < 0.7:
            payload = self._written(self._bent(rng.choice(self._documents)))
        elif dice < 0.97:
            payload = rng.choice(self._good)
        else:
            payload = rng.randbytes(rng.choice((0, 1, 3, 20, 300)))
        for _ in range(rng.choice((0, 0, 0, 1, 1, 2, 4)) if dice < 0.7 else rng.randrange(4)):
            payload = rng.choice(_ON_BYTES)(payload, rng.choice(self._good), rng)
        return payload[:MAX_BYTES]

    # --- documents ------------------------------------------------------------------------------

    def _bent(self, document: Any) -> Any:
        rng, document = self._rng, copy.deepcopy(document)
        self._grown = False
        for _ in range(rng.choice((1, 1, 1, 2, 2, 4))):
            places = list(_places(document))
            if not places:
                return rng.choice(EDGES)
            try:
                self._bend(*rng.choice(places))
            except RecursionError:  # deep within deep: enough of that
                return document
        return document

    def _bend(self, inside: Any, at: Any) -> None:
        """Change what stands at one place of a list or an object."""
        rng, old = self._rng, inside[at]
        kind = rng.randrange(9)
        if kind == 0:
            del inside[at]
        elif kind in (1, 2, 3):
            inside[at] = copy.deepcopy(rng.choice(EDGES))
        elif kind == 4:
            inside[at] = self._larger(old)
        elif kind == 5:
            other = rng.choice(self._documents)
            parts = [i[a] for i, a in _places(other)]
            inside[at] = copy.deepcopy(rng.choice(parts)) if parts else other
        elif kind == 6:
            inside[at] = [old] if rng.random() < 0.5 else {"x": old}
        elif isinstance(inside, dict):
            name = rng.choice((f"{at}x", "", "extra", "\ud800", "é", *inside))
            inside[name] = copy.deepcopy(rng.choice((old, *EDGES[:20])))
        else:
            inside.insert(at, copy.deepcopy(rng.choice((old, *EDGES[:20]))))

    def _larger(self, old: Any) -> Any:
        rng = self._rng
        times = 1 if self._grown else rng.choice((2, 10, 100, 1000))
        self._grown = True  # once is enough: a thousand times a thousand times fills the machine
        if isinstance(old, str):
            return (old or "x") * times
        if isinstance(old, list):
            return (old or [0]) * times
        if isinstance(old, dict):
            return {**old, **{f"k{i}": i for i in range(times)}}
        if isinstance(old, (int, float)):
            return old * rng.choice((-1, 10, 10**6)) + rng.choice((-1, 0, 1))
        return _nested(rng.choice((5, 60, 95, 105)))

    def _written(self, document: Any) -> bytes:
        rng = self._rng
        try:
            text = json.dumps(
                document,
                ensure_ascii=rng.random() < 0.3,
                separators=rng.choice(((",", ":"), (", ", ": "))),
            )
        except RecursionError:
            text = "[" * 2000
        return text.encode("utf-8", "surrogatepass" if rng.random() < 0.5 else "replace")


def _document(payload: bytes) -> Any:
    try:
        found = json.loads(payload)
    except ValueError:
        return None
    return found if isinstance(found, (dict, list)) else None


def _places(document: Any) -> Iterator[Tuple[Any, Any]]:
    """Every list or object in a document, with each index or name of it."""
    level: List[Any] = [document]
    while level:
        inside = level.pop()
        keys = list(inside) if isinstance(inside, dict) else range(len(inside))
        for at in list(keys)[:50]:
            yield inside, at
            if isinstance(inside[at], (dict, list)):
                level.append(inside[at])


def _nested(depth: int) -> Any:
    value: Any = 0
    for level in range(depth):
        value = [value] if level % 2 else {"d": value}
    return value


# --- bytes ----------------------------------------------------------------------------------------

Change = Callable[[bytes, bytes, random.Random], bytes]


def _flip(data: bytes, other: bytes, rng: random.Random) -> bytes:
    changed = bytearray(data)
    for _ in range(min(len(changed), rng.choice((1, 1, 3, 10)))):
        changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def _put(data: bytes, other: bytes, rng: random.Random) -> bytes:
    at = rng.randrange(len(data) + 1)
    return data[:at] + rng.choice(BYTES) + data[at + rng.choice((0, 0, 1)) :]


def _cut(data: bytes, other: bytes, rng: random.Random) -> bytes:
    at = rng.randrange(len(data) + 1)
    return data[:at] if rng.random() < 0.7 else data[at:]


def _lose(data: bytes, other: bytes, rng: random.Random) -> bytes:
    at = rng.randrange(len(data) + 1)
    return data[:at] + data[at + rng.choice((1, 2, 10, 100)) :]


def _splice(data: bytes, other: bytes, rng: random.Random) -> bytes:
    return data[: rng.randrange(len(data) + 1)] + other[rng.randrange(len(other) + 1) :]


def _repeat(data: bytes, other: bytes, rng: random.Random) -> bytes:
    start = rng.randrange(len(data) + 1)
    part = data[start : start + rng.choice((1, 4, 30))]
    return data[:start] + part * rng.choice((2, 3, 50, 2000)) + data[start:]


def _recode(data: bytes, other: bytes, rng: random.Random) -> bytes:
    text = data.decode("utf-8", "replace")
    return text.encode(rng.choice(("utf-16", "utf-8-sig", "utf-32-le")), "replace")


def _deepen(data: bytes, other: bytes, rng: random.Random) -> bytes:
    depth = rng.choice((50, 99, 101, 500, 1500)) if rng.random() < 0.99 else 90_000
    opening, closing = rng.choice(((b"[", b"]"), (b'{"a":', b"}"), (b"[", b""), (b"(", b")")))
    at = rng.randrange(len(data) + 1)
    return data[:at] + opening * depth + closing * depth + data[at:]


_ON_BYTES: Tuple[Change, ...] = (
    _flip, _flip, _put, _put, _cut, _lose, _splice, _repeat, _recode, _deepen,
)  # fmt: skip
