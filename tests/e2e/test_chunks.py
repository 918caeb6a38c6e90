"""Large messages between real processes: in chunks, and after a reconnect where they were."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Callable, List

import paho.mqtt.client as mqtt
import pytest
from paho.mqtt.enums import CallbackAPIVersion

from counted_fleet import client, counting, executions
from fleet_processes import FleetProcesses
from mqtt_proxy import MqttProxy
from pibot import messages as msg

SIZE = 3_000_000  # comes twice in the result: as data and as output
CHUNKS = 2 * SIZE // 40_000
WINDOW = 16


class Spy:
    """Sees every chunk that a worker sends to the broker."""

    def __init__(self, port: int) -> None:
        self.seen: List[int] = []
        self._client = mqtt.Client(CallbackAPIVersion.VERSION2)
        self._client.reconnect_delay_set(1, 1)
        self._client.on_connect = lambda client, *_: client.subscribe("pibot/1/home/w/+/evt", 1)
        self._client.on_message = self._on_message
        self._client.connect("127.0.0.1", port)
        self._client.loop_start()

    def _on_message(self, _client: Any, _user: Any, message: Any) -> None:
        body = json.loads(message.payload)["body"]
        if body["t"] == "chunk":
            self.seen.append(body["i"])

    def close(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()


def start(fleet: FleetProcesses, **env: str) -> None:
    fleet.start_master()
    fleet.start_worker("worker-1", **counting(fleet, **env))
    fleet.wait_idle(1)


def kill_broker(fleet: FleetProcesses, proxy: MqttProxy) -> None:
    fleet.kill("broker")
    fleet.restart("broker")


@pytest.mark.parametrize(
    "disturb", [lambda fleet, proxy: proxy.cut(), kill_broker], ids=["cut", "broker"]
)
def test_a_large_result_goes_on_after_a_reconnect_where_it_was(
    fleet: FleetProcesses, disturb: Callable[[FleetProcesses, MqttProxy], None]
) -> None:
    with MqttProxy(fleet.port) as proxy:
        start(fleet, MQTT_PORT=str(proxy.port))
        proxy.slow(4e6)
        spy = Spy(fleet.port)
        try:
            args = ["--skill", "work", "--args", json.dumps({"size": SIZE}), "--detach"]
            goal_id = fleet.run("run", *args).document["goal_id"]
            fleet.wait_for(lambda: len(spy.seen) > CHUNKS // 4, what="a quarter of it is sent")
            before = len(spy.seen)
            disturb(fleet, proxy)
            fleet.wait_for(lambda: len(spy.seen) > before + WINDOW, what="it goes on")
            fleet.wait_for(lambda: fleet.counts().get("idle") == 1, what="it is recorded")
        finally:
            spy.close()
        shown = fleet.run("show", goal_id).document["document"]
    (task,) = shown["tasks"]
    assert (task["state"], task["attempt"]) == ("succeeded", 1)
    assert task["result"]["output"] == "x" * SIZE
    assert spy.seen.count(0) == 1, "it did not begin again"
    assert max(spy.seen) >= CHUNKS and len(spy.seen) <= CHUNKS + 4 * WINDOW


def test_every_direction_through_any_broker(tmp_path: Path, any_broker: str) -> None:
    """A request, an assignment, a result and the news of the end, each in chunks."""
    with FleetProcesses(tmp_path, broker=any_broker) as fleet:
        start(fleet)
        filling = "grüße 你好 " * 300_000
        with MqttProxy(fleet.port) as proxy, client(fleet, proxy.port) as asks:
            document = asks.run_skill("work", {"size": 700_000, "filling": filling})
            assert document["tasks"][0]["result"]["output"] == "x" * 700_000
            proxy.slow(1e6)
            shown = asks.ask(msg.Get(document["goal_id"]), timeout_s=1.0)
            assert shown["document"] == document, "slow is not silent: it is waited for"
        assert len(executions(fleet)) == 1
