"""A start of pibot.pyz survives what machines do: power cuts, full disks, upgrades, others."""

from __future__ import annotations

import ast
import fcntl
import os
import random
import resource
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Callable, Dict, List

import pytest

from pibot import unpacking
from small_disk import small_disk
from stand_in import StandIn, environment, folders, run, start

import make_pyz  # isort: skip  (stand_in puts build/ on the path)

SAID = "stand-in 1 inside"


def roots(root: Path) -> List[str]:
    """The folders of a root, all of them whole."""
    names = folders(root)
    assert [name for name in names if not unpacking.is_whole(str(root / name))] == []
    return names


def test_start_arguments_and_exit_status(pyz: Path, tmp_path: Path) -> None:
    env = environment(tmp_path)
    first = run(pyz, env, "a", "b")
    assert (first.returncode, first.stdout, first.stderr) == (0, f"{SAID} a b\n", "")
    assert run(pyz, env, "fail").returncode == 3
    direct = subprocess.run([pyz], env=env, capture_output=True, text=True)
    assert direct.stdout == f"{SAID}\n"
    assert len(roots(tmp_path / ".shiv")) == 1


def test_a_part_is_unpacked_when_it_is_needed(pyz: Path, tmp_path: Path) -> None:
    run(pyz, environment(tmp_path))
    (core,) = roots(tmp_path / ".shiv")
    done = run(pyz, environment(tmp_path), "part")
    assert (done.stdout, done.stderr) == (f"toy\n{SAID} part\n", "")
    assert roots(tmp_path / ".shiv") == [core, f"{core}.toy-pure-3.9"]


def test_a_warm_start_writes_nothing(pyz: Path, tmp_path: Path) -> None:
    run(pyz, environment(tmp_path), "part")
    run(pyz, environment(tmp_path), "part")

    def facts() -> Dict[str, int]:
        return {str(path): path.stat().st_mtime_ns for path in (tmp_path / ".shiv").rglob("*")}

    before = facts()
    assert run(pyz, environment(tmp_path), "part").returncode == 0
    assert facts() == before


def test_first_starts_at_once(pyz: Path, tmp_path: Path) -> None:
    root = tmp_path / "new" / "root"
    starts = [start(pyz, environment(tmp_path, SHIV_ROOT=str(root)), "part") for _ in range(4)]
    said = [process.communicate(timeout=60) for process in starts]
    assert said == [(f"toy\n{SAID} part\n", "")] * 4
    assert len(roots(root)) == 2


# --- power cuts -----------------------------------------------------------------------------------


