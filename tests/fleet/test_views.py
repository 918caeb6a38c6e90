"""The retained views: what is published, how often, and what is never in them."""

from __future__ import annotations

import json
from typing import Any, Dict, List

import pytest

from fleet.world import hello
from pibot.fleet.pool import Pool
from pibot.fleet.records import Task
from pibot.fleet.views import AGAIN_S, AT_ONCE, EVERY_S, KEEP_S, Views, offline
from pibot.topics import Topics
from pibot.wire import Packet

TOPICS = Topics("home")
TASK = Task("g1-1", "g1", text="a secret goal", result={"output": "secret"}, state="running")


def views() -> Views:
    return Views(TOPICS, "home", 7)


def pool(*names: str) -> Pool:
    one = Pool()
    for name in names:
        one.take(name, hello((name * 16)[:16], host=name), 0.0)
    return one


def shown(packets: List[Packet]) -> Dict[str, Any]:
    assert all(p.retain and p.qos == 0 for p in packets)
    start = len(TOPICS.root) + len("view/")
    return {p.topic[start:]: json.loads(p.payload) if p.payload else None for p in packets}


def test_the_fleet_and_each_worker() -> None:
    found = shown(views().packets(pool("w1", "w2"), 10.0))
    assert set(found) == {"fleet", "worker/w1", "worker/w2"}
    assert found["fleet"] == {
        "fleet": "home",
        "state": "online",
        "epoch": 7,
        "alarms": [],
        "total": 2,
        "idle": 2,
        "busy": 0,
        "offline": 0,
    }
    assert found["worker/w1"]["state"] == "idle" and "skills" not in found["worker/w1"]


def test_only_what_has_changed_and_twice_a_second_at_most() -> None:
    one, workers = views(), pool("w1")
    one.packets(workers, 10.0)
    workers.left("w1")
    assert one.packets(workers, 10.0 + EVERY_S - 0.01) == []
    assert set(shown(one.packets(workers, 10.0 + EVERY_S))) == {"fleet", "worker/w1"}
    assert one.packets(workers, 20.0) == []
    one.reconnected()
    assert set(shown(one.packets(workers, 30.0))) == {"fleet", "worker/w1"}


def test_a_worker_that_is_gone_is_cleared_once_and_again_after_a_reconnect() -> None:
    one, workers = views(), pool("w1", "w2")
    one.packets(workers, 10.0)
    workers.stand("w1", "removed")
    found = shown(one.packets(workers, 11.0))
    assert found["worker/w1"] is None and found["fleet"]["total"] == 1
    assert one.packets(workers, 12.0) == []
    one.reconnected()
    assert shown(one.packets(workers, 13.0))["worker/w1"] is None
    workers.stand("w1", "")
    workers.take("w1", hello("b" * 16), 14.0)
    assert shown(one.packets(workers, 14.0))["worker/w1"]["state"] == "idle"


def test_a_task_without_its_goal_text_and_result_newest_state_only() -> None:
    one = views()
    for state in ("queued", "assigned", "running"):
        one.changed(Task(**{**TASK.__dict__, "state": state, "assignee": "w1", "attempt": 1}))
    packets = one.packets(pool(), 10.0)
    assert shown(packets)["task/g1-1"] == {
        "task_id": "g1-1",
        "goal_id": "g1",
        "state": "running",
        "worker_id": "w1",
        "attempt": 1,
    }
    assert b"secret" not in b"".join(p.payload for p in packets)
    assert one.packets(pool(), 11.0) == []


@pytest.mark.parametrize("before", [False, True])
def test_an_ended_task_is_cleared_after_ten_minutes(before: bool) -> None:
    one = views()
    if before:
        one.ended_before(["g1-1"], 10.0)
    else:
        one.changed(Task(**{**TASK.__dict__, "state": "failed"}))
    one.packets(pool(), 10.0)
    assert "task/g1-1" not in shown(one.packets(pool(), 10.0 + KEEP_S - 1))
    assert shown(one.packets(pool(), 10.0 + KEEP_S + 1))["task/g1-1"] is None
    assert "task/g1-1" not in shown(one.packets(pool(), 10.0 + 2 * KEEP_S))


def test_a_burst_is_shown_in_portions_and_forgotten() -> None:
    one, now, seen = views(), 10.0, 0
    for i in range(3 * AT_ONCE):
        one.changed(Task(f"g{i}-1", f"g{i}", state="succeeded"))
    while True:
        tasks = [k for k in shown(one.packets(pool(), now)) if k.startswith("task/")]
        if not tasks:
            break
        more = seen + len(tasks) < 3 * AT_ONCE
        assert len(tasks) <= AT_ONCE and (not more or one.wake_at() <= now + EVERY_S)
        seen, now = seen + len(tasks), now + EVERY_S
    assert seen == 3 * AT_ONCE


def test_the_will() -> None:
    assert json.loads(offline("home")) == {"fleet": "home", "state": "offline"}


def test_the_fleet_is_shown_again_now_and_then() -> None:
    """An old master's will may arrive late and say that the fleet is offline."""
    one = views()
    assert "fleet" in shown(one.packets(pool(), 10.0))
    assert "fleet" not in shown(one.packets(pool(), 20.0))
    assert "fleet" in shown(one.packets(pool(), 10.0 + AGAIN_S))
