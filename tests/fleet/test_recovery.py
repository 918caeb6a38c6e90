"""After damage to the journal: what workers name is believed, and only then."""

from __future__ import annotations

from typing import Any, List

import pytest

from fleet.world import World, assigned, hello, sent
from pibot import messages as msg
from pibot.fleet import events as ev
from pibot.fleet import recovery
from pibot.fleet.board import MAX_OPEN_TASKS
from pibot.fleet.goals import GATHER_S, LOST_NUMBERS
from pibot.fleet.records import RECOVERED, Goal, Task
from pibot.fleet.scheduler import Scheduler
from pibot.messages import LEASE_S


@pytest.fixture
def world() -> World:
    """A master that has lost everything."""
    one = World()
    one.scheduler = Scheduler(lambda: 0.5, True, recovers=True)
    one.scheduler.load([], one.now)
    return one


def found(world: World, worker: str, task: str, att: int = 1) -> ev.Out:
    return world.feed(ev.Found(worker, task, att, "2026-01-01T00:00:00+00:00"))


def join(world: World, name: str, *has: "tuple[str, int]") -> ev.Out:
    """As the desk does it: what a worker names is found before it joins."""
    inventory = msg.Inventory([list(pair) for pair in has], [])
    event = ev.Joined(name, hello((name * 16)[:16]), inventory)
    for one in recovery.named(event, ""):
        found(world, one.worker, one.task, one.att)
    return world.feed(event)


def test_an_attempt_that_is_found_goes_on_and_its_result_is_recorded(world: World) -> None:
    out = join(world, "w1", ("g1-1", 3))
    assert sent(out, msg.Cancel) == []
    task = world.task("g1-1")
    assert (task.state, task.attempt, task.assignee) == ("running", 3, "w1")
    assert (world.goal().state, world.goal().text) == ("running", RECOVERED)
    out = world.result("w1", "g1-1", 3, output="42")
    assert sent(out, msg.ResultAck) == [("w1", msg.ResultAck("g1-1", 3, "succeeded"))]
    assert world.goal().state == "running", "another worker may name more of this goal"
    world.tick(GATHER_S)
    assert (world.goal().state, world.goal().answer) == ("succeeded", "42")


def test_what_several_workers_have_of_a_goal_is_answered_together(world: World) -> None:
    join(world, "w1", ("g1-1", 1))
    world.result("w1", "g1-1", output="one")
    world.tick(GATHER_S - 1)
    world.beat("w1")
    join(world, "w2", ("g1-2", 1))
    world.tick(2)
    assert world.goal().state == "running"
    world.result("w2", "g1-2", output="two")
    assert (world.goal().state, world.goal().answer) == ("succeeded", "w1: one\nw2: two")


@pytest.mark.parametrize("name", ["abc", "-1", "", "a b-1", "x" * 200 + "-1"])
def test_what_cannot_be_a_task_is_not_believed(world: World, name: str) -> None:
    """It would be a goal that no command can show or cancel."""
    join(world, "w1", (name, 1))
    done = ev.AttemptEnded("w1", msg.Result(name, 1, "succeeded", {}, None))
    assert recovery.named(done, "") == []
    assert not world.scheduler.board.goals and not world.scheduler.board.tasks


def test_no_more_is_believed_than_may_be_open(world: World) -> None:
    for i in range(MAX_OPEN_TASKS):
        world.scheduler.board.apply(Task(f"t{i}", "g0", state="blocked"))
    out = join(world, "w1", ("g1-1", 1))
    assert sent(out, msg.Cancel) == [("w1", msg.Cancel("g1-1", 1))]
    assert "g1-1" not in world.scheduler.board.tasks


def test_a_worker_that_dies_with_it_ends_it(world: World) -> None:
    """Nobody knows what it was, so nobody else can do it."""
    join(world, "w1", ("g1-1", 1))
    join(world, "w2")
    world.tick(LEASE_S + 1)
    task = world.task("g1-1")
    assert (task.state, task.error) == ("failed", "w1 is offline (1 losses)")
    assert world.goal().state == "failed" and not assigned(world.tick(1))


def test_a_worker_that_stopped_it_ends_it(world: World) -> None:
    join(world, "w1", ("g1-1", 1))
    out = world.feed(ev.AttemptDeclined("w1", "g1-1", 1, "stopped"))
    assert world.task("g1-1").state == "failed" and assigned(out) == []


def test_it_can_be_cancelled(world: World) -> None:
    join(world, "w1", ("g1-1", 1))
    out = world.feed(ev.CancelWanted("g1"))
    assert sent(out, msg.Cancel) == [("w1", msg.Cancel("g1-1", 1))]
    world.result("w1", "g1-1", state="cancelled", output="cancelled")
    assert (world.goal().state, world.task("g1-1").state) == ("cancelled", "cancelled")


