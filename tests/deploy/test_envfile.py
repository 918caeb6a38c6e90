"""Texts of .env files: changed where a value changes, and nowhere else."""

from __future__ import annotations

from pathlib import Path
from typing import Dict

import pytest

from pibot.deploy.envfile import Source, edited, merge
from pibot.values import parse_env

EDITS = [
    ("", {"A": "1"}, "A=1\n"),
    ("A=1\n", {"A": "1"}, "A=1\n"),
    ("A=1", {"A": "1", "B": "2"}, "A=1\nB=2\n"),
    ("# a\n\nexport A='1'  # b\n", {"A": "1"}, "# a\n\nexport A='1'  # b\n"),
    ("# a\n\nA=1\nB=2\n", {"A": "3", "B": "2"}, "# a\n\nA=3\nB=2\n"),
    ("A=1\nB=2\n", {"B": "2"}, "B=2\n"),
    ("A=\nB=2\n", {"B": "2"}, "A=\nB=2\n"),
    ("A=1\nA=2\n", {"A": "2"}, "A=2\n"),
    ("A=1\r\nB=2\r\n", {"A": "1", "B": "2"}, "A=1\r\nB=2\r\n"),
    ('A="x\ny"\nB=2\n', {"B": "2"}, "B=2\n"),
]


@pytest.mark.parametrize(("text", "values", "expected"), EDITS)
def test_a_text_is_edited(text: str, values: Dict[str, str], expected: str) -> None:
    assert edited(text, values) == expected


VALUES = [
    "plain",
    "a b",
    "it's",
    'say "x"',
    "back\\slash",
    "\\'",
    "#no",
    "a # b",
    "$HOME ${A}",
    "=",
    "ключ",
]


@pytest.mark.parametrize("value", VALUES)
def test_a_value_is_read_as_it_was_written(value: str) -> None:
    assert parse_env(edited("", {"A": value}), Path("/x"))["A"].text == value


def source(path: str, text: str, lenient: bool = False) -> Source:
    return Source(path, parse_env(text, Path(path)), lenient)


def test_the_stronger_source_wins_and_half_a_connection_is_none() -> None:
    merged = merge(
        [
            source("/1", "WORKER_ID=a\nMQTT_HOST=h1\n"),
            source("/2", "WORKER_ID=b\nMQTT_PORT=1\nMODEL_NAME=m\n"),
        ],
        "/etc/x",
    )
    assert {key: value.text for key, value in merged.values.items()} == {
        "WORKER_ID": "a",
        "MQTT_HOST": "h1",
        "MODEL_NAME": "m",
    }


def test_what_is_installed_keeps_what_nobody_knows() -> None:
    merged = merge([source("/etc/x", "SOMETHING=1\nPIBOT_LOG_DIR=/var/log/x\n")], "/etc/x")
    assert set(merged.values) == {"SOMETHING", "PIBOT_LOG_DIR"} and merged.notes == []
