"""URLs that were checked: what the web skills take apart once, and never read again as text."""

from __future__ import annotations

import re
from dataclasses import dataclass
from ipaddress import IPv6Address
from typing import Optional
from urllib.parse import quote, urlsplit

from pibot.errors import SkillError

PORTS = {"http": 80, "https": 443}
_LONGEST_URL = 8192
_SHOWN_CHARS = 200
_FORBIDDEN = re.compile(r"[\x00-\x20\x7f-\xa0\\\u2028\u2029\ud800-\udfff]")
_NETLOC = re.compile(r"(\[(?P<v6>[0-9a-fA-F:.]+)\]|(?P<name>[^\[\]:@]+))(:(?P<port>[0-9]{0,6}))?")
_HOST = re.compile(r"[a-z0-9_-]{1,63}(\.[a-z0-9_-]{1,63})*\.?")
_KEPT = "!#$%&'()*+,/:;=?@[]~"  # as they are: the URL's own structure, and what is quoted already


@dataclass(frozen=True)
class Target:
    """A URL that was checked: ASCII only, lower-case host, no user name, no fragment.

    `label` is said instead of the URL and its host when these are secret.
    """

    scheme: str
    host: str  # without brackets
    port: int
    path: str  # with the query
    label: str = ""

    def __str__(self) -> str:
        return self.label or self.url

    @property
    def url(self) -> str:
        return f"{self.scheme}://{self.netloc}{self.path}"

    @property
    def place(self) -> str:
        """The server, for people."""
        return self.label or self.netloc

    @property
    def netloc(self) -> str:
        """Host and port as the Host header wants them: the usual port is left out."""
        return self._bracketed if self.port == PORTS[self.scheme] else self.address

    @property
    def address(self) -> str:
        """Host and port."""
        return f"{self._bracketed}:{self.port}"

    @property
    def _bracketed(self) -> str:
        return f"[{self.host}]" if ":" in self.host else self.host


def parse(url: str) -> Target:
    """Check a URL and take it apart; SkillError says what is wrong with it."""
    shown = url if len(url) <= _SHOWN_CHARS else url[:_SHOWN_CHARS] + "…"
    if len(url) > _LONGEST_URL:
        raise SkillError(f"The URL is longer than {_LONGEST_URL} characters.")
    if _FORBIDDEN.search(url):
        raise SkillError(
            f"{shown!r} is not a URL: it holds a space, backslash or control character."
        )
    try:
        parts = urlsplit(url)
    except ValueError as error:
        raise SkillError(f"{shown} is not a URL: {error}.") from None
    if parts.scheme not in PORTS:
        raise SkillError(f"{shown} cannot be fetched: only http:// and https:// URLs can.")
    if "@" in parts.netloc:
        raise SkillError(f"{shown} cannot be fetched: leave out the user name before the @.")
    netloc = _NETLOC.fullmatch(parts.netloc)
    host = _ascii(netloc["name"]) if netloc and netloc["name"] else _ipv6(netloc)
    if netloc is None or not host:
        raise SkillError(f"{shown} is not a URL: its host is not a valid name or address.")
    port = int(netloc["port"] or PORTS[parts.scheme])
    if not 1 <= port <= 65535:
        raise SkillError(f"{shown} cannot be fetched: there is no port {port}.")
    path = quote(parts.path or "/", safe=_KEPT)
    if parts.query:
        path += "?" + quote(parts.query, safe=_KEPT)
    return Target(parts.scheme, host, port, path)


def _ipv6(netloc: Optional[re.Match[str]]) -> str:
    """Return the normal form of an address in brackets, "" when it is none."""
    try:
        return str(IPv6Address(netloc["v6"])) if netloc and netloc["v6"] else ""
    except ValueError:
        return ""


def _ascii(name: str) -> str:
    """Return the name that is checked, resolved and said to the server; "" when it is invalid."""
    try:
        plain = (name if name.isascii() else name.encode("idna").decode("ascii")).lower()
    except UnicodeError:
        return ""
    return plain if _HOST.fullmatch(plain) else ""
