"""The scheduler's rules: a list of events in, facts and messages out, in virtual time."""

from __future__ import annotations

from typing import Any

import pytest

from fleet.world import World, assigned, hello, sent
from pibot import messages as msg
from pibot.fleet import events as ev
from pibot.fleet.pool import AFTER_WILL_S, CLOSED_S
from pibot.messages import LEASE_S


@pytest.fixture
def world() -> World:
    return World()


def echo(world: World, goal_id: str = "g1", **fields: Any) -> ev.Out:
    return world.submit(goal_id, skill="echo", args={"text": "x"}, **fields)


def test_a_task_waits_for_a_worker_and_then_runs(world: World) -> None:
    assert assigned(echo(world)) == []
    assert world.task("g1-1").state == "queued"
    assert assigned(world.join("w1")) == [("w1", "g1-1", 1)]
    world.feed(ev.AttemptAccepted("w1", "g1-1", 1))
    assert world.task("g1-1").state == "running"
    out = world.result("w1", "g1-1", output="x")
    assert sent(out, msg.ResultAck) == [("w1", msg.ResultAck("g1-1", 1, "succeeded"))]
    assert (world.goal().state, world.goal().answer) == ("succeeded", "x")


def test_the_least_loaded_worker_gets_the_task(world: World) -> None:
    world.join("w1", slots=2)
    world.join("w2", slots=2)
    workers = [assigned(echo(world, f"g{i}"))[0][0] for i in range(4)]
    assert sorted(workers) == ["w1", "w1", "w2", "w2"]
    assert assigned(echo(world, "g9")) == []


def test_a_hot_or_throttled_worker_is_the_last_choice(world: World) -> None:
    world.join("w1")
    world.join("w2")
    world.feed(ev.Beat("w1", msg.Heartbeat([], {"cpu_temp_c": 85.0})))
    assert assigned(echo(world)) == [("w2", "g1-1", 1)]


def test_tags_skills_and_pins_are_obeyed(world: World) -> None:
    world.join("w1")
    world.join("w2", tags=["camera"])
    assert assigned(echo(world, "g1", tag="camera")) == [("w2", "g1-1", 1)]
    assert assigned(echo(world, "g2", on="w2")) == []
    assert assigned(world.result("w2", "g1-1")) == [("w2", "g2-1", 1)]


def test_assign_is_repeated_until_it_is_accepted(world: World) -> None:
    world.join("w1")
    echo(world)
    again = world.tick(2.0)
    assert assigned(again) == [("w1", "g1-1", 1)]
    assert assigned(world.tick(0.5)) == []
    world.feed(ev.AttemptAccepted("w1", "g1-1", 1))
    world.beat("w1", ("g1-1", 1))
    assert assigned(world.tick(9.0)) == []


def test_only_the_current_attempt_counts(world: World) -> None:
    world.join("w1")
    echo(world)
    world.tick(LEASE_S + 1)  # w1 is silent: offline, its task is queued
    assert world.task("g1-1").state == "queued"
    assert assigned(world.join("w2")) == [("w2", "g1-1", 2)]
    late = world.result("w1", "g1-1", 1, output="late")
    assert sent(late, msg.ResultAck) == [("w1", msg.ResultAck("g1-1", 1, "assigned"))]
    assert world.task("g1-1").result is None
    forged = world.result("w1", "g1-1", 2, output="forged")
    assert world.task("g1-1").result is None, forged
    world.result("w2", "g1-1", 2, output="right")
    assert world.goal().answer == "right"
    second = world.result("w2", "g1-1", 2, output="twice")
    assert sent(second, msg.ResultAck) == [("w2", msg.ResultAck("g1-1", 2, "succeeded"))]
    assert world.goal().answer == "right"


def test_a_heartbeat_renews_the_lease_of_what_it_names(world: World) -> None:
    world.join("w1")
    echo(world)
    for _ in range(20):
        world.now += 5
        world.beat("w1", ("g1-1", 1))
    assert world.task("g1-1").state == "running"


