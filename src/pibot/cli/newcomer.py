"""The files that a newcomer gets: NAME.env, and a copy of the CA where that is a file.

They are written whole before the master is asked, so that nothing can go wrong afterwards; if the
master does not take the name, nothing of them is left.
"""

from __future__ import annotations

import os
import socket
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Iterator, List, NamedTuple, Optional

from pibot import broker
from pibot.config import Settings, is_loopback
from pibot.errors import UsageError
from pibot.files import create_private
from pibot.identities import Secret, env_text
from pibot.values import Values

CA_FILE = "pibot-ca.crt"
# Addresses for documentation: nobody has them, so the way there is the default route.
_FAR = ((socket.AF_INET, "192.0.2.1"), (socket.AF_INET6, "2001:db8::1"))


class Files(NamedTuple):
    """What was written, and the address of the broker that stands in it."""

    env: Path
    ca: Optional[Path]
    host: str


def broker_address(settings: Settings, chosen: Optional[str]) -> str:
    """Where a worker on another machine finds the broker; raise UsageError if nobody knows."""
    if chosen is not None:
        return Values({"--host": chosen}, {}, {}).host("--host") or _nowhere()
    host = broker.locate(settings)[0]
    return (own_address() or _nowhere()) if is_loopback(host) else host


def own_address() -> Optional[str]:
    """This machine's address on its default route; asking sends nothing."""
    for family, far in _FAR:
        with suppress(OSError), socket.socket(family, socket.SOCK_DGRAM) as sock:
            sock.connect((far, 9))
            return str(sock.getsockname()[0])
    return None


def _nowhere() -> str:
    raise UsageError(
        "this machine has no address in a network: say with --host ADDRESS where the workers find "
        "the broker"
    )


@contextmanager
def written(settings: Settings, secret: Secret, host: str) -> Iterator[Files]:
    """Write the files here; remove them if what follows fails. Raises UsageError before that."""
    made: List[Path] = []
    try:
        ca = _copy_ca(settings.mqtt_ca_file, made) if settings.mqtt_ca_file else None
        place = (settings.fleet, host, settings.mqtt_port)
        text = env_text(secret, *place, CA_FILE if ca else None, settings.ca)
        env = _make(Path(f"{secret.name}.env"), text, made)
        yield Files(env, ca, host)
    except BaseException:
        for path in made:
            with suppress(OSError):
                path.unlink()
        raise


def _make(path: Path, text: str, made: List[Path]) -> Path:
    if os.path.lexists(path):
        raise UsageError(f"{path.absolute()} is there already: move it away first")
    made.append(path)  # before it is there: an interruption may come at any moment
    try:
        create_private(path, text)
    except OSError as error:
        made.remove(path)  # create_private leaves nothing; what is there is somebody else's
        raise UsageError(f"{path.absolute()} cannot be written: {error.strerror}") from None
    return path


def _copy_ca(source: Path, made: List[Path]) -> Path:
    """One copy serves all workers whose files are made here."""
    copy = Path(CA_FILE)
    try:
        text = source.read_text("utf-8")
        if copy.is_file() and copy.read_text("utf-8") == text:
            return copy
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"the certificate {source} cannot be copied: {error}") from None
    _make(copy, text, made)
    copy.chmod(0o644)
    return copy
