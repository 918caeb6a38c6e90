#!/usr/bin/env python3
"""Build pibot.pyz for this machine's Python and processor, the same bytes each time.

The dependencies are installed once per lock file and kept under the stage directory; shiv packs
them with the sources; the result is rewritten with fixed order, modes and times and our own
__main__.py.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import zipfile
from pathlib import Path
from typing import Optional, Sequence

ROOT = Path(__file__).resolve().parents[1]
MAIN = Path(__file__).with_name("pyz_main.py")
INTERPRETER = "/usr/bin/env python3"
ENTRY_POINT = "pibot.cli:main"
EPOCH = "1980-01-01 00:00:00"  # the earliest time that a zip can say
# What no program reads at run time. METADATA stays: httpx2 reads its own version there.
USELESS = (
    "bin",
    "**/__pycache__",
    "**/tests",
    "**/*.pyi",
    "**/py.typed",
    "*.dist-info/RECORD",
    "*.dist-info/INSTALLER",
    "*.dist-info/REQUESTED",
    "*.dist-info/direct_url.json",
    "*.dist-info/sboms",
)


def lock_file() -> Path:
    """The locked run-time tree that fits this Python."""
    name = "run-py310.txt" if sys.version_info >= (3, 10) else "run-py39.txt"
    return ROOT / "requirements" / name


def build(source: Path, lock: Path, stage: Path, output: Path) -> Path:
    """Write `output` from the packages in `source` and the dependencies in `lock`."""
    from shiv import __version__
    from shiv.bootstrap.environment import Environment
    from shiv.builder import create_archive

    dependencies = staged(lock, stage)
    environment = Environment(
        built_at=EPOCH,
        shiv_version=__version__,
        compile_pyc=False,
        entry_point=ENTRY_POINT,
        reproducible=True,
    )
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=output.parent, prefix=".pyz-") as folder:
        raw, final = Path(folder, "raw"), Path(folder, "final")
        create_archive(
            [dependencies, source], raw, INTERPRETER, ENTRY_POINT, environment, compressed=False
        )
        rewrite(raw, final, environment.build_id)
        os.replace(final, output)
    return output


def staged(lock: Path, stage: Path) -> Path:
    """Return the directory with the lock's packages installed, installing them the first time."""
    facts = [lock.read_text(), sys.implementation.cache_tag, sysconfig.get_platform(), *USELESS]
    ready = stage / hashlib.sha256("\n".join(map(str, facts)).encode()).hexdigest()[:16]
    if ready.is_dir():
        return ready
    stage.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=stage, prefix=".new-") as folder:
        target = Path(folder, "site")
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        options = ["--no-deps", "--no-compile", "--target", str(target), "-r", str(lock)]
        subprocess.run([*pip, *options], check=True)
        for useless in [path for pattern in USELESS for path in target.glob(pattern)]:
            if useless.is_dir():
                shutil.rmtree(useless)
            else:
                useless.unlink(missing_ok=True)
        target.rename(ready)
    return ready


def rewrite(raw: Path, final: Path, build_id: Optional[str]) -> None:
    """Copy shiv's archive in one order, with one mode and time for all, and our __main__.py."""
    main = MAIN.read_text(encoding="utf-8").replace("@build_id@", str(build_id)).encode()
    with zipfile.ZipFile(raw) as old, final.open("wb") as file:
        file.write(b"#!" + INTERPRETER.encode() + b"\n")
        with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as new:
            for name in sorted(old.namelist()):
                entry = zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0))
                entry.external_attr = 0o100644 << 16
                entry.compress_type = zipfile.ZIP_DEFLATED
                new.writestr(entry, main if name == "__main__.py" else old.read(name))
    final.chmod(0o755)


def main(arguments: Optional[Sequence[str]] = None) -> int:
    parser = argparse.ArgumentParser(description="Build pibot.pyz for this machine.")
    parser.add_argument("--source", type=Path, default=ROOT / "src", help="holds the packages")
    parser.add_argument("--lock", type=Path, default=lock_file(), help="pinned requirements")
    parser.add_argument("--stage", type=Path, default=ROOT / "build" / "stage")
    parser.add_argument("--output", type=Path, default=ROOT / "build" / "pibot.pyz")
    chosen = parser.parse_args(arguments)
    try:
        output = build(chosen.source, chosen.lock, chosen.stage, chosen.output)
    except subprocess.CalledProcessError as error:
        sys.exit(f"The dependencies of {chosen.lock} could not be installed (pip: {error}).")
    digest = hashlib.sha256(output.read_bytes()).hexdigest()
    print(f"{output} {output.stat().st_size / 1e6:.1f} MB sha256 {digest}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