def test_an_attempt_that_heartbeats_do_not_name_loses_its_lease(world: World) -> None:
    world.join("w1")
    echo(world)
    for _ in range(7):
        world.now += 5
        world.beat("w1")
    assert world.task("g1-1").attempt == 2


def test_a_heartbeat_with_a_stale_attempt_is_answered_with_cancel(world: World) -> None:
    world.join("w1")
    out = world.beat("w1", ("g7-1", 3))
    assert sent(out, msg.Cancel) == [("w1", msg.Cancel("g7-1", 3))]
    assert sent(out, msg.HbAck) == [("w1", msg.HbAck([]))]


def test_what_the_inventory_lacks_is_released_at_once(world: World) -> None:
    world.join("w1")
    echo(world)
    out = world.join("w1", start="b" * 16, inc=2)
    assert assigned(out) == [("w1", "g1-1", 2)]
    assert world.task("g1-1").losses == 1


def test_what_the_inventory_has_goes_on(world: World) -> None:
    world.join("w1")
    echo(world)
    out = world.join("w1", running=[("g1-1", 1)])
    assert assigned(out) == [] and world.task("g1-1").state == "running"


def test_a_will_shortens_the_silence_and_a_heartbeat_clears_it(world: World) -> None:
    world.join("w1")
    echo(world)
    start = ("w1" * 16)[:16]
    world.feed(ev.WillSeen("w1", start))
    world.now += 5
    world.beat("w1", ("g1-1", 1))
    assert world.tick(AFTER_WILL_S + 1) and world.task("g1-1").state == "running"
    world.feed(ev.WillSeen("w1", start))
    world.tick(0.1)
    assert world.scheduler.pool.get("w1").state == "offline"
    assert world.task("g1-1").state == "queued"


def test_an_old_will_after_a_new_birth_is_ignored(world: World) -> None:
    world.join("w1", start="a" * 16)
    world.join("w1", start="b" * 16, inc=2)
    world.feed(ev.WillSeen("w1", "a" * 16))
    world.tick(AFTER_WILL_S + 1)
    assert world.scheduler.pool.get("w1").state == "idle"


def test_a_goodbye_releases_at_once(world: World) -> None:
    world.join("w1")
    world.join("w2")
    echo(world, on="")
    holder = world.task("g1-1").assignee
    out = world.feed(ev.Left(holder))
    assert assigned(out) == [("w2" if holder == "w1" else "w1", "g1-1", 2)]


@pytest.mark.parametrize("on_lost, state", [("fail", "failed"), ("wait", "queued")])
def test_on_lost_says_what_becomes_of_a_lost_task(world: World, on_lost: str, state: str) -> None:
    world.join("w1")
    world.submit(text="do something with files")
    world.plan("g1", {"id": "a", "goal": "x", "on_lost": on_lost})
    world.tick(LEASE_S + 1)
    assert world.task("g1-1").state == state
    world.join("w2")
    assert world.task("g1-1").assignee == "w1"


def test_a_task_that_kills_its_workers_is_given_up(world: World) -> None:
    echo(world)
    for i in range(20):
        world.join("w1", start=f"{i:016x}", inc=i)
    assert world.goal().state == "failed"
    assert "losses" in (world.task("g1-1").error or "")


def test_a_skill_that_ran_and_failed_is_not_retried(world: World) -> None:
    world.join("w1")
    world.join("w2")
    echo(world)
    out = world.result(world.task("g1-1").assignee, "g1-1", state="failed", output="boom")
    assert assigned(out) == [] and world.goal().state == "failed"
    assert world.goal().error == "boom"


def test_success_means_that_the_result_says_so(world: World) -> None:
    world.join("w1")
    echo(world)
    lie = msg.Result("g1-1", 1, "succeeded", {"success": False, "data": {}, "output": ""})
    world.feed(ev.AttemptEnded("w1", lie))
    assert world.task("g1-1").state == "failed"


