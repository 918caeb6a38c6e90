"""Units that people wrote by hand: what setup reads in them."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Dict

import pytest

import pibot.deploy
from pibot.deploy import layout, previous

SYSTEMD = Path(pibot.deploy.__file__).parent / "systemd"
PLAIN = """\
[Unit]
Description=PiBot Worker
ExecStart=/not/this --worker-id wrong

[Service]
Type=simple
User=pi
WorkingDirectory=/home/pi/pibot
ExecStart=/usr/bin/python3 /home/pi/pibot/pibot.pyz --role worker --worker-id worker-1 --port 5000
Restart=always

[Install]
WantedBy=multi-user.target
"""
HOME_ENV = ("/home/pi/pibot/.env",)
UNITS: "list[tuple[str, Dict[str, Any]]]" = [
    (
        PLAIN,
        {"worker_id": "worker-1", "port": "5000", "user": "pi", "dot_envs": HOME_ENV}
        | {"program": "/home/pi/pibot/pibot.pyz", "environment": {}, "env_files": ()},
    ),
    (
        "[Service]\nExecStart=/x/pibot.pyz --worker-id=w2 \\\n  --port=5100\n",
        {"worker_id": "w2", "port": "5100"},
    ),
    (
        "[Service]\nExecStart=/bin/bash -c 'cd /srv/bot && exec python3 app.py --worker-id w3'\n",
        {"worker_id": "w3", "dot_envs": ("/srv/bot/.env",), "user": None},
    ),
    ("[Service]\nUser=pi\nWorkingDirectory=~\nExecStart=x\n", {"dot_envs": ("/home/pi/.env",)}),
    ("[Service]\nWorkingDirectory=-/srv/a/\nExecStart=x\n", {"dot_envs": ("/srv/a/.env",)}),
    (
        '[Service]\nEnvironment="A=b c" D=e\nEnvironment=F=g\nExecStart=x\n',
        {"environment": {"A": "b c", "D": "e", "F": "g"}},
    ),
    ("[Service]\nEnvironment=A=b\nEnvironment=\nEnvironment=C=d\n", {"environment": {"C": "d"}}),
    (
        "[Service]\n# Environment=A=b\n;ExecStart=/y --worker-id no\n",
        {"environment": {}, "worker_id": None},
    ),
    ("[Service]\nEnvironment='A=b\n", {"environment": {"'A": "b"}}),
    (
        "[Service]\nEnvironmentFile=/etc/a.env\nEnvironmentFile=-/etc/b.env\nEnvironmentFile=rel\n",
        {"env_files": ("/etc/b.env", "/etc/a.env")},
    ),
    (
        "[Service]\r\nUser=pi\r\nExecStart=/x/pibot.pyz --worker-id w\r\n",
        {"user": "pi", "worker_id": "w"},
    ),
    ("", {"worker_id": None, "program": "", "dot_envs": ()}),
    ("\x00\xff garbage = [", {"worker_id": None}),
]


@pytest.mark.parametrize(("text", "expected"), UNITS)
def test_what_a_unit_says(text: str, expected: Dict[str, Any]) -> None:
    found = previous.read(text, {"pi": "/home/pi", "root": "/root"})
    assert {key: getattr(found, key) for key in expected} == expected


@pytest.mark.parametrize("role", layout.ROLES)
def test_setups_own_units_are_told_from_others(role: str) -> None:
    ours = (SYSTEMD / layout.service(role)).read_text("utf-8")
    assert previous.is_ours(ours, role)
    assert not previous.is_ours(PLAIN, role)
    assert not previous.is_ours(PLAIN.replace("/home/pi", "/opt"), role)
