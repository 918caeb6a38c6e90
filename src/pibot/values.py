"""Raw settings with the place each stood in, and the checks that turn them into typed values.

The order is flag > environment > .env > default; an empty value counts as not set. Errors name
the key and the place, never the value: a mistyped secret must not end up on a screen or in a log.
"""

from __future__ import annotations

import base64
import os
import re
import socket
import stat
from io import StringIO
from pathlib import Path
from typing import Collection, Dict, List, Mapping, NamedTuple, Optional, Tuple

from pibot.errors import ConfigError

NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,31}")
NAME_RULE = "1 to 32 small letters, digits and hyphens, beginning with a letter or digit"
MAX_CHARS = 262_144  # of a .env
_TRUE = ("1", "true", "yes", "on")
_FALSE = ("0", "false", "no", "off")
_HOST_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,251}[A-Za-z0-9.])?")
_PLAIN = re.compile(r"[A-Za-z0-9_./:@%+,=~-]*")  # needs no quotes in a .env
_PLACEHOLDER = re.compile(
    r"your[-_ ].*|<.*>|\.{3,}|…|x{3,}|(\d+\.)+x+|sk-(x{3,}|\.{3}|your).*"
    r"|(change|replace)[-_ ]?(me|this|it).*|replace[-_ ]with[-_ ].*"
    r"|(put|insert|enter|paste)[-_ ].*(key|token|password|here)|.*[-_ ]here|todo|placeholder"
    r"|[你您]的.*|请(填|输入|替换).*",
    re.IGNORECASE,
)


class Value(NamedTuple):
    """One raw value; `place` reads after "KEY": "in the environment", "in /x/.env line 3"."""

    text: str
    place: str
    folder: Optional[Path]  # what a relative path starts from; None = the working directory


def read_env_file(
    path: Path, private: bool = True, copy_of: Optional[Path] = None
) -> Dict[str, Value]:
    """The assignments of a .env file; if it must be `private`, others may have no right to it.

    Of a copy, messages and relative paths are about the file that people edit.
    """
    return parse_env(_text(path, private), copy_of or path)


def parse_env(text: str, path: Path) -> Dict[str, Value]:
    """The assignments in the text of a .env file that stands at `path`."""
    from dotenv.parser import parse_stream

    if len(text) > MAX_CHARS:
        raise ConfigError(f"{path} is too large for a file of settings.")
    found = {}
    for binding in parse_stream(StringIO(text)):
        # A statement's text begins with the line ends of the blank lines before it.
        blank = len(binding.original.string) - len(binding.original.string.lstrip())
        line = binding.original.line + binding.original.string[:blank].count("\n")
        place = f"in {path} line {line}"
        if binding.error or (binding.key is not None and binding.value is None):
            raise ConfigError(f"The text {place} is no assignment; write it as KEY=value.")
        if binding.key is not None:
            found[binding.key] = Value(binding.value or "", place, path.parent)
    return found


def assignment(key: str, value: str) -> str:
    """A line of a .env, of which `parse_env` reads the same value."""
    if _PLAIN.fullmatch(value):
        return f"{key}={value}"
    escaped = value.replace("\\", "\\\\").replace("'", "\\'")
    return f"{key}='{escaped}'"


def _text(path: Path, private: bool) -> str:
    try:
        with path.open(encoding="utf-8-sig") as file:
            if private and stat.S_IMODE(os.fstat(file.fileno()).st_mode) & 0o077:
                raise ConfigError(f"{path} is open to other users; run: chmod 600 {path}")
            return file.read(MAX_CHARS + 1)
    except OSError as error:
        raise ConfigError(f"Cannot read {path}: {error.strerror}.") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{path} is not UTF-8 text; save it as UTF-8.") from None


def _is_host(text: str) -> bool:
    if ":" not in text:
        return _HOST_NAME.fullmatch(text) is not None
    try:
        return bool(socket.inet_pton(socket.AF_INET6, text.partition("%")[0]))
    except OSError:
        return False


