"""A master with a password and a broker of its own: it lets in whom the master knows."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from fleet_processes import FleetProcesses, wait_for
from mqtt_party import Party
from pibot.identities import Identities
from pibot.values import read_env_file

OUT_S = 2.0
needs_amqtt = pytest.mark.skipif(sys.version_info < (3, 10), reason="amqtt needs Python 3.10")


@pytest.mark.parametrize("broker", [pytest.param("embedded", marks=needs_amqtt), "mosquitto"])
def test_from_the_first_worker_to_its_end(broker: str, tmp_path: Path) -> None:
    made = Identities()
    own, laptop = made.add("m", "master"), made.add("c", "laptop")
    made.save(tmp_path / "master" / "state" / "master" / "identities.json")
    with FleetProcesses(tmp_path, broker="amqtt") as fleet:
        fleet.env.update(
            MQTT_USERNAME="laptop", MQTT_PASSWORD=laptop.password, PIBOT_KEY=laptop.key
        )
        more = without_amqtt(tmp_path) if broker == "mosquitto" else {}
        credentials = {"MQTT_PASSWORD": own.password, "PIBOT_KEY": own.key}
        master = fleet.start_master(MQTT_USERNAME="master", **credentials, **more)
        assert broker in master.said()
        assert not Party(fleet.port, "laptop", "wrong").is_in
        fleet.run("workers", "add", "worker-1", "--host", "127.0.0.1")
        found = read_env_file(tmp_path / "worker-1.env")
        worker = fleet.start_worker("worker-1", **{k: v.text for k, v in found.items()})
        fleet.wait_idle(1)
        fleet.run("workers", "remove", "worker-1")
        wait_for(lambda: "refused the user name or password" in worker.said(), OUT_S)


def without_amqtt(folder: Path) -> "dict[str, str]":
    """An installation that lacks amqtt, as on Python 3.9."""
    (folder / "site").mkdir()
    (folder / "site" / "sitecustomize.py").write_text('import sys; sys.modules["amqtt"] = None\n')
    return {"PYTHONPATH": str(folder / "site")}
