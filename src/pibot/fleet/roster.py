"""The master's identities on disk, and the broker's files that follow from them.

    journal committed  →  identities.json  →  broker files  →  the answer

Each step may be the last before a power cut: `begin` mends what then differs. The journal goes
first, so that a name which is removed there and still has credentials is one whose removal was
cut short; and one that is added is free in the journal before it has any.

A rotation has two such rounds: new credentials are put beside the old ones, and when their owner
has come with them, the old ones are left out. Both stand in one file, so one of them always counts.
"""

from __future__ import annotations

from pathlib import Path
from typing import Callable, Dict, Iterable, List, NamedTuple, Optional, Set

from pibot import identities
from pibot.identities import Identities, Identity
from pibot.mosquitto import write_broker_files
from pibot.topics import CLIENT, MASTER, RESERVED, VIEWER, WORKER


class Own(NamedTuple):
    """The master's own credentials, as its settings have them."""

    username: Optional[str]
    password: Optional[str]
    key: Optional[str]


class Roster:
    """`begin()` first, and again whenever something could not be stored."""

    def __init__(self, state_dir: Path, fleet: str, own: Own) -> None:
        self._path = state_dir / RESERVED / "identities.json"
        self._folder, self._fleet, self._own = state_dir / "broker", fleet, own
        self._identities, self._changed = Identities(), False
        self._ended: Set[str] = set()  # clients that were removed: asked twice, it is done
        self.tell_broker: Callable[[], None] = lambda: None  # that other people may come in now

    @property
    def guarded(self) -> bool:
        """Whether this fleet has credentials at all."""
        return self._own.password is not None

    def begin(self, removed: Iterable[str]) -> None:
        """Read what is on disk and mend it; raise StoreError.

        `removed` are the names that may not come, as the journal has it.
        """
        self._load()
        self._mend_own()
        for name in removed:
            if self.of_worker(name):
                self.remove(name)
        self.store()
        if len(self._identities):
            self._write_broker_files()

    def store(self) -> None:
        """Write what has changed; raise StoreError."""
        if self._changed:
            self._identities.save(self._path)
            self._write_broker_files()
            self._changed = False

    def _write_broker_files(self) -> None:
        if write_broker_files(self._identities, self._fleet, self._folder):
            self.tell_broker()

    # --- looking --------------------------------------------------------------------------------

    def of_worker(self, name: str) -> Optional[Identity]:
        found = self._identities.get(name)
        return found if found and found.kind == WORKER else None

    def next_of(self, name: str) -> Optional[Identity]:
        """The credentials with which a worker that is being rotated will come."""
        return self._identities.next_of(name)

    def keys_of(self, kind: str, name: str) -> List[str]:
        """The keys with which a name may speak now as that kind; none if it may not.

        A worker may look at the fleet as a client does; a viewer says nothing at all.
        """
        speakers = (WORKER,) if kind == WORKER else (CLIENT, WORKER)
        return self._identities.keys_of(name) if self.kind_of(name) in speakers else []

    def kind_of(self, name: str) -> str:
        """m, w, c or v; "" if the name is not known."""
        found = self._identities.get(name)
        return found.kind if found else ""

    def clients(self) -> List[Identity]:
        """The clients and the viewers, by name."""
        found = [*self._identities.of_kind(CLIENT), *self._identities.of_kind(VIEWER)]
        return sorted(found, key=lambda one: one.name)

    def has_ended(self, name: str) -> bool:
        """Whether this client was removed since the master's start."""
        return name in self._ended and not self.kind_of(name)

    def enrolled(self) -> Dict[str, str]:
        """The workers with credentials, and since when."""
        return {one.name: one.since for one in self._identities.of_kind(WORKER)}

    # --- changing, in memory until store() ------------------------------------------------------

    def refresh(self) -> None:
        """Take over what `setup` may have changed on disk; raise StoreError."""
        if not self._changed:
            self._load()

    def add(self, new: Identity) -> None:
        """Raise UsageError if the name is taken or the credentials are malformed."""
        self._identities.enrol(new)
        self._changed = True

    def rotate(self, new: Identity, now: bool) -> None:
        """Put new credentials beside a name's, or `now` in their place."""
        (self._identities.replace if now else self._identities.follow)(new)
        self._changed = True

    def came(self, name: str, key: str) -> None:
        """A worker has joined, and signs with this key: if it is its new one, the old one ends."""
        following = self._identities.next_of(name)
        if following is not None and following.key == key:
            self._identities.promote(name)
            self._changed = True

    def remove(self, name: str) -> None:
        if self.kind_of(name) != WORKER:
            self._ended.add(name)
        self._identities.remove(name)
        self._changed = True

    def _load(self) -> None:
        self._identities, self._changed = Identities.load(self._path), False

    def _mend_own(self) -> None:
        """What the settings say is what the broker must know."""
        own = self._own
        if own.username != RESERVED or own.password is None:
            return
        old = self._identities.get(RESERVED)
        key = own.key or (old.key if old else identities.new_secret(MASTER, RESERVED).key)
        if old and old.key == key and identities.fits(old.password_line, own.password):
            return
        secret = identities.Secret(RESERVED, own.password, key, MASTER)
        self.rotate(identities.identity(secret), now=True)