class Values:
    """What was set and where, by key, checked on the way out."""

    def __init__(
        self,
        flags: Mapping[str, Optional[str]],
        environ: Mapping[str, str],
        env_file: Mapping[str, Value],
    ) -> None:
        self._found: Dict[str, Value] = dict(env_file)
        for text, place in ((environ, "in the environment"), (flags, "on the command line")):
            self._found.update({k: Value(v, place, None) for k, v in text.items() if v})

    def names(self) -> List[str]:
        return [key for key, value in self._found.items() if value.text.strip()]

    def texts(self) -> Dict[str, str]:
        """Everything as it was written, also what is no setting of PiBot."""
        return {key: value.text for key, value in self._found.items()}

    def error(self, key: str, problem: str) -> ConfigError:
        """An error about a key that is set: "KEY in PLACE problem."."""
        return ConfigError(f"{key} {self._found[key].place} {problem}.")

    def text(self, key: str) -> Optional[str]:
        value = self._found.get(key)
        text = value.text.strip() if value else ""
        if not text:
            return None
        if _PLACEHOLDER.fullmatch(text):
            raise self.error(key, "is still a placeholder; put the real value there")
        if any(ord(c) < 32 or ord(c) == 127 for c in text):
            raise self.error(key, "contains a control character or a line break; remove it")
        return text

    def name(self, key: str) -> Optional[str]:
        text = self.text(key)
        if text is not None and not NAME.fullmatch(text):
            raise self.error(key, f"must be {NAME_RULE}")
        return text

    def number(self, key: str, low: int, high: int, default: int) -> int:
        text = self.text(key)
        if text is None:
            return default
        if not re.fullmatch(r"[0-9]{1,9}", text) or not low <= int(text) <= high:
            raise self.error(key, f"must be a whole number from {low} to {high}")
        return int(text)

    def port(self, key: str, default: int) -> int:
        return self.number(key, 1, 65535, default)

    def switch(self, key: str) -> Optional[bool]:
        text = (self.text(key) or "").lower()
        if text and text not in _TRUE + _FALSE:
            raise self.error(key, "must be 1 or 0")
        return text in _TRUE if text else None

    def choice(self, key: str, choices: Collection[str], default: str) -> str:
        text = self.text(key) or default
        if text not in choices:
            raise self.error(key, f"must be one of {', '.join(choices)}")
        return text

    def host(self, key: str) -> Optional[str]:
        text = self.text(key)
        if text is None:
            return None
        bare = text[1:-1] if text.startswith("[") and text.endswith("]") else text
        if not _is_host(bare):
            raise self.error(key, "must be a host name or an address alone, without :// or port")
        return bare

    def url(self, key: str) -> Optional[str]:
        text = self.text(key)
        if text is not None and not re.fullmatch(r"https?://[^\s/@?#]+(/[^\s?#]*)?", text):
            raise self.error(key, "must be an address such as https://host/v1")
        return text.rstrip("/") if text else None

    def path(self, key: str) -> Optional[Path]:
        """A path with ~ expanded; a relative one in a .env starts from the .env's own directory."""
        text = self.text(key)
        if text is None:
            return None
        try:
            path = Path(text).expanduser()
        except RuntimeError:
            raise self.error(key, "starts with ~ but this user has no home") from None
        return (self._found[key].folder or Path.cwd()) / path

    def existing(self, key: str, directory: bool = False) -> Optional[Path]:
        path = self.path(key)
        if path is not None and not (path.is_dir() if directory else path.is_file()):
            kind = "directory" if directory else "file"
            raise self.error(key, f"names {path}, which is no {kind}")
        return path

    def certificate(self, key: str) -> Optional[bytes]:
        """A certificate that stands in the value itself: base64 of its DER, on one line."""
        text = self.text(key)
        if text is None:
            return None
        import ssl

        try:
            found = base64.b64decode(text, validate=True)
            ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cadata=found)
        except (ValueError, ssl.SSLError):
            raise self.error(key, "is no certificate, or not a whole one; copy it anew") from None
        return found

    def items(self, key: str) -> Tuple[str, ...]:
        """The comma-separated parts, without doubles, in their order."""
        parts = (part.strip() for part in (self.text(key) or "").split(","))
        return tuple(dict.fromkeys(part for part in parts if part))
