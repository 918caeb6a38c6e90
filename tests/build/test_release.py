"""The real file: the same from every clone, and whole where no compiled part fits."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, Dict

import pytest

import fleet_processes
from fleet_processes import FleetProcesses
from model_server import serving
from small_disk import small_disk
from stand_in import ROOT, digest

import make_pyz  # isort: skip  (stand_in puts build/ on the path)
import parts  # isort: skip
import wheels  # isort: skip

STAGE = ROOT / "build" / "stage"
OFFLINE = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(ROOT / "none")}


def clone(folder: Path) -> Path:
    """What a clone has, and the wheels that were downloaded here, but nothing that was made."""
    for name in ("build", "requirements", "src"):
        junk = shutil.ignore_patterns("stage", "pibot.pyz*", "__pycache__")
        shutil.copytree(ROOT / name, folder / name, ignore=junk)
    (folder / "build" / "stage").mkdir()
    (folder / "build" / "stage" / "wheels").symlink_to(STAGE / "wheels")
    return folder


def built(root: Path, output: Path, *options: str, **env: str) -> str:
    builder = [sys.executable, str(root / "build" / "make_pyz.py"), f"--output={output}", *options]
    done = subprocess.run(
        builder,
        env={**os.environ, **OFFLINE, **env},
        cwd=output.parent,
        capture_output=True,
        text=True,
        timeout=600,
    )
    if "could not be downloaded" in done.stderr:
        pytest.skip("its wheels are not here: `make release` downloads them")
    assert done.returncode == 0, done.stderr
    return digest(output)


@pytest.mark.parametrize("options", [[], ["--release"]], ids=["machine", "release"])
def test_two_clones_build_the_same_file(tmp_path: Path, options: Any) -> None:
    one = built(ROOT, tmp_path / "pibot.pyz", *options)
    before = os.umask(0o077)
    try:
        other = built(
            clone(tmp_path / "clone"), tmp_path / "other.pyz", *options, PYTHONHASHSEED="7"
        )
    finally:
        os.umask(before)
    assert one == other
    assert (tmp_path / "pibot.pyz").stat().st_size < 25e6
    subprocess.run(["sha256sum", "-c", "pibot.pyz.sha256"], cwd=tmp_path, check=True)


@pytest.fixture(scope="module")
def pure(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The program as a machine gets it that no compiled part fits."""
    locked = wheels.Wheels(STAGE, wheels.SUMS.read_text())
    generation = parts.NEW if sys.version_info >= (3, 10) else parts.OLD
    chosen = parts.gathered(locked, [generation], [])
    core = locked.files("core", [parts.OLD.common])["any"]
    path = tmp_path_factory.mktemp("pure") / "pibot.pyz"
    built: Path = make_pyz.build(ROOT / "src", core, chosen, STAGE, path)
    return built


def test_a_model_call_without_compiled_parts(
    pure: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fleet_processes, "program", lambda: pure)
    has_amqtt = sys.version_info >= (3, 10)
    with (
        serving() as model,
        FleetProcesses(tmp_path, broker="amqtt" if has_amqtt else "mosquitto") as fleet,
    ):
        before: Dict[str, Any] = fleet.run("version").document["parts"]
        assert before["model"] == {"parts": "pure", "tag": None, "unpacked": False}
        env = {"VOLC_API_KEY": model.key, "VOLC_BASE_URL": model.url, "MODEL_NAME": model.model}
        said = fleet.start_master(**env).said()
        assert not has_amqtt or "started the embedded broker" in said
        fleet.start_worker("worker-1", **env)
        fleet.wait_idle(1)
        done = fleet.run("run", "find out the load of this machine, then write it to a file")
        assert done.document["state"] == "succeeded" and done.document["usage"]["model_calls"] > 0
        after = fleet.run("version").document["parts"]
    assert after["model"] == {"parts": "pure", "tag": None, "unpacked": True}
    assert after["broker"]["unpacked"] == has_amqtt
    (folder,) = fleet_processes.unpacked().glob("pibot.pyz_*.model-pure-*")
    assert list(folder.rglob("*.so")) == []


def test_a_disk_that_takes_no_model_client(tmp_path: Path) -> None:
    with serving() as model, small_disk(tmp_path / "small", "12m") as disk:
        env = {"VOLC_API_KEY": model.key, "VOLC_BASE_URL": model.url, "MODEL_NAME": model.model}
        with FleetProcesses(tmp_path / "fleet") as fleet:
            fleet.start_master(**env)
            fleet.start_worker("worker-1", SHIV_ROOT=str(disk), HOME=str(tmp_path), **env)
            fleet.wait_idle(1)
            done = fleet.run("run", "describe this machine", "--on", "worker-1", check=1)
            (task,) = done.document["tasks"]
            assert "model part of pibot.pyz cannot be unpacked" in task["error"]
            assert "room" in task["error"] and str(disk) in task["error"]
            assert fleet.counts()["idle"] == 1