def test_cancel_is_repeated_until_the_attempt_is_over(world: World) -> None:
    world.join("w1")
    echo(world)
    world.feed(ev.AttemptAccepted("w1", "g1-1", 1))
    out = world.feed(ev.CancelWanted("g1"))
    cancel = ("w1", msg.Cancel("g1-1", 1))
    assert sent(out, msg.Cancel) == [cancel]
    assert world.goal().state == "cancelled" and world.task("g1-1").state == "running"
    assert sent(world.tick(1.1), msg.Cancel) == [cancel]
    assert sent(world.beat("w1", ("g1-1", 1)), msg.HbAck) == [("w1", msg.HbAck([["g1-1", 1]]))]
    world.result("w1", "g1-1", state="cancelled")
    assert world.task("g1-1").state == "cancelled"
    assert world.scheduler.board.tasks == {} and world.scheduler.board.goals == {}


def test_a_result_that_was_faster_than_the_cancel_counts(world: World) -> None:
    world.join("w1")
    echo(world)
    world.feed(ev.CancelWanted("g1"))
    world.result("w1", "g1-1")
    assert world.task("g1-1").state == "succeeded" and world.goal().state == "cancelled"


def test_a_queued_task_is_cancelled_at_once(world: World) -> None:
    echo(world)
    world.feed(ev.CancelWanted("g1"))
    assert world.task("g1-1").state == "cancelled"


def test_the_goals_deadline_ends_it(world: World) -> None:
    world.join("w1")
    echo(world, timeout_s=20.0)
    world.tick(19.0)
    assert world.goal().state == "running"
    out = world.tick(1.5)
    assert world.goal().state == "timed_out" and sent(out, msg.Cancel)
    assert "20 s" in (world.goal().error or "")


def test_an_attempt_that_never_says_that_it_is_late_is_timed_out(world: World) -> None:
    world.join("w1")
    echo(world, timeout_s=1000.0)
    for _ in range(65):
        world.now += 5
        world.beat("w1", ("g1-1", 1))
    assert world.task("g1-1").state == "timed_out" and world.goal().state == "timed_out"


def test_a_declined_task_goes_elsewhere(world: World) -> None:
    world.join("w1")
    echo(world)
    world.join("w2")
    out = world.feed(ev.AttemptDeclined("w1", "g1-1", 1, "busy"))
    assert assigned(out) == [("w2", "g1-1", 2)]


def test_a_worker_that_declined_is_asked_again_after_its_heartbeat(world: World) -> None:
    world.join("w1")
    echo(world)
    assert assigned(world.feed(ev.AttemptDeclined("w1", "g1-1", 1, "busy"))) == []
    assert assigned(world.beat("w1")) == [("w1", "g1-1", 2)]


def test_after_a_restart_of_the_master_work_goes_on(world: World) -> None:
    world.join("w1")
    echo(world)
    world.feed(ev.AttemptAccepted("w1", "g1-1", 1))
    world.restart()
    assert assigned(world.join("w1", results=[("g1-1", 1)])) == []
    world.result("w1", "g1-1", output="kept")
    assert world.goal().answer == "kept"


def test_after_a_restart_what_the_worker_lost_is_done_again(world: World) -> None:
    world.join("w1")
    echo(world)
    world.restart()
    assert assigned(world.join("w1", start="b" * 16, inc=2)) == [("w1", "g1-1", 2)]


def test_with_all_every_machine_gets_a_row(world: World) -> None:
    world.join("w1")
    world.join("w2")
    world.feed(ev.Left("w2"))
    echo(world, all=True)
    assert [world.task(f"g1-{i}").state for i in (1, 2)] == ["assigned", "failed"]
    world.result("w1", "g1-1", output="fine")
    assert world.goal().state == "failed"
    assert "w2 is offline" in (world.goal().answer or "")
    assert "fine" in (world.goal().answer or "")


def test_two_of_one_name(world: World) -> None:
    pool = world.scheduler.pool
    world.join("w1", start="a" * 16, inc=5, host="pi-a")
    from fleet.world import hello

    twin = hello("b" * 16, 5, host="pi-b")
    refused = pool.refuse("w1", twin, world.now)
    assert refused is not None and refused[0] == "superseded"
    assert "pi-a" in pool.get("w1").alarm and "pi-b" in pool.get("w1").alarm
    assert pool.refuse("w1", hello("b" * 16, 6, host="pi-b"), world.now) is None
    world.now += LEASE_S + 1
    assert pool.refuse("w1", twin, world.now) is None


