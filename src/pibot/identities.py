"""Who may speak in a fleet with credentials: names, password lines for the broker, and keys.

The master owns `identities.json`. Mosquitto's `passwd` and `acl` are made of it. A password is
shown once, in the file that its owner gets; here only what checks it is kept.

A worker that is rotated has two sets of credentials, each with a broker user of its own, until it
has come with the new ones.
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
import string
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any, Dict, Iterable, Iterator, List, NamedTuple, Optional, Tuple

from pibot.errors import StoreError, UsageError
from pibot.files import write_private
from pibot.rights import Special
from pibot.topics import (
    CLIENT,
    MASTER,
    RESERVED,
    VIEWER,
    WORKER,
    check_name,
    name_of_user,
)
from pibot.values import assignment

KINDS = {MASTER: "the master", WORKER: "a worker", CLIENT: "a client", VIEWER: "a viewer"}
MAX_BYTES = 8 * 1024 * 1024
MAX_NAMES = 5_000  # with more, root would refuse the broker's file
_VERSION = 1
_ITERATIONS = 101  # as mosquitto_passwd has it; the passwords are random and 256 bits long
_SALT_BYTES = 12
_LINE = re.compile(r"\$7\$101\$([A-Za-z0-9+/]{16})\$([A-Za-z0-9+/]{86}==)")
_KEY = re.compile(r"[!-~]{1,200}")
_UPDATE_KEY = re.compile(r"([0-9a-f]{64})?")
_SUFFIX = re.compile(r"([a-z0-9]{4})?")


class Secret(NamedTuple):
    """What the owner of a name gets, once. `update_key` is for its machine's root alone."""

    name: str
    password: str
    key: str
    kind: str = WORKER
    suffix: str = ""
    update_key: str = ""

    @property
    def user(self) -> str:
        """The broker's user name."""
        return _user(self.name, self.suffix)

    def __repr__(self) -> str:
        return f"Secret({self.kind}:{self.user})"


class Identity(NamedTuple):
    """What is kept of a name. `since` is for people only."""

    name: str
    kind: str
    password_line: str
    key: str
    since: str = ""
    suffix: str = ""  # of the broker's user; other credentials of one name have another
    update_key: str = ""

    @property
    def user(self) -> str:
        """The broker's user name."""
        return _user(self.name, self.suffix)

    def __repr__(self) -> str:
        return f"Identity({self.kind}:{self.user})"


def new_secret(kind: str, name: str, suffix: str = "") -> Secret:
    """Random credentials for a name; raise UsageError if it cannot be one of that kind."""
    check(kind, name)
    update_key = secrets.token_hex(32) if kind == WORKER else ""
    password, key = secrets.token_urlsafe(32), secrets.token_hex(32)
    return Secret(name, password, key, kind, suffix, update_key)


def new_suffix() -> str:
    """What tells the next broker user of a name from those before it."""
    return "".join(secrets.choice(string.ascii_lowercase + string.digits) for _ in range(4))


def _user(name: str, suffix: str) -> str:
    return f"{name}.{suffix}" if suffix else name


