"""Drained, resumed, removed and forgotten workers: who gets tasks, and what becomes of theirs."""

from __future__ import annotations

import random
from typing import Any, List

import pytest

from fleet.world import World, assigned, sent
from pibot import messages as msg
from pibot.fleet import events as ev
from pibot.fleet.records import DRAINING, FORGOTTEN, REMOVED, Attempt, Standing
from pibot.messages import LEASE_S

COMPLEX = "read the logs, then write a report"


@pytest.fixture
def world() -> World:
    world = World()
    world.join("w1")
    world.join("w2")
    return world


def echo(world: World, goal_id: str = "g1", **fields: Any) -> ev.Out:
    return world.submit(goal_id, skill="echo", args={"text": "x"}, **fields)


def state(world: World, name: str) -> str:
    return world.scheduler.pool.workers[name].state


# --- drain and resume -----------------------------------------------------------------------------


def test_a_draining_worker_finishes_what_runs_and_gets_nothing_new(world: World) -> None:
    assert assigned(echo(world, "g1")) == [("w1", "g1-1", 1)]
    world.stand("w1", DRAINING)
    assert state(world, "w1") == "draining"
    assert assigned(echo(world, "g2")) == [("w2", "g2-1", 1)]
    assert assigned(world.result("w1", "g1-1")) == []
    assert world.goal("g1").state == "succeeded"
    assert assigned(echo(world, "g3")) == []
    assert assigned(world.stand("w1", "")) == [("w1", "g3-1", 1)]


def test_what_only_the_drained_worker_may_do_waits_until_it_is_resumed(world: World) -> None:
    world.stand("w1", DRAINING)
    assert assigned(echo(world, on="w1")) == []
    world.tick(100.0)
    world.join("w1")
    assert world.task("g1-1").state == "queued"
    assert assigned(world.stand("w1", "")) == [("w1", "g1-1", 1)]


def test_draining_survives_a_restart_of_the_worker_and_of_the_master(world: World) -> None:
    world.stand("w1", DRAINING)
    world.join("w1", start="b" * 16, inc=2)
    assert state(world, "w1") == "draining"
    world.restart()
    assert state(world, "w1") == "offline" and world.scheduler.pool.workers["w1"].draining
    world.join("w1", start="c" * 16, inc=3)
    assert state(world, "w1") == "draining" and assigned(echo(world)) == []
    world.stand("w1", "")
    world.restart()
    world.join("w1", start="c" * 16, inc=3)
    assert state(world, "w1") == "busy"


def test_a_task_that_ran_on_a_drained_worker_over_a_restart_goes_on_there(world: World) -> None:
    echo(world)
    world.stand("w1", DRAINING)
    world.restart()
    world.join("w1", running=[("g1-1", 1)])
    assert world.task("g1-1").state == "running"
    world.result("w1", "g1-1")
    assert world.goal().state == "succeeded"


def test_a_drained_worker_that_dies_loses_its_task_to_others(world: World) -> None:
    echo(world)
    world.stand("w1", DRAINING)
    world.beat("w2")
    world.now += LEASE_S - 1
    world.beat("w2")
    assert assigned(world.tick(2.0)) == [("w2", "g1-1", 2)]


def test_a_failed_task_is_not_kept_for_a_drained_worker(world: World) -> None:
    """The only other worker takes nothing: so the one that failed may try again."""
    world.stand("w2", DRAINING)
    world.submit(text=COMPLEX)
    world.plan("g1", {"id": "a", "goal": "one"})
    assert assigned(world.result("w1", "g1-1", 1, "failed", "boom")) == [("w1", "g1-1", 2)]


def test_all_has_a_row_for_the_drained_worker(world: World) -> None:
    world.stand("w1", DRAINING)
    assert assigned(echo(world, all=True)) == [("w2", "g1-2", 1)]
    world.result("w2", "g1-2")
    assert (world.task("g1-1").state, world.task("g1-1").error) == ("failed", "w1 is draining")
    assert world.goal().state == "failed"


def test_a_plan_for_all_leaves_the_drained_worker_out(world: World) -> None:
    world.stand("w1", DRAINING)
    world.submit(text=COMPLEX)
    assert assigned(world.plan("g1", {"id": "a", "goal": "one", "all": True})) == [
        ("w2", "g1-1", 1)
    ]


