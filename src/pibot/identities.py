"""Who may speak in a fleet with credentials: names, password lines for the broker, and keys.

The master owns `identities.json`. Mosquitto's `passwd` and `acl` are made of it. A password is
shown once, in the file that its owner gets; here only what checks it is kept.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import os
import re
import secrets
import stat
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any, Dict, Iterable, Iterator, List, NamedTuple, Optional

from pibot.errors import StoreError, UsageError
from pibot.files import write_private
from pibot.topics import RESERVED, Topics, check_name
from pibot.values import assignment

MASTER, WORKER, CLIENT = "m", "w", "c"
KINDS = {MASTER: "the master", WORKER: "a worker", CLIENT: "a client"}
MAX_BYTES = 8 * 1024 * 1024
MAX_NAMES = 5_000  # with more, root would refuse the broker's file
_VERSION = 1
_ITERATIONS = 101  # as mosquitto_passwd has it; the passwords are random and 256 bits long
_SALT_BYTES = 12
_LINE = re.compile(r"\$7\$101\$([A-Za-z0-9+/]{16})\$([A-Za-z0-9+/]{86}==)")
_KEY = re.compile(r"[!-~]{1,200}")


class Secret(NamedTuple):
    """What the owner of a name gets, once."""

    name: str
    password: str
    key: str
    kind: str = WORKER


class Identity(NamedTuple):
    """What is kept of a name. `since` is for people only."""

    name: str
    kind: str
    password_line: str
    key: str
    since: str = ""


def new_secret(kind: str, name: str) -> Secret:
    """A random password and key for a name; raise UsageError if it cannot be one of that kind."""
    check(kind, name)
    return Secret(name, secrets.token_urlsafe(32), secrets.token_hex(32), kind)


def check(kind: str, name: str) -> None:
    """Raise UsageError if the name cannot be one of that kind."""
    check_name(name, {WORKER: "worker", CLIENT: "client"}.get(kind, "master's"))
    if (name == RESERVED) != (kind == MASTER):
        raise UsageError(f"{name!r} cannot be {KINDS[kind]}: {RESERVED!r} is the master's own name")


def password_line(password: str) -> str:
    """A password as Mosquitto's password file has it, behind the name."""
    salt = secrets.token_bytes(_SALT_BYTES)
    salt_text, hash_text = (base64.b64encode(b).decode() for b in (salt, _hash(password, salt)))
    return f"$7${_ITERATIONS}${salt_text}${hash_text}"


def fits(line: str, password: str) -> bool:
    """Whether a password line was made of this password."""
    parts = _LINE.fullmatch(line)
    if parts is None:
        return False
    expected = base64.b64decode(parts[2])
    return hmac.compare_digest(_hash(password, base64.b64decode(parts[1])), expected)


def _hash(password: str, salt: bytes) -> bytes:
    return hashlib.pbkdf2_hmac("sha512", password.encode("utf-8"), salt, _ITERATIONS)


class Identities:
    """A fleet's names, unique over master, workers and clients."""

    def __init__(self, found: Iterable[Identity] = ()) -> None:
        self._by_name: Dict[str, Identity] = {identity.name: identity for identity in found}

    @classmethod
    def load(cls, path: Path) -> "Identities":
        """Read the file, none is no names; raise StoreError if it is damaged or open to others."""
        text = _private_text(path)
        return cls() if text is None else cls.parse(path, text)

    @classmethod
    def parse(cls, path: Path, text: str) -> "Identities":
        """What the file's text says; raise StoreError, which names `path`, if it is damaged."""
        return cls(_read(path, text))

    def text(self) -> str:
        """What `save` writes."""
        rows = [identity._asdict() for identity in self._sorted()]
        return json.dumps({"version": _VERSION, "identities": rows}, indent=1) + "\n"

    def save(self, path: Path) -> None:
        """Put the file in place, private and whole; raise StoreError."""
        with _writing(path):
            write_private(path, self.text())

    def add(self, kind: str, name: str) -> Secret:
        """Make a new name; raise UsageError if it is taken or unfit."""
        secret = new_secret(kind, name)
        self.enrol(identity(secret))
        return secret

    def rotate(self, name: str) -> Secret:
        """A new password and key for a name; the old ones end. UsageError if it is not there."""
        old = self._need(name)
        secret = new_secret(old.kind, name)
        self._by_name[name] = identity(secret)._replace(since=old.since)
        return secret

    def enrol(self, new: Identity) -> None:
        """Take a name whose secret was made elsewhere; raise UsageError if it is taken or unfit."""
        _fit(new)
        old = self.get(new.name)
        if old is not None:
            raise UsageError(f"{new.name!r} is the name of {KINDS[old.kind]} already")
        if len(self) >= MAX_NAMES:
            raise UsageError(f"this fleet has {MAX_NAMES:,} names already: remove some first")
        self._by_name[new.name] = new

    def replace(self, new: Identity) -> None:
        """Put other credentials in place of a name's; raise UsageError if they are unfit."""
        _fit(new)
        self._by_name[new.name] = new

    def remove(self, name: str) -> None:
        self._need(name)
        del self._by_name[name]

    def get(self, name: str) -> Optional[Identity]:
        return self._by_name.get(name)

    def of_kind(self, kind: str) -> List[Identity]:
        """The master (m), the workers (w) or the clients (c), by name."""
        return [identity for identity in self._sorted() if identity.kind == kind]

    def __len__(self) -> int:
        return len(self._by_name)

    def _sorted(self) -> List[Identity]:
        return [self._by_name[name] for name in sorted(self._by_name)]

    def _need(self, name: str) -> Identity:
        found = self.get(name)
        if found is None:
            raise UsageError(f"{name!r} has no credentials in this fleet")
        return found


