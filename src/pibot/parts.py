"""The parts of pibot.pyz that only some machines need, unpacked right before they are imported.

`parts.json`, which the builder puts beside this module, offers each part in several ways: compiled
for some interpreters, or pure. The first offer that fits is taken. An ordinary installation has no
such file and everything in place.
"""

from __future__ import annotations

import functools
import os
import sys
import threading
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path
from typing import TYPE_CHECKING, Any, Callable, Dict, Mapping, Optional, Sequence, Tuple

from pibot.errors import StoreError

if TYPE_CHECKING:
    from pibot.unpacking import Place

NAMES = ("model", "broker", "screen")
_OFFERS = Path(__file__).with_suffix(".json")
_inserting = threading.Lock()


@functools.cache
def ensure(part: str) -> None:
    """Make the packages of a part importable; raise StoreError when the disk does not take them."""
    place = _place()
    if place is None:
        return
    offers = _offers()
    offer = choose(offers["offers"], part)
    if offer is not None:
        provide(place, offer, offers["sha256"])


def choose(
    offers: Sequence[Mapping[str, Any]],
    part: str,
    python: Tuple[int, ...] = sys.version_info[:2],
    tag: Optional[str] = None,
) -> Optional[Mapping[str, Any]]:
    """The first offer of `part` that an interpreter can use."""
    tag = own_tag() if tag is None else tag
    for offer in offers:
        fits = not offer["tags"] or tag in offer["tags"]
        if offer["part"] == part and tuple(offer["python"]) <= python and fits:
            return {**offer, "tag": tag if offer["tags"] else None}
    return None


def own_tag(suffixes: Sequence[str] = EXTENSION_SUFFIXES, machine: str = os.uname().machine) -> str:
    """What the compiled modules of this interpreter end in, such as cpython-311-aarch64-linux-gnu.

    The machine's name would be wrong: a 32-bit system on a 64-bit kernel calls itself aarch64. But
    an ARMv6 has the same tag as an ARMv7, whose libraries crash on it.
    """
    if machine == "armv6l":
        return ""
    return next((s[1:-3] for s in suffixes if s.startswith(".cpython-")), "")


def provide(place: Place, offer: Mapping[str, Any], digests: Mapping[str, str]) -> None:
    """Unpack what is offered, if it is not there, and put it on the path of imports."""
    try:
        folder = place.provide(_label(offer), _fill(place.archive, offer, digests))
    except OSError as error:
        raise StoreError(
            f"The {offer['part']} part of pibot.pyz cannot be unpacked to {place.root}"
            f" ({error.strerror or error}): make 60 MB of room there."
        ) from None
    with _inserting:
        if folder not in sys.path:
            core = os.path.dirname(os.path.dirname(__file__))
            sys.path.insert(sys.path.index(core) + 1 if core in sys.path else 0, folder)


def describe() -> Optional[Dict[str, Dict[str, Any]]]:
    """Which form of each part is used here and whether it is unpacked; None: no parts."""
    place = _place()
    if place is None:
        return None
    return {part: _described(place, choose(_offers()["offers"], part)) for part in NAMES}


def _described(place: Place, offer: Optional[Mapping[str, Any]]) -> Dict[str, Any]:
    if offer is None:
        return {"parts": None, "tag": None, "unpacked": False}
    unpacked = os.path.isdir(place.folder(_label(offer)))
    return {
        "parts": "compiled" if offer["tags"] else "pure",
        "tag": offer["tag"],
        "unpacked": unpacked,
    }


def build() -> str:
    """The name of the build that was started; "" for an ordinary installation."""
    return str(getattr(sys.modules["__main__"], "BUILD_ID", ""))


def _place() -> Optional[Place]:
    """Where the pyz that was started keeps its files."""
    return getattr(sys.modules["__main__"], "PLACE", None)


def _offers() -> Dict[str, Any]:
    import json

    found: Dict[str, Any] = json.loads(_OFFERS.read_text("utf-8"))
    return found


def _label(offer: Mapping[str, Any]) -> str:
    form = offer["tag"] or "pure-" + ".".join(map(str, offer["python"]))
    return f"{offer['part']}-{form}"


def _fill(
    archive: str, offer: Mapping[str, Any], digests: Mapping[str, str]
) -> Callable[[str], None]:
    def fill(new: str) -> None:
        for name in offer["archives"]:
            _extract(_read(archive, f"parts/{name}.tar.xz", digests[name]), offer["tag"], new)

    return fill


def _read(archive: str, name: str, digest: str) -> bytes:
    """A member of the archive, if it is the one that this build came with."""
    import hashlib
    import zipfile

    try:
        with zipfile.ZipFile(archive) as opened:
            data = opened.read(name)
    except (OSError, KeyError, zipfile.BadZipFile):
        data = b""
    if hashlib.sha256(data).hexdigest() != digest:
        raise StoreError(
            f"{archive} was replaced or damaged since this program was started: start it again,"
            " and if that does not help, copy the file to this machine again."
        )
    return data


def _extract(data: bytes, tag: Optional[str], new: str) -> None:
    """Unpack what is for every interpreter, and for the one with this tag."""
    import io
    import tarfile

    with tarfile.open(fileobj=io.BytesIO(data), mode="r|xz") as tar:
        for entry in tar:
            top, _, name = entry.name.partition("/")
            content = tar.extractfile(entry)
            if top in ("any", tag) and content is not None:
                path = os.path.join(new, name)
                os.makedirs(os.path.dirname(path), exist_ok=True)
                with open(path, "wb") as file:
                    file.write(content.read())