def check(kind: str, name: str) -> None:
    """Raise UsageError if the name cannot be one of that kind."""
    check_name(name, {WORKER: "worker", MASTER: "master's"}.get(kind, "client"))
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
    """A fleet's names, unique over master, workers, clients and viewers."""

    def __init__(self, found: Iterable[Identity] = (), following: Iterable[Identity] = ()) -> None:
        """`following` are the new credentials of names whose old ones still count."""
        self._by_name: Dict[str, Identity] = {identity.name: identity for identity in found}
        self._next: Dict[str, Identity] = {identity.name: identity for identity in following}

    @classmethod
    def load(cls, path: Path) -> "Identities":
        """Read the file, none is no names; raise StoreError if it is damaged or open to others."""
        text = _private_text(path)
        return cls() if text is None else cls.parse(path, text)

    @classmethod
    def parse(cls, path: Path, text: str) -> "Identities":
        """What the file's text says; raise StoreError, which names `path`, if it is damaged."""
        return cls(*_read(path, text))

    def text(self) -> str:
        """What `save` writes."""
        rows: List[Dict[str, Any]] = [identity._asdict() for identity in self._sorted()]
        for row in rows:
            if row["name"] in self._next:
                row["next"] = self._next[row["name"]]._asdict()
        return json.dumps({"version": _VERSION, "identities": rows}, indent=1) + "\n"

    def save(self, path: Path) -> None:
        """Put the file in place, private and whole; raise StoreError."""
        with writing(path):
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
        self.replace(identity(secret)._replace(since=old.since))
        return secret

    def follow(self, new: Identity) -> None:
        """Take new credentials for a name beside the old ones; raise UsageError if unfit."""
        old = self._need(new.name)
        _fit(new)
        if new.kind != old.kind or new.suffix == old.suffix:
            raise UsageError(f"the credentials of {new.name!r} do not differ: make them again")
        self._next[new.name] = new

    def promote(self, name: str) -> None:
        """The new credentials of a name have come into use: the old ones end."""
        self._by_name[name] = self._next.pop(name)

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
        self._next.pop(new.name, None)

    def remove(self, name: str) -> None:
        self._need(name)
        del self._by_name[name]
        self._next.pop(name, None)

    def get(self, name: str) -> Optional[Identity]:
        return self._by_name.get(name)

    def next_of(self, name: str) -> Optional[Identity]:
        """The credentials that are to follow, if a name is being rotated."""
        return self._next.get(name)

    def of_kind(self, kind: str) -> List[Identity]:
        """The master (m), the workers (w), the clients (c) or the viewers (v), by name."""
        return [identity for identity in self._sorted() if identity.kind == kind]

    def valid(self, name: str) -> List[Identity]:
        """The credentials with which a name may come: one set, or two while it is rotated."""
        return [found for found in (self.get(name), self.next_of(name)) if found]

    def keys_of(self, name: str) -> List[str]:
        """The keys with which a name may sign; none if it is not known."""
        return [one.key for one in self.valid(name)]

    def admitted(self, user: str, password: str) -> Optional[Identity]:
        """Whom the broker lets in with these, if anybody."""
        for one in self.valid(name_of_user(user)):
            if one.user == user and fits(one.password_line, password):
                return one
        return None

    def users(self) -> List[Identity]:
        """All that the broker knows: the master first, then by kind and name."""
        return [
            one for kind in KINDS for named in self.of_kind(kind) for one in self.valid(named.name)
        ]

    def special(self) -> List[Special]:
        """The broker's users for whom the patterns of the acl are not enough."""
        found = (Special(one.user, one.kind) for one in self.users())
        return [one for one in found if one.kind == VIEWER or "." in one.user]

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
    line = password_line(secret.password)
    name, _, key, kind, suffix, update_key = secret
    return Identity(name, kind, line, key, now, suffix, update_key)


def _fit(new: Identity) -> None:
    check(new.kind, new.name)
    fit = _LINE.fullmatch(new.password_line) and _KEY.fullmatch(new.key)
    if not (fit and _SUFFIX.fullmatch(new.suffix) and _UPDATE_KEY.fullmatch(new.update_key)):
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


def _read(path: Path, text: str) -> Tuple[List[Identity], List[Identity]]:
    try:
        document = json.loads(text)
        if document["version"] != _VERSION:
            raise StoreError(f"{path} was written by another version of pibot: update pibot.pyz")
        rows = document["identities"]
        found = [_identity(row) for row in rows]
        following = [_following(row) for row in rows if "next" in row]
    except (ValueError, TypeError, KeyError, RecursionError, UsageError) as error:
        raise _damaged(path, f"{type(error).__name__}: {error}") from None
    if len({one.name for one in found}) != len(found):
        raise _damaged(path, "a name stands twice in it")
    return found, following


def _following(row: Dict[str, Any]) -> Identity:
    new = _identity(row["next"])
    if (new.name, new.kind) != (row["name"], row["kind"]) or new.suffix == row.get("suffix", ""):
        raise ValueError("what follows a name does not fit it")
    return new


def _identity(row: Dict[str, Any]) -> Identity:
    defaults = Identity._field_defaults  # what older files do not have
    fields: Dict[str, Any]
    fields = {n: row.get(n, defaults[n]) if n in defaults else row[n] for n in Identity._fields}
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
def writing(path: Path) -> Iterator[None]:
    """Write below; a folder that is not there is made, and what goes wrong is a StoreError."""
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        yield
    except OSError as error:
        raise StoreError(f"{path} cannot be written: {error.strerror}") from None


# --- for the owner --------------------------------------------------------------------------------


def env_text(
    secret: Secret,
    fleet: str,
    host: str,
    port: int,
    ca_file: Optional[str] = None,
    ca: Optional[bytes] = None,
) -> str:
    """The settings with which the owner of a secret finds the broker and is let in."""
    lines = [f"WORKER_ID={secret.name}"] if secret.kind == WORKER else []
    lines += [f"PIBOT_FLEET={fleet}", f"MQTT_HOST={host}"]
    if port != (8883 if ca_file or ca else 1883):
        lines.append(f"MQTT_PORT={port}")
    lines += [f"MQTT_USERNAME={secret.user}", f"MQTT_PASSWORD={secret.password}"]
    lines.append(f"PIBOT_KEY={secret.key}")
    if secret.update_key:
        lines.append(f"PIBOT_UPDATE_KEY={secret.update_key}")
    if ca_file:
        lines.append(assignment("MQTT_CA_FILE", ca_file))
    if ca:
        lines.append(f"PIBOT_CA={base64.b64encode(ca).decode()}")
    return "\n".join([*lines, ""])