def identity(secret: Secret) -> Identity:
    """What is kept of a secret."""
    now = datetime.now().astimezone().isoformat(timespec="seconds")
    return Identity(secret.name, secret.kind, password_line(secret.password), secret.key, now)


def _fit(new: Identity) -> None:
    check(new.kind, new.name)
    if not (_LINE.fullmatch(new.password_line) and _KEY.fullmatch(new.key)):
        raise UsageError(f"the credentials of {new.name!r} are malformed: make them again")


# --- reading and writing --------------------------------------------------------------------------


def _private_text(path: Path) -> Optional[str]:
    try:
        with path.open(encoding="utf-8") as file:
            if stat.S_IMODE(os.fstat(file.fileno()).st_mode) & 0o077:
                raise StoreError(f"{path} is open to other users; run: chmod 600 {path}")
            text = file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise StoreError(f"{path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise _damaged(path, "it is not text") from None
    if len(text) > MAX_BYTES:
        raise _damaged(path, "it is too large")
    return text


def _read(path: Path, text: str) -> List[Identity]:
    try:
        document = json.loads(text)
        if document["version"] != _VERSION:
            raise StoreError(f"{path} was written by another version of pibot: update pibot.pyz")
        found = [_identity(row) for row in document["identities"]]
    except (ValueError, TypeError, KeyError, RecursionError, UsageError) as error:
        raise _damaged(path, f"{type(error).__name__}: {error}") from None
    if len({one.name for one in found}) != len(found):
        raise _damaged(path, "a name stands twice in it")
    return found


def _identity(row: Dict[str, Any]) -> Identity:
    fields = {name: row[name] for name in Identity._fields if name != "since"}
    fields["since"] = row.get("since", "")
    if not all(isinstance(value, str) for value in fields.values()) or fields["kind"] not in KINDS:
        raise ValueError("a field has a wrong value")
    found = Identity(**fields)
    _fit(found)
    return found


def _damaged(path: Path, why: str) -> StoreError:
    return StoreError(
        f"{path} is damaged ({why[:200]}): put a good copy in its place, or move it away and add "
        "every worker and client anew"
    )


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        yield
    except OSError as error:
        raise StoreError(f"{path} cannot be written: {error.strerror}") from None


# --- for the broker -------------------------------------------------------------------------------


def write_broker_files(identities: Identities, fleet: str, folder: Path) -> None:
    """Write `passwd` and `acl` as Mosquitto reads them, and then the mark `changed`.

    Whoever puts them in place waits for the mark and removes it; when nothing has changed, none
    is made. It lies ready before the first file is touched: so a crash in between is noticed, and
    made good by the next call. Raises StoreError.
    """
    texts = {folder / "acl": acl_text(fleet), folder / "passwd": passwd_text(identities)}
    wrong = [path for path, text in texts.items() if not _is(path, text)]
    ready = folder / "changed.new"
    if not wrong and not ready.exists():
        return
    with _writing(ready):
        ready.touch(0o600)
        for path in wrong:
            write_private(path, texts[path])
        os.replace(ready, folder / "changed")


def _is(path: Path, text: str) -> bool:
    try:
        private = stat.S_IMODE(path.stat().st_mode) == 0o600
        return private and path.read_bytes() == text.encode("utf-8")
    except OSError:
        return False


def passwd_text(identities: Identities) -> str:
    """Mosquitto's password file: a line for each name."""
    everyone = [one for kind in KINDS for one in identities.of_kind(kind)]
    return "".join(f"{one.name}:{one.password_line}\n" for one in everyone)


def acl_text(fleet: str) -> str:
    """Mosquitto's rights: the master all, everyone else the topics that carry their name."""
    topics = Topics(check_name(fleet, "fleet"))
    rules = [("read", topics.announce), ("read", topics.worker("%u", "cmd"))]
    rules += [("write", topics.worker("%u", what)) for what in ("evt", "hb", "prog", "will")]
    rules += [("write", topics.client("%u", "req")), ("read", topics.client("%u", "rep"))]
    rules += [("read", topics.view("#"))]
    lines = [f"user {RESERVED}", f"topic readwrite {topics.root}#", ""]
    return "\n".join([*lines, *(f"pattern {right} {topic}" for right, topic in rules), ""])


# --- for the owner --------------------------------------------------------------------------------


def env_text(secret: Secret, fleet: str, host: str, port: int, ca_file: Optional[str]) -> str:
    """The settings with which the owner of a secret finds the broker and is let in."""
    lines = [f"WORKER_ID={secret.name}"] if secret.kind == WORKER else []
    lines += [f"PIBOT_FLEET={fleet}", f"MQTT_HOST={host}"]
    if port != (8883 if ca_file else 1883):
        lines.append(f"MQTT_PORT={port}")
    lines += [f"MQTT_USERNAME={secret.name}", f"MQTT_PASSWORD={secret.password}"]
    lines.append(f"PIBOT_KEY={secret.key}")
    if ca_file:
        lines.append(assignment("MQTT_CA_FILE", ca_file))
    return "\n".join([*lines, ""])
