"""Sentences about services, the network and brokers, among the templates of all skills."""

from __future__ import annotations

import importlib
from typing import Any, Dict, List, Optional

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
        ("list all services", "list_services", {}),
        ("list the failed services", "list_services", {"state": "failed"}),
        ("列出所有服务", "list_services", {}),
        ("列出失败的服务", "list_services", {"state": "failed"}),
        ("status of the service mosquitto", "service_status", {"unit": "mosquitto"}),
        ("is the service ssh running?", "service_status", {"unit": "ssh"}),
        ("服务ssh的状态", "service_status", {"unit": "ssh"}),
        ("restart the service mosquitto", "restart_service", {"unit": "mosquitto"}),
        ("please restart the mosquitto service", "restart_service", {"unit": "mosquitto"}),
        ("重启服务mosquitto", "restart_service", {"unit": "mosquitto"}),
        ("logs of the service ssh", "service_logs", {"unit": "ssh"}),
        ("the ssh service log", "service_logs", {"unit": "ssh"}),
        ("服务ssh的日志", "service_logs", {"unit": "ssh"}),
        ("search the journal for oom-killer", "journal_search", {"words": "oom-killer"}),
        ("在日志中搜索oom", "journal_search", {"words": "oom"}),
        ("list the systemd timers", "timers", {}),
        ("查看定时任务", "timers", {}),
        ("top processes", "processes", {}),
        ("what uses all the memory", "processes", {"sort": "memory"}),
        ("列出所有进程", "processes", {}),
        ("内存占用最高的进程", "processes", {"sort": "memory"}),
        ("upgradable packages", "packages_upgradable", {}),
        ("are there security updates?", "packages_upgradable", {}),
        ("有系统更新吗", "packages_upgradable", {}),
        ("disk health", "disk_health", {}),
        ("is the sd card ok?", "disk_health", {}),
        ("磁盘健康状态", "disk_health", {}),
        ("network info", "network_info", {}),
        ("wifi signal", "network_info", {}),
        ("默认网关", "network_info", {}),
        ("ping gateway", "ping", {"host": "gateway"}),
        ("ping nas.local", "ping", {"host": "nas.local"}),
        ("ping一下nas.local", "ping", {"host": "nas.local"}),
        ("check port 22 of nas.local", "check_port", {"host": "nas.local", "port": "22"}),
        ("检查主机nas.local的端口22", "check_port", {"host": "nas.local", "port": "22"}),
        (
            "publish ON to the topic home/lamp/set",
            "mqtt_publish",
            {"payload": "ON", "topic": "home/lamp/set"},
        ),
        ("发送ON到主题home/lamp", "mqtt_publish", {"payload": "ON", "topic": "home/lamp"}),
        ("listen to the mqtt topic home/#", "mqtt_read", {"topic": "home/#"}),
        ("读取主题home/temp", "mqtt_read", {"topic": "home/temp"}),
        # These belong to others, or need a model.
        ("disk space", "system_status", {"part": "disk"}),
        ("磁盘空间", "system_status", {"part": "disk"}),
        ("failed services", "system_status", {"part": "services"}),
        ("network", "system_status", {"part": "network"}),
        ("memory", "system_status", {"part": "memory"}),
        ("restart the machine", None, {}),
        ("restart", None, {}),
        ("restart everything", None, {}),
        ("search the web for logs", None, {}),
        ("kill the process 12", None, {}),
        ("upgrade all packages", None, {}),
        ("ping nas.local and restart it", None, {}),
    ],
)
def test_a_sentence(sentence: str, skill: Optional[str], args: object) -> None:
    found = phrases.match(sentence, ANNOUNCED, [])
    assert (found.skill, found.args) == (skill, args) if found else skill is None
