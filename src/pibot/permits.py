"""What the owner of a machine lets its skills do: explicit settings, the same for every task.

Nothing here widens by itself. A skill that needs more than it is given says which setting does it.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Callable, Mapping, Optional, Tuple

if TYPE_CHECKING:  # whoever only has permits reads no settings
    from pibot.errors import ConfigError
    from pibot.values import Values

MAX_WORKSPACE_MB = 1_000_000
MAX_WORKSPACE_DAYS = 3_650
_HOST = re.compile(r"(\*\.)?([A-Za-z0-9_.-]{1,253}|\[[0-9A-Fa-f:.]+\])(:[0-9]{1,5})?")
_UNIT = re.compile(r"[A-Za-z0-9:_.@-]{1,200}")
_PIN = re.compile(r"[0-9]{1,3}")
_TOPIC = re.compile(r"(?!\$|pibot(/|$)|[#+])(([^\s#+/]+|\+)?/)*([^\s#+/]+|\+|#)")
_NO_DATA = ((), ("proc",), ("ws",))  # the latter is where commands see their workspace
_TOKEN = re.compile(r"([^\s=,]+)=([!-~]+)")


@dataclass(frozen=True)
class Permits:
    """Paths are absolute; hosts are lower case, `name`, `name:port` or `*.name`.

    `services` are units that may be restarted, `gpio_pins` the numbers (BCM) of pins that may be
    driven, `hosts` those that `http_request` and the network skills may reach, with `host_tokens`
    as their bearer tokens. Secrets do not show in the repr.
    """

    shell: bool = False
    shell_network: bool = False
    read_paths: Tuple[Path, ...] = ()
    write_paths: Tuple[Path, ...] = ()
    workspace_mb: int = 1024
    workspace_days: int = 7
    web_allow: Tuple[str, ...] = ()  # hosts that are not public
    web_only: Tuple[str, ...] = ()  # if any: no other public host
    web_deny: Tuple[str, ...] = ()
    hosts: Tuple[str, ...] = ()
    host_tokens: Mapping[str, str] = field(default_factory=dict, repr=False)
    services: Tuple[str, ...] = ()
    gpio_pins: Tuple[int, ...] = ()
    mqtt_topics: Tuple[str, ...] = ()
    mqtt_url: Optional[str] = field(default=None, repr=False)
    notify_url: Optional[str] = field(default=None, repr=False)

    def hidden(self, path: Path) -> str:
        """Why no skill is shown one of the paths; "" if skills are.

        Where a command may write, it may put a link, and the next call would be shown the link's
        target: a file that is nobody's business.
        """
        if any(folder in path.parents for folder in self.write_paths):
            return "lies in a path that can be changed"
        real = os.path.realpath(path)
        return "" if real == os.fspath(path) else f"is a link, or lies behind one: name {real}"


def permits_of(values: Values) -> Permits:
    """The permits that the settings give; raise ConfigError naming the key that is wrong."""
    usual = Permits()
    return Permits(
        shell=values.switch("PIBOT_ALLOW_SHELL") or False,
        shell_network=values.switch("PIBOT_SHELL_NETWORK") or False,
        read_paths=_paths(values, "PIBOT_READ_PATHS"),
        write_paths=_paths(values, "PIBOT_WRITE_PATHS"),
        workspace_mb=values.number("PIBOT_WORKSPACE_MB", 1, MAX_WORKSPACE_MB, usual.workspace_mb),
        workspace_days=values.number(
            "PIBOT_WORKSPACE_DAYS", 1, MAX_WORKSPACE_DAYS, usual.workspace_days
        ),
        web_allow=_hosts(values, "PIBOT_WEB_ALLOW"),
        web_only=_hosts(values, "PIBOT_WEB_ONLY"),
        web_deny=_hosts(values, "PIBOT_WEB_DENY"),
        hosts=_hosts(values, "PIBOT_HOSTS"),
        host_tokens=_tokens(values),
        services=_each(
            values, "PIBOT_SERVICES", _UNIT, "names of units, such as mosquitto.service"
        ),
        gpio_pins=_pins(values),
        mqtt_topics=_each(values, "PIBOT_MQTT_TOPICS", _TOPIC, "topics, such as zigbee2mqtt/#"),
        mqtt_url=_url(values, "PIBOT_MQTT_URL", "mqtts?", "mqtt://user:password@host:1883"),
        notify_url=_url(values, "PIBOT_NOTIFY_URL", "https?", "https://ntfy.sh/my-topic"),
    )


def _each(values: Values, key: str, form: "re.Pattern[str]", what: str) -> Tuple[str, ...]:
    found = values.items(key)
    wrong = next((one for one in found if not form.fullmatch(one)), None)
    if wrong is not None:
        raise values.error(key, f"has {wrong!r}; write {what}, with commas between")
    return found


def _hosts(values: Values, key: str) -> Tuple[str, ...]:
    found = _each(values, key, _HOST, "hosts, such as nas.local or 10.0.0.5:8123")
    return tuple(one.lower() for one in found)


def _pins(values: Values) -> Tuple[int, ...]:
    found = _each(values, "PIBOT_GPIO_PINS", _PIN, "numbers of pins, such as 17,27")
    return tuple(int(one) for one in found)


def _paths(values: Values, key: str) -> Tuple[Path, ...]:
    """Absolute paths; the root of all files is no extra, and processes are nobody's data."""
    found = []
    for text in values.items(key):
        path = Path(os.path.normpath(text))
        if not path.is_absolute() or path.parts[1:2] in _NO_DATA:
            raise values.error(key, f"has {text!r}; write absolute paths, such as /srv/data")
        found.append(path)
    return tuple(found)


def _tokens(values: Values) -> Mapping[str, str]:
    found = {}
    for item in values.items("PIBOT_HOST_TOKENS"):
        match = _TOKEN.fullmatch(item)
        if match is None or not _HOST.fullmatch(match[1]):
            raise _unreadable(values)  # not with the text itself: it is a secret
        found[match[1].lower()] = match[2]
    return found


def _unreadable(values: Values) -> ConfigError:
    return values.error("PIBOT_HOST_TOKENS", "has a part that is not HOST=TOKEN or HOST:PORT=TOKEN")


def _url(values: Values, key: str, schemes: str, example: str) -> Optional[str]:
    text = values.text(key)
    if text is not None and not re.fullmatch(rf"{schemes}://[^\s]+", text):
        raise values.error(key, f"must be an address such as {example}")
    return text


Available = Callable[[Permits], Optional[str]]
