"""Sentences about hardware, among the templates of all skills."""

from __future__ import annotations

import importlib
from typing import Any, Dict, List

import pytest

from pibot.agent.library import GROUPS, declared
from pibot.fleet import phrases

ANNOUNCED: List[Dict[str, Any]] = [
    {"name": one.name, "phrases": one.phrases}
    for modules in GROUPS.values()
    for module in modules
    for one in declared(importlib.import_module(f"pibot.skills.{module}"))
]


@pytest.mark.parametrize(
    ("sentence", "skill", "args"),
    [
        ("list the gpio pins", "gpio_list", {}),
        ("查看所有引脚", "gpio_list", {}),
        ("read gpio 17", "gpio_read", {"pin": "17"}),
        ("what is the state of pin 17?", "gpio_read", {"pin": "17"}),
        ("读取引脚17", "gpio_read", {"pin": "17"}),
        ("turn on pin 17", "gpio_write", {"pin": "17", "value": True}),
        ("set gpio pin 27 to low", "gpio_write", {"pin": "27", "value": False}),
        ("打开引脚17", "gpio_write", {"pin": "17", "value": True}),
        ("关闭 gpio 17", "gpio_write", {"pin": "17", "value": False}),
        ("sensor readings", "sensors_read", {}),
        ("room temperature", "sensors_read", {}),
        ("what's the humidity", "sensors_read", {}),
        ("室内温度是多少", "sensors_read", {}),
        ("湿度", "sensors_read", {}),
        ("scan the i2c bus", "i2c_scan", {}),
        ("扫描i2c总线", "i2c_scan", {}),
        ("please take a photo", "camera_photo", {}),
        ("拍一张照片", "camera_photo", {}),
        ("record 5 seconds", "audio_record", {"seconds": "5"}),
        ("录音 5 秒", "audio_record", {"seconds": "5"}),
        ("play the sound bell.wav", "audio_play", {"path": "bell.wav"}),
        ("播放录音 a.wav", "audio_play", {"path": "a.wav"}),
        ("show lunch is ready on the screen", "display_text", {"text": "lunch is ready"}),
        ("在屏幕上显示你好", "display_text", {"text": "你好"}),
        ("list usb devices", "devices", {"kind": "usb"}),
        ("列出usb设备", "devices", {"kind": "usb"}),
        ("connected devices", "devices", {}),
        ("pi facts", "pi_facts", {}),
        ("核心电压", "pi_facts", {}),
        # These belong to others, or need a model.
        ("temperature", "system_status", {"part": "temperature"}),
        ("cpu温度", "system_status", {"part": "temperature"}),
        ("list the files", "list_files", {}),
        ("read file pin.txt", "read_file", {"path": "pin.txt"}),
        ("play chess", None, {}),
        ("record the meeting", None, {}),
        ("turn on the light", None, {}),
        ("turn on pin 17 and mail me", None, {}),
        ("show me the screen", None, {}),
    ],
)
def test_a_sentence(sentence: str, skill: str, args: object) -> None:
    found = phrases.match(sentence, ANNOUNCED, [])
    assert (found.skill, found.args) == (skill, args) if found else skill is None
