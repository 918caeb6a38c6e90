"""A whole fleet in one process, over the in-memory transport: the same roles, no broker."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any, Callable, Iterator, List

import pytest

from fleet_processes import free_port, wait_for
from pibot import config
from pibot.bus import MemoryBus, MemoryTransport, matches
from pibot.roles.client import Fleet
from pibot.roles.master import Master
from pibot.roles.worker import Worker


class Memory:
    """Masters, workers and clients on one bus, each with its own state, in threads."""

    def __init__(self, folder: Path) -> None:
        self.bus, self._folder = MemoryBus(), folder
        self._running: "List[tuple[Any, threading.Thread]]" = []

    def _connect(self, _link: object, _name: str, *rest: Any) -> MemoryTransport:
        return MemoryTransport(self.bus, *rest)

    def settings(self, role: str, name: str) -> config.Settings:
        environ = {
            "PIBOT_STATE_DIR": str(self._folder / name),
            "PIBOT_HEALTH_PORT": str(free_port()),
            "PIBOT_HEALTH_HOST": "127.0.0.1",
            "MQTT_HOST": "127.0.0.1",
            **({"WORKER_ID": name} if role == "worker" else {}),
        }
        return config.load(role, {}, environ, None, self._folder / "pibot.pyz")

    def start(self, role: str, name: str) -> Any:
        make: Callable[..., Any] = Master if role == "master" else Worker
        started = make(self.settings(role, name), self._connect)
        thread = threading.Thread(target=started.run, name=name)
        thread.start()
        self._running.append((started, thread))
        return started

    def client(self) -> Fleet:
        fleet = Fleet(self.settings("client", "client"), self._connect)
        fleet.open()
        return fleet

    def close(self) -> None:
        for started, _ in self._running:
            started.stop()
        for _, thread in self._running:
            thread.join(5)
            assert not thread.is_alive(), f"{thread.name} does not end"


@pytest.fixture
def memory(tmp_path: Path) -> Iterator[Memory]:
    fleet = Memory(tmp_path)
    yield fleet
    fleet.close()


def test_a_fleet_over_the_memory_bus(memory: Memory) -> None:
    memory.start("master", "master")
    memory.start("worker", "worker-1")
    memory.start("worker", "worker-2")
    with memory.client() as fleet:
        wait_for(lambda: fleet.get_status_summary()["idle"] == 2)
        assert fleet.check_all_workers_health() == {"worker-1": True, "worker-2": True}
        both = fleet.run_skill("echo", {"text": "hi"}, all=True)
        assert both["state"] == "succeeded" and both["answer"] == "worker-1: hi\nworker-2: hi"
        disk = fleet.run("disk space on worker-2")
        assert [t["worker_id"] for t in disk["tasks"]] == ["worker-2"]
        wait_for(lambda: len([t for t in memory.bus.retained if "/view/task/" in t]) == 3)
    assert b'"online"' in memory.bus.retained["pibot/1/home/view/fleet"]
    memory.close()
    assert b'"offline"' in memory.bus.retained["pibot/1/home/view/fleet"]


@pytest.mark.parametrize(
    "pattern, topic, fits",
    [
        ("a/+/c", "a/b/c", True),
        ("a/+/c", "a/b/d", False),
        ("a/#", "a/b/c", True),
        ("a/#", "a", True),
        ("a/+", "a/b/c", False),
        ("a/b", "a/b", True),
        ("#", "a/b", True),
    ],
)
def test_topic_filters(pattern: str, topic: str, fits: bool) -> None:
    assert matches(pattern, topic) is fits
