"""The builder: the same bytes each time, and only locked wheels."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Dict, List

import pytest

from stand_in import ROOT, StandIn, digest

import parts  # isort: skip  (stand_in puts build/ on the path)
import wheels  # isort: skip

LOCKS = sorted(path.stem for path in wheels.LOCKS.glob("*.txt"))
SUMS = wheels.SUMS.read_text()
ARCHIVES = [name for name in LOCKS if name not in ("dev", "run-py39", "run-py310")]


def test_the_same_bytes_from_anywhere(tmp_path: Path, pyz: Path) -> None:
    elsewhere = StandIn(tmp_path / "elsewhere")
    before, cwd = os.umask(0o077), Path.cwd()
    try:
        os.chdir(tmp_path)
        package = elsewhere.source() / "pibot"
        (package / "__pycache__").mkdir()
        for clutter in ("__pycache__/cli.cpython-311.pyc", ".env", "cli.py~", ".cache/x"):
            (package / clutter).parent.mkdir(exist_ok=True)
            (package / clutter).write_text("MQTT_PASSWORD=secret")
        os.utime(package / "cli.py", (1, 1))
        again = elsewhere.build()
    finally:
        os.umask(before)
        os.chdir(cwd)
    assert digest(again) == digest(pyz)
    assert StandIn(tmp_path / "elsewhere", word="other").build() == again
    assert digest(again) != digest(pyz)


def test_the_order_of_hashing_does_not_matter(tmp_path: Path, pyz: Path) -> None:
    code = "import sys; sys.path[:0] = sys.argv[2:]; import stand_in, pathlib"
    code += "; stand_in.StandIn(pathlib.Path(sys.argv[1])).build()"
    for seed in ("1", "2"):
        subprocess.run(
            [sys.executable, "-c", code, tmp_path / seed, ROOT / "tests", ROOT / "src"],
            env={**os.environ, "PYTHONHASHSEED": seed},
            check=True,
            timeout=60,
        )
        assert digest(tmp_path / seed / "pibot.pyz") == digest(pyz)


def test_what_is_inside(pyz: Path) -> None:
    assert pyz.read_bytes().startswith(b"#!/usr/bin/env python3\n")
    assert os.access(pyz, os.X_OK)
    with zipfile.ZipFile(pyz) as archive:
        infos = archive.infolist()
    assert {info.external_attr >> 16 for info in infos} == {0o100644}
    assert {info.date_time for info in infos} == {(1980, 1, 1, 0, 0, 0)}
    names = [info.filename for info in infos]
    assert names[-1] == "parts/toy.tar.xz" and infos[-1].compress_type == zipfile.ZIP_STORED
    assert names[:-1] == sorted(names[:-1])
    assert {"site-packages/pibot/soul.md", "site-packages/inside.py"} < set(names)


def test_what_no_program_reads_stays_out() -> None:
    useless = ("a/x.pyi", "a/py.typed", "a-1.dist-info/RECORD", "a/tests/test_x.py", "a/b.pyc")
    useful = ("a/x.py", "a-1.dist-info/METADATA", "a-1.dist-info/licenses/LICENSE", "a/tests.py")
    assert [name for name in useless + useful if not wheels.USELESS.search(name)] == [*useful]


# --- the locks ------------------------------------------------------------------------------------


def locked() -> Dict[str, List[str]]:
    """The names of the locked wheels, by package and version."""
    found: Dict[str, List[str]] = {}
    for line in wheels.SUMS.read_text().splitlines():
        value, name = line.split("  ")
        assert re.fullmatch("[0-9a-f]{64}", value)
        found.setdefault("==".join(name.lower().split("-")[:2]), []).append(name)
    return found


def test_every_locked_version_has_its_wheels() -> None:
    wanted = {
        line.lower().replace("-", "_") for name in ARCHIVES for line in wheels.requirements(name)
    }
    assert wanted == set(locked())


def test_compiled_wheels_are_there_for_every_supported_machine() -> None:
    sums = locked()
    for lock, generation in (("compiled-py310", parts.NEW), ("compiled-py39", parts.OLD)):
        for line in wheels.requirements(lock):
            names = sums[line]
            if any(name.endswith("-none-any.whl") for name in names):
                continue
            for python in generation.pythons:
                for processor in wheels.TRIPLES:
                    target = wheels.Target(python, processor)
                    fit = [n for n in names if f"-cp{target.abi}-" in n and processor in n]
                    assert len(fit) == 1, (line, target)


def test_both_generations_are_installed_from_the_archives_locks() -> None:
    """What developers run is what travels in the file."""
    for run in ("run-py39", "run-py310"):
        included = [line.split()[1] for line in wheels.requirements(run)]
        assert {name[: -len(".txt")] for name in included} < set(ARCHIVES)


@pytest.mark.parametrize("sums", [re.sub(r"^\w{64}", "0" * 64, SUMS, flags=re.MULTILINE), ""])
def test_a_wheel_that_is_not_the_locked_one_is_refused(tmp_path: Path, sums: str) -> None:
    """pip itself is asked: a release must not be made of something else under the same name."""
    with pytest.raises(subprocess.CalledProcessError):
        wheels.Wheels(tmp_path, sums).files("core", [parts.OLD.common])
    assert list((tmp_path / "wheels").iterdir()) == []


def test_what_cannot_be_downloaded_is_one_sentence(tmp_path: Path) -> None:
    for name in ("build", "requirements"):
        shutil.copytree(
            ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("stage", "*.pyz")
        )
    (tmp_path / "requirements" / "core.txt").write_text("pibot-is-not-a-package==9.9.9\n")
    builder = [sys.executable, str(tmp_path / "build" / "make_pyz.py")]
    done = subprocess.run(builder, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert "The locked packages could not be downloaded" in done.stderr
    assert not (tmp_path / "build" / "pibot.pyz").exists()
