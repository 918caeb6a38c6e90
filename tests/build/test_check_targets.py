"""The proof on real userlands: what it runs on, what it prints, and that it leaves nothing behind.

The userlands themselves take minutes; here the fleet runs on the Python that runs the tests.
"""

from __future__ import annotations

import importlib.util
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import List

import pytest

from fleet_processes import program, wait_for

SCRIPT = Path(__file__).parents[2] / "build" / "check_targets.py"
spec = importlib.util.spec_from_file_location("check_targets", SCRIPT)
assert spec is not None and spec.loader is not None
check_targets = importlib.util.module_from_spec(spec)
spec.loader.exec_module(check_targets)
userlands = check_targets.userlands
Target, Userland, Problem = userlands.Target, userlands.Userland, userlands.Problem
Figures = check_targets.Figures

HERE = Target("here", Path(getattr(sys, "_base_executable", sys.executable)))
GOOD = Figures("3.11.2", "compiled", "amqtt", 0.613, 0.14, 22.04, 31.5)


# --- the targets ------------------------------------------------------------------------------


def test_every_kind_of_pi_and_suite_is_a_target() -> None:
    targets = {target.name: target for target in userlands.userland_targets([])}
    for suite in ("bookworm", "trixie", "bullseye"):
        for arch in ("arm64", "armhf"):
            assert targets[f"{suite}-{arch}"].emulated
            assert targets[f"{suite}-{arch}"].parts == "compiled"
    assert targets["bookworm-armel"].parts == "pure"


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="about processors of another kind")
def test_a_userland_of_this_processor_only_for_versions_that_are_not_here() -> None:
    def native(*have: tuple[int, int]) -> List[str]:
        return [t.name for t in userlands.userland_targets(have) if not t.emulated]

    assert native((3, 11), (3, 12)) == ["trixie-amd64", "testing-amd64"]
    assert native((3, 11), (3, 13), (3, 14)) == []


def interpreter(folder: Path, name: str, says: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    path.write_text(f"#!/bin/sh\necho {says}\n")
    path.chmod(0o755)
    return path


def test_local_pythons(tmp_path: Path) -> None:
    system, pyenv = tmp_path / "bin", tmp_path / "versions" / "3.12.1" / "bin"
    newest = interpreter(system, "python3.11", "3.11.2")
    (system / "python3").symlink_to(newest)
    interpreter(system, "python3.8", "3.8.18")
    interpreter(system, "python3-config", "3.11.2")
    interpreter(system, "python3.10", "broken")
    interpreter(pyenv, "python3.12", "3.12.1")
    interpreter(pyenv, "python3", "3.11.7")
    found = userlands.local_pythons([("system", system), ("pyenv", pyenv)])
    assert {version: [t.name for t in targets] for version, targets in found.items()} == {
        (3, 11): ["system-3.11.2", "pyenv-3.11.7"],
        (3, 12): ["pyenv-3.12.1"],
    }
    assert all(not t.emulated and t.parts == "compiled" for ts in found.values() for t in ts)


def test_targets_are_chosen_by_pattern() -> None:
    targets = [Target(name, Path("python3")) for name in ("system-3.11.2", "a-arm64", "b-arm64")]

    def names(*patterns: str) -> List[str]:
        return [target.name for target in check_targets.chosen(targets, patterns)]

    assert names("*") == ["system-3.11.2", "a-arm64", "b-arm64"]
    assert names("b-arm64", "system-*") == ["system-3.11.2", "b-arm64"]
    with pytest.raises(Problem, match=r"'c-arm64'.*a-arm64"):
        names("*-arm64", "c-arm64")


# --- userlands --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sources", "mirror"),
    [
        (["Types: deb\nURIs: http://a.example/debian\nSuites: s\n"], "http://a.example/debian"),
        (["URIs: http://a.example/debian-security https://b.example/debian/\n"],
         "https://b.example/debian"),
        (["# deb http://old.example/debian s main\n",
          "deb [arch=amd64 signed-by=/k.gpg] https://a.example/pub/debian s main\n"],
         "https://a.example/pub/debian"),
        (["deb-src http://a.example/debian s main\n"], None),
        (["deb http://a.example/debian-security s main\n", "deb http://b.example/raspbian/ s\n"],
         None),
        ([], None),
    ],
)  # fmt: skip
def test_the_archive_is_the_one_that_apt_uses(sources: List[str], mirror: str) -> None:
    assert userlands.debian_mirror(sources) == mirror