def test_what_is_decided_twice_is_stored_once(world: World) -> None:
    assert world.stand("w1", DRAINING).facts == [Standing("w1", DRAINING)]
    assert world.stand("w1", DRAINING).facts == []
    assert world.stand("w1", "").facts == [Standing("w1", "")]
    assert world.stand("w1", "").facts == []


# --- remove ---------------------------------------------------------------------------------------


def test_a_removed_worker_is_told_and_its_tasks_go_to_others_at_once(world: World) -> None:
    echo(world)
    out = world.stand("w1", REMOVED)
    assert [(w, r.reason, r.to) for w, r in sent(out, msg.Refusal)] == [("w1", REMOVED, "f" * 16)]
    assert assigned(out) == [("w2", "g1-1", 2)]
    lost = [f for f in out.facts if isinstance(f, Attempt)]
    assert [(a.worker, a.error) for a in lost] == [("w1", "w1 was removed from the fleet")]
    assert list(world.scheduler.pool.workers) == ["w2"]


@pytest.mark.parametrize("task_state", ["queued", "running"])
@pytest.mark.parametrize("gone", [REMOVED, FORGOTTEN])
def test_what_only_the_removed_worker_may_do_has_failed(
    world: World, task_state: str, gone: str
) -> None:
    if task_state == "queued":
        world.stand("w1", DRAINING)
    echo(world, on="w1")
    world.stand("w1", gone)
    assert world.goal().state == "failed"
    assert world.goal().error == "w1 was removed from the fleet"
    assert "w1 was removed" in (world.goal().answer or "")


@pytest.mark.parametrize("on_lost, ends", [("rerun", ""), ("wait", "failed"), ("fail", "failed")])
def test_a_removal_is_a_loss_as_the_task_has_it(world: World, on_lost: str, ends: str) -> None:
    world.submit(text=COMPLEX)
    world.plan("g1", {"id": "a", "goal": "one", "on_lost": on_lost})
    out = world.stand("w1", REMOVED)
    assert assigned(out) == ([] if ends else [("w2", "g1-1", 2)])
    if ends:
        assert world.task("g1-1").state == ends
        assert world.goal().state == "planning", "the plan is revised"
        assert isinstance(world.jobs[-1], ev.PlanJob)


def test_a_row_of_all_fails_with_its_worker_and_the_others_go_on(world: World) -> None:
    echo(world, all=True)
    world.stand("w1", REMOVED)
    assert world.goal().state == "running"
    world.result("w2", "g1-2")
    assert world.goal().state == "failed" and "w1 was removed" in (world.goal().error or "")
    out = echo(world, "g2", all=True)
    assert assigned(out) == [("w2", "g2-1", 1)]


def test_a_blocked_task_of_a_removed_worker_fails_before_its_turn(world: World) -> None:
    world.submit(text=COMPLEX)
    world.plan(
        "g1",
        {"id": "a", "goal": "one", "worker": "w2"},
        {"id": "b", "goal": "two", "worker": "w1", "needs": ["a"]},
        {"id": "c", "goal": "three", "needs": ["b"]},
    )
    world.stand("w1", REMOVED)
    assert [world.task(f"g1-{i}").state for i in (1, 2, 3)] == ["assigned", "failed", "cancelled"]
    world.result("w2", "g1-1")
    assert world.goal().state == "planning"


def test_a_cancelled_task_of_a_removed_worker_is_cancelled(world: World) -> None:
    echo(world)
    world.feed(ev.CancelWanted("g1"))
    world.stand("w1", REMOVED)
    assert world.task("g1-1").state == "cancelled"


def test_a_plan_that_still_names_a_removed_worker_fails_there_and_is_revised(world: World) -> None:
    world.submit(text=COMPLEX)
    world.stand("w1", REMOVED)
    world.plan("g1", {"id": "a", "goal": "one", "worker": "w1"})
    assert world.task("g1-1").error == "w1 is not in the fleet"
    assert (world.goal().state, world.goal().revision) == ("planning", 1)
    assert assigned(world.plan("g1", {"id": "a", "goal": "one"}, revision=1)) == [("w2", "g1-2", 1)]


def test_a_goal_for_a_removed_worker_is_refused_when_it_is_done_again(world: World) -> None:
    echo(world, on="w1")
    world.stand("w1", REMOVED)
    task = world.task("g1-1")
    world.feed(ev.RetryWanted("g1", world.goal(), (task,)))
    assert (world.goal().state, world.goal().error) == ("failed", "w1 is not in the fleet")


