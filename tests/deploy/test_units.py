"""The units: systemd reads them without a word, they are tight, and the program carries them."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Dict, List

import pytest

from fleet_processes import program
from pibot.agent import updating
from pibot.deploy import layout, restarting
from pibot.deploy.broker_files import CHANGED, SOURCE, SYSTEMD, TARGET
from pibot.deploy.program import Places
from pibot.manifest import PATIENCE_S

ROOT = Path(__file__).resolve().parents[2]
UNITS = sorted(path.name for path in SYSTEMD.iterdir() if path.suffix in (".service", ".path"))
needs_systemd = pytest.mark.skipif(
    not shutil.which("systemd-analyze"), reason="no systemd-analyze (package systemd)"
)


def settings(name: str) -> Dict[str, List[str]]:
    """A unit's assignments."""
    found: Dict[str, List[str]] = {}
    for line in (SYSTEMD / name).read_text("utf-8").splitlines():
        key, equals, value = line.partition("=")
        if equals and not key.startswith("#"):
            found.setdefault(key, []).append(value)
    return found


def analyze(*args: str, **env: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(["systemd-analyze", *args], capture_output=True, text=True, env=env)


def test_the_units_that_setup_installs() -> None:
    assert sorted(layout.ALL_UNITS) == UNITS
    assert (ROOT / "systemd").is_symlink() and (ROOT / "systemd").resolve() == SYSTEMD.resolve()


@needs_systemd
@pytest.mark.parametrize("name", UNITS)
def test_systemd_reads_it_without_a_word(name: str) -> None:
    done = analyze("verify", str(SYSTEMD / name))
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@needs_systemd
def test_systemd_would_say_what_it_does_not_know(tmp_path: Path) -> None:
    bad = tmp_path / "pibot-worker.service"
    bad.write_text((SYSTEMD / bad.name).read_text("utf-8") + "\n[Service]\nProtectEverything=yes\n")
    assert "ProtectEverything" in analyze("verify", str(bad)).stderr


@needs_systemd
@pytest.mark.parametrize(
    ("name", "tenths"),
    [
        *(("pibot-master.service", 15), ("pibot-worker.service", 30)),
        *(("pibot-broker.service", 20), ("pibot-update.service", 20)),
    ],
)
def test_how_much_a_service_may_do(name: str, tenths: int) -> None:
    command = ["security", "--offline=true", "--no-pager", str(SYSTEMD / name)]
    done = analyze(*command, f"--threshold={tenths}")
    assert done.returncode == 0, done.stdout
    assert analyze(*command, "--threshold=10").returncode != 0  # so the threshold counts


@needs_systemd
def test_the_example_of_a_device(tmp_path: Path) -> None:
    name = "pibot-worker.service"
    comment = re.findall(r"^#(.*)$", (SYSTEMD / name).read_text("utf-8"), re.MULTILINE)
    lines = [line.strip() for line in comment if line.startswith("   ")]
    assert lines[0] == "[Service]" and "PrivateDevices=no" in lines
    shutil.copy(SYSTEMD / name, tmp_path)
    drop_in = tmp_path / f"{name}.d" / "camera.conf"
    drop_in.parent.mkdir()
    drop_in.write_text("\n".join(lines) + "\n")
    verify = ("verify", name)
    done = analyze(*verify, SYSTEMD_UNIT_PATH=f"{tmp_path}:")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    drop_in.write_text("[Service]\nDeviceAllowed=x\n")
    assert "DeviceAllowed" in analyze(*verify, SYSTEMD_UNIT_PATH=f"{tmp_path}:").stderr


@pytest.mark.parametrize("role", layout.ROLES)
def test_where_a_role_finds_its_things(role: str) -> None:
    unit = settings(layout.service(role))
    assert unit["ExecStart"] == [f"{layout.PYTHON} -I {layout.PROGRAM} --role {role}"]
    assert unit["LoadCredential"] == [f"pibot.env:{layout.settings_file(role)}"]
    assert unit["User"] == [layout.USER]
    assert unit["StateDirectory"] == [Path(layout.STATE).name]
    assert unit["CacheDirectory"] == [Path(layout.CACHE).name]
    assert unit["StartLimitIntervalSec"] == ["0"] and unit["Restart"] == ["always"]


def test_what_wakes_the_broker_unit_and_what_it_may_write() -> None:
    assert settings("pibot-broker.path")["PathExists"] == [f"{SOURCE}/{CHANGED}"]
    unit = settings("pibot-broker.service")
    assert unit["ReadWritePaths"] == [f"{TARGET} {SOURCE}"]
    assert f"/var/cache/{unit['CacheDirectory'][0]}" in layout.CACHES
    assert unit["CacheDirectory"] != settings("pibot-master.service")["CacheDirectory"]
    assert unit["ExecStart"] == [f"{layout.PYTHON} -I {layout.PROGRAM} setup --place-broker-files"]


def test_what_wakes_the_update_unit_and_what_it_may_write() -> None:
    places = Places(Path("/"))
    wakes = [str(places.folder / updating.WANTED), str(places.attempt)]
    assert settings("pibot-update.path")["PathExists"] == wakes
    unit = settings("pibot-update.service")
    assert unit["ReadWritePaths"] == [f"{layout.FOLDER} {layout.STATE_UPDATE}"]
    assert f"/var/lib/{unit['StateDirectory'][0]}" == layout.UPDATES
    assert f"/var/cache/{unit['CacheDirectory'][0]}" in layout.CACHES
    caches = [settings(f"pibot-{name}.service")["CacheDirectory"] for name in ("worker", "broker")]
    assert unit["CacheDirectory"] not in caches
    assert unit["ExecStart"] == [f"{layout.PYTHON} -I {layout.PROVEN} setup --place-program"]
    longest = PATIENCE_S[-1] + 3 * restarting.RUN_S
    assert int(unit["TimeoutStartSec"][0]) > longest


@pytest.mark.skipif(not shutil.which("systemd-sysusers"), reason="no systemd-sysusers")
def test_the_user(tmp_path: Path) -> None:
    folder = tmp_path / "etc" / "sysusers.d"
    folder.mkdir(parents=True)
    shutil.copy(SYSTEMD / "pibot.sysusers", folder / "pibot.conf")
    subprocess.run(["systemd-sysusers", f"--root={tmp_path}"], check=True, capture_output=True)
    (line,) = (tmp_path / "etc" / "passwd").read_text("utf-8").splitlines()
    name, _, uid, _, _, home, shell = line.split(":")
    assert (name, home, shell) == (layout.USER, layout.STATE, "/usr/sbin/nologin")
    assert 0 < int(uid) < 1000


def test_the_pyz_and_the_wheel_carry_them(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    for path, folder in ((wheel, ""), (program(), "site-packages/")):
        with zipfile.ZipFile(path) as archive:
            for file in SYSTEMD.iterdir():
                name = f"{folder}pibot/deploy/systemd/{file.name}"
                assert archive.read(name) == file.read_bytes()
