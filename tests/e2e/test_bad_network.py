"""What a network does to a fleet: silence, repetition, disorder, old news, hostile payloads."""

from __future__ import annotations

import json
import signal
import subprocess
from pathlib import Path
from typing import Iterator

import pytest

from counted_fleet import begin, client, counting, executions, shown
from fleet_processes import FleetProcesses
from mqtt_proxy import MqttProxy
from pibot import messages as msg
from pibot.roles.common import new_goal_id

ECHO = ("run", "--skill", "echo", "--args", '{"text": "x"}')


@pytest.fixture
def proxy(fleet: FleetProcesses) -> Iterator[MqttProxy]:
    with MqttProxy(fleet.port) as between:
        yield between


def test_who_is_silent_for_a_lease_loses_the_task_and_the_late_result_is_fenced(
    fleet: FleetProcesses, proxy: MqttProxy
) -> None:
    """One worker is frozen, of another one nothing comes through any more."""
    fleet.start_master()
    fleet.start_worker("worker-1", **counting(fleet))
    fleet.start_worker("worker-2", **counting(fleet, MQTT_PORT=str(proxy.port)))
    fleet.wait_idle(2)
    with client(fleet) as asks:
        goals = [begin(asks, "work", seconds=3) for _ in range(2)]
        fleet.wait_for(lambda: len(executions(fleet)) == 2, what="both execute their task")
        fleet.kill("worker-1", signal.SIGSTOP)
        proxy.blackhole()
        fleet.start_worker("worker-3", **counting(fleet, PIBOT_SLOTS="2"))
        done = [asks.follow(goal_id) for goal_id in goals]
        for (task,) in (d["tasks"] for d in done):
            moved = (task["state"], task["worker_id"], task["attempt"])
            assert moved == ("succeeded", "worker-3", 2)
            assert executions(fleet).count(task["task_id"]) == 2
        fleet.kill("worker-1", signal.SIGCONT)
        proxy.heal()  # both have a result, too, and say so
        fleet.wait_idle(3, 60)
        assert [shown(asks, goal_id) for goal_id in goals] == done


def test_repeated_and_reordered_packets_change_nothing(
    fleet: FleetProcesses, proxy: MqttProxy
) -> None:
    fleet.start_master()
    env = counting(fleet, MQTT_PORT=str(proxy.port), PIBOT_SLOTS="4")
    fleet.start_worker("worker-1", **env)
    fleet.wait_idle(1)
    with client(fleet, proxy.port) as asks:
        proxy.shuffle(0.5)
        submits = [msg.Submit(new_goal_id(), skill="work") for _ in range(12)]
        for sent in [asks.send(submit) for submit in submits]:
            assert sent.wait(30)
        tasks = [asks.follow(submit.goal_id)["tasks"] for submit in submits]
    assert proxy.did["repeated"] > 10 and proxy.did["delayed"] > 10
    for (task,) in tasks:
        assert task["state"] == "succeeded"
        assert 1 <= executions(fleet).count(task["task_id"]) <= task["attempt"]


def test_an_old_will_after_a_new_birth_is_ignored(fleet: FleetProcesses, proxy: MqttProxy) -> None:
    fleet.start_master()
    fleet.start_worker("worker-1", **counting(fleet, MQTT_PORT=str(proxy.port)))
    fleet.wait_idle(1)
    proxy.hold()  # the broker does not learn that the worker's machine is gone
    fleet.kill("worker-1")
    fleet.processes["worker-1"].env["MQTT_PORT"] = str(fleet.port)
    fleet.restart("worker-1")
    spy = ["mosquitto_sub", "-h", "127.0.0.1", "-p", str(fleet.port), "-t", "pibot/1/home/w/+/will"]
    with client(fleet) as asks, subprocess.Popen([*spy, "-C", "1"], stdout=subprocess.PIPE) as seen:
        goal_id = begin(asks, "work", seconds=3)
        fleet.wait_for(lambda: executions(fleet), what="the new start executes the task")
        before = shown(asks, goal_id)["tasks"]
        proxy.release()
        assert b'"t":"will"' in seen.communicate(timeout=10)[0]
        after = asks.follow(goal_id)["tasks"]
    assert after[0]["state"] == "succeeded" and after[0]["attempt"] == before[0]["attempt"]
    assert len(executions(fleet)) == 1


@pytest.mark.parametrize(
    "payload",
    [b"garbage", b"\xff\xfe\x00", b'{"sig":"","kid":"w:worker-1","body":{', b"[" * 50_000],
    ids=["words", "no UTF-8", "cut off", "deep"],
)
def test_a_poison_payload_on_every_topic_is_dropped(
    poisoned: FleetProcesses, payload: bytes
) -> None:
    base = ["mosquitto_pub", "-h", "127.0.0.1", "-p", str(poisoned.port), "-q", "1", "-s", "-t"]
    topics = ["w/worker-1/evt", "w/worker-1/cmd", "w/worker-1/hb", "w/worker-1/prog"]
    topics += ["w/worker-1/will", "m/all", "c/laptop/req", "ask", "w/w/w/w", "view/fleet"]
    for topic in topics:
        subprocess.run([*base, f"pibot/1/home/{topic}"], input=payload, check=True)
    assert poisoned.run(*ECHO).document["state"] == "succeeded"
    assert "Traceback" not in poisoned.logs()


@pytest.fixture(scope="module")
def poisoned(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FleetProcesses]:
    with FleetProcesses(tmp_path_factory.mktemp("poison")) as fleet:
        fleet.start_master()
        fleet.start_worker("worker-1")
        fleet.wait_idle(1)
        yield fleet


def test_every_packet_fits_a_broker_that_takes_little(tmp_path: Path) -> None:
    with FleetProcesses(tmp_path, broker="strict") as fleet:
        fleet.start_broker("max_packet_size 65536", "message_size_limit 65536")
        fleet.start_master()
        fleet.start_worker("worker-1", **counting(fleet))
        fleet.wait_idle(1)
        done = fleet.run("run", "--skill", "work", "--args", '{"size": 1000000}').document
        assert len(done["tasks"][0]["result"]["data"]["text"]) == 1_000_000
        args = json.dumps({"filling": "x" * 100_000})
        assert fleet.run("run", "--skill", "work", "--args", args).document["state"] == "succeeded"


def test_a_result_that_is_too_large_is_refused_where_it_was_made(fleet: FleetProcesses) -> None:
    fleet.start_master()
    fleet.start_worker("worker-1", **counting(fleet))
    fleet.wait_idle(1)
    args = json.dumps({"size": 17 * 1024 * 1024})
    done = fleet.run("run", "--skill", "work", "--args", args, check=1).document
    assert done["state"] == "failed" and "bytes, more than 16,777,216" in done["tasks"][0]["error"]
    assert fleet.run(*ECHO).document["state"] == "succeeded"