def test_the_last_worker_may_go(world: World) -> None:
    world.stand("w2", REMOVED)
    echo(world)
    world.stand("w1", REMOVED)
    assert world.task("g1-1").state == "queued"
    assert assigned(world.join("w3")) == [("w3", "g1-1", 2)]


def test_removed_stays_removed_over_a_restart(world: World) -> None:
    echo(world)
    world.stand("w1", REMOVED)
    world.restart()
    pool = world.scheduler.pool
    assert list(pool.workers) == ["w2"]
    refused = pool.refuse("w1", msg.Hello("1" * 16, "s"), world.now)
    assert refused is not None and refused[0] == REMOVED and "workers add w1" in refused[1]


def test_what_was_removed_and_added_again_starts_from_nothing(world: World) -> None:
    world.stand("w1", DRAINING)
    world.stand("w1", REMOVED)
    assert world.stand("w1", FORGOTTEN).facts == [Standing("w1", FORGOTTEN)]
    world.restart()
    assert "w1" not in world.scheduler.pool.workers
    assert world.scheduler.pool.refuse("w1", msg.Hello("1" * 16, "s"), world.now) is None
    world.join("w1", start="b" * 16)
    assert state(world, "w1") == "idle" and world.scheduler.pool.gone == {}
    world.restart()
    assert sorted(world.scheduler.pool.workers) == ["w1", "w2"]


def test_old_work_of_a_worker_that_is_back_is_stopped_and_acknowledged(world: World) -> None:
    echo(world)
    world.stand("w1", REMOVED)
    world.stand("w1", FORGOTTEN)
    out = world.join("w1", running=[("g1-1", 1)])
    assert sent(out, msg.Cancel) == [("w1", msg.Cancel("g1-1", 1))]
    assert sent(world.result("w1", "g1-1", 1), msg.ResultAck) == [
        ("w1", msg.ResultAck("g1-1", 1, "assigned"))
    ]
    world.result("w2", "g1-1", 2)
    assert world.goal().state == "succeeded"


def test_a_forgotten_worker_just_comes_back(world: World) -> None:
    world.feed(ev.Left("w1"))
    assert sent(world.stand("w1", FORGOTTEN), msg.Refusal) == []
    assert list(world.scheduler.pool.workers) == ["w2"]
    world.join("w1")
    assert state(world, "w1") == "idle"


# --- all of it at random --------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(40))
def test_whatever_people_decide_every_goal_ends(seed: int) -> None:
    """The invariants of World hold at each step; with workers that work, nothing is left over."""
    chance, world = random.Random(seed), World()
    names, goals = ["w1", "w2", "w3"], 0
    for _ in range(120):
        name, pool = chance.choice(names), world.scheduler.pool
        roll = chance.random()
        if roll < 0.25:
            goals += 1
            on = name if name in pool.workers and chance.random() < 0.5 else ""
            world.submit(f"g{goals}", skill="echo", on=on, all=not on and chance.random() < 0.3)
        elif roll < 0.45 and pool.gone.get(name) != REMOVED:
            world.join(name, running=_held(world, name) if chance.random() < 0.7 else ())
        elif roll < 0.60:
            decided = chance.choice([DRAINING, "", REMOVED, FORGOTTEN])
            if decided in (REMOVED, FORGOTTEN) or name in pool.workers:
                world.stand(name, decided)
        elif roll < 0.85:
            for task_id, att in _held(world, name):
                world.result(name, task_id, att, chance.choice(["succeeded", "failed"]))
        elif roll < 0.92:
            world.tick(chance.uniform(0.0, 40.0))
        else:
            world.restart()
    _settle(world)
    assert [world.goal(f"g{i + 1}").ended for i in range(goals)] == [True] * goals


def _held(world: World, name: str) -> List[Any]:
    worker = world.scheduler.pool.workers.get(name)
    tasks = [world.scheduler.board.tasks[t] for t in sorted(worker.tasks)] if worker else []
    return [(t.id, t.attempt) for t in tasks]


def _settle(world: World) -> None:
    """Everyone is let in and works until nothing is left to do."""
    for name in ("w1", "w2", "w3"):
        if world.scheduler.pool.gone.get(name) == REMOVED:
            world.stand(name, FORGOTTEN)
        world.join(name, running=_held(world, name))
        world.stand(name, "")
    while world.scheduler.board.tasks:
        before = dict(world.scheduler.board.tasks)
        for name in ("w1", "w2", "w3"):
            for task_id, att in _held(world, name):
                world.result(name, task_id, att)
        assert world.scheduler.board.tasks != before, "nothing moves any more"
