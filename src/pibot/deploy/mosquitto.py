"""What else is in Mosquitto's configuration, and would contradict PiBot's listener. Pure."""

from __future__ import annotations

from typing import List, Mapping

from pibot.deploy import layout

# Who may come in and where: Mosquitto has one answer to that, and PiBot's file gives it.
OURS_ALONE = (
    *("listener", "port", "bind_address", "bind_interface", "allow_anonymous", "password_file"),
    *("acl_file", "psk_file", "per_listener_settings", "plugin", "auth_plugin", "global_plugin"),
)


def is_ours(text: str) -> bool:
    """Whether a pibot.conf was made by `setup`, whatever its version."""
    return f"password_file {layout.BROKER_FOLDER}/passwd" in text.split("\n")


def is_open(text: str) -> bool:
    """Whether such a pibot.conf lets the network in without TLS, as earlier versions made it."""
    return is_ours(text) and "listener 1883" in text.split("\n")


def included(text: str) -> List[str]:
    """The directories that a mosquitto.conf includes."""
    words = [line.split(None, 1) for line in text.split("\n")]
    return [w[1].strip().rstrip("/") for w in words if len(w) == 2 and w[0] == "include_dir"]


def obstacle(files: Mapping[str, str]) -> str:
    """The first thing in the configuration that PiBot's file cannot stand beside; "" if none.

    `files` are the texts by path, mosquitto.conf among them and PiBot's own file not.
    """
    for path, text in files.items():
        for number, line in enumerate(text.split("\n"), 1):
            words = line.split()
            if words and words[0] in OURS_ALONE:
                return f"{path} line {number} says {words[0]!r}"
    if files and layout.MOSQUITTO_FOLDER not in included(files.get(layout.MOSQUITTO, "")):
        return f"{layout.MOSQUITTO} does not include {layout.MOSQUITTO_FOLDER}"
    return ""