def test_killed_at_any_moment_of_its_first_start(pyz: Path, tmp_path: Path) -> None:
    """Twenty kills, spread over the time that a whole first start takes."""
    chance = random.Random(20)
    env = environment(tmp_path, SHIV_ROOT=str(tmp_path / "root"))
    unfinished = 0
    begun = time.monotonic()
    assert run(pyz, env, "part").returncode == 0
    whole = time.monotonic() - begun
    for moment in range(20):
        shutil.rmtree(tmp_path / "root", ignore_errors=True)
        process = start(pyz, env, "part")
        try:
            process.wait(whole * (moment + chance.random()) / 20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        left = folders(tmp_path / "root") if (tmp_path / "root").exists() else []
        unfinished += any("~new-" in name for name in left)
        done = run(pyz, env, "part")
        assert (done.stdout, done.stderr) == (f"toy\n{SAID} part\n", ""), (moment, left)
        assert len(roots(tmp_path / "root")) == 2, (moment, left)
    assert unfinished, "no kill came while something was being unpacked"


def truncate(path: Path) -> None:
    os.truncate(path, 0)


def halve(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def zero(path: Path) -> None:
    path.write_bytes(b"\0" * path.stat().st_size)


DAMAGES: List[Callable[[Path], None]] = [truncate, halve, zero, Path.unlink]
VICTIMS = ["site-packages/inside.py", "site-packages/pibot/__pycache__/parts.*.pyc", ".files"]


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("victim", VICTIMS)
def test_a_damaged_core_is_mended(
    pyz: Path, tmp_path: Path, victim: str, damage: Callable[[Path], None]
) -> None:
    run(pyz, environment(tmp_path))
    (name,) = roots(tmp_path / ".shiv")
    (path,) = (tmp_path / ".shiv" / name).glob(victim)
    damage(path)
    done = run(pyz, environment(tmp_path))
    assert (done.stdout, done.stderr) == (f"{SAID}\n", "")
    assert roots(tmp_path / ".shiv") == [name]


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_part_is_mended(
    pyz: Path, tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    run(pyz, environment(tmp_path), "part")
    names = roots(tmp_path / ".shiv")
    damage(tmp_path / ".shiv" / names[1] / "toy" / "words.py")
    assert run(pyz, environment(tmp_path), "part").stdout == f"toy\n{SAID} part\n"
    assert roots(tmp_path / ".shiv") == names


def test_a_start_mends_under_a_program_that_runs(pyz: Path, tmp_path: Path) -> None:
    running = start(pyz, environment(tmp_path), "serve", "part")
    assert running.stdout is not None and running.stdout.readline() == "serving\n"
    (name,) = roots(tmp_path / ".shiv")
    truncate(tmp_path / ".shiv" / name / "site-packages" / "pibot" / "soul.md")
    assert run(pyz, environment(tmp_path)).stdout == f"{SAID}\n"
    assert running.communicate("\n", timeout=60) == (f"toy\n{SAID} serve part\n", "")
    assert run(pyz, environment(tmp_path)).returncode == 0
    assert roots(tmp_path / ".shiv") == [name, f"{name}.toy-pure-3.9"]


# --- upgrades -------------------------------------------------------------------------------------


def replaced(path: Path, **changes: str) -> Path:
    """Another build in the place of `path`, as `mv` and `install` put it there."""
    other = StandIn(path.parent / "other", **changes).build()  # type: ignore[arg-type]
    os.replace(other, path)
    return path


def test_an_upgrade_removes_the_old_build(pyz: Path, tmp_path: Path) -> None:
    mine = Path(shutil.copy(pyz, tmp_path / "pibot.pyz"))
    run(mine, environment(tmp_path), "part")
    old = roots(tmp_path / ".shiv")
    others = ["other.pyz_" + 64 * "0", "pibot.pyz_tool.pyz_0123"]  # of other programs
    for name in others:
        (tmp_path / ".shiv" / name).mkdir()
    assert run(replaced(mine, version="2"), environment(tmp_path)).stdout == "stand-in 2 inside\n"
    left = folders(tmp_path / ".shiv")
    assert set(others) < set(left) and len(left) == 3 and not set(old) & set(left)


def test_an_upgrade_under_a_program_that_runs(pyz: Path, tmp_path: Path) -> None:
    """The old program keeps its files, and unpacks what is the same in both."""
    mine = Path(shutil.copy(pyz, tmp_path / "pibot.pyz"))
    running = start(mine, environment(tmp_path), "serve", "part")
    assert running.stdout is not None and running.stdout.readline() == "serving\n"
    (old,) = roots(tmp_path / ".shiv")
    assert run(replaced(mine, version="2"), environment(tmp_path)).stdout == "stand-in 2 inside\n"
    both = roots(tmp_path / ".shiv")
    assert len(both) == 2 and old in both
    assert running.communicate("\n", timeout=60) == (f"toy\n{SAID} serve part\n", "")
    run(mine, environment(tmp_path))
    assert roots(tmp_path / ".shiv") == [name for name in both if name != old]


def test_a_part_that_was_replaced_asks_for_a_restart(pyz: Path, tmp_path: Path) -> None:
    mine = Path(shutil.copy(pyz, tmp_path / "pibot.pyz"))
    for change in (lambda: replaced(mine, word="new"), mine.unlink):
        shutil.copy(pyz, mine)
        running = start(mine, environment(tmp_path), "serve", "part")
        assert running.stdout is not None and running.stdout.readline() == "serving\n"
        change()
        _, said = running.communicate("\n", timeout=60)
        assert said.count("\n") == 1 and "was replaced or damaged" in said
        assert "start it again" in said and running.returncode == 1


# --- disks ----------------------------------------------------------------------------------------


def on_a_small_disk(pyz: Path, env: Dict[str, str], size: int, *words: str) -> str:
    """What a start says that can write no file of more than `size` bytes; it must fail."""

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))

    command = [sys.executable, "-I", str(pyz), *words]
    done = subprocess.run(
        command, env=env, preexec_fn=limit, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 1 and done.stdout == "" and done.stderr.count("\n") == 1
    return done.stderr


def test_a_disk_that_takes_no_core(pyz: Path, tmp_path: Path) -> None:
    env = environment(tmp_path, TMPDIR=str(tmp_path / "tmp"))
    (tmp_path / "tmp").mkdir()
    said = on_a_small_disk(pyz, env, 2000)
    assert "make some room, or set SHIV_ROOT" in said and str(tmp_path / ".shiv") in said
    assert folders(tmp_path / ".shiv") == []
    assert run(pyz, env).stdout == f"{SAID}\n"


def test_a_disk_that_takes_no_part(tmp_path: Path) -> None:
    mine = StandIn(tmp_path / "built", word="long" * 10_000).build()
    run(mine, environment(tmp_path))
    said = on_a_small_disk(mine, environment(tmp_path), 30_000, "part")
    assert "The toy part of pibot.pyz cannot be unpacked" in said and "room" in said
    assert len(roots(tmp_path / ".shiv")) == 1
    assert run(mine, environment(tmp_path), "part").returncode == 0


def test_a_full_disk_is_passed_over(pyz: Path, tmp_path: Path) -> None:
    with small_disk(tmp_path / "small", "32k") as home:
        env = environment(home, PIBOT_STATE_DIR=str(tmp_path / "state"))
        assert run(pyz, env).stdout == f"{SAID}\n"
        assert len(roots(tmp_path / "state" / "shiv")) == 1 and folders(home / ".shiv") == []


# --- places ---------------------------------------------------------------------------------------


# Nobody, not even root, can make a directory under /proc; it stands for a read-only home.
@pytest.mark.parametrize("home", ["/proc/self", "/no/such/home"])
def test_without_a_home_to_write(pyz: Path, tmp_path: Path, home: str) -> None:
    state, temporary = tmp_path / "state", tmp_path / "tmp"
    temporary.mkdir()
    with_state = environment(Path(home), PIBOT_STATE_DIR=str(state), TMPDIR=str(temporary))
    assert run(pyz, with_state).stdout == f"{SAID}\n"
    assert len(roots(state / "shiv")) == 1 and folders(temporary) == []
    assert run(pyz, environment(Path(home), TMPDIR=str(temporary))).returncode == 0
    (private,) = temporary.iterdir()
    assert private.stat().st_mode & 0o777 == 0o700 and len(roots(private)) == 1


def test_a_temporary_directory_that_others_prepared_is_refused(pyz: Path, tmp_path: Path) -> None:
    trap = tmp_path / f"pibot-{os.getuid()}"
    trap.mkdir()
    trap.chmod(0o777)
    done = run(pyz, environment(Path("/no/such/home"), TMPDIR=str(tmp_path)))
    assert (done.returncode, done.stdout) == (1, "") and "set SHIV_ROOT" in done.stderr
    assert folders(trap) == []


def test_what_another_user_prepared_is_not_run(pyz: Path, tmp_path: Path) -> None:
    if os.getuid() != 0:
        pytest.skip("giving files away needs root")
    run(pyz, environment(tmp_path))
    (name,) = roots(tmp_path / ".shiv")
    os.chown(tmp_path / ".shiv" / name, 1234, 1234)
    assert run(pyz, environment(tmp_path)).stdout == f"{SAID}\n"
    assert (tmp_path / ".shiv" / name).stat().st_uid == 0 and len(roots(tmp_path / ".shiv")) == 1


def test_what_others_can_swap_is_not_run(pyz: Path, tmp_path: Path) -> None:
    """A link to a good folder would lead elsewhere a moment later."""
    root, state = tmp_path / ".shiv", tmp_path / "state"
    env = environment(tmp_path, PIBOT_STATE_DIR=str(state))
    run(pyz, env)
    (name,) = roots(root)
    (root / name).rename(root / "real")
    (root / name).symlink_to(root / "real")
    assert run(pyz, env).stdout == f"{SAID}\n"
    assert not (root / name).is_symlink() and not state.exists()
    root.chmod(0o777)
    assert run(pyz, env).stdout == f"{SAID}\n"
    assert roots(state / "shiv") == [name]


def test_a_place_of_another_user_is_left_alone(pyz: Path, tmp_path: Path) -> None:
    if os.getuid() != 0:
        pytest.skip("giving files away needs root")
    env = environment(tmp_path, PIBOT_STATE_DIR=str(tmp_path / "state"))
    run(pyz, env)
    os.chown(tmp_path / ".shiv", 1234, 1234)
    assert run(pyz, env).stdout == f"{SAID}\n"
    assert len(roots(tmp_path / "state" / "shiv")) == 1


def test_a_lock_that_is_never_released_is_not_waited_for(tmp_path: Path) -> None:
    """Whoever can read the directory can lock it."""
    folder = os.open(tmp_path, os.O_RDONLY)
    fcntl.flock(folder, fcntl.LOCK_SH)
    place = unpacking.Place("pibot.pyz", str(tmp_path), "0" * 64, wait_s=0.1)
    with pytest.raises(OSError, match="somebody else has locked it"):
        place.provide("", lambda new: None)
    os.close(folder)
    assert Path(place.provide("", lambda new: None)).is_dir()


def test_a_home_of_somebody_else_is_left_alone(pyz: Path, tmp_path: Path) -> None:
    if os.getuid() != 0:
        pytest.skip("giving files away needs root")
    home, temporary = tmp_path / "home", tmp_path / "tmp"
    home.mkdir()
    temporary.mkdir()
    os.chown(home, 1234, 1234)
    assert run(pyz, environment(home, TMPDIR=str(temporary))).stdout == f"{SAID}\n"
    assert list(home.iterdir()) == [] and len(list(temporary.iterdir())) == 1


def test_systemd_directories_come_before_the_home(pyz: Path, tmp_path: Path) -> None:
    state, cache = tmp_path / "state", tmp_path / "cache"
    service = environment(tmp_path, STATE_DIRECTORY=f"{state}:/other")
    assert run(pyz, service).returncode == 0
    assert len(roots(state / "shiv")) == 1
    assert run(pyz, {**service, "CACHE_DIRECTORY": str(cache)}).returncode == 0
    assert not (tmp_path / ".shiv").exists()


# --- the file itself ------------------------------------------------------------------------------


@pytest.mark.parametrize("part", [0.02, 0.5, 0.99])
def test_a_download_that_was_cut_off(pyz: Path, tmp_path: Path, part: float) -> None:
    whole = pyz.read_bytes()
    cut = tmp_path / "pibot.pyz"
    cut.write_bytes(whole[: int(len(whole) * part)])
    done = run(cut, environment(tmp_path))
    assert done.returncode == 1 and done.stdout == ""
    assert "this-copy-of-pibot.pyz-is-incomplete--copy-it-again" in done.stderr
    assert "Traceback" not in done.stderr and done.stderr.isprintable() is False


def test_a_file_with_a_wrong_byte(pyz: Path, tmp_path: Path) -> None:
    data = bytearray(pyz.read_bytes())
    data[data.index(b"site-packages/pibot/cli.py") + 200] ^= 0xFF
    bad = tmp_path / "pibot.pyz"
    bad.write_bytes(data)
    done = run(bad, environment(tmp_path))
    assert done.returncode == 1 and done.stderr.count("\n") == 1
    assert "is damaged" in done.stderr and "copy it to this machine again" in done.stderr


def test_an_old_python_gets_one_sentence() -> None:
    ast.parse(make_pyz.MAIN.read_text(), feature_version=(3, 4))
    code = "import sys; sys.version_info = (3, 8, 1); exec(open(sys.argv[1]).read())"
    command = [sys.executable, "-c", code, str(make_pyz.MAIN)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.startswith("pibot needs Python 3.9 or newer, and this is ")
    assert done.stderr.count("\n") == 1
