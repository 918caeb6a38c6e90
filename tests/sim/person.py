"""A person of the simulation, who looks now and then whether anything waits for a decision."""

from __future__ import annotations

from typing import TYPE_CHECKING, Set, Tuple

from pibot import messages as msg
from sim.clock import chance_of

if TYPE_CHECKING:
    from sim.world import World

LOOK_S = 4.0


class Person:
    """`yes` are the attempts that it has ever allowed something: nothing else may happen."""

    def __init__(self, world: "World") -> None:
        self._world, self._chance = world, chance_of(world.seed, "person")
        self.yes: Set[Tuple[str, int]] = set()

    def look(self) -> None:
        """See what the master lists, and decide about some of it, through any client."""
        master, chance = self._world.master, self._chance
        asks = master.desk._clients._waiting() if master.alive and not master._mending else []
        for ask in asks:
            if chance.random() < 0.4:
                self._decide(ask["task_id"], ask["attempt"], ask["step"], chance.random() < 0.8)
        self._world.loop.after(LOOK_S, self.look)

    def _decide(self, task: str, att: int, step: int, allow: bool) -> None:
        goal = task.rpartition("-")[0]
        if allow:
            self.yes.add((task, att))
        else:
            self._world.witness.wanted[goal] |= {"failed"}
        self._chance.choice(self._world.clients).ask(msg.Approve(task, att, step, allow))
