"""Settings in Mosquitto's configuration that PiBot's own file cannot stand beside."""

from __future__ import annotations

from typing import Dict

import pytest

from pibot.deploy import mosquitto
from pibot.deploy.broker_files import mosquitto_conf

DEBIAN = """\
pid_file /run/mosquitto/mosquitto.pid
persistence true
log_dest file /var/log/mosquitto/mosquitto.log
include_dir /etc/mosquitto/conf.d
"""
MAIN, OWN = "/etc/mosquitto/mosquitto.conf", "/etc/mosquitto/conf.d/ha.conf"

FINE: "list[Dict[str, str]]" = [
    {},
    {MAIN: DEBIAN},
    {MAIN: DEBIAN, OWN: "# listener 1883\n\nmax_connections 50\nlog_type all\n"},
    {MAIN: DEBIAN.replace("conf.d", "conf.d/")},
]
OBSTACLES = [
    ({MAIN: f"{DEBIAN}listener 1884\n"}, f"{MAIN} line 5 says 'listener'"),
    ({MAIN: DEBIAN, OWN: "\n  allow_anonymous\ttrue\n"}, f"{OWN} line 2 says 'allow_anonymous'"),
    ({MAIN: DEBIAN, OWN: "per_listener_settings true"}, f"{OWN} line 1"),
    ({MAIN: DEBIAN, OWN: "port 1883\r\n"}, "'port'"),
    ({MAIN: DEBIAN, OWN: "plugin /usr/lib/x.so"}, "'plugin'"),
    ({MAIN: "persistence true\n"}, "does not include /etc/mosquitto/conf.d"),
]


@pytest.mark.parametrize("files", FINE)
def test_nothing_stands_in_the_way(files: Dict[str, str]) -> None:
    assert mosquitto.obstacle(files) == ""


@pytest.mark.parametrize(("files", "words"), OBSTACLES)
def test_what_stands_in_the_way_is_named(files: Dict[str, str], words: str) -> None:
    assert words in mosquitto.obstacle(files)


@pytest.mark.parametrize("is_open", [False, True])
def test_pibots_own_file_is_told_from_one_made_by_hand(is_open: bool) -> None:
    text = mosquitto_conf(is_open)
    assert mosquitto.is_ours(text) and mosquitto.is_open(text) == is_open
    assert text.count("\nlistener ") == 2 and ("listener 1883 127.0.0.1\n" in text) != is_open
    assert not mosquitto.is_ours("listener 1883\npassword_file /etc/mosquitto/pibot.passwd\n")
