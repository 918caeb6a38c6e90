"""The master's identities on disk, and the broker's files that follow from them.

    journal committed  →  identities.json  →  broker files  →  the answer

Each step may be the last before a power cut: `begin` mends what then differs. The journal goes
first, so that a name which is removed there and still has credentials is one whose removal was
cut short; and one that is added is free in the journal before it has any.
"""

from __future__ import annotations

from pathlib import Path
from typing import Dict, Iterable, NamedTuple, Optional

from pibot import identities
from pibot.identities import CLIENT, MASTER, WORKER, Identities, Identity, write_broker_files
from pibot.topics import RESERVED


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
            write_broker_files(self._identities, self._fleet, self._folder)

    def store(self) -> None:
        """Write what has changed; raise StoreError."""
        if self._changed:
            self._identities.save(self._path)
            write_broker_files(self._identities, self._fleet, self._folder)
            self._changed = False

    # --- looking --------------------------------------------------------------------------------

    def of_worker(self, name: str) -> Optional[Identity]:
        found = self._identities.get(name)
        return found if found and found.kind == WORKER else None

    def knows_client(self, name: str) -> bool:
        found = self._identities.get(name)
        return found is not None and found.kind == CLIENT

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

    def rotate(self, new: Identity) -> None:
        self._identities.replace(new)
        self._changed = True

    def remove(self, name: str) -> None:
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
        self.rotate(identities.identity(secret))
