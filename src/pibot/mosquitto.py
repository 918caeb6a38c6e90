"""The files that the master leaves for Mosquitto: `passwd`, `acl`, and a mark that they are new."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from pibot.files import write_private
from pibot.identities import Identities, writing
from pibot.rights import acl_text


def write_broker_files(identities: Identities, fleet: str, folder: Path) -> bool:
    """Write `passwd` and `acl` as Mosquitto reads them, and then the mark `changed`.

    Whoever puts them in place waits for the mark and removes it; when nothing has changed, none
    is made. It lies ready before the first file is touched: so a crash in between is noticed, and
    made good by the next call. Returns whether something has changed; raises StoreError.
    """
    acl, passwd = acl_text(fleet, identities.special()), passwd_text(identities)
    texts = {folder / "acl": acl, folder / "passwd": passwd}
    wrong = [path for path, text in texts.items() if not _is(path, text)]
    ready = folder / "changed.new"
    if not wrong and not ready.exists():
        return False
    with writing(ready):
        ready.touch(0o600)
        for path in wrong:
            write_private(path, texts[path])
        os.replace(ready, folder / "changed")
    return True


def _is(path: Path, text: str) -> bool:
    try:
        private = stat.S_IMODE(path.stat().st_mode) == 0o600
        return private and path.read_bytes() == text.encode("utf-8")
    except OSError:
        return False


def passwd_text(identities: Identities) -> str:
    """Mosquitto's password file: a line for each user."""
    return "".join(f"{one.user}:{one.password_line}\n" for one in identities.users())
