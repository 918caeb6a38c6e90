"""A kill at each named point: before and after each commit, before each publish of a task's way.

One goal is under way each time; the process that died starts again, as systemd would start it.
"""

from __future__ import annotations

from typing import Any, Dict, Iterator, Tuple

import pytest

from counted_fleet import client, counting, executions, shown
from deadly import Point
from fleet_processes import WAIT_S, FleetProcesses
from pibot import messages as msg
from pibot.roles.common import new_goal_id

NAMES = ("master", "worker-1")
MASTER_POINTS = [
    ("before", "commit", '"state":"assigned"'),
    ("after", "commit", '"state":"assigned"'),
    ("before", "publish", '"t":"reply"'),
    ("before", "publish", '"t":"assign"'),
    ("before", "commit", '"state":"running"'),
    ("before", "commit", '"state":"succeeded"'),
    ("after", "commit", '"state":"succeeded"'),
    ("before", "publish", '"t":"result_ack"'),
    ("before", "publish", '"t":"event"'),
    ("before", "publish", '"t":"hb_ack"'),
]
WORKER_POINTS = [
    ("before", "commit", "INSERT OR REPLACE INTO held"),
    ("after", "commit", "INSERT OR REPLACE INTO held"),
    ("before", "publish", '"t":"accepted"'),
    ("before", "commit", '"state":"succeeded"'),
    ("after", "commit", '"state":"succeeded"'),
    ("before", "publish", '"t":"result"'),
]
WORKER_START_POINTS = [
    ("before", "commit", "UPDATE meta"),
    ("after", "commit", "UPDATE meta"),
    ("before", "publish", '"t":"hello"'),
    ("before", "publish", '"t":"inventory"'),
]


class Mortals:
    """A master, a worker, their points of death, and a client that lives through all."""

    def __init__(self, fleet: FleetProcesses) -> None:
        self.fleet = fleet
        self.points = {name: Point(fleet.folder / f"point-{name}") for name in NAMES}
        fleet.start_master("master", True, **self.points["master"].mortal())
        fleet.start_worker("worker-1", **counting(fleet), **self.points["worker-1"].mortal())
        fleet.wait_idle(1)
        self.client = client(fleet)

    def rise(self, name: str) -> None:
        """Wait until that process dies at its point, and start it again."""
        died = self.fleet.processes[name]
        self.fleet.wait_for(lambda: not died.alive, what=f"{name} dies at its point")
        assert self.points[name].met
        self.fleet.restart(name)

    def goal_goes_on(self, name: str) -> Tuple[Dict[str, Any], int]:
        """Submit a goal and let the process die; return its only task and how often it ran."""
        submit = msg.Submit(new_goal_id(), skill="work", args={"seconds": 0.4}, follow=True)
        sent = self.client.send(submit)
        self.rise(name)
        assert sent.wait(WAIT_S), "the master never took the goal"
        document = self.client.follow(submit.goal_id)
        assert document["state"] == "succeeded"
        assert shown(self.client, submit.goal_id)["tasks"] == document["tasks"]
        (task,) = document["tasks"]
        return task, executions(self.fleet).count(task["task_id"])


@pytest.fixture(scope="module")
def mortals(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mortals]:
    with FleetProcesses(tmp_path_factory.mktemp("points")) as fleet:
        started = Mortals(fleet)
        with started.client:
            yield started


POINTS = [("master", p) for p in MASTER_POINTS] + [("worker-1", p) for p in WORKER_POINTS]


@pytest.mark.parametrize("name, point", POINTS, ids=lambda p: p if p in NAMES else " ".join(p))
def test_a_kill_there_costs_no_goal_and_makes_no_second_result(
    mortals: Mortals, name: str, point: Any
) -> None:
    mortals.points[name].ask(*point)
    task, runs = mortals.goal_goes_on(name)
    assert task["result"]["success"] is True and 1 <= runs <= task["attempt"] <= 3


@pytest.mark.parametrize("point", WORKER_START_POINTS, ids=" ".join)
def test_a_kill_while_it_starts_costs_no_goal(mortals: Mortals, point: Any) -> None:
    mortals.points["worker-1"].ask(*point)
    mortals.fleet.kill("worker-1")
    mortals.fleet.restart("worker-1")
    task, runs = mortals.goal_goes_on("worker-1")
    assert task["result"]["success"] is True and 1 <= runs <= task["attempt"] <= 3
