"""Whom the embedded broker lets in, and to which topics: as identities.json and the table say."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import NamedTuple, Optional

from pibot.errors import StoreError
from pibot.identities import Identities, Identity
from pibot.rights import Rights, rights_of

log = logging.getLogger(__name__)


class Admitted(NamedTuple):
    """Somebody who was let in."""

    identity: Identity
    rights: Rights


class Admission:
    """`read()` first, and again when the file has changed."""

    def __init__(self, path: Path, fleet: str) -> None:
        self._path, self._fleet = path, fleet
        self._identities = Identities()

    def read(self) -> None:
        """Take over what the file says; a damaged one changes nothing."""
        try:
            self._identities = Identities.load(self._path)
        except StoreError as error:
            log.error("the broker's users stay as they are: %s", error)

    def admit(self, user: str, password: str) -> Optional[Admitted]:
        found = self._identities.admitted(user, password)
        if found is None:
            return None
        return Admitted(found, rights_of(self._fleet, found.kind, found.name))

    def still(self, who: Admitted) -> bool:
        """Whether the credentials with which somebody came in are still good."""
        return who.identity in self._identities.valid(who.identity.name)