def test_a_name_that_keeps_changing_is_quarantined(world: World) -> None:
    from fleet.world import hello

    for i in range(3):
        world.join("w1", start=f"{i:016x}", inc=i, host=f"pi-{i % 2}")
    refused = world.scheduler.pool.refuse("w1", hello("f" * 16, 9, host="pi-1"), world.now)
    assert refused is not None and refused[0] == "quarantined"


def test_another_protocol_is_visible_and_gets_no_work(world: World) -> None:
    future = msg.Hello("f" * 16, "a" * 16, 1, proto_min=2, proto_max=3)
    refused = world.scheduler.pool.refuse("w9", future, world.now)
    assert refused is not None and refused[0] == "incompatible"
    assert world.scheduler.pool.get("w9").state == "incompatible"
    assert assigned(echo(world)) == []


def test_many_queued_tasks_are_dispatched_in_order(world: World) -> None:
    for i in range(300):
        echo(world, f"g{i}")
    world.join("w1")
    order = []
    for _ in range(300):
        (task,) = list(world.scheduler.pool.get("w1").tasks)
        order.append(task)
        world.result("w1", task)
    assert order == [f"g{i}-1" for i in range(300)]
    assert world.scheduler.board.tasks == {}


def test_files_on_their_way_keep_the_attempt_alive() -> None:
    world = World()
    world.join("w1")
    world.submit("g1", skill="echo", timeout_s=600)
    for _ in range(400):
        world.tick(1)
        world.beat("w1", ("g1-1", 1))
        world.feed(ev.FilesMove("w1", "g1-1", 1))
    assert world.task("g1-1").state == "running"
    for other in (ev.FilesMove("w2", "g1-1", 1), ev.FilesMove("w1", "g1-1", 2)):
        world.feed(other)  # nobody else's
    for _ in range(100):
        world.tick(1)
        world.beat("w1", ("g1-1", 1))
    assert world.task("g1-1").state == "timed_out"


def test_only_a_success_has_files() -> None:
    world = World()
    named = [{"path": "a", "size": 1, "sha256": "0" * 64, "error": None}]
    for goal, state in (("g1", "succeeded"), ("g2", "failed")):
        world.join("w1")
        world.submit(goal, skill="echo")
        done = {"success": state == "succeeded", "data": {}, "output": ""}
        result = msg.Result(f"{goal}-1", 1, state, done, artifacts=named)
        world.feed(ev.AttemptEnded("w1", result))
    assert world.task("g1-1").artifacts == named and world.task("g2-1").artifacts == []


def test_an_assignment_that_is_still_coming_is_not_released_by_an_inventory() -> None:
    world = World()
    world.join("w1")
    world.submit(skill="echo", args={"text": "large"})
    for coming, attempt in (({("g1-1", 1)}, 1), ({("g1-1", 7)}, 2), (set(), 3)):
        joined = ev.Joined("w1", hello(("w1" * 16)[:16]), msg.Inventory(), frozenset(coming))
        world.feed(joined)
        assert world.task("g1-1").attempt == attempt


def test_an_assignment_that_was_lost_while_it_came_is_cancelled_when_its_worker_is_back() -> None:
    world = World()
    world.join("w1")
    world.submit(skill="shell", args={"text": "large"})
    world.join("w2")
    world.now += LEASE_S
    world.beat("w2")
    assert world.task("g1-1").assignee == "w2"
    coming = frozenset({("g1-1", 1)})
    out = world.feed(ev.Joined("w1", hello(("w1" * 16)[:16]), msg.Inventory(), coming))
    assert sent(out, msg.Cancel) == [("w1", msg.Cancel("g1-1", 1))]


