"""Whether a secret is in some bytes: told by decoding them, not by what the product looks for."""

from __future__ import annotations

import base64
import binascii
import html
import json
import re
from typing import Iterator, Union
from urllib.parse import unquote_plus

_BASE64 = re.compile(r"[A-Za-z0-9+/_-]{12,}")
_HEX = re.compile(r"(?:[0-9A-Fa-f]{2}:?){6,}")
_UNSEEN = re.compile(
    "\x1b\\[[0-9;]*m|[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b-\u200f\u202a-\u202e\ufeff]"
)


def exposed(found: Union[str, bytes, object], *secrets: str) -> str:
    """How one of the secrets can be read in bytes, text or a JSON value; "" if none can."""
    if isinstance(found, bytes):
        text = found.decode("utf-8", "replace")
        if any(secret.encode("utf-16-le") in found for secret in secrets):
            return "UTF-16"
    else:
        text = found if isinstance(found, str) else json.dumps(found, ensure_ascii=False)
    for how, read in _readings(text):
        if any(secret in read for secret in secrets):
            return how
    return ""


def _readings(text: str) -> Iterator["tuple[str, str]"]:
    yield "plain", text
    yield "without what is invisible", _UNSEEN.sub("", text)
    text = re.sub(r"\s|\\[nr]", "", text)
    yield "without spaces", text
    yield "escapes of JSON", re.sub(r"\\u([0-9a-f]{4})", lambda m: chr(int(m[1], 16)), text)
    yield "HTML", html.unescape(text)
    yield "URL", unquote_plus(text)
    yield "URL twice", unquote_plus(unquote_plus(text))
    for match in _HEX.finditer(text):
        digits = match[0].replace(":", "")
        yield "hex", bytes.fromhex(digits[: len(digits) // 2 * 2]).decode("utf-8", "replace")
    for match in _BASE64.finditer(text):
        run = match[0].replace("-", "+").replace("_", "/")
        for start in range(4):
            part = run[start : start + (len(run) - start) // 4 * 4]
            try:
                yield "base64", base64.b64decode(part).decode("utf-8", "replace")
            except binascii.Error:
                continue
