"""Log records: one safe line each, no secrets, and files that rotate."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from pathlib import Path
from typing import Dict, Iterator

import pytest

from pibot import config, logs
from pibot.config import Settings
from pibot.errors import ConfigError

SECRETS = {
    "MQTT_PASSWORD": "pass-0f1e2d",
    "PIBOT_KEY": "pass-0f1e2d-and-more",
    "PIBOT_HTTP_TOKEN": "token-77",
    "VOLC_API_KEY": "ark-key-1",
}


def settings(environ: Dict[str, str]) -> Settings:
    base = {"HOME": "/home/u", "PIBOT_FLEET": "lab"}
    return config.load("worker", {}, {**base, **environ}, None, Path("/nowhere/pibot.pyz"))


class Screen:
    """Standard error, as far as it has been written."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys
        self._text = ""

    def getvalue(self) -> str:
        self._text += self._capsys.readouterr().err
        return self._text


@pytest.fixture
def screen(capsys: pytest.CaptureFixture[str]) -> Iterator[Screen]:
    """Standard error; logging is as it was before when the test ends."""
    root, own = logging.getLogger(), logging.getLogger("pibot")
    before = (list(root.handlers), root.level, own.level, logging.raiseExceptions)
    yield Screen(capsys)
    for handler in [h for h in root.handlers if h not in before[0]]:
        root.removeHandler(handler)
        handler.close()
    root.setLevel(before[1])
    own.setLevel(before[2])
    logging.raiseExceptions = before[3]


def log() -> logging.Logger:
    return logging.getLogger("pibot.test")


def test_one_line_with_the_time(screen: Screen) -> None:
    logs.setup("worker", settings({}))
    log().info("task %s done", "t1")
    log().debug("not shown")
    logging.getLogger("httpx2").info("not shown either")
    logging.getLogger("httpx2").warning("shown")
    first, second = screen.getvalue().splitlines()
    assert first[:4].isdigit() and first.endswith(" INFO pibot.test: task t1 done")
    assert second.endswith("WARNING httpx2: shown")


def test_secrets_become_stars(screen: Screen) -> None:
    logs.setup("worker", settings(SECRETS))
    for secret in SECRETS.values():
        log().warning("said %s", f"<{secret}>")
    assert [line.split("said ")[1] for line in screen.getvalue().splitlines()] == ["<***>"] * 4


def test_the_key_of_a_keyless_model_server_is_no_secret(screen: Screen) -> None:
    logs.setup("worker", settings({"VOLC_BASE_URL": "http://localhost/v1"}))
    log().warning("none left")
    assert "none left" in screen.getvalue()


def test_no_second_line_and_no_control_characters(screen: Screen) -> None:
    logs.setup("worker", settings({}))
    log().info("a\nb\x1b[31m\r\x07\x9b\u202e\u2028\ud800é主")
    (line,) = screen.getvalue().split("\n")[:-1]
    assert line.endswith("a\\nb\\x1b[31m\\r\\x07\\x9b\\u202e\\u2028\\ud800é主")


def test_exceptions_without_and_with_their_traceback(screen: Screen, tmp_path: Path) -> None:
    logs.setup("worker", settings({"PIBOT_LOG_DIR": str(tmp_path), **SECRETS}))
    try:
        raise ValueError("bad token-77")
    except ValueError:
        log().exception("oops")
    assert screen.getvalue().endswith("oops (ValueError: bad ***)\n")
    (line,) = (tmp_path / "worker.log").read_text().splitlines()
    assert "Traceback" in line and "token-77" not in line


def test_debug_shows_more(screen: Screen) -> None:
    logs.setup("client", settings({}))
    log().info("hidden from a client")
    logs.setup("client", settings({}), debug=True)
    try:
        raise ValueError
    except ValueError:
        log().debug("shown", exc_info=True)
    (line,) = screen.getvalue().splitlines()
    assert "shown" in line and "Traceback" in line


def test_files_rotate(screen: Screen, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "FILE_BYTES", 200)
    folder = tmp_path / "new" / "logs"
    logs.setup("master", settings({"PIBOT_LOG_DIR": str(folder)}))
    for number in range(50):
        log().info("record %d", number)
    names = sorted(path.name for path in folder.iterdir())
    assert names == ["master_lab.log", "master_lab.log.1", "master_lab.log.2"]
    assert all(path.stat().st_size <= 200 for path in folder.iterdir())
    assert (folder / "master_lab.log").read_text().endswith("record 49\n")


def test_setting_up_twice_does_not_double(screen: Screen, tmp_path: Path) -> None:
    for _ in range(2):
        logs.setup("worker", settings({"PIBOT_LOG_DIR": str(tmp_path)}))
    log().info("once")
    assert screen.getvalue().count("once") == 1
    assert (tmp_path / "worker.log").read_text().count("once") == 1


def test_a_directory_that_cannot_be_had(screen: Screen, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="PIBOT_LOG_DIR"):
        logs.setup("worker", settings({"PIBOT_LOG_DIR": str(tmp_path / "file")}))


def test_the_journal_adds_the_time_itself(tmp_path: Path) -> None:
    code = (
        "import os, sys, logging; from pathlib import Path; from pibot import config, logs\n"
        "s = os.fstat(2); node = s.st_ino + int(sys.argv[1])\n"
        "os.environ['JOURNAL_STREAM'] = f'{s.st_dev}:{node}'\n"
        "logs.setup('worker', config.load('worker', {}, {'HOME': '/'}, None, Path('/x/p')))\n"
        "logging.getLogger('pibot').info('hello')\n"
    )
    environ = {**os.environ, "PYTHONPATH": str(Path(logs.__file__).parents[1])}
    said = [
        subprocess.run(
            [sys.executable, "-c", code, shift], env=environ, stderr=subprocess.PIPE, check=True
        ).stderr
        for shift in ("0", "1")
    ]
    assert said[0] == b"INFO pibot: hello\n"
    assert said[1].endswith(b" INFO pibot: hello\n")


def test_a_flood_of_one_kind_becomes_a_few_lines(screen: Screen, tmp_path: Path) -> None:
    logs.setup("worker", settings({"PIBOT_LOG_DIR": str(tmp_path)}))
    log, clock = logging.getLogger("pibot.test"), 1000.0

    def say(level: int, text: str, *args: object) -> None:
        record = log.makeRecord("pibot.test", level, "f", 1, text, args, None)
        record.created = clock
        log.handle(record)

    for i in range(1_000):
        say(logging.WARNING, "bad message from %s", i)
    say(logging.WARNING, "something else")
    clock += logs.ALIKE_S
    say(logging.WARNING, "bad message from %s", "w1")
    lines = screen.getvalue().splitlines()
    assert len(lines) == logs.ALIKE + 2
    assert lines[-2].endswith("something else")
    assert lines[-1].endswith("bad message from w1 (950 more like it were left out)")
    assert len((tmp_path / "worker.log").read_text("utf-8").splitlines()) == logs.ALIKE + 2


def test_a_clock_that_is_set_back_silences_nothing(screen: Screen) -> None:
    logs.setup("worker", settings({}))
    log = logging.getLogger("pibot.test")
    for created in (5e9, 1e9):
        for _ in range(2 * logs.ALIKE):
            record = log.makeRecord("pibot.test", logging.ERROR, "f", 1, "again", (), None)
            record.created = created
            log.handle(record)
    assert len(screen.getvalue().splitlines()) == 2 * logs.ALIKE
