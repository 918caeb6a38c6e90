"""The body of an answer: never more of it than was asked for, packed or unpacked; and its text."""

from __future__ import annotations

import re
import zlib
from http.client import HTTPException
from typing import Iterator, Tuple

from pibot.errors import SkillError
from pibot.skills._connect import Broken, reason
from pibot.skills._web import Answer

PACKING = {"Accept-Encoding": "gzip, identity;q=0.5"}
_CHUNK_BYTES = 16_384
_MARKS = ((b"\xef\xbb\xbf", "utf-8"), (b"\xff\xfe", "utf-16"), (b"\xfe\xff", "utf-16"))
_META = re.compile(rb"charset\s{0,9}=\s{0,9}[\"']?([\w-]{1,40})", re.IGNORECASE)
_CHARSETS = re.compile(
    r"utf-?8|gb18030|big5(-hkscs)?|shift_jis|euc-(jp|kr)|iso-2022-(jp|kr)|iso-8859-\d{1,2}"
    r"|windows-125\d|windows-874|koi8-[ru]"
)


def read(answer: Answer, most_bytes: int) -> Tuple[bytes, bool]:
    """Read the body up to the limit; return it, and whether it was longer than that."""
    encoding = (answer.response.getheader("Content-Encoding") or "identity").strip().lower()
    if encoding == "identity":
        return _plain(answer, most_bytes)
    if encoding in ("gzip", "x-gzip"):
        return _unpacked(answer, most_bytes)
    raise SkillError(f"{answer.target} is packed in a way that was not asked for ({encoding}).")


def chunks(answer: Answer) -> Iterator[bytes]:
    """The body as it comes, to its end; SkillError when it breaks off before."""
    try:
        while chunk := answer.response.read(_CHUNK_BYTES):
            yield chunk
    except (HTTPException, ValueError) as error:  # the latter from impossible chunk sizes
        kind = type(error).__name__
        raise Broken(f"{answer.target} broke off in the middle ({kind}).") from None
    except OSError as error:
        raise Broken(f"{answer.target} broke off in the middle: {reason(error)}.") from None
    left = answer.response.length  # what is missing of the announced length
    if left:
        raise Broken(f"{answer.target} broke off, {left} bytes before its end.")


def _plain(answer: Answer, most_bytes: int) -> Tuple[bytes, bool]:
    body = bytearray()
    for chunk in chunks(answer):
        body += chunk
        if len(body) > most_bytes:
            return bytes(body[:most_bytes]), True
    return bytes(body), False


def _unpacked(answer: Answer, most_bytes: int) -> Tuple[bytes, bool]:
    """Unpack one layer of gzip, never more than the limit at a time."""
    unpacker = zlib.decompressobj(wbits=31)
    body = bytearray()
    packed_bytes = 0
    for chunk in chunks(answer):
        packed_bytes += len(chunk)
        try:
            body += unpacker.decompress(chunk, most_bytes + 1 - len(body))
        except zlib.error:
            raise SkillError(f"{answer.target} says that it is gzip, and is not.") from None
        if len(body) > most_bytes or packed_bytes > most_bytes:
            return bytes(body[:most_bytes]), True
        if unpacker.eof:
            return bytes(body), bool(unpacker.unused_data)
    raise Broken(f"{answer.target} broke off in the middle of its gzip data.")


# -- text --------------------------------------------------------------------------------------


def text(answer: Answer, body: bytes, is_html: bool, truncated: bool) -> str:
    """Decode a body as a byte order mark, the header, the page itself or the bytes suggest."""
    charset = answer.response.headers.get_content_charset() or ""
    return decoded(body, charset, is_html, truncated)


def decoded(body: bytes, charset: str, is_html: bool, truncated: bool) -> str:
    """As `text`; `charset` is what the header says, or nothing."""
    for mark, codec in _MARKS:
        if body.startswith(mark):
            return body.decode(codec, "replace").lstrip("\ufeff")
    named = _META.search(body[:4096]) if is_html else None
    for name in (charset, named[1].decode("ascii") if named else ""):
        codec = _codec(name)
        if codec:
            return body.decode(codec, "replace")
    for codec in ("utf-8", "gb18030"):
        try:
            return body.decode(codec)
        except UnicodeDecodeError as error:
            if truncated and error.start > len(body) - 4:  # only the last character: it was cut
                return body.decode(codec, "replace")
    return body.decode("cp1252", "replace")


def _codec(name: str) -> str:
    """Return Python's codec for a charset, "" for an unknown one and for what is no charset."""
    name = name.strip().lower()
    if name in ("gb2312", "gbk", "gb_2312-80", "x-gbk"):
        return "gb18030"  # contains the others, and pages use more than they declare
    if name in ("iso-8859-1", "latin1", "ascii", "us-ascii"):
        return "cp1252"  # as browsers do
    if not _CHARSETS.fullmatch(name):
        return ""
    import codecs

    try:
        return codecs.lookup(name).name
    except LookupError:
        return ""
