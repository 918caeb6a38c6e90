"""Locked wheels, and the archives made of them that travel inside pibot.pyz.

A file of `requirements/` is one archive, and one more for each processor if it holds compiled
modules. `requirements/wheels.sha256` names every wheel with its digest: pip refuses all others.
"""

from __future__ import annotations

import hashlib
import io
import lzma
import re
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Dict, Iterator, List, Mapping, NamedTuple, Optional, Sequence, Set, Tuple

ROOT = Path(__file__).resolve().parents[1]
LOCKS = ROOT / "requirements"
SUMS = LOCKS / "wheels.sha256"
# The processors with compiled parts, and how an interpreter of theirs calls itself.
TRIPLES = {
    "aarch64": "aarch64-linux-gnu",
    "armv7l": "arm-linux-gnueabihf",
    "x86_64": "x86_64-linux-gnu",
}
PLATFORMS = ("manylinux_2_17", "manylinux2014")  # what every glibc of a supported system can load
# What no program reads at run time. METADATA stays: httpx2 reads its own version there.
USELESS = re.compile(
    r"/$|\.(pyi|pyc|c|h|pyx)$|(^|/)(py\.typed|tests/.*)$|\.data/"
    r"|\.dist-info/(RECORD|WHEEL|INSTALLER|REQUESTED|sboms/.*|top_level\.txt)$"
)
# 16 MiB of memory let a library profit from the same one for another Python.
XZ = [{"id": lzma.FILTER_LZMA2, "preset": 9, "dict_size": 16 << 20}]
Files = Dict[str, bytes]


class Target(NamedTuple):
    """A Python on a processor, such as (3, 11) on armv7l."""

    python: Tuple[int, int]
    processor: str

    @property
    def abi(self) -> str:
        return "".join(map(str, self.python))

    @property
    def tag(self) -> str:
        """What the names of this Python's compiled modules end in."""
        return f"cpython-{self.abi}-{TRIPLES[self.processor]}"


class Wheels:
    """The wheels of the locks, downloaded once each. Without `sums` pip takes what it gets."""

    def __init__(self, stage: Path, sums: Optional[str]) -> None:
        self._stage = stage
        self._verified, self._sums = sums is not None, _by_release(sums or "")
        self.used: Set[Path] = set()

    def files(self, lock: str, targets: Sequence[Target]) -> Dict[str, Files]:
        """What `lock` installs for `targets`: compiled modules by their tag, the rest as any."""
        found: Dict[str, Files] = {"any": {}}
        with ThreadPoolExecutor(4) as pool:
            downloads = list(pool.map(lambda target: self._download(lock, target), targets))
        for target, wheels in zip(targets, downloads):
            self.used.update(wheels)
            for name, data in _members(wheels):
                part = found.setdefault(target.tag, {}) if name.endswith(".so") else found["any"]
                if part.setdefault(name, data) != data:
                    raise ValueError(f"{name} of {lock}.txt differs between the wheels")
        return found

    def _download(self, lock: str, target: Target) -> List[Path]:
        wanted = self._locked(lock)
        key = hashlib.sha256(f"{wanted}{target}".encode()).hexdigest()[:16]
        folder = self._stage / "wheels" / f"{lock}-{target.abi}-{target.processor}-{key}"
        if not folder.is_dir():
            fetch(wanted, target, folder, self._verified)
        return sorted(folder.glob("*.whl"))

    def _locked(self, lock: str) -> str:
        """The requirements of a lock, each with the digests of its wheels."""
        lines = []
        for line in requirements(lock):
            digests = self._sums.get(_release(*line.split("==")), [])
            lines.append(" ".join([line, *(f"--hash=sha256:{digest}" for digest in digests)]))
        return "\n".join([*lines, ""])


def requirements(lock: str) -> List[str]:
    lines = (LOCKS / f"{lock}.txt").read_text("utf-8").splitlines()
    return [line.strip() for line in lines if line.strip() and not line.startswith("#")]


def fetch(wanted: str, target: Target, folder: Path, verified: bool) -> None:
    """Download the wheels of the requirements `wanted`, for any machine, to a new folder."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".new-") as name:
        new = Path(name, "wheels")
        lines = Path(name, "requirements.txt")
        lines.write_text(wanted, "utf-8")
        pip = [sys.executable, "-m", "pip", "download", "-qq", "--disable-pip-version-check"]
        options = ["--no-deps", "--only-binary=:all:", "--implementation=cp"]
        options += [f"--platform={p}_{target.processor}" for p in PLATFORMS]
        options += [f"--python-version={target.abi}", f"--abi=cp{target.abi}"]
        options += ["--require-hashes"] if verified else []
        subprocess.run([*pip, *options, f"--dest={new}", f"--requirement={lines}"], check=True)
        if not folder.is_dir():  # else another build was faster
            new.rename(folder)


def archived(files: Mapping[str, bytes]) -> bytes:
    """A solid tar.xz, the same bytes for the same files."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name in sorted(files):
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(files[name]), 0o644
            tar.addfile(entry, io.BytesIO(files[name]))
    return lzma.compress(packed.getvalue(), lzma.FORMAT_XZ, filters=XZ)


def sum_line(file: Path) -> str:
    """A file's digest and name, as `sha256sum` writes and checks them."""
    return f"{hashlib.sha256(file.read_bytes()).hexdigest()}  {file.name}\n"


def _by_release(sums: str) -> Dict[str, List[str]]:
    found: Dict[str, List[str]] = {}
    for line in sums.splitlines():
        digest, name = line.split()
        found.setdefault(_release(*name.split("-")[:2]), []).append(digest)
    return found


def _release(name: str, version: str) -> str:
    return f"{re.sub('[-_.]+', '_', name).lower()}-{version}"


def _members(wheels: Sequence[Path]) -> Iterator[Tuple[str, bytes]]:
    for wheel in wheels:
        with zipfile.ZipFile(wheel) as opened:
            for name in opened.namelist():
                if not USELESS.search(name):
                    yield name, opened.read(name)
