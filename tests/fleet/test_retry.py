"""Plans whose tasks hang together, and doing them again: nothing stuck, nothing left behind."""

from __future__ import annotations

import pytest

from fleet.world import World, assigned
from pibot.fleet import events as ev
from pibot.fleet.records import Task

COMPLEX = "read the logs, then write a report"
DIAMOND = (
    {"id": "a", "goal": "one"},
    {"id": "b", "goal": "two", "needs": ["a"]},
    {"id": "c", "goal": "three", "needs": ["a", "b"]},
    {"id": "d", "goal": "four", "needs": ["a", "b", "c"]},
)


@pytest.fixture
def world() -> World:
    world = World()
    world.join("w1")
    world.join("w2")
    return world


def fail(world: World, task_id: str) -> None:
    for _ in range(2):
        task = world.task(task_id)
        world.result(task.assignee, task_id, task.attempt, "failed", "boom")


def all_tasks(world: World) -> "dict[str, Task]":
    return {f.id: f for f in world.stored.values() if isinstance(f, Task)}


def test_after_a_failed_diamond_a_revised_plan_can_succeed(world: World) -> None:
    world.submit(text=COMPLEX)
    world.plan("g1", *DIAMOND)
    fail(world, "g1-1")
    assert [t.needed for t in all_tasks(world).values()] == [False] * 4
    assert world.goal().state == "planning"
    world.plan("g1", {"id": "e", "goal": "otherwise"}, revision=1)
    task = world.task("g1-5")
    world.result(task.assignee, "g1-5", task.attempt, output="done")
    world.feed(ev.Answered("g1", 1, "done otherwise"))
    assert (world.goal().state, world.goal().answer) == ("succeeded", "done otherwise")


def test_a_diamond_that_fails_for_good_leaves_nothing_behind(world: World) -> None:
    world.submit(text=COMPLEX)
    for revision in range(4):
        world.plan("g1", *DIAMOND, revision=revision)
        fail(world, f"g1-{4 * revision + 1}")
    assert world.goal().state == "failed"
    board = world.scheduler.board
    assert (board.tasks, board.goals, board._of_goal) == ({}, {}, {})


def test_each_task_of_a_failed_diamond_is_cancelled_once(world: World) -> None:
    world.submit(text=COMPLEX)
    world.plan("g1", *DIAMOND)
    for _ in range(2):
        task = world.task("g1-1")
        message = (task.assignee, "g1-1", task.attempt, "failed", "boom")
        out = world.result(*message)
    ended = [f.id for f in out.facts if isinstance(f, Task) and f.ended and f.needed]
    assert sorted(ended) == ["g1-1", "g1-2", "g1-3", "g1-4"]


@pytest.mark.parametrize("key, redone", [("g1", 4), ("g1-1", 4), ("g1-2", 4), ("g1-4", 4)])
def test_a_retry_takes_along_what_its_task_needs(world: World, key: str, redone: int) -> None:
    """A task that waits for one that failed would wait until the goal's deadline."""
    world.submit(text=COMPLEX)
    world.plan("g1", *DIAMOND)
    world.feed(ev.CancelWanted("g1-1"))
    world.result(world.task("g1-1").assignee, "g1-1", state="cancelled")
    assert world.goal().state == "cancelled"
    out = world.feed(ev.RetryWanted(key, world.goal(), tuple(all_tasks(world).values())))
    assert len(all_tasks(world)) == 4 + redone and assigned(out)
    for number in range(5, 5 + redone):
        task = world.task(f"g1-{number}")
        world.result(task.assignee, task.id, task.attempt)
    assert isinstance(world.jobs[-1], ev.AnswerJob)


def test_a_retry_leaves_alone_what_it_does_not_need(world: World) -> None:
    world.submit(text=COMPLEX)
    world.plan("g1", {"id": "a", "goal": "one"}, {"id": "b", "goal": "two"})
    world.feed(ev.CancelWanted("g1-1"))
    world.feed(ev.CancelWanted("g1-2"))
    for task_id in ("g1-1", "g1-2"):
        world.result(world.task(task_id).assignee, task_id, state="cancelled")
    tasks = tuple(all_tasks(world).values())
    assert len(assigned(world.feed(ev.RetryWanted("g1-2", world.goal(), tasks)))) == 1


def test_the_deadline_of_a_first_try_does_not_end_the_second() -> None:
    world = World()
    world.submit("g0", skill="echo", timeout_s=50.0)  # its deadline is the next one throughout
    world.submit("g1", skill="echo", timeout_s=100.0)
    world.feed(ev.CancelWanted("g1"))
    world.now += 45.0
    world.feed(ev.RetryWanted("g1", world.goal(), (world.task("g1-1"),)))
    world.tick(60.0)
    assert world.goal("g0").state == "timed_out" and world.goal("g1").state == "running"
    world.tick(45.0)
    assert world.goal("g1").state == "timed_out"


def test_a_name_that_says_goodbye_gets_no_work(world: World) -> None:
    world.feed(ev.Left("w1"))
    world.feed(ev.Left("w2"))
    assert assigned(world.submit(skill="echo")) == []


def test_a_retry_of_what_was_done_when_it_was_stopped_only_gives_the_answer(world: World) -> None:
    """It has one result, for ever: it is neither done again nor written over."""
    world.submit(skill="echo", args={})
    holder = world.task("g1-1").assignee
    world.feed(ev.CancelWanted("g1"))
    world.result(holder, "g1-1", output="faster than the cancel")
    done = world.task("g1-1")
    assert (world.goal().state, done.state) == ("cancelled", "succeeded")
    out = world.feed(ev.RetryWanted("g1", world.goal(), (done,)))
    assert assigned(out) == [] and world.task("g1-1") == done
    assert (world.goal().state, world.goal().answer) == ("succeeded", "faster than the cancel")


def test_what_needs_a_task_that_cannot_even_begin_does_not_wait_for_it(world: World) -> None:
    world.submit(text=COMPLEX)
    world.plan(
        "g1",
        {"id": "a", "goal": "one", "worker": "w9"},
        {"id": "b", "goal": "two", "needs": ["a"]},
        {"id": "c", "goal": "three", "needs": ["b"]},
    )
    assert [world.task(f"g1-{i}").state for i in (1, 2, 3)] == ["failed", "cancelled", "cancelled"]
    assert world.goal().state == "planning", "another plan may do"
