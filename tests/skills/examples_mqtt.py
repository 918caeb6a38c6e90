"""The examples of the MQTT skills, against a real Mosquitto."""

from __future__ import annotations

from dataclasses import replace

from pibot.agent.tools import Toolbox
from pibot.permits import Permits
from pibot.skills import mqtt
from skills.a_broker import QUOTED, mosquitto
from skills.stage import Prepared, Stage


def _broker(stage: Stage) -> None:
    port = stage.closing.enter_context(mosquitto(stage.tmp / "broker"))
    stage.args["topic"] = "home/" + stage.args["topic"].partition("/")[2]
    url = f"mqtt://{QUOTED}@127.0.0.1:{port}"
    permits = Permits(mqtt_topics=("home/#",), mqtt_url=url)
    stage.ctx = replace(stage.ctx, permits=permits)


def _retained(stage: Stage) -> None:
    _broker(stage)
    kept = {"topic": "home/kept", "payload": "21.5", "retain": True}
    toolbox = Toolbox([mqtt.mqtt_publish.__skill__])  # type: ignore[attr-defined]
    assert toolbox.call("mqtt_publish", kept, stage.ctx).success
    stage.args.update(topic="home/#", seconds=5, count=1)


PREPARE: Prepared = {"mqtt_publish": _broker, "mqtt_read": _retained}
