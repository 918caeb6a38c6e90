#!/usr/bin/env python3
"""Build pibot.pyz, for this machine or (--release) for all, the same bytes each time.

shiv packs the core: our sources and the few packages that every start needs. The archive is then
written anew with fixed order, modes and times and our own __main__.py, and the parts that only
some machines need are appended as compressed archives.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Any, Dict, List, Mapping, Optional, Sequence

import parts
import wheels

ROOT = Path(__file__).resolve().parents[1]
MAIN = Path(__file__).with_name("pyz_main.py")
INTERPRETER = "/usr/bin/env python3"
ENTRY_POINT = "pibot.cli:main"
EPOCH = "1980-01-01 00:00:00"  # the earliest time that a zip can say
# Python reads a file that is no whole archive as a script, and this is then all that it says.
HEADER = f"#!{INTERPRETER}\n# coding: this-copy-of-pibot.pyz-is-incomplete--copy-it-again\n"


def build(source: Path, core: wheels.Files, chosen: parts.Parts, stage: Path, output: Path) -> Path:
    """Write `output`: the packages in `source`, those of the core, and the chosen parts."""
    from shiv import __version__
    from shiv.bootstrap.environment import Environment
    from shiv.builder import create_archive

    archives = parts.packed(chosen.archives, stage)
    environment = Environment(
        built_at=EPOCH,
        shiv_version=__version__,
        compile_pyc=False,
        entry_point=ENTRY_POINT,
        reproducible=True,
    )
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=output.parent, prefix=".pyz-") as folder:
        site, raw, final = Path(folder, "site"), Path(folder, "raw"), Path(folder, "final")
        offers = {"pibot/parts.json": manifest(archives, chosen.offers)}
        write({**core, **sources(source), **offers}, site)
        create_archive([site], raw, INTERPRETER, ENTRY_POINT, environment, compressed=False)
        rewrite(raw, final, str(environment.build_id), archives)
        os.replace(final, output)
    return output


def sources(folder: Path) -> wheels.Files:
    """The packages in a folder, without bytecode and without what somebody hid there."""
    found = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*")}
    hidden = re.compile(r"(^|/)\.|\.pyc$|~$")
    return {n: p.read_bytes() for n, p in found.items() if p.is_file() and not hidden.search(n)}


def manifest(archives: Mapping[str, bytes], offers: List[Dict[str, Any]]) -> bytes:
    """What pibot.parts reads. It lies in the core, so the build's name stands for the parts too."""
    digests = {name: hashlib.sha256(data).hexdigest() for name, data in archives.items()}
    return json.dumps({"offers": offers, "sha256": digests}, sort_keys=True, indent=1).encode()


def write(files: wheels.Files, folder: Path) -> None:
    for name, data in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)


def rewrite(raw: Path, final: Path, build_id: str, archives: Mapping[str, bytes]) -> None:
    """Copy shiv's archive in one order, with one mode and time for all, and add ours."""
    main = MAIN.read_text(encoding="utf-8").replace("@build_id@", build_id).encode()
    with zipfile.ZipFile(raw) as old, final.open("wb") as file:
        file.write(HEADER.encode())
        with zipfile.ZipFile(file, "w") as new:
            for name in sorted(old.namelist()):
                data = main if name == "__main__.py" else old.read(name)
                new.writestr(entry(name), data, zipfile.ZIP_DEFLATED)
            for name in sorted(archives):
                new.writestr(entry(f"parts/{name}.tar.xz"), archives[name], zipfile.ZIP_STORED)
    final.chmod(0o755)


def entry(name: str) -> zipfile.ZipInfo:
    made = zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0))
    made.external_attr = 0o100644 << 16
    return made


def lock() -> None:
    """Accept the wheels of the locked versions as they are offered now."""
    with tempfile.TemporaryDirectory() as folder:
        locked = wheels.Wheels(Path(folder), sums=None)
        locked.files("core", [parts.OLD.common])
        parts.for_all(locked)
        lines = sorted(set(map(wheels.sum_line, locked.used)), key=lambda line: line.split()[1])
    wheels.SUMS.write_text("".join(lines), "ascii")


def main(arguments: Optional[Sequence[str]] = None) -> int:
    parser = argparse.ArgumentParser(description="Build pibot.pyz and pibot.pyz.sha256.")
    parser.add_argument("--release", action="store_true", help="for all machines")
    parser.add_argument("--lock", action="store_true", help="write requirements/wheels.sha256 only")
    parser.add_argument("--stage", type=Path, default=ROOT / "build" / "stage", help="a cache")
    parser.add_argument("--output", type=Path, default=ROOT / "build" / "pibot.pyz")
    options = parser.parse_args(arguments)
    try:
        if options.lock:
            lock()
            return 0
        locked = wheels.Wheels(options.stage, wheels.SUMS.read_text("ascii"))
        core = locked.files("core", [parts.OLD.common])["any"]
        chosen = parts.for_all(locked) if options.release else parts.for_this_machine(locked)
    except subprocess.CalledProcessError as error:
        sys.exit(f"The locked packages could not be downloaded ({error}).")
    output = build(ROOT / "src", core, chosen, options.stage, options.output)
    line = wheels.sum_line(output)
    output.with_name(f"{output.name}.sha256").write_text(line, "ascii")
    print(f"{output} {output.stat().st_size / 1e6:.1f} MB sha256 {line.split()[0]}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
