"""`setup` on a machine that was deployed by hand: what it had is kept and taken over."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from image import V3_ENV, V3_UNIT, WORKER_1, Image, with_v3


@pytest.fixture
def image(tmp_path: Path) -> Image:
    return Image(tmp_path)


def test_what_was_deployed_by_hand_is_taken_over(image: Image) -> None:
    with_v3(image)
    image.beside("worker-1.env", WORKER_1)
    done = image.setup("--role", "worker", "--yes")
    (backup,) = (image.root / "etc/pibot").glob("backup-*")
    assert stat.S_IMODE(backup.stat().st_mode) == 0o700
    for path, text in (
        ("etc/systemd/system/pibot-worker.service", V3_UNIT),
        ("home/pi/pibot/.env", V3_ENV),
    ):
        assert (backup / path).read_text() == text
        assert stat.S_IMODE((backup / path).stat().st_mode) == 0o600
    values = image.settings("worker")
    assert values["VOLC_API_KEY"] == "real-key-0123456789"
    assert values["WORKER_1_IP"] == "192.168.1.11" and values["WORKER_ID"] == "worker-1"
    assert set(values) & {"MODEL_NAME", "FLASK_DEBUG"} == set()
    for words in ("MODEL_NAME in /home/pi/pibot/.env line 3", "FLASK_DEBUG", "pibot.pyz as pi"):
        assert words in done.stdout
    assert done.stdout.count("FLASK_DEBUG") == 1
    assert "/opt/pibot" in image.text("/etc/systemd/system/pibot-worker.service")
    links = (image.root / "etc/systemd/system").glob("*.wants/*")
    wanted = {f"{link.parent.name}/{link.name}" for link in links}
    units = {"pibot-worker.service", "pibot-update.path"}
    assert wanted == {f"multi-user.target.wants/{unit}" for unit in units}
    assert image.text("/home/pi/pibot/.env") == V3_ENV
    assert image.setup("--role", "worker", "--yes").stdout.startswith("nothing to change\n")
    gone = image.setup("--uninstall", "--yes")
    assert f"/etc/pibot/{backup.name} stays" in gone.stdout and backup.exists()


def test_a_new_program_may_lie_in_the_old_directory(image: Image) -> None:
    unit = V3_UNIT.replace("/home/pi/pibot", str(image.home))
    image.put("/etc/systemd/system/pibot-worker.service", unit)
    image.put(f"{image.home}/.env", V3_ENV)
    image.beside(".env", V3_ENV, 0o644)
    image.beside("worker-1.env", WORKER_1)
    said = image.setup("--role", "worker", "--yes").stdout
    assert f"MODEL_NAME in {image.home}/.env line 3 is still a placeholder" in said
    assert image.settings("worker")["VOLC_API_KEY"] == "real-key-0123456789"


def test_an_older_deployment_is_not_touched_before_there_are_credentials(image: Image) -> None:
    with_v3(image)
    before = image.snapshot()
    done = image.setup("--role", "worker", "--yes", status=2)
    assert "workers add worker-1" in done.stderr
    assert image.setup("--uninstall", "--yes").stdout.startswith("nothing to change\n")
    assert image.snapshot() == before
