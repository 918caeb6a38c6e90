"""Clocks that are wrong by years: they only matter to certificates, which are tried again."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Dict

import pytest

from counted_fleet import begin, client, counting, executions, shown
from fleet_processes import FAKETIME, FleetProcesses


def clock(offset: str) -> Dict[str, str]:
    """Environment of a process whose wall clock is off; the monotonic one is not."""
    return {"LD_PRELOAD": str(FAKETIME), "FAKETIME": offset, "DONT_FAKE_MONOTONIC": "1"}


@pytest.fixture(autouse=True)
def _faketime() -> None:
    if FAKETIME is None:
        pytest.skip("no libfaketime to set a process's clock with")


def test_clocks_ten_years_off_change_nothing(fleet: FleetProcesses) -> None:
    new = {"SHIV_ROOT": str(fleet.folder / "shiv")}  # it unpacks itself with that clock, too
    fleet.start_master("master", True, **clock("+10y"), **new)
    fleet.start_worker("worker-1", **counting(fleet), **clock("-10y"))
    fleet.wait_idle(1)
    with client(fleet) as asks:
        first = asks.run_skill("work", {"seconds": 0.2})
        goal_id = begin(asks, "work", seconds=1.5)
        fleet.wait_for(lambda: len(executions(fleet)) == 2, what="the second task runs")
        fleet.kill("master")
        fleet.processes["master"].env.update(clock("-10y"))
        fleet.restart("master")
        done = asks.follow(goal_id)
        assert (done["state"], done["tasks"][0]["attempt"]) == ("succeeded", 1)
        assert shown(asks, first["goal_id"])["tasks"] == first["tasks"]
    assert len(executions(fleet)) == 2


def certificates(folder: Path) -> None:
    """An authority and a broker's certificate, good from today."""
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"]
    command += ["-nodes", "-days", "30", "-subj", "/CN=127.0.0.1"]
    command += ["-addext", "subjectAltName=IP:127.0.0.1"]
    command += ["-keyout", str(folder / "key.pem"), "-out", str(folder / "cert.pem")]
    subprocess.run(command, check=True, capture_output=True)


def test_tls_is_tried_again_until_the_clock_is_right(tmp_path: Path) -> None:
    certificates(tmp_path)
    with FleetProcesses(tmp_path, broker="tls") as fleet:
        files = f"certfile {tmp_path / 'cert.pem'}", f"keyfile {tmp_path / 'key.pem'}"
        fleet.start_broker(*files)
        fleet.env["MQTT_CA_FILE"] = str(tmp_path / "cert.pem")
        fleet.start_master()
        setting = tmp_path / "clock"
        setting.write_text("-10y\n")
        wrong = {"LD_PRELOAD": str(FAKETIME), "DONT_FAKE_MONOTONIC": "1", "FAKETIME_NO_CACHE": "1"}
        worker = fleet.start_worker("worker-1", FAKETIME_TIMESTAMP_FILE=str(setting), **wrong)
        why = "not valid yet: this machine's clock is wrong"
        fleet.wait_for(lambda: why in worker.said(), what="the worker says why")
        setting.write_text("+0\n")
        fleet.wait_idle(1)
        done = fleet.run("run", "--skill", "echo", "--args", '{"text": "x"}').document
        assert (done["answer"], done["tasks"][0]["attempt"]) == ("x", 1)
        assert worker.alive, "the same process went on"
        assert worker.said().count(why) == 1, "however often it tried"