def test_an_assignment_keeps_its_lease_while_it_comes_and_only_the_current_one() -> None:
    world = World()
    world.join("w1")
    world.submit(skill="echo", args={"text": "large"})
    for _ in range(4):
        world.tick(LEASE_S - 1)
        world.beat("w1")
        world.feed(ev.AssignMoves("w1", "g1-1", 1))
    assert (world.task("g1-1").state, world.task("g1-1").attempt) == ("assigned", 1)
    world.feed(ev.AssignMoves("w2", "g1-1", 1))
    world.feed(ev.AssignMoves("w1", "g1-1", 2))
    world.feed(ev.AssignMoves("w1", "g9-1", 1))
    for _ in range(2):
        world.tick(LEASE_S / 2 + 1)
        world.beat("w1")
    assert world.task("g1-1").attempt == 2


# --- what is unsafe to repeat ---------------------------------------------------------------------


def unsafe(world: World) -> None:
    world.join("w1")
    world.submit(skill="shell", args={})
    world.join("w2")
    world.feed(ev.AttemptAccepted("w1", "g1-1", 1))


def test_after_a_will_unsafe_work_is_given_away_only_when_its_worker_has_stopped_it(
    world: World,
) -> None:
    """A will that comes late says that nothing gets through, not that the process is dead."""
    unsafe(world)
    world.now += CLOSED_S
    world.beat("w2")
    world.feed(ev.WillSeen("w1", ("w1" * 16)[:16]))
    assert world.scheduler.pool.get("w1").state == "offline"
    assert (world.task("g1-1").attempt, world.task("g1-1").assignee) == (1, "w1")
    world.beat("w2")
    assert world.scheduler.wake_at() is not None
    out = world.tick(LEASE_S - CLOSED_S)
    assert assigned(out) == [("w2", "g1-1", 2)]


def test_after_the_will_of_a_closed_socket_unsafe_work_is_given_away_at_once(world: World) -> None:
    unsafe(world)
    world.tick(CLOSED_S - AFTER_WILL_S - 1)
    world.beat("w2")
    world.feed(ev.WillSeen("w1", ("w1" * 16)[:16]))
    assert assigned(world.tick(0.5)) == []
    assert assigned(world.tick(AFTER_WILL_S)) == [("w2", "g1-1", 2)]


def test_a_will_soon_after_a_worker_came_back_may_be_of_its_old_connection(world: World) -> None:
    unsafe(world)
    world.tick(CLOSED_S)
    world.beat("w2")
    world.join("w1", running=[("g1-1", 1)])
    world.tick(AFTER_WILL_S - 1)
    world.beat("w2")
    world.feed(ev.WillSeen("w1", ("w1" * 16)[:16]))
    assert assigned(world.tick(AFTER_WILL_S)) == [] and world.task("g1-1").assignee == "w1"
    world.beat("w2")
    assert assigned(world.tick(LEASE_S - 2 * AFTER_WILL_S)) == []
    assert assigned(world.tick(AFTER_WILL_S)) == [("w2", "g1-1", 2)]


def test_unsafe_work_of_a_worker_that_comes_back_in_time_goes_on(world: World) -> None:
    unsafe(world)
    world.now += CLOSED_S
    world.feed(ev.WillSeen("w1", ("w1" * 16)[:16]))
    world.tick(AFTER_WILL_S + 1)
    world.join("w1", running=[("g1-1", 1)])
    world.result("w1", "g1-1")
    assert world.task("g1-1").state == "succeeded"


def test_a_worker_that_is_heard_is_asked_before_its_unsafe_work_is_given_away(
    world: World,
) -> None:
    """Its assignment may still be on the way: only its own word says that it will not begin."""
    unsafe(world)
    for _ in range(12):
        world.now += 5
        world.beat("w2")
        world.beat("w1")
    assert ev.Send("w1", msg.Cancel("g1-1", 1)) in world.sends
    assert world.task("g1-1").attempt == 1
    out = world.result("w1", "g1-1", state="cancelled")
    assert [a[1:] for a in assigned(out)] == [("g1-1", 2)]
    assert world.task("g1-1").losses == 1
