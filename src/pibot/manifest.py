"""What root on a worker must know of a program before it puts it in place, and who says so.

The master signs a manifest with the update key of one worker. There only root has that key: the
service carries manifest and program to it, and can change neither. The text that was signed is the
text that is read; a field that a later version adds is ignored.
"""

from __future__ import annotations

import hmac
import re
from dataclasses import asdict, dataclass

from pibot.errors import BadMessage
from pibot.fields import read
from pibot.strictjson import ENCODER, parse

MAX_BYTES = 64 * 1024 * 1024  # of a program
MAX_CHARS = 2_000  # of a manifest
MAX_SERIAL = 1 << 40
PATIENCE_S = range(1, 901)
_PURPOSE = b"pibot/1 update"
_DEPTH = 2
_SHORT = re.compile(r"[ -~]{1,64}")


@dataclass(frozen=True)
class Manifest:
    """`serial` grows with each attempt on a worker; `build` is what the program calls itself."""

    worker: str
    sha256: str
    size: int
    version: str
    build: str
    serial: int
    patience_s: int

    def text(self) -> str:
        return ENCODER.encode(asdict(self))


def parsed(text: str) -> Manifest:
    """Read a manifest; raise BadMessage if it is none, or asks for what nobody does."""
    if len(text) > MAX_CHARS:
        raise BadMessage("a manifest that is too long")
    found = read(Manifest, parse(text.encode("utf-8", "replace"), _DEPTH))
    if not 0 < found.size <= MAX_BYTES:
        raise BadMessage(f"a program of {found.size:,} bytes: at most {MAX_BYTES:,} are taken")
    if not 0 < found.serial <= MAX_SERIAL or found.patience_s not in PATIENCE_S:
        raise BadMessage("a manifest with a number out of its range")
    if not (_SHORT.fullmatch(found.version) and _SHORT.fullmatch(found.build)):
        raise BadMessage("a manifest with a malformed name")
    return found


def mac(key: str, text: str) -> str:
    """The signature of a manifest's text."""
    derived = hmac.digest(key.encode(), _PURPOSE, "sha256")
    return hmac.digest(derived, text.encode("utf-8", "replace"), "sha256").hex()


def fits(key: str, text: str, signature: str) -> bool:
    return hmac.compare_digest(mac(key, text).encode(), signature.encode("utf-8", "replace"))
