"""A fleet whose skills count their executions, and a client in this process that asks it.

counting(fleet)             environment of a worker with the skills of counted_skills/
executions(fleet)           the task of each execution so far
with client(fleet) as asks: a client of the fleet, through another port if need be
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Dict, List

from fleet_processes import FleetProcesses
from pibot import config
from pibot import messages as msg
from pibot.roles.client import Fleet
from pibot.roles.common import new_goal_id

SKILLS = Path(__file__).with_name("counted_skills")


def counting(fleet: FleetProcesses, **env: str) -> Dict[str, str]:
    return {"PIBOT_SKILLS_DIR": str(SKILLS), "COUNTED": str(fleet.folder / "executions"), **env}


def executions(fleet: FleetProcesses) -> List[str]:
    file = fleet.folder / "executions"
    lines = file.read_text("ascii").splitlines() if file.exists() else []
    return [line.partition(":")[0] for line in lines]


def client(fleet: FleetProcesses, port: int = 0) -> Fleet:
    """Connected; the caller closes it."""
    environ = {**fleet.env, "MQTT_HOST": "127.0.0.1"}
    if port:
        environ["MQTT_PORT"] = str(port)
    nothing = Path(fleet._no_settings())
    return Fleet.connect(config.load("client", {}, environ, nothing, Path("pibot.pyz")))


def begin(asks: Fleet, skill: str, **args: Any) -> str:
    """Submit a task, and wait until it is acknowledged; its goal's id."""
    goal_id = new_goal_id()
    asks.ask(msg.Submit(goal_id, skill=skill, args=args))
    return goal_id


def shown(asks: Fleet, goal_id: str) -> Dict[str, Any]:
    """The document of a goal, as the master has it now."""
    return dict(asks.ask(msg.Get(goal_id))["document"])