def test_it_survives_another_restart(world: World) -> None:
    join(world, "w1", ("g1-1", 1))
    world.result("w1", "g1-1", output="one")
    world.restart()
    world.join("w1")
    world.tick(1)
    assert (world.goal().state, world.goal().answer) == ("succeeded", "one")


def test_a_task_of_a_goal_that_is_known_joins_it(world: World) -> None:
    """Of a goal and two tasks one task's page was lost."""
    kept = Task("g1-2", "g1", skill="echo", state="running", attempt=1, assignee="w2")
    goal = Goal("g1", text="words", state="running", route="direct", all=True)
    world.scheduler = Scheduler(lambda: 0.5, True, recovers=True)
    world._keep(ev.Out(facts=[kept, goal]))
    world.scheduler.load([kept, goal], world.now)
    world.join("w2", [("g1-2", 1)])
    world.result("w2", "g1-2", output="two")
    join(world, "w1", ("g1-1", 1))
    world.result("w1", "g1-1", output="one")
    world.tick(GATHER_S)
    assert (world.goal().state, world.goal().text) == ("succeeded", "words")
    assert world.goal().answer == "w2: two\nw1: one"


def test_a_goal_whose_tasks_are_lost_does_not_wait_for_its_timeout() -> None:
    world = World()
    world.scheduler = Scheduler(lambda: 0.5, True, recovers=True)
    blocked = Task("g2-2", "g2", name="b", needs=("g2-1",), state="blocked")
    direct = Goal("g1", skill="echo", state="running", route="direct")
    planned = Goal("g2", text="x", state="running", route="plan")
    world._keep(world.scheduler.load([direct, blocked, planned], world.now))
    world.tick(GATHER_S - 1)
    assert {g.state for g in world.scheduler.board.goals.values()} == {"running"}
    out = world.tick(1)
    assert world.goal("g1").state == "failed" and "retry it" in (world.goal("g1").error or "")
    assert "g2-1, which was lost" in (world.task("g2-2").error or "")
    assert world.goal("g2").state == "planning" and len(out.jobs) == 1


def test_a_goal_that_was_begun_again_does_not_take_its_old_tasks(world: World) -> None:
    """Its client has submitted it again; an old result may be that of another plan."""
    world.join("w1")
    out = world.submit(skill="echo")
    (started,) = assigned(out)
    assert started[1] == f"g1-{LOST_NUMBERS + 1}"
    out = join(world, "w2", ("g1-1", 1))
    assert sent(out, msg.Cancel) == [("w2", msg.Cancel("g1-1", 1))]
    assert ("Task", "g1-1") not in world.stored


def test_what_is_known_is_not_found(world: World) -> None:
    world.join("w1")
    world.submit(skill="echo")
    task = f"g1-{LOST_NUMBERS + 1}"
    world.result("w1", task)
    assert found(world, "w1", task, 2).facts == []
    assert found(world, "w2", task, 1).facts == []
    assert world.task(task).state == "succeeded"


def test_new_tasks_never_take_a_number_that_is_in_use() -> None:
    """A retry of a goal of which tasks are missing."""
    world = World()
    world.join("w1")
    goal = Goal("g1", skill="echo", state="failed", route="direct")
    old = Task("g1-3", "g1", skill="echo", state="failed")
    out = world.feed(ev.RetryWanted("g1", goal, (old,)))
    assert [t for _, t, _ in assigned(out)] == ["g1-4"]


@pytest.mark.parametrize(
    ("event", "tasks"),
    [
        (ev.Joined("w", hello(), msg.Inventory([["g1-1", 1]], [["g2-1", 2]])), ["g1-1", "g2-1"]),
        (ev.Beat("w", msg.Heartbeat([["g1-1", 1]])), ["g1-1"]),
        (ev.Beat("w", msg.Heartbeat([["../x", 1], ["G-1", 1], ["x" * 99, 1]])), []),
        (ev.AttemptEnded("w", msg.Result("g1-1", 2, "failed", {})), ["g1-1"]),
        (ev.AttemptAccepted("w", "g1-1", 1), []),
        (ev.Tick(), []),
    ],
)
def test_what_events_name(event: Any, tasks: List[str]) -> None:
    assert [f.task for f in recovery.named(event, "")] == tasks


def test_believing_has_an_end() -> None:
    sound, damaged = recovery.Recovery(5.0, 0.0), recovery.Recovery(5.0, 100.0)
    assert not sound.is_on(5.0) and not sound.gathers(5.0)
    assert damaged.is_on(104.0) and not damaged.is_on(105.0)
    assert damaged.gathers(5.0) and not damaged.gathers(5.0 + GATHER_S)
