"""Photos: real processes in the place of the camera's program, real files."""

from __future__ import annotations

import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any, List

import pytest

from pibot.agent.tools import Context, Result, Toolbox
from pibot.skills import Permits, SkillError, camera
from recorded_machine import Machine
from skills.pi_hardware import calls, device, jpeg, recorded, script

SKILL = camera.camera_photo.__skill__  # type: ignore[attr-defined]
SHOOT = f"out.write({jpeg(1640, 1232)!r}); print('still capture image received', file=sys.stderr)"


@pytest.fixture
def pi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    machine = recorded("pi5", tmp_path / "pi", monkeypatch)
    device(machine, "/dev/video0")
    script(machine, "rpicam-still", SHOOT)
    return machine


def shoot(ctx: Context, **args: Any) -> Result:
    return Toolbox([SKILL]).call("camera_photo", args, ctx)


def test_a_photo_is_in_the_workspace_and_shared(ctx: Context, pi: Machine) -> None:
    shared: List[str] = []
    result = shoot(replace(ctx, share=shared.append))
    assert result.success, result.output
    photo = (ctx.workspace / "photo.jpg").read_bytes()
    assert photo == jpeg(1640, 1232)
    assert result.data == {
        "path": "photo.jpg",
        "size_bytes": len(photo),
        "width": 1640,
        "height": 1232,
        "camera": 0,
    }
    assert shared == ["photo.jpg"]
    assert result.output == (
        "took a photo, 1640 × 1232: it is in photo.jpg, for the person who asked"
    )


def test_the_program_gets_numbers_and_nothing_of_the_worker(
    ctx: Context, pi: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VOLC_API_KEY", "sk-canary")
    assert shoot(ctx, path="a/b.JPG", width=640, height=480, camera=1).success
    (call,) = calls(pi)
    words = "--nopreview --timeout 1000 --encoding jpg --output - --camera 1"
    assert call["words"] == [*words.split(), "--width", "640", "--height", "480"]
    assert set(call["environment"]) <= {"PATH", "LANG", "HOME", "LC_CTYPE"}
    assert call["input"] == "/dev/null"
    assert (ctx.workspace / "a" / "b.JPG").exists()


def test_the_older_program_will_do(ctx: Context, pi: Machine) -> None:
    (pi.root / "usr/bin/rpicam-still").rename(pi.root / "usr/bin/libcamera-still")
    assert shoot(ctx).success


def test_it_says_why_there_is_no_photo(ctx: Context, pi: Machine) -> None:
    script(pi, "rpicam-still", "sys.exit('ERROR: *** no cameras available ***')")
    assert shoot(ctx).output == "no photo was taken: ERROR: *** no cameras available ***"
    script(pi, "rpicam-still", "print('this is no photo')")
    assert shoot(ctx).output == "no photo was taken: this is no photo"
    assert list(ctx.workspace.iterdir()) == []


def test_a_photo_that_cannot_be_shared_is_still_taken(ctx: Context, pi: Machine) -> None:
    result = shoot(ctx)  # nobody gave this context a way to share
    assert result.success
    assert "it was not shared: photo.jpg: files cannot be shared here" in result.output


def test_a_cancel_ends_the_program(ctx: Context, pi: Machine) -> None:
    script(pi, "rpicam-still", "time.sleep(600)")
    outcome: List[Result] = []
    taking = threading.Thread(target=lambda: outcome.append(shoot(ctx)))
    taking.start()
    while not calls(pi):
        assert taking.is_alive()
    started = time.monotonic()
    ctx.cancelled.set()
    taking.join(5)
    assert time.monotonic() - started < 2
    assert not outcome[0].success


@pytest.mark.parametrize(
    ("without", "why"),
    [
        ("sys/class/video4linux/video0/name", "no camera is connected"),
        ("usr/bin/rpicam-still", "the program rpicam-still is missing: apt install rpicam-apps"),
        ("dev/video0", "the worker's unit hides /dev/video0: give it the drop-in"),
    ],
)
def test_it_is_off_and_says_what_is_missing(pi: Machine, without: str, why: str) -> None:
    assert SKILL.available(Permits()) is None
    (pi.root / without).unlink()
    if without.endswith("name"):
        (pi.root / without).parent.rmdir()
    assert SKILL.available(Permits()).startswith(f"camera_photo is off: {why}")


@pytest.mark.parametrize(
    ("raw", "size"),
    [
        (jpeg(), (640, 480)),
        (jpeg(1, 65535), (1, 65535)),
        (b"", None),
        (b"\xff\xd8", None),
        (b"\xff\xd8\xff", None),
        (b"\x89PNG\r\n\x1a\n", None),
        (b"\xff\xd8\xff\xfe\x00\x00" * 3, None),
        (b"\xff\xd8" + b"\xff" * 100_000, None),
        (jpeg()[:20], None),
    ],
)
def test_the_size_of_an_image(raw: bytes, size: object) -> None:
    assert camera.jpeg_size(raw) == size


def test_arguments_are_checked_before_the_camera_is_used(ctx: Context, pi: Machine) -> None:
    for args in (
        {"width": 640},
        {"width": 640, "height": 0},
        {"width": 10**9, "height": 10**9},
        {"camera": -1},
        {"camera": 10**18},
        {"path": "photo.png"},
    ):
        with pytest.raises(SkillError):
            camera.camera_photo(ctx, **args)
    assert calls(pi) == []
