"""A fleet with credentials, what an attacker has of it, and what must hold after each attack.

Nothing that nobody asked for has run; nothing that somebody asked for is lost or false; nobody
died or grew; the fleet goes on.
"""

from __future__ import annotations

import secrets
import signal
from pathlib import Path
from typing import Any, Dict, Iterable, List, Set

from closed_fleet import ClosedFleet
from counted_fleet import client, counting, executions
from fleet_processes import FleetProcesses
from pibot import messages as msg
from pibot.roles.client import Fleet
from pibot.roles.common import new_goal_id
from security.impostor import TOPICS, Impostor
from security.intruder import Intruder
from security.intruder import Message as Heard

GROWTH_KB = 32 * 1024
LOG_BYTES = 200_000
HONEST = ("worker-1", "worker-2")
STOLEN = "worker-3"


class Siege:
    def __init__(self, fleet: ClosedFleet) -> None:
        self.fleet = fleet
        self.goals: Dict[str, str] = {}  # what was asked for, and how it has to end
        self._forgotten: Set[str] = set()

    def __enter__(self) -> "Siege":
        for name in (*HONEST, STOLEN):
            self.fleet.add(name)
        for name in HONEST:
            self.start(name)
        self.fleet.wait_idle(2)
        self.asks: Fleet = client(self.fleet)
        for name in HONEST:
            self.done("work", on=name)
        return self

    def __exit__(self, *_: object) -> None:
        self.asks.close()

    def start(self, name: str) -> None:
        """With room for what an attacker might want it to do, too."""
        env = counting(self.fleet, PIBOT_SLOTS="4", **self.fleet.settings(name))
        self.fleet.start_enrolled(name, env)

    def restart(self, name: str, number: int = signal.SIGTERM) -> List[Heard]:
        """End and start a process; what the broker has heard until all sessions are new."""
        names = HONEST if name == "master" else (name,)
        topics = {TOPICS.worker(one, "evt") for one in names}
        with self.broker() as tap:
            self.fleet.kill(name, number)
            self.fleet.restart(name)
            self.fleet.wait_for(lambda: topics <= _joined(tap), what=f"{name} is back")
        self.fleet.wait_idle(2)
        return tap.heard

    # --- what an attacker may have --------------------------------------------------------------

    def stolen(self, name: str = STOLEN, will: "Heard | None" = None) -> Impostor:
        """All that a stolen worker knows."""
        known = self.fleet.settings(name)
        password, key = known["MQTT_PASSWORD"], known["PIBOT_KEY"]
        return Impostor(self.fleet.port, name, password, key, will=will)

    def broker(self, hears: bool = True) -> Intruder:
        """Who hears all and may say everything, yet has nobody's key: the broker itself."""
        own = self.fleet.master
        tap = Intruder(self.fleet.port, "master", own.password)
        assert tap.code == 0 and (not hears or tap.subscribe("#") == [0])
        return tap

    # --- what the owner does --------------------------------------------------------------------

    def begun(self, skill: str, on: str = "", end: str = "succeeded", **args: Any) -> str:
        """Ask for a task, which has to end like this."""
        goal_id = new_goal_id()
        self.goals[goal_id] = end
        self.asks.ask(msg.Submit(goal_id, skill=skill, args=args, on=on, timeout_s=60.0))
        return goal_id

    def done(self, skill: str, on: str = "", **args: Any) -> str:
        """Do a task; its answer."""
        goal_id = self.begun(skill, on, **args)
        return str(self.asks.follow(goal_id)["answer"])

    def workers(self) -> Dict[str, str]:
        """The state of each worker."""
        rows = self.asks.get_status_summary()["workers"]
        return {row["worker_id"]: row["state"] for row in rows}

    def document(self, goal_id: str) -> Dict[str, Any]:
        return dict(self.asks.ask(msg.Get(goal_id))["document"])

    def holder(self, goal_id: str) -> str:
        """The worker that has accepted a goal's task."""
        tasks = self.document(goal_id)["tasks"]
        return str(tasks[0]["worker_id"]) if tasks and tasks[0]["state"] == "running" else ""

    def running(self, on: str = "", seconds: float = 3.0, end: str = "succeeded") -> str:
        """A task that runs now."""
        goal_id = self.begun("work", on, end, seconds=seconds)
        self.fleet.wait_for(lambda: self.holder(goal_id), what="the task runs")
        return goal_id

    def forget(self, goals: Iterable[str]) -> None:
        """The master has forgotten these, and we do not wait for them any more."""
        for goal_id in goals:
            del self.goals[goal_id]
            self._forgotten.add(goal_id)

    # --- what must hold -------------------------------------------------------------------------

    def begin(self) -> None:
        self.memory = Memory(self.fleet)

    def end(self) -> None:
        self.goes_on()
        self.memory.check()
        for goal_id, end in self.goals.items():
            assert self.asks.follow(goal_id)["state"] == end, goal_id
        assert self.known() <= set(self.goals), "goals that nobody asked for"
        ran = executions(self.fleet)
        asked = set(self.goals) | self._forgotten
        assert {task.rpartition("-")[0] for task in ran} <= asked, "ran unasked"
        for process in self.fleet.processes.values():
            assert process.alive, f"{process.name} died\n{self.fleet.logs()}"
            assert "Traceback" not in process.said(), process.said()
            assert len(process.said()) < LOG_BYTES, process.name

    def goes_on(self) -> None:
        """Everybody works, and says what is true."""
        for name in HONEST:
            token = secrets.token_hex(8)
            assert self.done("echo", name, text=token) == token
            assert self.done("work", name, size=3) == "xxx"

    def known(self) -> Set[str]:
        rows: List[Dict[str, Any]] = self.asks.ask(msg.Listing("tasks"))["goals"]
        return {str(row["goal_id"]) for row in rows}


class Memory:
    """How much more of it each process takes from now on."""

    def __init__(self, fleet: FleetProcesses) -> None:
        self._fleet = fleet
        for process in self._processes().values():
            (process / "clear_refs").write_text("5")  # the highest mark is now the present
        self._before = {name: _kb(one, "VmRSS") for name, one in self._processes().items()}

    def grown(self) -> Dict[str, int]:
        """The most that each has taken more, in KB; of one that was restarted, since then."""
        now = self._processes()
        return {name: _kb(now[name], "VmHWM") - kb for name, kb in self._before.items()}

    def check(self) -> None:
        """None has taken too much."""
        grown = self.grown()
        print(f"grown, in KB: {grown}")
        assert all(kb <= GROWTH_KB for kb in grown.values()), grown

    def _processes(self) -> Dict[str, Path]:
        found = self._fleet.processes.items()
        return {name: Path(f"/proc/{one.popen.pid}") for name, one in found if one.alive}


def _joined(tap: Intruder) -> Set[str]:
    """Where inventories were said."""
    return {topic for topic, payload in list(tap.heard) if b'"t":"inventory"' in payload}


def _kb(process: Path, what: str) -> int:
    lines = (process / "status").read_text("ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(what))
