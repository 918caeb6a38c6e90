"""A program of this machine is run with bounds on everything."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from pibot.agent.tools import Context
from pibot.skills import SkillError, _program


def python(code: str) -> "list[str]":
    return [sys.executable, "-c", code]


def test_what_it_prints_and_how_it_ends(ctx: Context) -> None:
    code = "import sys; print('out'); print('no device', file=sys.stderr); sys.exit(3)"
    printed = _program.run(ctx, python(code), 10)
    assert (printed.status, printed.text, printed.said) == (3, "out\n", "no device")


def test_a_signal_is_a_status_too(ctx: Context) -> None:
    printed = _program.run(ctx, python("import os; os.kill(os.getpid(), 9)"), 10)
    assert (printed.status, printed.said) == (-9, "it does not say why")


def test_bytes_go_in_and_come_out_as_they_are(ctx: Context, tmp_path: Path) -> None:
    raw = bytes(range(256)) * 4096
    (tmp_path / "raw").write_bytes(raw)
    with open(tmp_path / "raw", "rb") as file:
        code = "import shutil, sys; shutil.copyfileobj(sys.stdin.buffer, sys.stdout.buffer)"
        printed = _program.run(ctx, python(code), 10, most_bytes=len(raw), stdin=file.fileno())
    assert printed.out == raw


def test_too_much_output_ends_it(ctx: Context) -> None:
    with pytest.raises(SkillError, match="printed more than 1000 bytes and was stopped"):
        _program.run(ctx, python("while True: print('x' * 100)"), 10, most_bytes=1000)


@pytest.mark.parametrize("who", ["program", "task"])
def test_its_time_is_over(ctx: Context, who: str) -> None:
    limit_s = 0.2 if who == "program" else 60
    if who == "task":
        ctx = replace(ctx, deadline=time.monotonic() + 0.2)
    started = time.monotonic()
    with pytest.raises(SkillError, match="did not end in"):
        _program.run(ctx, python("import time; time.sleep(60)"), limit_s)
    assert time.monotonic() - started < 5


def test_a_cancel_ends_it(ctx: Context) -> None:
    threading.Timer(0.2, ctx.cancelled.set).start()
    with pytest.raises(SkillError, match="the call was cancelled"):
        _program.run(ctx, python("import time; time.sleep(60)"), 60)


def test_its_environment_is_its_own(ctx: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIBOT_KEY", "canary")
    code = "import os; print(sorted(os.environ), os.getcwd(), os.getsid(0) == os.getpid())"
    said = _program.run(ctx, python(code), 10).text
    assert "PIBOT_KEY" not in said
    assert said.endswith(" / True\n")


def test_what_it_leaves_behind_is_ended(ctx: Context) -> None:
    code = (
        "import subprocess, sys; child = subprocess.Popen([sys.executable, '-c',"
        " 'import time; time.sleep(60)']); print(child.pid)"
    )
    started = time.monotonic()
    child = int(_program.run(ctx, python(code), 30).text)
    assert time.monotonic() - started < 10  # though the child holds the pipe
    state = subprocess.run(["ps", "-o", "stat=", "-p", str(child)], stdout=subprocess.PIPE)
    assert state.stdout.strip()[:1] in (b"", b"Z")  # gone, or waiting for whoever took it over


def test_a_program_that_is_not_there(ctx: Context) -> None:
    with pytest.raises(SkillError, match="nothing-here could not be started"):
        _program.run(ctx, ["/usr/bin/nothing-here"], 1)
    assert _program.find("nothing-here") is None
