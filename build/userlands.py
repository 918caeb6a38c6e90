"""The Pythons that the release file is tried on: this machine's own, and those of other machines.

A userland is Debian's packages around python3, downloaded by debootstrap, which checks their
signatures, and unpacked; nothing in it is configured or installed, and no root is needed. A small
script beside its python3 starts it, under qemu for another processor, so that it is a command like
any other, also for what a program starts as `sys.executable`.
"""

from __future__ import annotations

import os
import platform
import re
import shlex
import subprocess
import tempfile
from pathlib import Path
from typing import Dict, Iterable, Iterator, List, NamedTuple, Optional, Tuple

ROOTS = Path(__file__).parent / "stage" / "roots"
OLDEST = (3, 9)
# Debian's name of an architecture: qemu's name, and the oldest processor of a Pi that has it.
PROCESSORS = {
    "arm64": ("aarch64", "cortex-a53"),  # Pi 3, Zero 2
    "armhf": ("arm", "cortex-a7"),  # Pi 2
    "armel": ("arm", "arm1176"),  # Pi 1 and Zero
}
TRIPLE = "x86_64-linux-gnu"
_MIRROR = re.compile(r"^(?:deb|URIs:)[ \t].*?(https?://\S+/debian)/?(?=\s|$)", re.MULTILINE)
_ASK = "import platform; print(platform.python_version())"


class Problem(Exception):
    """What keeps the targets from being made, in one sentence."""


class Userland(NamedTuple):
    """A Debian to take python3 from, and another package if one is wanted, such as a kernel."""

    suite: str
    arch: str
    extra: str = ""

    @property
    def name(self) -> str:
        return "-".join(filter(None, self))


class Target(NamedTuple):
    """A Python to run pibot.pyz with; that of a userland is there once it is prepared."""

    name: str
    python: Path
    userland: Optional[Userland] = None

    @property
    def emulated(self) -> bool:
        """Then its times and its memory say little about real machines."""
        return self.userland is not None and self.userland.arch in PROCESSORS

    @property
    def parts(self) -> str:
        """Which parts of the release file have to serve: nobody compiles for the oldest Pis."""
        return "pure" if self.userland and self.userland.arch == "armel" else "compiled"


EMULATED = (
    *(Userland(s, a) for s in ("bookworm", "trixie", "bullseye") for a in ("arm64", "armhf")),
    Userland("bookworm", "armel"),
)
# For x86_64: the Python of each suite, needed where the machine has none of that version. An older
# suite's loader cannot start a program under another name.
NATIVE = {
    (3, 11): Userland("bookworm", "amd64"),
    (3, 13): Userland("trixie", "amd64"),
    (3, 14): Userland("testing", "amd64"),
}


# --- this machine's ---------------------------------------------------------------------------


def local_pythons(folders: Iterable[Tuple[str, Path]]) -> Dict[Tuple[int, ...], List[Target]]:
    """The Pythons in (kind, folder), the newest last, by their major and minor version."""
    found: Dict[Tuple[int, ...], List[Target]] = {}
    seen = set()
    for kind, folder in folders:
        for path in sorted(folder.glob("python3*")):
            real = path.resolve()
            if real in seen or not re.fullmatch(r"python3(\.\d+)?", path.name):
                continue
            seen.add(real)
            version = _version(path)
            if version and version[:2] >= OLDEST:
                name = f"{kind}-{'.'.join(map(str, version))}"
                found.setdefault(version[:2], []).append(Target(name, path))
    return dict(sorted(found.items()))


def python_folders() -> Iterator[Tuple[str, Path]]:
    """Where Debian and pyenv put Pythons."""
    yield "system", Path("/usr/bin")
    versions = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv") / "versions"
    if os.access(versions, os.R_OK):  # sudo may have left us another user's
        yield from (("pyenv", folder) for folder in sorted(versions.glob("*/bin")))


def _version(python: Path) -> Optional[Tuple[int, ...]]:
    """The version that an interpreter tells; None when it does not start."""
    done = subprocess.run([str(python), "-I", "-c", _ASK], capture_output=True, text=True)
    match = re.match(r"(\d+)\.(\d+)\.(\d+)", done.stdout)
    return tuple(map(int, match.groups())) if match else None


# --- userlands --------------------------------------------------------------------------------


