"""A broker that takes connections and passes nothing on: each role makes another connection."""

from __future__ import annotations

import threading
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Dict, Iterator, List

import pytest

from fleet_processes import free_port, wait_for
from odd_broker import OddBroker
from pibot import config, session
from pibot.errors import Unreachable
from pibot.roles import client, master
from pibot.roles.client import Fleet
from pibot.roles.master import Master
from pibot.roles.worker import Worker


@pytest.fixture
def broker(monkeypatch: pytest.MonkeyPatch) -> Iterator[OddBroker]:
    monkeypatch.setattr(session, "PATIENCE_S", 0.3)
    with OddBroker() as odd:
        yield odd


def settings(role: str, folder: Path, broker: OddBroker) -> config.Settings:
    environ: Dict[str, str] = {
        "PIBOT_STATE_DIR": str(folder),
        "PIBOT_HEALTH_PORT": str(free_port()),
        "PIBOT_HEALTH_HOST": "127.0.0.1",
        "MQTT_HOST": "127.0.0.1",
        "MQTT_PORT": str(broker.port),
        "WORKER_ID": "worker-1",
    }
    return config.load(role, {}, environ, None, folder / "pibot.pyz")


@contextmanager
def running(role: Any) -> Iterator[None]:
    thread = threading.Thread(target=role.run)
    thread.start()
    try:
        yield
    finally:
        role.stop()
        thread.join(10)
        assert not thread.is_alive()


def ids(broker: OddBroker) -> List[bytes]:
    return [name for _, name in list(broker.connects)]


def test_a_worker_whom_nobody_answers_connects_anew(tmp_path: Path, broker: OddBroker) -> None:
    worker = Worker(settings("worker", tmp_path, broker))
    with running(worker):
        wait_for(lambda: len(broker.connects) == 3, what="two more connections")
    assert len(set(ids(broker))) == 3 and len(broker.of_kind(14)) >= 2


def test_a_master_whose_own_word_does_not_come_back_connects_anew(
    tmp_path: Path, broker: OddBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(master, "QUIET_S", 0.1)
    monkeypatch.setattr(master, "DEGRADED_S", 0.5)
    one = Master(settings("master", tmp_path, broker))
    with running(one):
        wait_for(lambda: len(broker.connects) == 3, what="two more connections")
        assert sum(b"announce" in body for body in broker.of_kind(3)) >= 3
        wait_for(lambda: one._health()[0] == 503, what="/health says so")
        counts = {"total": 0, "idle": 0, "busy": 0, "offline": 0}
        assert one._health()[1] == {"status": "degraded", "role": "master", "workers": counts}
    assert len(set(ids(broker))) == 3


def test_a_client_whom_nobody_answers_connects_anew(
    tmp_path: Path, broker: OddBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "CONNECT_S", 2.0)
    fleet = Fleet(settings("client", tmp_path, broker))
    with pytest.raises(Unreachable, match="no master of the fleet 'home' answers"):
        fleet.open()
    fleet.close()
    assert len(set(ids(broker))) >= 2
