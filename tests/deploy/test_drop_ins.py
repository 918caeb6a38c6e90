"""The drop-ins of docs/hardware.md: systemd reads them, and nothing but named devices is opened."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Dict

import pytest

from pibot.deploy.broker_files import SYSTEMD

PAGE = Path(__file__).resolve().parents[2] / "docs" / "hardware.md"
UNIT = "pibot-worker.service"
FOLDER = f"/etc/systemd/system/{UNIT}.d"
DROP_INS: Dict[str, str] = dict(
    re.findall(
        rf"`{re.escape(FOLDER)}/(\w+\.conf)`:\n\n```ini\n(.*?)```", PAGE.read_text("utf-8"), re.S
    )
)


def test_there_is_one_for_each_kind_of_device() -> None:
    assert sorted(DROP_INS) == ["camera.conf", "pins.conf", "screen.conf", "sound.conf"]


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="no systemd-analyze")
def test_systemd_reads_them_all_at_once_without_a_word(tmp_path: Path) -> None:
    shutil.copy(SYSTEMD / UNIT, tmp_path)
    folder = tmp_path / f"{UNIT}.d"
    folder.mkdir()
    for name, text in DROP_INS.items():
        (folder / name).write_text(text)
    done = subprocess.run(
        ["systemd-analyze", "verify", UNIT],
        capture_output=True,
        text=True,
        env={"SYSTEMD_UNIT_PATH": f"{tmp_path}:"},
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize("name", sorted(DROP_INS))
def test_only_named_devices_are_opened(name: str) -> None:
    section, *lines = DROP_INS[name].splitlines()
    assert (section, lines[0]) == ("[Service]", "PrivateDevices=no")
    for line in lines[1:]:
        assert re.fullmatch(
            r"DeviceAllow=(char-[a-z0-9_]+|/dev/tty1) rw|SupplementaryGroups=[a-z0-9 ]+", line
        )