@pytest.mark.parametrize(
    ("arch", "starter", "options"),
    [
        ("armhf", "qemu-arm-static", ["-cpu", "cortex-a7"]),
        ("armel", "qemu-arm-static", ["-cpu", "arm1176"]),
        ("arm64", "qemu-aarch64-static", ["-cpu", "cortex-a53"]),
    ],
)
def test_a_userlands_python_starts_under_the_oldest_processor_that_has_it(
    arch: str, starter: str, options: List[str], tmp_path: Path
) -> None:
    root = tmp_path / "a root's folder"
    interpreter(tmp_path / "bin", starter, '"$@"')
    script = tmp_path / "python3-here"
    script.write_text(userlands.launch(Userland("bookworm", arch), root))
    script.chmod(0o755)
    path = f"{tmp_path / 'bin'}:{os.environ['PATH']}"
    command = [str(script), "-c", "a b"]
    said = subprocess.check_output(command, env={"PATH": path}, text=True)
    itself = str(userlands.ROOTS / f"bookworm-{arch}" / "usr/bin/python3-here")
    expected = [*options, "-0", itself, "-L", str(root), f"{root}/usr/bin/python3", "-c", "a b"]
    assert said.strip() == " ".join(expected)


# --- what is printed --------------------------------------------------------------------------


def test_the_table() -> None:
    far = Target("bookworm-arm64", Path("python3"), Userland("bookworm", "arm64"))
    lines = check_targets.table(
        [(HERE, GOOD), (far, GOOD._replace(idle_mb=None)), (far, None)]
    ).splitlines()
    assert len({len(line) for line in lines}) == 1
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    words = ["3.11.2", "compiled", "amqtt", "0.61", "0.14"]
    assert rows[2] == ["here", *words, "22.0", "31.5", "ok"]
    assert rows[3] == ["bookworm-arm64", *words, "-", "31.5", "ok"]
    assert rows[4] == ["bookworm-arm64", *["-"] * 7, "failed"]


def test_the_table_goes_between_the_markers() -> None:
    before = f"# Targets\n{check_targets.BEGIN}\nold\n{check_targets.END}\nThe end.\n"
    after = check_targets.insert(before, "new")
    assert "old" not in after and "\nnew\n" in after and after.endswith("The end.\n")
    assert check_targets.insert(after, "new") == after
    with pytest.raises(Problem, match="no lines"):
        check_targets.insert("# Targets\n", "new")


def test_a_table_of_some_targets_is_not_written(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        check_targets.main(["--only", "here", "--markdown", "targets.md"])
    assert ended.value.code == 2 and "not allowed with" in capsys.readouterr().err


def test_an_unknown_target_is_one_sentence() -> None:
    with pytest.raises(SystemExit, match="No target is called 'pdp-11'"):
        check_targets.main(["--only", "pdp-11"])


# --- the real thing ---------------------------------------------------------------------------


def test_a_fleet_on_this_python() -> None:
    seen = check_targets.try_target(HERE, program())
    assert seen.python == ".".join(map(str, sys.version_info[:3]))
    assert seen.parts == "compiled"
    assert seen.broker == ("amqtt" if sys.version_info >= (3, 10) else "mosquitto")
    assert 0 < seen.warm_s < seen.cold_s
    assert 10 < seen.idle_mb < 60 and 10 < seen.cache_mb < 100


def test_a_failure_shows_the_logs_and_the_next_target_has_its_turn(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pyz = tmp_path / "pibot.pyz"
    pyz.write_text("raise SystemExit('no such luck')\n")
    results = check_targets.try_all([HERE, HERE._replace(name="there")], pyz)
    assert [(target.name, figures) for target, figures in results] == [
        ("here", None),
        ("there", None),
    ]
    said = capsys.readouterr().err
    assert said.count("the master ended by itself") == said.count("no such luck") == 2


STANDS_STILL = """
import os, time
with open({path!r} + ".new", "w") as file:
    file.write(str(os.getpid()) + " " + os.getcwd())
os.rename({path!r} + ".new", {path!r})
time.sleep(600)
"""


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_interrupted_it_leaves_nothing_behind(number: int, status: int, tmp_path: Path) -> None:
    started, pyz = tmp_path / "started", tmp_path / "pibot.pyz"
    pyz.write_text(STANDS_STILL.format(path=str(started)))
    local = userlands.local_pythons(userlands.python_folders())
    if not local:
        pytest.skip("no Python where Debian or pyenv puts it")
    name = next(iter(local.values()))[0].name
    command = [sys.executable, str(SCRIPT), "--pyz", str(pyz), "--only", name]
    check = subprocess.Popen(command, env={**os.environ, "TMPDIR": str(tmp_path)})
    try:
        wait_for(started.exists, what="the master is started")
        pid, folder = started.read_text().split(" ", 1)
        assert Path(folder).is_dir()
        check.send_signal(number)
        assert check.wait(20) == status
    finally:
        check.kill()
        check.wait()
    assert not Path(folder).exists()
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid), 0)
