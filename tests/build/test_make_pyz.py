"""The builder: the same bytes each time, and a first start that survives what machines do.

A stand-in package and a lock of one small package keep this quick.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Dict, List

import pytest

BUILDER = Path(__file__).parents[2] / "build" / "make_pyz.py"
spec = importlib.util.spec_from_file_location("make_pyz", BUILDER)
assert spec is not None and spec.loader is not None
make_pyz = importlib.util.module_from_spec(spec)
spec.loader.exec_module(make_pyz)

CLI = """
import os, sys
def main():
    import idna, pibot
    print("stand-in", pibot.__version__, idna.__version__, *sys.argv[1:])
    return 3 if "fail" in sys.argv else 0
"""


def write_source(folder: Path, version: str = "1") -> Path:
    package = folder / "pibot"
    (package / "souls").mkdir(parents=True)
    (package / "cli.py").write_text(CLI)
    (package / "__init__.py").write_text(f"__version__ = {version!r}\n")
    (package / "souls" / "soul.md").write_text("You are PiBot.\n")
    return folder


@pytest.fixture(scope="module")
def lock(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("lock") / "lock.txt"
    path.write_text("idna==3.20\n")
    return path


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("stage")


@pytest.fixture(scope="module")
def pyz(tmp_path_factory: pytest.TempPathFactory, lock: Path, stage: Path) -> Path:
    folder = tmp_path_factory.mktemp("built")
    built: Path = make_pyz.build(write_source(folder / "src"), lock, stage, folder / "pibot.pyz")
    return built


def environment(home: Path, **more: str) -> Dict[str, str]:
    unwanted = ("SHIV_ROOT", "STATE_DIRECTORY", "CACHE_DIRECTORY", "PIBOT_STATE_DIR", "TMPDIR")
    kept = {key: value for key, value in os.environ.items() if key not in unwanted}
    return {**kept, "HOME": str(home), **more}


def run(pyz: Path, environ: Dict[str, str], *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-I", str(pyz), *words]
    return subprocess.run(command, env=environ, capture_output=True, text=True, timeout=60)


def unpacked(root: Path) -> List[str]:
    return sorted(path.name for path in root.iterdir() if path.is_dir())


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_the_same_bytes_from_anywhere(tmp_path: Path, pyz: Path, lock: Path) -> None:
    before = os.umask(0o077)
    try:
        source = write_source(tmp_path / "elsewhere")
        (source / "pibot" / "__pycache__").mkdir()
        (source / "pibot" / "__pycache__" / "cli.cpython-311.pyc").touch()
        os.utime(source / "pibot" / "cli.py", (1, 1))
        again = make_pyz.build(source, lock, tmp_path / "stage", tmp_path / "pibot.pyz")
    finally:
        os.umask(before)
    assert digest(again) == digest(pyz)


def test_what_is_inside(pyz: Path) -> None:
    assert pyz.read_bytes().startswith(b"#!/usr/bin/env python3\n")
    assert os.access(pyz, os.X_OK)
    with zipfile.ZipFile(pyz) as archive:
        names = archive.namelist()
        assert {info.external_attr >> 16 for info in archive.infolist()} == {0o100644}
    assert names == sorted(names)
    assert "site-packages/pibot/souls/soul.md" in names
    assert "site-packages/idna-3.20.dist-info/METADATA" in names
    assert [n for n in names if n.endswith((".pyc", "/RECORD", "py.typed")) or "/bin/" in n] == []


def test_start_arguments_and_exit_status(pyz: Path, tmp_path: Path) -> None:
    first = run(pyz, environment(tmp_path), "a", "b")
    assert (first.returncode, first.stdout, first.stderr) == (0, "stand-in 1 3.20 a b\n", "")
    assert run(pyz, environment(tmp_path), "fail").returncode == 3
    direct = subprocess.run([pyz], env=environment(tmp_path), capture_output=True, text=True)
    assert direct.stdout == "stand-in 1 3.20\n"
    assert len(unpacked(tmp_path / ".shiv")) == 1


def test_first_starts_at_once(pyz: Path, tmp_path: Path) -> None:
    root = tmp_path / "new" / "root"
    environ = environment(tmp_path, SHIV_ROOT=str(root))
    starts = [
        subprocess.Popen(
            [sys.executable, str(pyz)], env=environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        for _ in range(4)
    ]
    said = [start.communicate(timeout=60) for start in starts]
    assert said == [(b"stand-in 1 3.20\n", b"")] * 4
    assert len(unpacked(root)) == 1 and not unpacked(root)[0].endswith(".tmp")


def test_a_start_that_was_cut_off_is_made_good(pyz: Path, tmp_path: Path) -> None:
    run(pyz, environment(tmp_path))
    (name,) = unpacked(tmp_path / ".shiv")
    half = tmp_path / ".shiv" / name
    (half / "site-packages" / "pibot" / "cli.py").write_text("")
    half.rename(half.with_name(name + ".tmp"))
    assert run(pyz, environment(tmp_path)).stdout == "stand-in 1 3.20\n"
    assert unpacked(tmp_path / ".shiv") == [name]


def test_an_upgrade_leaves_the_old_build_alone(
    pyz: Path, tmp_path: Path, lock: Path, stage: Path
) -> None:
    mine = tmp_path / "pibot.pyz"
    shutil.copy(pyz, mine)
    assert run(mine, environment(tmp_path)).stdout == "stand-in 1 3.20\n"
    make_pyz.build(write_source(tmp_path / "src", "2"), lock, stage, mine)
    assert run(mine, environment(tmp_path)).stdout == "stand-in 2 3.20\n"
    assert len(unpacked(tmp_path / ".shiv")) == 2


# Nobody, not even root, can make a directory under /proc; it stands for a read-only home.
@pytest.mark.parametrize("home", ["/proc/self", "/no/such/home"])
def test_without_a_home_to_write(pyz: Path, tmp_path: Path, home: str) -> None:
    state, temporary = tmp_path / "state", tmp_path / "tmp"
    temporary.mkdir()
    with_state = environment(Path(home), PIBOT_STATE_DIR=str(state), TMPDIR=str(temporary))
    assert run(pyz, with_state).stdout == "stand-in 1 3.20\n"
    assert len(unpacked(state / "shiv")) == 1 and unpacked(temporary) == []
    assert run(pyz, environment(Path(home), TMPDIR=str(temporary))).returncode == 0
    (private,) = temporary.iterdir()
    assert private.stat().st_mode & 0o777 == 0o700 and len(unpacked(private)) == 1


def test_a_temporary_directory_that_others_prepared_is_refused(pyz: Path, tmp_path: Path) -> None:
    trap = tmp_path / f"pibot-{os.getuid()}"
    trap.mkdir()
    trap.chmod(0o777)
    done = run(pyz, environment(Path("/no/such/home"), TMPDIR=str(tmp_path)))
    assert (done.returncode, done.stdout) == (1, "") and "set SHIV_ROOT" in done.stderr
    assert unpacked(trap) == []


def test_systemd_directories_come_before_the_home(pyz: Path, tmp_path: Path) -> None:
    state, cache = tmp_path / "state", tmp_path / "cache"
    service = environment(tmp_path, STATE_DIRECTORY=f"{state}:/other")
    assert run(pyz, service).returncode == 0
    assert len(unpacked(state / "shiv")) == 1
    assert run(pyz, {**service, "CACHE_DIRECTORY": str(cache)}).returncode == 0
    assert len(unpacked(cache / "shiv")) == 1 and not (tmp_path / ".shiv").exists()


def test_an_old_python_gets_one_sentence() -> None:
    ast.parse(make_pyz.MAIN.read_text(), feature_version=(3, 4))
    code = "import sys; sys.version_info = (3, 8, 1); exec(open(sys.argv[1]).read())"
    command = [sys.executable, "-c", code, str(make_pyz.MAIN)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.startswith("pibot needs Python 3.9 or newer, and this is ")
    assert done.stderr.count("\n") == 1


def test_a_bad_lock_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "lock.txt").write_text("=not a requirement=\n")
    words = ["--lock", tmp_path / "lock.txt", "--stage", tmp_path, "--output", tmp_path / "x.pyz"]
    done = subprocess.run(
        [sys.executable, BUILDER, *words], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert f"The dependencies of {tmp_path / 'lock.txt'} could not be installed" in done.stderr
    assert not (tmp_path / "x.pyz").exists()
