"""Sound, recorded and played by ALSA's arecord and aplay."""

from __future__ import annotations

import os
import struct
from typing import Annotated, Any, Callable, Dict, List, Optional

from pibot.skills import Context, Output, SkillError, skill
from pibot.skills import _hardware as hardware
from pibot.skills import _inventory as inventory
from pibot.skills import _program as program
from pibot.skills import _recording as recording
from pibot.skills._workspace import explained, open_file

MAX_SECONDS = 600
_RATE, _CHANNELS, _SAMPLE_BYTES = 16000, 1, 2
_SPARE_S = 10.0  # for a program to open its device and to end
_HEADER_BYTES = 64 * 1024  # a WAV file says within these what it is
_CAPTURE, _PLAYBACK = "capture", "playback"
_Problem = Callable[[], Optional[str]]


def _lacking(what: str) -> _Problem:
    """Why nothing can be recorded ("capture") or played ("playback") here."""

    def problem() -> Optional[str]:
        found = _usable(what)
        if not found:
            wanted = "microphone" if what == _CAPTURE else "speaker or sound card"
            return f"there is no {wanted} here that ALSA knows"
        if program.find(_PROGRAMS[what]) is None:
            return f"the program {_PROGRAMS[what]} is missing: apt install alsa-utils"
        end = "c" if what == _CAPTURE else "p"
        device = f"dev/snd/pcmC{found[0]['card']}D{found[0]['device']}{end}"
        return hardware.closed(hardware.path(device), "audio")

    return problem


@skill(
    timeout_s=MAX_SECONDS + _SPARE_S + 5,
    phrases=[
        "record [audio|sound] [for] {seconds:word} (s|seconds)",
        "(录音|录制声音){seconds:word}秒[钟]",
    ],
    sensitive=True,
    parallel=False,
    available=hardware.off("audio_record", _lacking(_CAPTURE)),
)
def audio_record(
    ctx: Context,
    seconds: Annotated[int, "how long, 1 to 600"],
    path: Annotated[str, "a .wav file inside the workspace"] = "recording.wav",
    card: Annotated[Optional[int], "number of the sound card, as `devices` shows"] = None,
) -> Output:
    """Record sound into the workspace, and share it with the person who asked."""
    if not 1 <= seconds <= MAX_SECONDS:
        raise SkillError(f"seconds must be 1 to {MAX_SECONDS}, not {seconds}")
    recording.check_name(ctx, path, (".wav",))
    form = ["-t", "wav", "-f", "S16_LE", "-r", str(_RATE), "-c", str(_CHANNELS)]
    words = [*_start(_CAPTURE, card), *form, "-d", str(seconds), "-"]
    most = (seconds + 1) * _RATE * _CHANNELS * _SAMPLE_BYTES + _HEADER_BYTES
    printed = program.run(ctx, words, seconds + _SPARE_S, most_bytes=most)
    sound_s = wav_seconds(printed.out) if printed.status == 0 else None
    if sound_s is None:
        raise SkillError(f"nothing was recorded: {printed.said}")
    how = recording.keep(ctx, path, printed.out)
    data = {"path": path, "size_bytes": len(printed.out), "recorded_s": sound_s, "rate_hz": _RATE}
    return Output(data, f"recorded {sound_s:g} s of sound: {how}")


@skill(
    timeout_s=MAX_SECONDS + _SPARE_S + 5,
    phrases=["play [the] (sound|audio|wav) [file] {path}", "播放(声音|音频|录音)[文件]{path}"],
    sensitive=True,
    repeatable=False,
    parallel=False,
    available=hardware.off("audio_play", _lacking(_PLAYBACK)),
)
def audio_play(
    ctx: Context,
    path: Annotated[str, "a .wav file inside the workspace"],
    card: Annotated[Optional[int], "number of the sound card, as `devices` shows"] = None,
) -> Output:
    """Play a WAV file of the workspace, at most 10 minutes; whoever is there hears it."""
    with explained(path), open_file(ctx, path, os.O_RDONLY) as fd:
        sound_s = wav_seconds(os.pread(fd, _HEADER_BYTES, 0))
        if sound_s is None:
            raise SkillError(f"{path}: is no WAV file of plain samples; only such are played")
        if sound_s > MAX_SECONDS:
            raise SkillError(f"{path}: takes {sound_s:g} s; at most {MAX_SECONDS} s are played")
        words = [*_start(_PLAYBACK, card), "-t", "wav", "-"]
        printed = program.run(ctx, words, sound_s + _SPARE_S, stdin=fd)
    if printed.status:
        raise SkillError(f"{path}: could not be played: {printed.said}")
    return Output({"path": path, "played_s": sound_s}, f"played {path}, {sound_s:g} s")


_PROGRAMS = {_CAPTURE: "arecord", _PLAYBACK: "aplay"}


def _usable(what: str) -> List[Dict[str, Any]]:
    """The devices that can do it; a screen's, which may be off, come last."""
    found = [one for one in inventory.sound() if one[what]]
    return sorted(found, key=lambda one: "hdmi" in str(one["id"]).lower())


def _start(what: str, card: Optional[int]) -> List[str]:
    """The words up to the device: with "plug" any form of sound fits any card."""
    usable = _usable(what)
    chosen = next((one for one in usable if card in (None, one["card"])), None)
    if chosen is None:
        there = ", ".join(str(one["card"]) for one in usable) or "none"
        raise SkillError(f"no card {card} here is for {what}; there are: {there}")
    found = program.find(_PROGRAMS[what])
    if found is None:
        raise SkillError(f"the program {_PROGRAMS[what]} is missing: apt install alsa-utils")
    return [found, "-q", "-D", f"plughw:{chosen['card']},{chosen['device']}"]


def wav_seconds(raw: bytes) -> Optional[float]:
    """How long a WAV file of plain samples lasts, by its beginning; None when it is none."""
    if raw[:4] != b"RIFF" or raw[8:12] != b"WAVE":
        return None
    at, bytes_per_s = 12, 0
    while at + 8 <= len(raw):
        name, size = raw[at : at + 4], struct.unpack_from("<I", raw, at + 4)[0]
        if name == b"fmt " and at + 24 <= len(raw):
            form, _, _, bytes_per_s = struct.unpack_from("<HHII", raw, at + 8)
            if form not in (1, 3, 0xFFFE) or not 1000 <= bytes_per_s <= 10_000_000:
                return None
        if name == b"data":
            return round(size / bytes_per_s, 2) if bytes_per_s else None
        at += 8 + size + size % 2
    return None
