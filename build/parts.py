"""The parts of pibot.pyz outside its core: what they are made of, and which interpreter gets what.

A part is offered in several ways; src/pibot/parts.py unpacks the first one that fits. Offers name
archives. Inside one, `any/` is for every interpreter, and `TAG/` for those whose compiled modules
end in TAG.
"""

from __future__ import annotations

import hashlib
import os
import sys
import sysconfig
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Dict, List, NamedTuple, Sequence, Tuple

from wheels import TRIPLES, XZ, Files, Target, Wheels, archived

FALLBACK = Path(__file__).with_name("fallback")
COMMON = "x86_64"  # what is the same for all processors is downloaded for this one

Offer = Dict[str, Any]


class Generation(NamedTuple):
    """Locked packages that belong together, and the Pythons that have compiled parts for them."""

    name: str
    pythons: Tuple[Tuple[int, int], ...]
    has_broker: bool

    @property
    def common(self) -> Target:
        return Target(self.pythons[0], COMMON)


NEW = Generation("py310", ((3, 10), (3, 11), (3, 12), (3, 13), (3, 14)), has_broker=True)
OLD = Generation("py39", ((3, 9),), has_broker=False)
EVERYWHERE = [
    Target(python, processor)
    for generation in (NEW, OLD)
    for python in generation.pythons
    for processor in sorted(TRIPLES)
]


class Parts(NamedTuple):
    """The files of each archive, and the offers that refer to them."""

    archives: Dict[str, Files]
    offers: List[Offer]


def for_all(wheels: Wheels) -> Parts:
    """What every supported Python on every supported processor needs; the newest come first."""
    return gathered(wheels, [NEW, OLD], EVERYWHERE)


def for_this_machine(wheels: Wheels) -> Parts:
    """What this interpreter needs."""
    tag = sysconfig.get_config_var("SOABI")
    generation = NEW if sys.version_info >= NEW.pythons[0] else OLD
    return gathered(wheels, [generation], [target for target in EVERYWHERE if target.tag == tag])


def gathered(wheels: Wheels, generations: Sequence[Generation], targets: Sequence[Target]) -> Parts:
    """All parts for the Pythons of `generations`, compiled for `targets` and pure for the rest."""
    lowest = OLD.common
    stand_ins = {path.name: path.read_bytes() for path in FALLBACK.glob("*.py")}
    archives = {
        "fallback": _any({**wheels.files("fallback", [lowest])["any"], **stand_ins}),
        "screen": _any(wheels.files("screen", [lowest])["any"]),
    }
    offers: List[Offer] = []
    for generation in generations:
        mine = [target for target in targets if target.python in generation.pythons]
        for parts in (_model(wheels, generation, mine), _broker(wheels, generation)):
            archives.update(parts.archives)
            offers += parts.offers
    return Parts(archives, [*offers, _offer("screen", lowest, ["screen"])])


def _model(wheels: Wheels, generation: Generation, targets: Sequence[Target]) -> Parts:
    model, compiled = f"model-{generation.name}", f"compiled-{generation.name}"
    common = generation.common
    parts = Parts({model: _any(wheels.files(model, [common])["any"])}, [])
    trees = wheels.files(compiled, targets)
    for processor in sorted({target.processor for target in targets}):
        tags = [target.tag for target in targets if target.processor == processor]
        modules = {f"{tag}/{path}": data for tag in tags for path, data in trees[tag].items()}
        parts.archives[compiled] = _any(trees["any"])
        parts.archives[f"{compiled}-{processor}"] = modules
        parts.offers.append(
            _offer("model", common, [model, compiled, f"{compiled}-{processor}"], tags)
        )
    parts.offers.append(_offer("model", common, [model, "fallback"]))
    return parts


def _broker(wheels: Wheels, generation: Generation) -> Parts:
    if not generation.has_broker:
        return Parts({}, [])
    files = wheels.files("broker", [generation.common])["any"]
    return Parts({"broker": _any(files)}, [_offer("broker", generation.common, ["broker"])])


def _offer(part: str, lowest: Target, archives: List[str], tags: Sequence[str] = ()) -> Offer:
    """With `tags` it is compiled for the interpreters with one of these, else for all."""
    return {"part": part, "python": list(lowest.python), "archives": archives, "tags": list(tags)}


def _any(files: Files) -> Files:
    return {f"any/{path}": data for path, data in files.items()}


def packed(archives: Dict[str, Files], stage: Path) -> Dict[str, bytes]:
    """The archives as tar.xz; the slow work is done once for each content."""
    (stage / "archives").mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        done = pool.map(lambda files: _packed(files, stage / "archives"), archives.values())
        return dict(zip(archives, done))


def _packed(files: Files, folder: Path) -> bytes:
    digest = hashlib.sha256(repr(XZ).encode())
    for name in sorted(files):
        digest.update(hashlib.sha256(files[name]).digest() + name.encode() + b"\0")
    path = folder / f"{digest.hexdigest()}.tar.xz"
    if not path.exists():
        with tempfile.NamedTemporaryFile(dir=folder, delete=False) as new:
            new.write(archived(files))
        os.replace(new.name, path)
    return path.read_bytes()
