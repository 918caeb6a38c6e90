"""What a machine's owner lets its skills do is read strictly, and nothing widens by itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pibot.errors import ConfigError
from pibot.permits import Permits, permits_of
from pibot.values import Values


def permits(**environ: str) -> Permits:
    return permits_of(Values({}, environ, {}))


def test_nothing_is_permitted_unasked() -> None:
    found = permits()
    assert found == Permits()
    assert not found.shell and not found.shell_network and not found.write_paths
    assert not found.services and not found.hosts and not found.gpio_pins and not found.mqtt_topics


@pytest.mark.parametrize(
    ("key", "text", "field", "expected"),
    [
        ("PIBOT_ALLOW_SHELL", "1", "shell", True),
        ("PIBOT_SHELL_NETWORK", "yes", "shell_network", True),
        (
            "PIBOT_READ_PATHS",
            "/srv/data, /opt/x/",
            "read_paths",
            (Path("/srv/data"), Path("/opt/x")),
        ),
        ("PIBOT_WRITE_PATHS", "/srv/out/../o", "write_paths", (Path("/srv/o"),)),
        ("PIBOT_WORKSPACE_MB", "50", "workspace_mb", 50),
        ("PIBOT_WORKSPACE_DAYS", "1", "workspace_days", 1),
        ("PIBOT_WEB_ALLOW", "NAS.local,10.0.0.5:80", "web_allow", ("nas.local", "10.0.0.5:80")),
        ("PIBOT_WEB_ONLY", "*.example.org", "web_only", ("*.example.org",)),
        ("PIBOT_WEB_DENY", "[fd00::1]:80", "web_deny", ("[fd00::1]:80",)),
        ("PIBOT_HOSTS", "home.local:8123", "hosts", ("home.local:8123",)),
        ("PIBOT_HOST_TOKENS", "Home.local:8123=a=b", "host_tokens", {"home.local:8123": "a=b"}),
        ("PIBOT_SERVICES", "a.service,x@1.service", "services", ("a.service", "x@1.service")),
        ("PIBOT_GPIO_PINS", "17, 27", "gpio_pins", (17, 27)),
        ("PIBOT_MQTT_TOPICS", "zigbee2mqtt/#,a/+/b", "mqtt_topics", ("zigbee2mqtt/#", "a/+/b")),
        ("PIBOT_MQTT_URL", "mqtts://u:p@h:1", "mqtt_url", "mqtts://u:p@h:1"),
        ("PIBOT_NOTIFY_URL", "https://ntfy.sh/x", "notify_url", "https://ntfy.sh/x"),
    ],
)
def test_each_setting(key: str, text: str, field: str, expected: Any) -> None:
    assert getattr(permits(**{key: text}), field) == expected


@pytest.mark.parametrize(
    ("key", "text"),
    [
        ("PIBOT_ALLOW_SHELL", "perhaps"),
        ("PIBOT_READ_PATHS", "srv"),
        ("PIBOT_READ_PATHS", "/"),
        ("PIBOT_WRITE_PATHS", "/a/.."),
        ("PIBOT_READ_PATHS", "/proc"),
        ("PIBOT_READ_PATHS", "/proc/self"),
        ("PIBOT_WRITE_PATHS", "/ws/x"),
        ("PIBOT_WORKSPACE_MB", "0"),
        ("PIBOT_WORKSPACE_DAYS", "-1"),
        ("PIBOT_WEB_ALLOW", "http://nas.local"),
        ("PIBOT_WEB_ONLY", "*"),
        ("PIBOT_WEB_DENY", "a b"),
        ("PIBOT_HOSTS", "*.*.x"),
        ("PIBOT_HOST_TOKENS", "hush-hush"),
        ("PIBOT_SERVICES", "a service"),
        ("PIBOT_SERVICES", "../x"),
        ("PIBOT_GPIO_PINS", "17,x"),
        *(("PIBOT_MQTT_TOPICS", topic) for topic in ("#", "+/a", "$SYS/x", "pibot/1/#", "a/#/b")),
        ("PIBOT_MQTT_TOPICS", "a#"),
        ("PIBOT_MQTT_TOPICS", "a/b+"),
        ("PIBOT_MQTT_URL", "http://h"),
        ("PIBOT_NOTIFY_URL", "ntfy"),
    ],
)
def test_what_is_wrong_is_said_with_its_key(key: str, text: str) -> None:
    with pytest.raises(ConfigError, match=key) as raised:
        permits(**{key: text})
    assert "hush-hush" not in str(raised.value)


def test_secrets_do_not_show() -> None:
    found = permits(
        PIBOT_HOST_TOKENS="h=hush-1",
        PIBOT_MQTT_URL="mqtt://u:hush-2@h",
        PIBOT_NOTIFY_URL="https://h/hush-3",
    )
    assert "hush" not in repr(found)
