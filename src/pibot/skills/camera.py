"""A photo by the Pi's camera, taken by rpicam-still (or libcamera-still, its older name)."""

from __future__ import annotations

import struct
from typing import Annotated, List, Optional, Tuple

from pibot.skills import Context, Output, SkillError, skill
from pibot.skills import _hardware as hardware
from pibot.skills import _inventory as inventory
from pibot.skills import _program as program
from pibot.skills import _recording as recording

PROGRAMS = ("rpicam-still", "libcamera-still")
_LIMIT_S = 40.0
_MOST_BYTES = 32 << 20
_SIDE = range(16, 16385)
_CAMERAS = range(8)
# A frame's height and width follow these; C4, C8 and CC only look like them.
_FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}


def _problem() -> Optional[str]:
    cameras = inventory.cameras()
    if not cameras:
        return "no camera is connected, or its cable or its dtoverlay is wrong"
    if _program() is None:
        return "the program rpicam-still is missing: apt install rpicam-apps-lite"
    return hardware.closed(hardware.path(cameras[0]["path"].lstrip("/")), "video")


@skill(
    timeout_s=_LIMIT_S + 5,
    phrases=[
        "(take|make|shoot) [a|one] (photo|picture)",
        "(拍照|照相)",
        "拍[一](张|个)(照片|相片|照)",
    ],
    sensitive=True,
    parallel=False,
    available=hardware.off("camera_photo", _problem),
)
def camera_photo(
    ctx: Context,
    path: Annotated[str, "a .jpg file inside the workspace"] = "photo.jpg",
    width: Annotated[Optional[int], "in pixels; with height"] = None,
    height: Annotated[Optional[int], "in pixels; with width"] = None,
    camera: Annotated[int, "which one, counted from 0"] = 0,
) -> Output:
    """Take a photo with the camera into the workspace, and share it with the person who asked."""
    recording.check_name(ctx, path, (".jpg", ".jpeg"))
    words = [_program() or "", *_words(width, height, camera)]
    if not words[0]:
        raise SkillError(f"camera_photo cannot be used: {_problem()}")
    printed = program.run(ctx, words, _LIMIT_S, most_bytes=_MOST_BYTES)
    size = jpeg_size(printed.out) if printed.status == 0 else None
    if size is None:
        raise SkillError(f"no photo was taken: {printed.said}")
    how = recording.keep(ctx, path, printed.out)
    data = {"path": path, "size_bytes": len(printed.out), "width": size[0], "height": size[1]}
    return Output({**data, "camera": camera}, f"took a photo, {size[0]} × {size[1]}: {how}")


def _program() -> Optional[str]:
    return next(filter(None, map(program.find, PROGRAMS)), None)


def _words(width: Optional[int], height: Optional[int], camera: int) -> List[str]:
    """The photo comes on standard output; the program opens no file of ours."""
    if (width is None) != (height is None):
        raise SkillError("give width and height, or neither")
    for side in (width, height):
        if side is not None and side not in _SIDE:
            raise SkillError(f"width and height must be {_SIDE[0]} to {_SIDE[-1]}, not {side}")
    if camera not in _CAMERAS:
        raise SkillError(f"camera must be {_CAMERAS[0]} to {_CAMERAS[-1]}, not {camera}")
    size = [] if width is None else ["--width", str(width), "--height", str(height)]
    usual = ["--nopreview", "--timeout", "1000", "--encoding", "jpg", "--output", "-"]
    return [*usual, "--camera", str(camera), *size]


def jpeg_size(raw: bytes) -> Optional[Tuple[int, int]]:
    """Width and height of a JPEG image; None when it is none."""
    if not raw.startswith(b"\xff\xd8"):
        return None
    at = 2
    while at + 9 <= len(raw) and raw[at] == 0xFF:
        marker, length = raw[at + 1], struct.unpack_from(">H", raw, at + 2)[0]
        if marker in _FRAMES:
            height, width = struct.unpack_from(">HH", raw, at + 5)
            return width, height
        at += 2 + length
    return None