def userland_targets(have: Iterable[Tuple[int, ...]]) -> List[Target]:
    """The targets beside the local Pythons, whose versions are given."""
    missing = [userland for version, userland in NATIVE.items() if version not in set(have)]
    natives = missing if platform.machine() == "x86_64" else []
    return [Target(u.name, _launcher(u), u) for u in (*EMULATED, *natives)]


def _launcher(userland: Userland) -> Path:
    return ROOTS / userland.name / "usr" / "bin" / "python3-here"


def prepare(userland: Userland) -> None:
    """Make the userland, unless it is there, and the script that starts its Python."""
    root = ROOTS / userland.name
    if not root.is_dir():
        ROOTS.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=ROOTS, prefix=".new-") as folder:
            packages = _download(userland, Path(folder, "download"))
            _unpack(packages, Path(folder, "root"))
            Path(folder, "root").rename(root)
    script = _launcher(userland)
    script.write_text(launch(userland, root))
    script.chmod(0o755)


def launch(userland: Userland, root: Path) -> str:
    """The script that starts the userland's python3 and passes itself off as that."""
    python, itself = root / "usr" / "bin" / "python3", _launcher(userland)
    if userland.arch in PROCESSORS:
        machine, processor = PROCESSORS[userland.arch]
        start = ["nice", f"qemu-{machine}-static", "-cpu", processor, "-0", itself, "-L", root]
    else:
        libraries = root / "usr" / "lib" / TRIPLE
        loader = libraries / "ld-linux-x86-64.so.2"
        start = [loader, "--argv0", itself, "--library-path", libraries]
    return f'#!/bin/sh\nexec {shlex.join(map(str, [*start, python]))} "$@"\n'


def debian_mirror(sources: Iterable[str]) -> Optional[str]:
    """The first address of Debian's archive in apt's source files, whichever of the two forms."""
    for text in sources:
        match = _MIRROR.search(text)
        if match:
            return match.group(1)
    return None


def _mirror() -> str:
    apt = Path("/etc/apt")
    files = [apt / "sources.list", *sorted(apt.glob("sources.list.d/*"))]
    found = debian_mirror(path.read_text("utf-8", "replace") for path in files if path.is_file())
    if found is None:
        raise Problem(
            f"The sources in {apt} name no Debian archive (an address that ends in /debian) to"
            " take userlands from: run this on Debian or a 64-bit Raspberry Pi OS, or choose other"
            " targets with --only."
        )
    return found


def _download(userland: Userland, folder: Path) -> List[Path]:
    """Fetch python3 and all that a Debian cannot be without; debootstrap checks the signatures."""
    command = ["debootstrap", "--download-only", "--force-check-gpg", "--variant=minbase"]
    packages = ",".join(filter(None, ("python3", userland.extra)))
    command += [f"--include={packages}", f"--arch={userland.arch}", userland.suite, str(folder)]
    command += [_mirror()]
    # An ordinary user's PATH does not have the places where debootstrap and its tools are.
    environment = {**os.environ, "PATH": f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin"}
    try:
        done = subprocess.run(
            command, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
    except FileNotFoundError:
        raise Problem("debootstrap is not installed: sudo apt-get install debootstrap.") from None
    if done.returncode:
        said = "\n".join(done.stdout.splitlines()[-5:])
        raise Problem(f"debootstrap could not download {userland.name}:\n{said}")
    return sorted(folder.glob("var/cache/apt/archives/*.deb"))


def _unpack(packages: Iterable[Path], root: Path) -> None:
    """Unpack without what only people read, without owners and without set-user-id bits."""
    for name in ("bin", "sbin", "lib", "lib64"):  # older packages still use these places
        (root / "usr" / name).mkdir(parents=True)
        (root / name).symlink_to(f"usr/{name}")
    tar = ["tar", "-x", "-C", str(root), "--keep-directory-symlink", "--exclude=./usr/share/*"]
    tar += ["--no-same-owner", "--no-same-permissions"]
    for package in packages:
        with subprocess.Popen(
            ["dpkg-deb", "--fsys-tarfile", str(package)], stdout=subprocess.PIPE
        ) as files:
            unpacked = subprocess.run(tar, stdin=files.stdout)
        if unpacked.returncode or files.returncode:
            raise Problem(f"{package.name} could not be unpacked.")
