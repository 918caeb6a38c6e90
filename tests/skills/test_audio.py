"""Sound: real processes in the place of arecord and aplay, real files."""

from __future__ import annotations

import struct
from dataclasses import replace
from pathlib import Path
from typing import Any, List

import pytest

from pibot.agent.tools import Context, Result, Toolbox
from pibot.skills import Permits, audio
from recorded_machine import Machine
from skills.pi_hardware import calls, device, recorded, script, wav

RECORD, PLAY = (
    one.__skill__  # type: ignore[attr-defined]
    for one in (audio.audio_record, audio.audio_play)
)
LISTEN = f"out.write({wav(0.5)!r})"
HEAR = "open(sys.argv[0] + '.heard', 'wb').write(sys.stdin.buffer.read())"


@pytest.fixture
def pi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    machine = recorded("pi5", tmp_path / "pi", monkeypatch)
    for name in ("pcmC0D0p", "pcmC2D0p", "pcmC2D0c"):
        device(machine, f"/dev/snd/{name}")
    script(machine, "arecord", LISTEN)
    script(machine, "aplay", HEAR)
    return machine


def call(ctx: Context, name: str, **args: Any) -> Result:
    return Toolbox([RECORD, PLAY]).call(name, args, ctx)


def test_a_recording_is_in_the_workspace_and_shared(ctx: Context, pi: Machine) -> None:
    shared: List[str] = []
    result = call(replace(ctx, share=shared.append), "audio_record", seconds=3)
    assert result.success, result.output
    assert (ctx.workspace / "recording.wav").read_bytes() == wav(0.5)
    assert (result.data["recorded_s"], result.data["rate_hz"]) == (0.5, 16000)
    assert shared == ["recording.wav"]
    (said,) = calls(pi)
    form = "-t wav -f S16_LE -r 16000 -c 1 -d 3 -"
    assert said["words"] == ["-q", "-D", "plughw:2,0", *form.split()]


def test_a_file_is_heard_as_it_is(ctx: Context, pi: Machine) -> None:
    (ctx.workspace / "bell.wav").write_bytes(wav(0.25))
    result = call(ctx, "audio_play", path="bell.wav")
    assert result.success, result.output
    assert result.data == {"path": "bell.wav", "played_s": 0.25}
    assert (pi.root / "usr/bin/aplay.heard").read_bytes() == wav(0.25)
    assert calls(pi)[0]["words"] == ["-q", "-D", "plughw:2,0", "-t", "wav", "-"]


def test_a_card_is_chosen_by_its_number(ctx: Context, pi: Machine) -> None:
    (ctx.workspace / "bell.wav").write_bytes(wav())
    assert call(ctx, "audio_play", path="bell.wav", card=0).success
    assert calls(pi)[0]["words"][2] == "plughw:0,0"
    assert call(ctx, "audio_play", path="bell.wav", card=7).output == (
        "no card 7 here is for playback; there are: 2, 0"
    )
    assert call(ctx, "audio_record", seconds=1, card=0).output == (
        "no card 0 here is for capture; there are: 2"
    )


def test_it_says_why_nothing_was_recorded_or_played(ctx: Context, pi: Machine) -> None:
    (ctx.workspace / "bell.wav").write_bytes(wav())
    for name in ("arecord", "aplay"):
        script(pi, name, f"sys.exit('{name}: main:830: audio open error: Device or resource busy')")
    busy = "main:830: audio open error: Device or resource busy"
    said = call(ctx, "audio_record", seconds=1).output
    assert said == f"nothing was recorded: arecord: {busy}"
    said = call(ctx, "audio_play", path="bell.wav").output
    assert said == f"bell.wav: could not be played: aplay: {busy}"


@pytest.mark.parametrize(
    ("raw", "seconds"),
    [
        (wav(2.5), 2.5),
        (wav(1, 48000), 1.0),
        (wav()[:44], 1.0),
        (wav()[:36], None),
        (b"", None),
        (b"RIFF\0\0\0\0WAVE", None),
        (b"RIFF\0\0\0\0WAVEdata\xff\xff\xff\xff", None),
        (b"RIFF\0\0\0\0WAVE" + b"junk\0\0\0\0" * 8000, None),
        (b"\x7fELF" + bytes(60), None),
        (wav()[:20] + struct.pack("<H", 0x55) + wav()[22:], None),  # MP3 inside
        (wav()[:28] + struct.pack("<I", 1) + wav()[32:], None),  # a byte a second
    ],
)
def test_how_long_a_file_lasts(raw: bytes, seconds: object) -> None:
    assert audio.wav_seconds(raw) == seconds


@pytest.mark.parametrize("path", ["words.txt", "long.wav"])
def test_what_is_not_played(ctx: Context, pi: Machine, path: str) -> None:
    (ctx.workspace / "words.txt").write_text("these are words, and no sound at all")
    long = wav()[:40] + struct.pack("<I", 32000 * 601)
    (ctx.workspace / "long.wav").write_bytes(long)
    assert not call(ctx, "audio_play", path=path).success
    assert calls(pi) == []


def test_they_are_off_and_say_what_is_missing(pi: Machine) -> None:
    assert (RECORD.available(Permits()), PLAY.available(Permits())) == (None, None)
    (pi.root / "dev/snd/pcmC2D0c").unlink()
    assert RECORD.available(Permits()).startswith(
        "audio_record is off: the worker's unit hides /dev/snd/pcmC2D0c: give it the drop-in"
    )
    (pi.root / "usr/bin/aplay").unlink()
    assert PLAY.available(Permits()) == (
        "audio_play is off: the program aplay is missing: apt install alsa-utils"
    )
    (pi.root / "proc/asound/pcm").unlink()
    assert RECORD.available(Permits()) == (
        "audio_record is off: there is no microphone here that ALSA knows"
    )
